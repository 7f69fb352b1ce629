"""Which forecasts have stopped being right? What was forecast of each run before it was asked for, beside what it took.

An interval that holds 90 of 100 cases may miss a few more, since one forecast serves several runs; it has stopped being right where more
than `TOLERATED` of the runs end outside. The test is a bet against that (Shafer, "Testing by betting", Journal of the Royal Statistical
Society A 184, 2021): the ratio of the likelihoods at `SUSPECTED` and at `TOLERATED`, averaged over where it may have begun among the newest
runs. Its mean is at most 1 while each run misses with no more than the tolerated chance, given those before, so by Markov's inequality it
exceeds 1 / level in at most that share of looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from workflows_pkg.advisor.asking import literal, one, rows, runs_before
from workflows_pkg.prediction.rows import Connection

FALSE_ALARMS = 0.01
"""Share of looks at all jobs together in which forecasts that are right are told to have stopped being so, at most."""

TOLERATED, SUSPECTED = 0.2, 0.6
"""Share of runs outside the 90 % interval that is still right, and the one the bet is on; what lies far between is seen later."""

NEWEST = 100
"""Runs of each job looked at: what went wrong before and is right again is no news."""


@dataclass(frozen=True)
class Off:
    """Of the runs of `job` since `since`, `outside` of `runs` ended outside the interval that was forecast, `above` of them later."""

    job: str
    since: datetime
    runs: int
    outside: int
    above: int
    as_of: datetime
    tests: int
    query: str


def forecasts_off(con: Connection, now: datetime) -> list[Off]:
    """The jobs whose run time forecasts have stopped being right; none where they are right, at the rate `FALSE_ALARMS`."""
    sql = f"""
        select r.job_name, r.run_id, r.created_at, r.run_time_s, t.p05, t.p95, t.as_of
        from {runs_before(now)} r asof join (
            select job_name, as_of, p05, p95 from forecasts where step = '' and quantity = 'run_time_s' and as_of < {literal(now)}
        ) t on r.job_name = t.job_name and r.created_at >= t.as_of
        where r.outcome = 'success' and r.run_time_s is not null
        qualify row_number() over (partition by r.job_name order by r.created_at desc, r.run_id) <= {NEWEST}
        order by r.job_name, r.created_at, r.run_id"""
    by_job: dict[str, list[dict[str, Any]]] = {}
    for row in rows(con, sql):
        by_job.setdefault(row["job_name"], []).append(row)
    found: list[Off] = []
    for job, runs in by_job.items():
        took, low, high = (np.array([row[name] for row in runs], float) for name in ("run_time_s", "p05", "p95"))
        outside = (took < low) | (took > high)
        begin, odds = evidence_against(outside)
        if odds >= len(by_job) / FALSE_ALARMS:
            since, as_of = runs[begin]["created_at"], runs[-1]["as_of"]
            above = int((took > high)[begin:].sum())
            found.append(
                Off(job, since, len(runs) - begin, int(outside[begin:].sum()), above, as_of, len(by_job), one(sql, job_name=job))
            )
    return found


def evidence_against(outside: np.ndarray) -> tuple[int, float]:
    """From which run on forecasts most likely stopped being right, and the odds against their being right, in order of time.

    >>> begin, odds = evidence_against(np.array([False] * 50 + [True] * 12))
    >>> begin, round(odds)
    (50, 21429)
    >>> evidence_against(np.array([False] * 18 + [True] * 2))[1] < 5
    True
    """
    if not len(outside):
        return 0, 0.0
    ratios = np.where(outside, SUSPECTED / TOLERATED, (1 - SUSPECTED) / (1 - TOLERATED))
    since = np.cumprod(ratios[::-1])[::-1]
    return int(since.argmax()), float(since.mean())
