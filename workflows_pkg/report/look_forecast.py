"""How far off would forecasts have been on this history, beside the mean of the last ten? Replayed, each knowing only what had ended.

The mean of ten is what Airflow shows as a task's expected duration. The best simple rule is chosen with hindsight, per job or step,
so it is a hard mark: nobody knows beforehand which rule it will be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workflows_pkg.prediction.evaluation.attempts import SERVED, replay, scores
from workflows_pkg.prediction.rows import run_observations
from workflows_pkg.prediction.rules import RULES
from workflows_pkg.prediction.serving import predictions
from workflows_pkg.report.reading import Connection, Frame, frame

NEWEST_RUNS = 8_000
NEWEST_ATTEMPTS = 6_000
"""Replayed at most: about 5 s for the runs and 3 s for the attempts on one core."""

LEAST_ROWS = 10
"""Jobs and steps with fewer outcomes to score than this are not compared: one stray run would decide."""

MEAN_OF_TEN = "mean_of_10"


@dataclass(frozen=True)
class Compared:
    """Median absolute relative errors (1 is 100 %) of the run time of one job, or of one of its steps, over `outcomes` successes."""

    job: str
    step: str
    outcomes: int
    error_share: float
    mean_of_ten_share: float
    best_rule_share: float
    best_rule: str


@dataclass(frozen=True)
class Overall:
    """Means of the errors over jobs or steps, each counting once; `better` of `compared` have an error below the mean of ten's."""

    compared: int
    error_share: float
    mean_of_ten_share: float
    best_rule_share: float
    better: int


@dataclass(frozen=True)
class ForecastErrors:
    """What was replayed (newest first to be taken) of how much there is, and how far off the forecasts were. None: too little."""

    runs_replayed: int
    runs: int
    attempts_replayed: int
    attempts: int
    of_runs: Overall | None
    of_steps: Overall | None
    jobs: tuple[Compared, ...]
    steps: tuple[Compared, ...]


def forecast_errors(con: Connection, *, runs: int = NEWEST_RUNS, attempts: int = NEWEST_ATTEMPTS) -> ForecastErrors:
    """Errors of run time forecasts on the newest `runs` runs and `attempts` attempts of steps; trials are left out."""
    all_runs, all_attempts = (
        con.execute(f"select count(*) from {table} where trial_id is null").fetchone()[0] for table in ("runs", "step_attempts")
    )
    newest_runs = frame(con, "select * from runs where trial_id is null order by created_at desc, run_id limit ?", [runs])
    newest = frame(
        con,
        "select * from step_attempts where trial_id is null and started_at is not null order by started_at desc, run_id limit ?",
        [attempts],
    )
    jobs, steps = _of_runs(newest_runs), _of_steps(newest)
    return ForecastErrors(
        len(newest_runs), all_runs, len(newest), all_attempts, _overall(jobs), _overall(steps), tuple(jobs), tuple(steps)
    )


def _of_runs(found: Frame) -> list[Compared]:
    if found.empty:
        return []
    observations = run_observations(found, "run_time_s")
    return _compared(scores(pd.concat([observations, predictions(observations)], axis=1), by=("job_name",)))


def _of_steps(found: Frame) -> list[Compared]:
    return [] if found.empty else _compared(scores(replay(found)))


def _compared(scored: Frame) -> list[Compared]:
    keys = [name for name in ("job_name", "step") if name in scored]
    rows: list[Compared] = []
    for key, group in scored.groupby(keys, sort=True):
        errors: Mapping[str, float] = group.set_index("predictor")["error_share"].to_dict()
        outcomes = int(group["row_count"].iloc[0] * (1 - group["cold_share"].iloc[0]) + 0.5)
        if outcomes < LEAST_ROWS or pd.isna(errors[SERVED]):
            continue
        best = min(RULES, key=lambda name: errors[name])
        named: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
        rows.append(
            Compared(
                str(named[0]),
                str(named[1]) if len(named) > 1 else "",
                outcomes,
                errors[SERVED],
                errors[MEAN_OF_TEN],
                errors[best],
                best,
            )
        )
    return sorted(rows, key=lambda row: (-row.outcomes, row.job, row.step))


def _overall(rows: Sequence[Compared]) -> Overall | None:
    if not rows:
        return None
    count = len(rows)
    return Overall(
        count,
        sum(row.error_share for row in rows) / count,
        sum(row.mean_of_ten_share for row in rows) / count,
        sum(row.best_rule_share for row in rows) / count,
        sum(row.error_share < row.mean_of_ten_share for row in rows),
    )
