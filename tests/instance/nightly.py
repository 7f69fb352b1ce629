"""A job of three steps, what was forecast for it, and a run of it put into the queue as if by a code location."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator import SubmitRunContext

AS_OF = datetime(2026, 10, 1, 12, tzinfo=UTC)
SETTINGS = """\
telemetry: {enabled: false}
run_coordinator:
  module: workflows_pkg.instance.coordinator
  class: ForecastingRunCoordinator
concurrency: {runs: {max_concurrent_runs: 2}}
"""


def forecast(job: str, step: str, quantity: str, p05: float, p50: float, p95: float) -> Any:
    from workflows_pkg.history.records import Forecast

    return Forecast(
        job_name=job,
        step=step,
        quantity=quantity,
        p05=p05,
        p50=p50,
        p95=p95,
        sample_count=48,
        predictor="median_of_10",
        as_of=AS_OF,
    )


def nightly_forecasts(job: str = "nightly") -> list[Any]:
    """A run of 30 s in three steps one after the other."""
    return [
        forecast(job, "", "run_time_s", 24.0, 30.0, 42.0),
        forecast(job, "", "queue_time_s", 1.0, 3.0, 9.0),
        forecast(job, "", "start_time_s", 2.0, 4.0, 9.0),
        forecast(job, "", "cost_usd", 0.0003, 0.0004, 0.0006),
        forecast(job, "", "failure_share", 0.01, 0.03, 0.08),
        *(
            forecast(job, step, quantity, 0.8 * value, value, 1.3 * value)
            for step, takes, after in (("extract", 10.0, 20.0), ("clean", 15.0, 5.0), ("score", 5.0, 0.1))
            for quantity, value in (("run_time_s", takes), ("time_left_s", after))
        ),
    ]


@dg.op
def extract() -> None: ...


@dg.op(ins={"extracted": dg.In(dg.Nothing)})
def clean() -> None: ...


@dg.op(ins={"cleaned": dg.In(dg.Nothing)})
def score() -> None: ...


@dg.job
def nightly() -> None:
    score(clean(extract()))


@dg.job
def first_time() -> None:
    extract()


def publish(home: Path, forecasts: Iterable[Any]) -> None:
    from workflows_pkg.prediction.forecasts import publish_table  # brings pandas, which one test must not see
    from workflows_pkg.prediction.lookup import FILE

    publish_table(forecasts, home / FILE)


def new_home(folder: Path) -> Path:
    """Makes an instance with our coordinator and the forecasts of `nightly`."""
    folder.mkdir()
    (folder / "dagster.yaml").write_text(SETTINGS)
    publish(folder, nightly_forecasts())
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        submit_to(instance)
        instance.all_instigator_state()
        for run in instance.get_runs():
            instance.delete_run(run.run_id)
    return folder


def submit_to(instance: dg.DagsterInstance, job: dg.JobDefinition = nightly, **more: Any) -> dg.DagsterRun:
    """Puts a run into the queue, as `DagsterInstance.submit_run` does once the code location is known."""
    location = GrpcServerCodeLocationOrigin(host="localhost", socket="/tmp/nobody-listens-here.sock", location_name="here")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job.name)
    run = instance.create_run_for_job(job, remote_job_origin=origin, **more)
    return submit_again(instance, run)


def submit_again(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    workspace: Any = None  # the coordinator asks for nothing of it
    return instance.run_coordinator.submit_run(SubmitRunContext(run, workspace))


def events(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: str | None = None) -> list[dg.DagsterEvent]:
    found = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event is not None]
    return [event for event in found if kind in (None, event.event_type_value)]
