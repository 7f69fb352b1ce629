"""What should change in jobs that have no spec of ours? Retries, run timeouts and spread schedules, as entries of `tuning.yaml`.

Nothing is known of such a job but its history, so the evidence has to be in it: a retry is proposed where transient failures were
over when the step was next tried as soon as the retry would try it, a timeout where runs hung, another minute where schedules that
met made each other's runs wait.
A schedule's cron is the author's code: that suggestion is advice only. None is a good answer.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from scipy.special import betaincinv

from workflows_pkg.advisor.asking import literal, rows
from workflows_pkg.advisor.collisions import AskedRun, Crowd, asked_runs, collisions
from workflows_pkg.advisor.draft import LEAST_GAIN_S, LEAST_GAIN_SHARE, Effect, bootstrap, plain
from workflows_pkg.advisor.hangs import HungRuns, hung_runs
from workflows_pkg.advisor.spread import elsewhere, inferred_cron, told
from workflows_pkg.history.records import Suggestion
from workflows_pkg.prediction.recovery import upper_share
from workflows_pkg.prediction.rows import Connection
from workflows_pkg.spec.durations import format_duration

TRANSIENT_CAUSES = ("dependency", "infrastructure", "timeout")
"""Failure causes that time can mend. `unknown` is not among them: nobody knows."""

LEAST_TRANSIENT_SHARE = 0.6
"""Share of a step's failures that must be transient: with more of the others, retrying mostly repeats a failure."""

LEAST_FAILURES = 5
LEAST_HELPED_SHARE = 0.5
"""Failures in all; and the share of them, at the lower end of its interval, that were over when the step was next tried: of those tried
again as soon as the policy would, and of those tried again within the hour. Five of five are enough, four of four are not."""

SOON = timedelta(hours=1)
"""A next try later than this says nothing about what a few attempts within minutes would have met."""

RETRY: Mapping[str, Any] = {"attempts": 3, "delay": "30s", "backoff": "exponential", "jitter": "full"}
"""The proposed policy. Rate limits and restarts of a service last tens of seconds; jitter keeps runs that failed together apart."""

PATIENCE_S = 60.0
"""What that policy waits in all on average: half of 30 s and of 90 s (Dagster's exponential backoff: 1 and 3 delays)."""

SEED = 20260101


@dataclass(frozen=True)
class _Draft:
    """A suggestion with the seconds it would have saved over the whole history, by which it is ranked."""

    saved_s: float
    suggestion: Suggestion


def suggest_for_jobs(con: Connection, now: datetime, limit: int = 3) -> list[Suggestion]:
    """At most `limit` suggestions for jobs without a workflow, the largest expected saving of time first.

    Rests on what had begun before `now`, trials left out; the same history and moment give the same suggestions. `change` is a list
    of {path, before, after} with addresses of `tuning.yaml`, `spec` the entries to put there. Empty where the evidence supports none.
    """
    found = [*_retries(con, now), *_timeouts(con, now), *_spreads(con, now)]
    return [draft.suggestion for draft in sorted(found, key=lambda draft: (-draft.saved_s, draft.suggestion.suggestion_id))][
        :limit
    ]


def failures_sql(job: str, step: str, now: datetime) -> str:
    """SQL for the final failures of one step, each with its next try: in another run of the same job and partition."""
    return f"""
        with own as (
            select a.*, coalesce(a.partition_key, '') as slice from step_attempts a join runs r using (run_id)
            where a.workflow is null and a.trial_id is null and a.job_name = {literal(job)} and a.step = {literal(step)}
                and a.started_at is not null and r.created_at < {literal(now)}
        ), failed as (select * from own where outcome = 'failure' and not will_retry and ended_at is not null)
        select f.run_id, f.step_key, f.slice, f.error_class, coalesce(f.failure_cause, 'unknown') as failure_cause, f.ended_at,
            r.run_time_s, r.cost_usd, n.run_id as next_run_id, n.outcome as next_outcome,
            epoch(n.started_at) - epoch(f.ended_at) as next_after_s
        from failed f join runs r using (run_id)
        asof left join (select * from own where attempt = 1) n
            on n.slice = f.slice and n.step_key = f.step_key and f.ended_at < n.started_at
        order by f.ended_at, f.run_id, f.step_key"""


def _retries(con: Connection, now: datetime) -> list[_Draft]:
    candidates = rows(
        con,
        f"""select a.job_name, a.step, count(distinct a.run_id) as runs,
                count(*) filter (a.outcome = 'failure' and not a.will_retry) as failures,
                count(*) filter (a.outcome = 'failure' and a.failure_cause in {TRANSIENT_CAUSES}) as transient
            from step_attempts a join runs r using (run_id)
            where a.workflow is null and a.trial_id is null and r.created_at < {literal(now)} group by 1, 2
            having count(*) filter (a.will_retry or a.attempt > 1) = 0 order by 1, 2""",
    )
    found: list[_Draft] = []
    for row in candidates:
        if row["failures"] < LEAST_FAILURES or row["transient"] < LEAST_TRANSIENT_SHARE * row["failures"]:
            continue
        draft = _retry(con, now, row["job_name"], row["step"], row["runs"])
        if draft is not None:
            found.append(draft)
    return found


