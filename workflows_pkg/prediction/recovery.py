"""After a failure, how likely is another attempt to succeed once some time has passed?

An episode is one step of one run from its first failure on. When what made it fail went away is never seen: only that a
later attempt failed again (not yet gone), and that another succeeded (gone by then). The time to recovery is censored to
an interval, and its distribution is estimated as such; a plain success rate by wait would count the hard cases twice,
since only they are tried again and again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import betaincinv

from workflows_pkg.prediction.rows import Frame, in_utc

SAME_AGAIN = frozenset({"code", "data", "memory"})
"""Failure causes for which the same input meets the same failure: time alone changes nothing."""

HOPELESS_FROM = 3
"""Episodes without one recovery that confirm such a cause."""

HOPELESS_FROM_UNKNOWN = 10
"""Episodes without one recovery from which any other class counts as hopeless: the true share is then below 26 %."""

_ROUNDS = 200
_POINTS = 50
"""Moments a curve has at most; more would be finer than any use of it, and slow to find."""
EPISODE_COLUMNS = (
    "run_id", "step_key", "step", "version", "error_class", "failure_cause", "failed_at", "low_s", "high_s",
    "recovered", "tries", "retry_run_time_s", "longest_wait_s", "overhead_s", "overheads_s", "lost_s",
)  # fmt: skip


def episodes(attempts: Frame) -> Frame:
    """One row per step and run in which an attempt failed and another followed or could have; columns `EPISODE_COLUMNS`.

    Times count from the end of the first failed attempt. `low_s`: the latest start of an attempt that failed again (0
    where none did): not recovered by then. `high_s`: start of the attempt that succeeded, infinite where none did.
    `tries`: attempts after the first failure that ended in success or failure. `retry_run_time_s`: mean run time of
    those that failed again, of the first failure where none did. `longest_wait_s`: longest recorded wait.
    `overheads_s`: per attempt tried again, the time before it beyond the recorded wait (NaN where none is recorded), in
    order; `overhead_s`: their mean. It belongs to the episode: milliseconds where attempts share a process, seconds where
    each has to start one. `lost_s`: until the successful attempt began, or the last one ended. Class and cause are the first
    failure's.
    """
    if attempts.empty:
        return pd.DataFrame(columns=list(EPISODE_COLUMNS))
    frame = in_utc(attempts)
    frame = frame[frame["started_at"].notna() & (frame["outcome"] != "skipped")].sort_values(["run_id", "step_key", "attempt"])
    troubled = frame.loc[frame["outcome"] == "failure", ["run_id", "step_key"]].drop_duplicates()
    frame = frame.merge(troubled, on=["run_id", "step_key"])
    rows = [_episode(list(group.itertuples())) for _, group in frame.groupby(["run_id", "step_key"], sort=True)]
    return pd.DataFrame([row for row in rows if row], columns=list(EPISODE_COLUMNS))


def _episode(tries: list) -> dict[str, object] | None:
    start = next(place for place, attempt in enumerate(tries) if attempt.outcome == "failure")
    first = tries[start]
    if pd.isna(first.ended_at):
        return None
    low, high, seen, lost = 0.0, math.inf, 0, 0.0
    again: list[float] = []
    waits: list[float] = []
    overheads: list[float] = []
    before = first
    for attempt in tries[start + 1 :]:
        if attempt.outcome not in ("success", "failure") or pd.isna(before.ended_at):
            break
        seen += 1
        begun = max(0.0, (attempt.started_at - first.ended_at).total_seconds())
        wait = getattr(before, "retry_wait_s", None)
        if wait is None or pd.isna(wait):
            overheads.append(math.nan)
        else:
            waits.append(float(wait))
            overheads.append(max(0.0, (attempt.started_at - before.ended_at).total_seconds() - float(wait)))
        if attempt.outcome == "success":
            high, lost = begun, begun
            break
        low = begun
        ran = 0.0 if pd.isna(attempt.run_time_s) else float(attempt.run_time_s)
        again.append(ran)
        lost = begun + ran
        before = attempt
    ran_first = 0.0 if pd.isna(first.run_time_s) else float(first.run_time_s)
    return {
        "run_id": first.run_id, "step_key": first.step_key, "step": first.step, "version": getattr(first, "version", None),
        "error_class": first.error_class if isinstance(first.error_class, str) else "unknown",
        "failure_cause": first.failure_cause if isinstance(first.failure_cause, str) else "unknown",
        "failed_at": first.ended_at, "low_s": low, "high_s": high, "recovered": math.isfinite(high), "tries": seen,
        "retry_run_time_s": float(np.mean(again)) if again else ran_first,
        "longest_wait_s": max(waits, default=math.nan), "overhead_s": float(np.nanmean(overheads)) if waits else math.nan,
        "overheads_s": tuple(overheads), "lost_s": lost,
    }  # fmt: skip


@dataclass(frozen=True)
class RecoveryCurve:
    """Share of episodes recovered within a wait. `waits_s` rise from 0; `shares`, never falling, start at 0.

    The last share may be below 1: the rest had not recovered at the longest wait seen. Between two waits the share is
    drawn as a straight line: the data do not say where in between it rose. `low` and `high` are the ends of a 90 %
    bootstrap interval at each wait; `known` counts the episodes whose state at that wait is known.
    """

    waits_s: tuple[float, ...]
    shares: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    known: tuple[int, ...]
    episodes: int

    def at(self, wait_s: float) -> float:
        """Share recovered within `wait_s`, 0 to 1; beyond the longest wait seen, the last share."""
        return float(np.interp(wait_s, self.waits_s, self.shares))


def curve(found: Frame, resamples: int = 100, seed: int = 0) -> RecoveryCurve | None:
    """The recovery curve of `episodes`; None where none of them was tried again: unknown.

    The non-decreasing maximum-likelihood estimate for interval-censored times, found by self-consistency (B. Turnbull,
    "The Empirical Distribution Function with Arbitrarily Grouped, Censored and Truncated Data", JRSS B 38, 1976).
    """
    tried = found[found["tries"] > 0]
    if tried.empty:
        return None
    low = tried["low_s"].to_numpy(float)
    high = np.maximum(tried["high_s"].to_numpy(float), low + 1e-6)
    points = np.unique(np.concatenate([[0.0], low, high[np.isfinite(high)]]))
    if len(points) > _POINTS:
        points = np.unique(np.quantile(points, np.linspace(0, 1, _POINTS), method="lower"))
        # widened to the coarser moments, an interval says less and nothing wrong
        low = points[np.searchsorted(points, low, side="right") - 1]
        high = np.append(points, np.inf)[np.searchsorted(points, high, side="left")]
    shares = _turnbull(low, high, points)
    rng = np.random.default_rng(seed)
    again = np.array(
        [_turnbull(low[pick], high[pick], points) for pick in (rng.integers(len(low), size=len(low)) for _ in range(resamples))]
    )
    bottom, top = np.quantile(again, [0.05, 0.95], axis=0) if resamples else (shares, shares)
    known = [int(np.sum((high <= point) | (low >= point))) for point in points]
    return RecoveryCurve(_figures(points), _figures(shares), _figures(bottom), _figures(top), tuple(known), len(tried))


def _figures(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _turnbull(low: np.ndarray, high: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Share recovered at each of `points`; mass lies between neighbouring points, or beyond the last."""
    starts = points
    ends = np.append(points[1:], np.inf)
    inside = ((starts[None, :] >= low[:, None]) & (ends[None, :] <= high[:, None])).astype(float)
    mass = np.full(len(starts), 1 / len(starts))
    for _ in range(_ROUNDS):
        share = inside * mass
        share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)
        new = share.mean(axis=0)
        if np.abs(new - mass).max() < 1e-5:
            mass = new
            break
        mass = new
    return np.concatenate([[0.0], np.cumsum(mass[:-1])])


