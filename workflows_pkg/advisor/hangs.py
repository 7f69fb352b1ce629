"""Which runs hung? Those that ran far beyond every good run of their job and did not succeed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from workflows_pkg.advisor.asking import one, rows, runs_before
from workflows_pkg.advisor.timeout import learned_timeout
from workflows_pkg.prediction.rows import Connection, Frame


@dataclass(frozen=True)
class HungRuns:
    """Runs of one job that ran beyond what its good runs suggest as a limit, and did not succeed; `lost_s` is beyond the limit."""

    run_ids: tuple[str, ...]
    seconds: tuple[float, ...]
    ended_runs: int
    limit_s: float
    successes: int
    longest_s: float
    above: int
    false_kill_share_upper: float
    lost_s: float
    lost_usd: float | None
    query: str


def hung_runs(con: Connection, now: datetime, where: str = "true") -> dict[str, HungRuns]:
    """Hung runs by job, by the limit that `timeout.learned_timeout` learns from whole runs; jobs without one are left out."""
    sql = f"""
        select run_id, job_name, outcome, run_time_s, cost_usd, started_at, '' as step_key, 1 as attempt from {runs_before(now)}
        where run_time_s is not null and outcome is not null and {where} order by created_at, run_id"""
    found: dict[str, HungRuns] = {}
    table: Frame = pd.DataFrame(rows(con, sql))
    for job, of_job in table.groupby("job_name", sort=True) if len(table) else ():
        bad = of_job[of_job["outcome"].isin(["failure", "canceled"])]
        good = of_job.loc[of_job["outcome"] == "success", "run_time_s"]
        if bad.empty or good.empty or not (bad["run_time_s"] > good.max()).any():
            continue
        learned = learned_timeout(of_job)
        if learned is None:
            continue
        limit_s = learned.limit.total_seconds()
        hung = bad[bad["run_time_s"] > limit_s]
        if hung.empty:
            continue
        rate = (hung["cost_usd"] / hung["run_time_s"]).astype(float)
        lost_usd = float(((hung["run_time_s"] - limit_s) * rate).sum()) if rate.notna().all() else None
        found[str(job)] = HungRuns(
            tuple(hung["run_id"]), tuple(hung["run_time_s"]), len(of_job), limit_s, learned.successes, learned.longest_s, learned.above,
            learned.false_kill_share_upper, float((hung["run_time_s"] - limit_s).sum()), lost_usd, one(sql, job_name=str(job)),
        )  # fmt: skip
    return found
