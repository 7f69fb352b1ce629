"""What would a job have cost, had its schedule asked for runs less often? Read from the runs that there were.

The scheduled runs are gone through in order, and one is left out where less than the wanted time has passed since the last that was kept.
Nobody knows from this alone how much of the work of a run left out the next one would have had to do, so two ends are told: none of it (a
full refresh costs the same whenever it runs), and all of it (each row costs once, whenever it is done). Where the gaps between runs
have varied, what a longer gap did to the cost of the next run says where between the two this job stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from workflows_pkg.advisor.asking import literal, rows, runs_before
from workflows_pkg.prediction.rows import Connection

LEAST_RUNS = 10
"""Scheduled runs with a known cost from which anything is said."""

LEAST_GAPS, LEAST_GAP_SPREAD = 20, 0.3
"""Runs, and standard deviation of the gaps over their mean, from which the gap's effect on cost is estimated."""

SLACK = 0.1
"""A run this share of the wanted time early counts as in time: ticks are seconds late."""

RESAMPLED, SEED = 400, 20130102


@dataclass(frozen=True)
class LessOften:
    """What the scheduled runs cost and would have cost, in USD over `days`.

    same_usd: each kept run costs what it did. carried_usd: it also costs what the runs left out before it did. between_usd: where the
    effect of longer gaps says, with its 90 % interval; None: gaps did not vary enough to tell. unpriced: runs whose cost is unknown.
    """

    job: str
    days: float
    runs: int
    kept: int
    unpriced: int
    cost_usd: float
    same_usd: float
    carried_usd: float
    between_usd: tuple[float, float, float] | None


def less_often(con: Connection, job: str, every: timedelta, now: datetime, days: float = 28.0) -> LessOften | None:
    """The scheduled runs of a job or workflow in the last `days` before `now`, had they been `every` apart or more.

    None where fewer than `LEAST_RUNS` of them have a known cost. Trials are left out.
    """
    since = now - timedelta(days=days)
    found = rows(
        con,
        f"""select epoch(created_at) as at, cost_usd from {runs_before(now)} where trigger = 'schedule' and outcome is not null
            and coalesce(workflow, job_name) = {literal(job)} and created_at >= {literal(since)} order by created_at, run_id""",
    )
    priced = [row for row in found if row["cost_usd"] is not None]
    if len(priced) < LEAST_RUNS:
        return None
    at = np.array([row["at"] for row in priced], dtype=float)
    usd = np.array([row["cost_usd"] for row in priced], dtype=float)
    kept = _kept(at, every.total_seconds() * (1 - SLACK))
    same = float(usd[kept].sum())
    spent = float(usd.sum())
    share = _carried_share(np.diff(at), usd[1:])
    between = None
    if share is not None:
        # of what the runs left out cost, so much would have been paid by the next
        low, middle, high = (same + one * (spent - same) for one in share)
        between = (low, middle, high)
    return LessOften(
        job, (at[-1] - at[0]) / 86_400, len(priced), int(kept.sum()), len(found) - len(priced), spent, same, spent, between
    )


def _kept(at: np.ndarray, apart_s: float) -> np.ndarray:
    kept = np.zeros(len(at), dtype=bool)
    last = -np.inf
    for place, moment in enumerate(at):
        if moment - last >= apart_s:
            kept[place], last = True, moment
    return kept


def _carried_share(gaps: np.ndarray, usd: np.ndarray) -> tuple[float, float, float] | None:
    """Which share of a run's cost grows with the time since the last: least squares on the gap, and the 90 % interval over resampled runs.

    0: cost does not depend on the gap; 1: it is proportional to it. None where the gaps say nothing.
    """
    mean = float(gaps.mean()) if len(gaps) else 0.0
    if len(gaps) < LEAST_GAPS or mean <= 0 or float(gaps.std()) / mean < LEAST_GAP_SPREAD or usd.mean() <= 0:
        return None
    rng = np.random.default_rng(SEED)
    shares: list[float] = []
    for _ in range(RESAMPLED):
        chosen = rng.integers(0, len(gaps), len(gaps))
        x, y = gaps[chosen], usd[chosen]
        if x.std() > 0 and y.mean() > 0:
            slope = float(np.cov(x, y, bias=True)[0, 1] / x.var())
            shares.append(min(max(slope * float(x.mean()) / float(y.mean()), 0.0), 1.0))
    low, middle, high = (float(np.quantile(shares, level)) for level in (0.05, 0.5, 0.95))
    return low, middle, high
