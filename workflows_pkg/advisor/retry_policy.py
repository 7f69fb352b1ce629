"""Would other waits, or another number of attempts, get a step over its failures sooner?

Candidate policies are simulated over the failures that happened. The one that loses the least time is proposed; a failure
for good counts as a whole rerun and the time until somebody starts it. Nothing is proposed where the evidence is thin, the
gain small, the interval includes no gain, or the simulation of the policy in force does not reproduce what it really lost.

The effect is on `step_time_s`: per run, from the start of the step's first attempt to the end of its last, waits included.
Where a policy gives up before the trouble goes away, it is on `failure_share`: the share of runs the step fails for good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import numpy as np

from workflows_pkg.advisor.draft import LEAST_GAIN_S, LEAST_GAIN_SHARE, Effect, bootstrap, draft, with_step
from workflows_pkg.advisor.retry_simulation import (
    DRAWS,
    MOST_ATTEMPTS,
    SEED,
    Calibration,
    Episodes,
    calibrate,
    grown_s,
    longest_wait_s,
    names_of,
    prepare,
    simulate,
)
from workflows_pkg.history.records import Suggestion
from workflows_pkg.prediction.recovery import ErrorClass, curve, episodes, error_classes
from workflows_pkg.prediction.rows import Frame, in_utc
from workflows_pkg.spec.durations import format_duration
from workflows_pkg.spec.model import Retry, Workflow

_log = logging.getLogger(__name__)

LEAST_EPISODES = 8
"""Episodes tried again below which waits and attempts are left alone."""

SHORTEST_DELAY = timedelta(milliseconds=50)
LONGEST_DELAY = timedelta(minutes=10)

NEWEST_RUNS = 500
"""Runs looked at, the newest: how a peer recovered last year says little about today."""

TRANSIENT = ("ConnectionError", "PeerUnavailable", "RateLimited", "TimeoutError")
"""Classes that stay retried when `on` is first written down, seen or not: time can mend them by their nature."""

NOTICE_S = 60.0
"""Least time until somebody, or a schedule, starts a failed run again; without it a short workflow would rather fail than wait."""

_DELAYS_MS = (
    50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500, 2000, 3000, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 45_000,
    60_000, 90_000, 120_000, 180_000, 300_000, 600_000,
)  # fmt: skip
_ATTEMPTS = (2, 3, 4, 5, 6, 8, 10)
_BACKOFFS = ("constant", "linear", "exponential")
_NEAR = 0.03
"""Policies within this share of the time that waits and further attempts cost now are equal; the one with the fewest changes is taken."""
_MORE_FAILURES = 0.005
_LEAST_FEWER_FAILURES = 0.02
"""Share of runs that must no longer fail for a suggestion that costs time."""
_PATIENCE = 1.5
"""A proposal lasts at least this many times the slowest recovery seen, or as long as the policy in force: the next may be slower."""
_SHOWN = 60


@dataclass(frozen=True)
class _Simulated:
    """A policy with, per draw and run, the seconds lost and whether the step failed for good."""

    policy: Retry
    lost_s: np.ndarray
    failed: np.ndarray


def retry_suggestion(
    attempts: Frame, workflow: Workflow, number: int, step: str, rerun_s: float, now: datetime, query: str
) -> Suggestion | None:
    """A better retry policy for one step, or None: the policy is as good as can be told from its failures.

    `attempts` are the step's attempts in any order, trials left out; `rerun_s` is what a whole rerun of the workflow
    takes; `query` is the SQL they came from. Silent for a step without `retry`: nobody knows whether it recovers.
    """
    current = workflow.steps[step].retry
    if current is None or current.attempts == 1 or attempts.empty:
        return None
    attempts = in_utc(attempts)
    run_ids = _newest_runs(attempts)
    attempts = attempts[attempts["run_id"].isin(run_ids)]
    found = episodes(attempts)
    found = found[found["tries"] > 0].sort_values(["failed_at", "run_id", "step_key"]).reset_index(drop=True)
    classes = error_classes(found)
    hopeless = [item for item in classes if item.hopeless]
    if not len(found) or (len(found) < LEAST_EPISODES and not hopeless):
        return None
    rerun_s += NOTICE_S
    world = prepare(found, run_ids, current, number)
    seen_retried = {str(name) for name in found["error_class"]}
    calibration = _calibration(current, world, seen_retried)
    if calibration is not None and not calibration.reproduces:
        _log.info(
            "no retry policy is proposed for %s.%s: the policy in force lost %.3g s per failure, its simulation loses %.3g s",
            workflow.workflow, step, calibration.observed_s, calibration.simulated_s,
        )  # fmt: skip
        return None
    now_policy = _simulated(current, world, len(run_ids), seen_retried)
    pruned = _without(current.on, hopeless, seen_retried)
    everything = len(found) >= LEAST_EPISODES
    candidates = list(_candidates(current, pruned, world, len(run_ids), seen_retried, found, everything))
    best = _best(now_policy, candidates, rerun_s)
    if best is None or not _survives_halving(now_policy, candidates, rerun_s):
        return None
    step_time_s = _step_time_without_loss(attempts, found) + float(now_policy.lost_s.mean())
    effect = _worthwhile(now_policy, best, step_time_s)
    if effect is None:
        return None
    changed = with_step(workflow, step, workflow.steps[step].model_copy(update={"retry": best.policy}))
    return draft(
        kind="retry_policy", now=now, old=workflow, number=number, new=changed, step=step,
        title=_title(step, current, best.policy, hopeless), effect=effect,
        evidence=_evidence(query, attempts, run_ids, found, classes, world, calibration, now_policy, best, rerun_s, step_time_s),
    )  # fmt: skip


def _newest_runs(attempts: Frame) -> list[str]:
    begun = attempts.groupby("run_id")["started_at"].min().dropna().reset_index().sort_values(["started_at", "run_id"])
    return [str(run_id) for run_id in begun["run_id"].tail(NEWEST_RUNS)]


def _candidates(
    current: Retry, pruned: tuple[str, ...], world: Episodes, runs: int, seen: set[str], found: Frame, everything: bool
) -> Iterator[_Simulated]:
    """Every policy within the guard rails: attempts 1 to 10, delay 50 ms to 10 min; jitter is never taken away.

    Jitter keeps runs that failed together from coming back together, which a simulation of single failures cannot see.
    """
    ons = list(dict.fromkeys([current.on, pruned]))
    if not everything:
        if pruned != current.on and current.attempts <= MOST_ATTEMPTS:
            policy = current.model_copy(update={"on": pruned})
            outcome = simulate(policy, world, _retried(pruned, seen, current.on))[current.attempts]
            yield _Simulated(policy, _by_run(outcome.lost_s, world.run, runs), _by_run(outcome.failed, world.run, runs))
        return
    waits = found["high_s"].replace(np.inf, np.nan)
    longest = max(
        2 * float(waits.max()) if waits.notna().any() else 0.0, 2 * float(found["low_s"].max()), current.delay.total_seconds()
    )
    delays = [timedelta(milliseconds=ms) for ms in _DELAYS_MS if ms / 1000 <= longest or ms == _DELAYS_MS[0]]
    if SHORTEST_DELAY <= current.delay <= LONGEST_DELAY and current.delay not in delays:
        delays.append(current.delay)
    jitters = list(dict.fromkeys([current.jitter, "full", "plus_minus"]))
    numbers = sorted({*_ATTEMPTS, min(current.attempts, MOST_ATTEMPTS)})
    least = min(_patience_s(current, current.attempts), _PATIENCE * (float(waits.max()) if waits.notna().any() else 0.0))
    for on, delay, backoff, jitter in product(ons, delays, _BACKOFFS, jitters):
        policy = current.model_copy(update={"on": on, "delay": delay, "backoff": backoff, "jitter": jitter})
        outcomes = simulate(policy, world, _retried(policy.on, seen, current.on))
        for number in numbers:
            too_long = longest_wait_s(policy, number - 1) > LONGEST_DELAY.total_seconds()
            if too_long or _patience_s(policy, number) < least:
                continue
            outcome = outcomes[number]
            yield _Simulated(
                policy.model_copy(update={"attempts": number}),
                _by_run(outcome.lost_s, world.run, runs),
                _by_run(outcome.failed, world.run, runs),
            )


def _patience_s(policy: Retry, attempts: int) -> float:
    """Seconds the policy waits in all before its last attempt, on average."""
    share = 0.5 if policy.jitter == "full" else 1.0
    return share * sum(grown_s(policy, number) for number in range(1, attempts))


def _simulated(policy: Retry, world: Episodes, runs: int, seen: set[str]) -> _Simulated:
    outcome = simulate(policy, world, _retried(policy.on, seen, policy.on))[min(policy.attempts, MOST_ATTEMPTS)]
    return _Simulated(policy, _by_run(outcome.lost_s, world.run, runs), _by_run(outcome.failed, world.run, runs))


def _calibration(current: Retry, world: Episodes, seen: set[str]) -> Calibration | None:
    outcomes = simulate(current, world, _retried(current.on, seen, current.on))
    return calibrate(outcomes[min(current.attempts, MOST_ATTEMPTS)], world)


def _retried(on: tuple[str, ...], seen: set[str], current: tuple[str, ...]) -> frozenset[str]:
    """The observed classes that a policy with `on` retries.

    The parents of a class from another package are not known here; it is taken to be retried as long as no name is taken
    away from those in force, under which it was.
    """
    if not on:
        return frozenset(seen)
    kept = bool(current) and set(current) <= set(on)
    return frozenset(name for name in seen if not names_of(name).isdisjoint(on) or (kept and names_of(name) == frozenset({name})))


def _by_run(values: np.ndarray, run: np.ndarray, runs: int) -> np.ndarray:
    """Episode values summed per run, one row per draw; runs without an episode have 0."""
    summed = np.zeros((runs, values.shape[0]))
    np.add.at(summed, run, values.T.astype(float))
    return summed.T


def _without(on: tuple[str, ...], hopeless: list[ErrorClass], seen: set[str]) -> tuple[str, ...]:
    """`on` without the hopeless classes; written out from what recovered, and what may, where it named everything."""
    if not hopeless:
        return on
    dead = {name for item in hopeless for name in names_of(item.name)}
    kept = tuple(name for name in on if name not in dead)
    if kept:
        return kept
    alive = seen - {item.name for item in hopeless}
    return tuple(sorted((alive | set(TRANSIENT)) - dead))


def _cost(simulated: _Simulated, rerun_s: float, runs: np.ndarray | None = None) -> float:
    """Seconds lost per run: waits, further attempts, and a whole rerun for every failure for good."""
    total = simulated.lost_s + simulated.failed * rerun_s
    return float((total if runs is None else total[:, runs]).mean())


def _best(
    now_policy: _Simulated, candidates: list[_Simulated], rerun_s: float, runs: np.ndarray | None = None
) -> _Simulated | None:
    """The candidate that loses the least time without more failures; of near-equal ones that with the fewest changes."""
    failed_now = float(now_policy.failed.mean())
    allowed = [
        (item, _cost(item, rerun_s, runs)) for item in candidates if float(item.failed.mean()) <= failed_now + _MORE_FAILURES
    ]
    if not allowed:
        return None
    now_cost = _cost(now_policy, rerun_s, runs)
    least = min(cost for _, cost in allowed)
    if least >= now_cost:
        return None
    near = [(item, cost) for item, cost in allowed if cost <= least + _NEAR * float(now_policy.lost_s.mean())]
    return min(near, key=lambda pair: (_changes(now_policy.policy, pair[0].policy), pair[1], pair[0].policy.model_dump_json()))[0]


def _changes(old: Retry, new: Retry) -> int:
    return sum(getattr(old, name) != getattr(new, name) for name in Retry.model_fields)


def _survives_halving(now_policy: _Simulated, candidates: list[_Simulated], rerun_s: float) -> bool:
    """Whether what is chosen on one half of the runs gains on the other: where it is made, a choice of thousands always gains."""
    troubled = (now_policy.lost_s.sum(axis=0) + now_policy.failed.sum(axis=0)) > 0
    mixed = np.random.default_rng(SEED).permutation(len(troubled))
    order = mixed[np.argsort(~troubled[mixed], kind="stable")]
    even = np.isin(np.arange(len(troubled)), order[::2])
    halves = even, ~even
    gain = 0.0
    for chosen_on, judged_on in (halves, halves[::-1]):
        choice = _best(now_policy, candidates, rerun_s, chosen_on)
        if choice is not None:
            gain += (_cost(now_policy, rerun_s, judged_on) - _cost(choice, rerun_s, judged_on)) * float(judged_on.mean())
    return gain > 0


def _step_time_without_loss(attempts: Frame, found: Frame) -> float:
    """Mean seconds per run of the step less what its failures cost: what no retry policy changes.

    Runs stopped from outside are left out: one that hung for hours must not make every gain look small.
    """
    attempts = attempts[~attempts["run_id"].isin(attempts.loc[attempts["outcome"] == "canceled", "run_id"])]
    span = attempts.groupby(["run_id", "step_key"]).agg(begun=("started_at", "min"), ended=("ended_at", "max"))
    seconds = (span["ended"] - span["begun"]).dt.total_seconds().groupby("run_id").sum()
    lost = float(found.loc[found["run_id"].isin(seconds.index), "lost_s"].sum())
    return max(0.0, (float(seconds.sum()) - lost) / len(seconds)) if len(seconds) else 0.0


def _worthwhile(now_policy: _Simulated, best: _Simulated, step_time_s: float) -> Effect | None:
    effect = bootstrap("step_time_s", best.lost_s - now_policy.lost_s, SEED)
    if effect.high < 0 and -effect.mean >= max(LEAST_GAIN_S, LEAST_GAIN_SHARE * step_time_s):
        return effect
    fewer = bootstrap("failure_share", best.failed - now_policy.failed, SEED)
    return fewer if fewer.high < 0 and -fewer.mean >= _LEAST_FEWER_FAILURES else None


def _title(step: str, old: Retry, new: Retry, hopeless: list[ErrorClass]) -> str:
    parts: list[str] = []
    if old.delay != new.delay:
        parts.append(f"wait {format_duration(new.delay)} instead of {format_duration(old.delay)} before the second attempt")
    if old.attempts != new.attempts:
        parts.append(f"make {new.attempts} attempts instead of {old.attempts}")
    if old.backoff != new.backoff:
        parts.append(
            f"let the wait grow {new.backoff} instead of {old.backoff}" if new.backoff != "constant" else "keep the wait constant"
        )
    if old.jitter != new.jitter:
        parts.append(f"spread the waits ({new.jitter})")
    if old.on != new.on:
        parts.append(f"do not retry {', '.join(item.name for item in hopeless)}, which never recovered")
    return f"Step '{step}': {'; '.join(parts)}."


def _evidence(
    query: str, attempts: Frame, run_ids: list[str], found: Frame, classes: tuple[ErrorClass, ...], world: Episodes,
    calibration: Calibration | None, now_policy: _Simulated, best: _Simulated, rerun_s: float, step_time_s: float,
) -> dict[str, Any]:  # fmt: skip
    shown = found.tail(_SHOWN)
    recoverable = found[~found["error_class"].isin([item.name for item in classes if item.hopeless])]
    recovery = curve(recoverable)
    return {
        "query": query,
        "runs": len(run_ids),
        "attempts": len(attempts),
        "episodes": len(found),
        "rows": [
            {"run_id": row.run_id, "step_key": row.step_key, "error_class": row.error_class, "not_recovered_by_s": row.low_s,
             "recovered_by_s": row.high_s, "tries": row.tries, "lost_s": row.lost_s}
            for row in shown.itertuples()
        ],
        "error_classes": [
            {"name": item.name, "cause": item.cause, "episodes": item.episodes, "recovered": item.recovered,
             "recovered_share_upper": item.upper, "hopeless": item.hopeless}
            for item in classes
        ],
        "recovery": None if recovery is None else [
            {"wait_s": wait, "share": share, "low": low, "high": high, "known": known}
            for wait, share, low, high, known in zip(
                recovery.waits_s, recovery.shares, recovery.low, recovery.high, recovery.known, strict=True
            )
        ],
        "simulation": {
            "seed": SEED,
            "draws": DRAWS,
            "overhead_s": float(np.median(world.overhead_s[:, 0])),
            "longest_overhead_s": float(world.overhead_s.max()),
            "calibration": None if calibration is None else asdict(calibration),
            "rerun_with_notice_s": rerun_s,
            "step_time_s": step_time_s,
            "now": _figures(now_policy, rerun_s),
            "proposed": _figures(best, rerun_s),
            "assumed": [
                "trouble goes away after a time that does not depend on the attempts made",
                "that time lies between the last failed attempt and the successful one, and is drawn from the recovery curve",
                "hopeless classes never recover, other episodes without success recover as the curve's tail says",
                "every further attempt takes as long to fail as it did; attempts are apart by the wait and the episode's own overhead",
                "waits the other side asked for are kept",
            ],
        },
    }  # fmt: skip


def _figures(simulated: _Simulated, rerun_s: float) -> dict[str, Any]:
    policy = simulated.policy.model_dump(mode="json")
    return {
        "policy": policy,
        "lost_s_per_run": float(simulated.lost_s.mean()),
        "failure_share": float(simulated.failed.mean()),
        "lost_with_reruns_s_per_run": _cost(simulated, rerun_s),
    }
