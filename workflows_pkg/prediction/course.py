"""How do runs of a job proceed: how long do they go on after each step, and how long does a step take with all its tries?

What the remaining time of a running run rests on (`prediction.remaining`). Plain quantiles of the newest runs: there is no rule to choose
between, and the time after a step includes whatever runs side by side.
"""

from __future__ import annotations

from datetime import datetime

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.rows import Frame

COURSE = ("time_left_s", "whole_time_s")
"""By step: from its last end to the end of the run; and, where it was tried or mapped more than once in a run, from its first beginning to
its last end."""
_FROM, _NEWEST = 5, 50
"""Successful runs from which their quantiles say something, and of how many of the newest they are taken."""


def courses(known_runs: Frame, known_attempts: Frame, moment: datetime) -> list[Forecast]:
    """Quantiles of `COURSE` over the newest successful runs, ended before `moment`, that had the step; instants in UTC."""
    done = known_runs[(known_runs["outcome"] == "success") & (known_runs["ended_at"] < moment)][["run_id", "ended_at"]]
    tries = known_attempts[known_attempts["started_at"].notna() & known_attempts["ended_at"].notna()]
    tries = tries[tries["outcome"] != "skipped"].drop(columns="submitted_at").merge(done, on="run_id", suffixes=("", "_of_run"))
    if tries.empty:
        return []
    by_run = tries.groupby(["job_name", "step", "run_id"]).agg(
        began=("started_at", "min"), ended=("ended_at", "max"), count=("started_at", "size"), closed=("ended_at_of_run", "max")
    )
    by_run = by_run.sort_values("closed", kind="stable").assign(
        time_left_s=(by_run["closed"] - by_run["ended"]).dt.total_seconds().clip(lower=0.0),
        whole_time_s=(by_run["ended"] - by_run["began"]).dt.total_seconds().clip(lower=0.0),
    )
    found: list[Forecast] = []
    for (job, step), rows in by_run.groupby(level=["job_name", "step"]):
        newest = rows.tail(_NEWEST)
        if len(newest) < _FROM:
            continue
        for quantity in COURSE:
            if quantity == "whole_time_s" and (newest["count"] == 1).all():
                continue  # it is the run time of its only attempt
            low, middle, high = (float(newest[quantity].quantile(level)) for level in (0.05, 0.5, 0.95))
            found.append(
                Forecast(
                    job_name=str(job),
                    step=str(step),
                    quantity=quantity,
                    p05=low,
                    p50=middle,
                    p95=high,
                    sample_count=len(newest),
                    predictor=f"quantiles_of_newest_{_NEWEST}",
                    error_share=None,
                    best_rule=None,
                    best_rule_error_share=None,
                    as_of=moment,
                    basis=None,
                )
            )
    return found
