"""What was published of this very run, also where Dagster's own job runs whatever assets were picked?

Imported where runs are launched, so it imports neither DuckDB nor pandas nor scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from workflows_pkg.prediction.lookup import JobForecast, job_forecast
from workflows_pkg.prediction.picks import is_picked, pick_name, picked_forecast


def forecast_of_run(instance: dg.DagsterInstance, published: Path, run: dg.DagsterRun) -> JobForecast | None:
    """The forecast of the run's job, or of the assets that it was asked for; None: unknown.

    Raises SetupError where the published file cannot be read.
    """
    job = job_forecast(published, run.job_name)
    if job is None or not is_picked(run.job_name):
        return job
    named = [job.step_of(key) for key in planned_step_keys(instance, run)]
    steps = {step for step in named if step is not None}
    if None in named or not steps:
        return None
    return picked_forecast(job, steps, job_forecast(published, pick_name(run.job_name, steps)))


def planned_step_keys(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Sequence[str]:
    """What the run executes; where a selection made another plan, it stands only there."""
    if run.step_keys_to_execute is not None:
        return run.step_keys_to_execute
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id) if run.execution_plan_snapshot_id else None
    return [] if plan is None else [step.key for step in plan.steps]