def _retry(con: Connection, now: datetime, job: str, step: str, runs: int) -> _Draft | None:
    query = failures_sql(job, step, now)
    failed = rows(con, query)
    soon = [row for row in failed if row["next_after_s"] is not None and row["next_after_s"] <= SOON.total_seconds()]
    helped = [row for row in soon if row["next_outcome"] == "success"]
    in_time = [row for row in soon if row["next_after_s"] <= PATIENCE_S]
    proven = [row for row in in_time if row["next_outcome"] == "success"]
    number = len(failed)
    # what was over an hour later, when the next run came, may have lasted all that hour: such failures alone prove no gain
    if min(_lower_share(len(proven), len(in_time)), _lower_share(len(helped), len(soon))) < LEAST_HELPED_SHARE:
        return None
    most, least = upper_share(len(helped), number) * number / runs, _lower_share(len(proven), number) * number / runs
    avoided = (len(helped) + len(proven)) / 2
    wasted_s = sum(row["run_time_s"] or 0.0 for row in failed)
    address = f"job:{job}/step:{step}"
    causes = Counter(row["failure_cause"] for row in failed)
    evidence = {
        "query": " ".join(query.split()),
        "runs": runs,
        "failures": number,
        "transient_failures": sum(causes[cause] for cause in TRANSIENT_CAUSES),
        "error_classes": dict(Counter(row["error_class"] or "unknown" for row in failed).most_common(8)),
        "tried_again_within_an_hour": len(soon),
        "succeeded_then": len(helped),
        "tried_again_within_a_minute": len(in_time),
        "succeeded_within_a_minute": len(proven),
        "median_time_to_next_try_s": float(np.median([row["next_after_s"] for row in in_time])),
        "failed_runs_time_s": wasted_s,
        "failed_runs_cost_usd": sum(row["cost_usd"] or 0.0 for row in failed),
        "rows": [
            {name: row[name] for name in ("run_id", "step_key", "error_class", "next_run_id", "next_outcome", "next_after_s")}
            for row in failed[-60:]
        ],
        "assumed": [
            "the step can be tried again: what it has done before it failed does no harm when done twice",
            f"the trouble was over when the next try succeeded; whether it was over after the {PATIENCE_S:g} s that this policy waits is "
            "known only where the next try came that soon, so the effect lies between these failures and all that were over within an hour",
        ],
    }
    title = (
        f"Job '{job}', step '{step}': try again up to twice, at most 30 s and 90 s apart; {len(proven)} of the {len(in_time)} failures "
        f"that were tried again within {PATIENCE_S:.0f} s were over by then, of {number} in all."
    )
    effect = Effect("failure_share", -avoided / runs, -most, 0.0 - least)
    change = [{"path": f"{address}.retry", "before": None, "after": dict(RETRY)}]
    drafted = _draft("job_retry", job, step, title, change, {address: {"retry": dict(RETRY)}}, evidence, effect, now)
    return _Draft(wasted_s * avoided / number, drafted)


def _timeouts(con: Connection, now: datetime) -> list[_Draft]:
    found: list[_Draft] = []
    for job, hung in hung_runs(con, now, "workflow is null").items():
        saved = np.zeros(hung.ended_runs)
        saved[: len(hung.seconds)] = hung.limit_s - np.array(hung.seconds)
        effect = bootstrap("run_time_s", saved[None, :], SEED)
        mean_s = hung.lost_s / hung.ended_runs
        if effect.high >= 0 or mean_s < max(LEAST_GAIN_S, LEAST_GAIN_SHARE * hung.longest_s / 10):
            continue
        found.append(_Draft(hung.lost_s, _timeout(job, hung, effect, now)))
    return found


def _timeout(job: str, hung: HungRuns, effect: Effect, now: datetime) -> Suggestion:
    limit = format_duration(timedelta(seconds=hung.limit_s))
    evidence = {
        "query": hung.query,
        "runs": hung.ended_runs,
        "successes": hung.successes,
        "longest_success_s": hung.longest_s,
        "limit_s": hung.limit_s,
        "successes_above_limit": hung.above,
        "false_kill_share_upper": hung.false_kill_share_upper,
        "hung_runs": len(hung.run_ids),
        "beyond_limit_s": hung.lost_s,
        "beyond_limit_usd": hung.lost_usd,
        "rows": [
            {"run_id": run_id, "run_time_s": seconds}
            for run_id, seconds in list(zip(hung.run_ids, hung.seconds, strict=True))[-60:]
        ],
        "assumed": [
            "a run that ran beyond the limit and did not succeed would have been stopped at it, with the same outcome",
            "the share of good runs stopped is bounded by Clopper and Pearson, one-sided 95 %, as if runs were alike",
        ],
    }
    others = f"none of {hung.successes} good ones did"
    title = f"Job '{job}': stop a run after {limit}; {len(hung.run_ids)} ran longer and came to nothing, {others}."
    address = f"job:{job}"
    change = [{"path": f"{address}.timeout", "before": None, "after": limit}]
    return _draft("job_timeout", job, "", title, change, {address: {"timeout": limit}}, evidence, effect, now)