@dataclass(frozen=True)
class ErrorClass:
    """What became of the episodes that began with one error class.

    `upper` is the largest share of recoveries still compatible with what was seen (one-sided 95 %, Clopper and Pearson;
    for no recovery in n about 3/n).
    """

    name: str
    cause: str
    episodes: int
    recovered: int
    upper: float
    hopeless: bool


def error_classes(found: Frame) -> tuple[ErrorClass, ...]:
    """Every error class of `episodes` that was tried again, by name; hopeless where none recovered in enough episodes."""
    tried = found[found["tries"] > 0]
    classes: list[ErrorClass] = []
    for name, group in tried.groupby("error_class", sort=True):
        count, recovered = len(group), int(group["recovered"].sum())
        cause = str(group["failure_cause"].mode().iloc[0])
        enough = HOPELESS_FROM if cause in SAME_AGAIN else HOPELESS_FROM_UNKNOWN
        classes.append(
            ErrorClass(str(name), cause, count, recovered, upper_share(recovered, count), recovered == 0 and count >= enough)
        )
    return tuple(classes)


def upper_share(hits: int, count: int, confidence: float = 0.95) -> float:
    """One-sided upper Clopper-Pearson bound of a share; 1 where nothing was tried.

    >>> round(upper_share(0, 100), 3)
    0.03
    """
    return 1.0 if hits >= count else float(betaincinv(hits + 1, count - hits, confidence))