def _spreads(con: Connection, now: datetime) -> list[_Draft]:
    costly = [crowd for crowd in collisions(con, now) if crowd.costs]
    if not costly:
        return []
    ours = {name for (name,) in con.execute("select distinct job_name from runs where workflow is not null").fetchall()}
    asked = asked_runs(con, now)
    busy = np.bincount([run.minute.minute for run in asked], minlength=60)
    moved: set[str] = set()
    found: list[_Draft] = []
    for crowd in costly:
        draft = _spread(crowd, asked, busy, ours, moved, now)
        if draft is not None:
            found.append(draft)
    return found


def _spread(
    crowd: Crowd, asked: list[AskedRun], busy: np.ndarray, ours: set[str], moved: set[str], now: datetime
) -> _Draft | None:
    """Moves the schedule of the crowd whose runs waited most; None where its cron cannot be told from its ticks."""
    lost: dict[str, float] = {}
    for run in crowd.asked:
        if run.kind == "schedule" and run.job not in ours:
            lost[run.name] = lost.get(run.name, 0.0) + max((run.queue_s or 0.0) - crowd.alone_s, 0.0)
    if not lost or moved & set(crowd.names):
        return None
    name = min(lost, key=lambda key: (-lost[key], key))
    own = [run for run in asked if run.name == name]
    before = inferred_cron([run.minute for run in own])
    if before is None:
        return None
    after = elsewhere(before, busy)
    if after is None:
        return None
    moved |= set(crowd.names)
    job = Counter(run.job for run in own).most_common(1)[0][0]
    in_crowd = {run.run_id for run in crowd.asked}
    waits = np.array([(run.queue_s or 0.0) - crowd.alone_s if run.run_id in in_crowd else 0.0 for run in own])
    effect = bootstrap("queue_time_s", -waits[None, :], SEED)
    if effect.high >= 0:
        return None
    others = " and ".join(f"'{other}'" for other in crowd.names if other != name)
    address = f"schedule:{name}"
    evidence = {
        "query": crowd.query,
        "times_together": crowd.times,
        "runs_together": crowd.runs,
        "queue_time_s": crowd.mean_s,
        "alone_queue_time_s": crowd.alone_s,
        "alone_runs": crowd.alone_runs,
        "p_value": f"{crowd.p_value:.2g}" if crowd.p_value > 1e-9 else "below 1e-9",
        "rows": [
            {"run_id": run.run_id, "name": run.name, "minute": run.minute.isoformat(), "queue_time_s": run.queue_s}
            for run in crowd.asked[-60:]
        ],
        "assumed": [
            f"its cron was told from the minutes of {len(own)} ticks, in UTC; compare it with your code before you change it",
            "after the move its runs wait as long as runs that were asked for alone",
            "nothing depends on the exact minute",
        ],
    }
    title = (
        f"Schedule '{name}': ask at {told(after)} instead of {told(before)} (UTC); it met {others} {crowd.times:,} times, and their runs "
        "waited for each other. Advice only: a cron is your code."
    )
    change = [{"path": f"{address}.cron", "before": before, "after": after}]
    drafted = _draft("schedule_spread", job, "", title, change, {address: {"cron": after}}, evidence, effect, now)
    return _Draft(float(waits.sum()), drafted)


def _lower_share(hits: int, count: int, confidence: float = 0.95) -> float:
    """One-sided lower Clopper-Pearson bound of a share; 0 where nothing was tried."""
    return 0.0 if not hits else float(betaincinv(hits, count - hits + 1, 1 - confidence))


def _draft(
    kind: str, job: str, step: str, title: str, change: list[dict[str, Any]], entries: Mapping[str, Any],
    evidence: Mapping[str, Any], effect: Effect, now: datetime,
) -> Suggestion:  # fmt: skip
    text = json.dumps(change, sort_keys=True, separators=(",", ":"))
    return Suggestion(
        suggestion_id=hashlib.sha256(f"{job}\0{step}\0{text}".encode()).hexdigest()[:10],
        kind=kind,
        workflow=job,
        step=step,
        based_on=0,
        title=title,
        change=text,
        spec=json.dumps(entries, sort_keys=True, separators=(",", ":")),
        evidence=json.dumps(plain(evidence), sort_keys=True, allow_nan=False),
        quantity=effect.quantity,
        effect=effect.mean,
        effect_low=effect.low,
        effect_high=effect.high,
        created_at=now,
        status="open",
    )
