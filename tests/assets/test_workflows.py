"""The example workflows on their real data: what passes, what fails, and that each failure has the cause it is said to have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pandas as pd
import pytest

from assets.data import deliver_month
from assets.neighbours.running import Neighbours, neighbours
from assets.neighbours.weather_service import State
from assets.tour.runs import WORKFLOWS, compiled_workflows
from resources.settings import allowed
from workflows_pkg.errors import MemoryLimit
from workflows_pkg.orchestration.compiled import definitions
from workflows_pkg.orchestration.instance import create_instance, open_instance
from workflows_pkg.orchestration.launch import run_in_process
from workflows_pkg.security.allow import Allow
from workflows_pkg.spec.loader import load_folder
from workflows_pkg.spec.model import Workflow
from workflows_pkg.steps.contract import StepContext, StepValue
from workflows_pkg.steps.data import sql, tables
from workflows_pkg.steps.discovery import discover


@pytest.fixture(scope="module")
def workflows() -> dict[str, Workflow]:
    loaded = load_folder(WORKFLOWS, discover().params())
    assert loaded.problems == ()
    return {workflow.workflow: workflow for _, workflow in loaded.workflows}


@pytest.fixture
def home(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
    create_instance(tmp_path)
    (tmp_path / "data").mkdir()
    for file in data.glob("*.parquet"):
        os.link(file, tmp_path / "data" / file.name)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def notification_plugins() -> None:
    """apprise imports all its services at the first message, some with deprecated modules; here rather than in a step."""
    import warnings

    import apprise

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apprise.Apprise().add("json://127.0.0.1/")


@pytest.fixture
def around(home: Path) -> Iterator[Neighbours]:
    with neighbours(home, home / "data") as running:
        yield running


def step_context(allow: Allow, inputs: dict[str, StepValue]) -> StepContext:
    return StepContext("late_report", "together", "run", 1, None, inputs, allow, lambda name: "", lambda line: None)


def together(workflows: dict[str, Workflow], data: Path, month: str, **changes: object) -> StepValue:
    allow = Allow(files=data, tables={"flights": "flights.parquet"})
    steps = workflows["late_report"].steps
    read = tables.ReadTable.model_validate({**steps["departures"].with_, "where": {"month_start": month}})
    departures = tables.read(step_context(allow, {}), read)
    params = sql.Sql.model_validate({**steps["together"].with_, **changes})
    return sql.run(step_context(allow, {"departures": departures}), params)


def test_every_retry_of_the_examples_waits_at_most_a_second(workflows: dict[str, Workflow]) -> None:
    retries = [step.retry for workflow in workflows.values() for step in workflow.steps.values() if step.retry is not None]
    assert len(retries) >= 4
    assert all(retry.delay.total_seconds() <= 1 and retry.backoff == "constant" for retry in retries)


def test_bad_months_need_more_memory_than_the_step_is_given(workflows: dict[str, Workflow], data: Path) -> None:
    for month in ("2013-06-01", "2013-07-01"):
        with pytest.raises(MemoryLimit, match="35MB"):
            together(workflows, data, month)


def test_most_months_fit_the_memory_of_the_step(workflows: dict[str, Workflow], data: Path) -> None:
    for month in ("2013-01-01", "2013-05-01", "2013-08-01", "2013-09-01"):
        assert len(together(workflows, data, month)) > 40  # type: ignore[arg-type]


def test_control_with_more_memory_the_bad_month_passes(workflows: dict[str, Workflow], data: Path) -> None:
    found = together(workflows, data, "2013-07-01", memory_limit="200MB")
    assert isinstance(found, pd.DataFrame)
    assert found["pairs"].sum() > 500_000


def events_of(instance: dg.DagsterInstance, run_id: str, kind: dg.DagsterEventType) -> list[str]:
    return [(entry.step_key or "").rsplit(".", 1)[-1] for entry in instance.all_logs(run_id, of_type=kind)]


def test_a_refused_day_is_retried_and_lands_in_the_warehouse(home: Path, around: Neighbours) -> None:
    with open_instance(home) as instance:
        around.prepare(State(tokens=0.0, crawler_phase_s=0.1, crawler_waits=False))
        run_id = run_in_process(compiled_workflows(home)["flights_daily"], instance, "2013-01-15")
        assert events_of(instance, run_id, dg.DagsterEventType.STEP_UP_FOR_RETRY)[:1] == ["weather"]
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.is_success
    kept = tables.read(
        step_context(allowed(), {}), tables.ReadTable.model_validate({"source": "warehouse.duckdb", "table": "departures"})
    )
    assert isinstance(kept, pd.DataFrame)
    assert set(kept["date"]) == {"2013-01-15"}
    assert kept["temp"].notna().mean() > 0.9


def test_the_blizzard_day_has_too_few_departures_and_the_operators_are_told(home: Path, around: Neighbours) -> None:
    with open_instance(home) as instance:
        around.prepare(State(tokens=2.0, crawler_phase_s=3.1, crawler_waits=False))
        run_id = run_in_process(compiled_workflows(home)["flights_daily"], instance, "2013-02-09")
        assert events_of(instance, run_id, dg.DagsterEventType.STEP_FAILURE) == ["clean"]
        assert "store" not in events_of(instance, run_id, dg.DagsterEventType.STEP_START)
    (told,) = around.received()
    assert told["body"]["title"] == "flights_daily failed"
    assert "291 rows" in told["body"]["message"]


def test_a_good_month_is_reported_without_a_message(home: Path, around: Neighbours) -> None:
    with open_instance(home) as instance:
        run_id = run_in_process(compiled_workflows(home)["late_report"], instance, "2013-09-01")
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.is_success
    assert around.received() == []


def test_a_late_month_is_told_to_the_operators(home: Path, around: Neighbours) -> None:
    with open_instance(home) as instance:
        run_in_process(compiled_workflows(home)["late_report"], instance, "2013-04-01")
    (told,) = around.received()
    assert told["body"]["title"] == "Many late departures in the month of 2013-04-01"
    assert told["body"]["message"] == "0.2315 of 27662 departures were late."


def test_the_schedule_asks_for_the_next_missing_day_and_the_sensor_for_each_delivery_once(home: Path, around: Neighbours) -> None:
    """Real ticks of the example workflows; `tests/orchestration/test_services.py` has the daemon make them."""
    compiled = compiled_workflows(home)
    around.prepare(State(tokens=2.0, crawler_phase_s=0.0, crawler_waits=False))
    with open_instance(home) as instance:
        repository = definitions(list(compiled.values())).get_repository_def()
        (schedule,) = compiled["flights_daily"].schedules
        assert schedule.execution_timezone == "America/New_York"
        for day in ("2013-01-01", "2013-01-02"):
            now = datetime(2013, 3, 1, 6, tzinfo=ZoneInfo("America/New_York"))
            with dg.build_schedule_context(instance, scheduled_execution_time=now, repository_def=repository) as context:
                (asked,) = schedule.evaluate_tick(context).run_requests or []
            assert asked.partition_key == day
            run_id = run_in_process(compiled["flights_daily"], instance, asked.partition_key, asked.tags)
            assert instance.get_run_by_id(run_id).is_success  # type: ignore[union-attr]

        (sensor,) = compiled["delay_model"].sensors
        delivered = deliver_month(home / "data", "2013-02")
        aged = delivered.stat().st_mtime - 60
        os.utime(delivered, (aged, aged))  # the sensor leaves a file alone that may still be written
        with dg.build_sensor_context(instance, repository_def=repository) as context:
            found = sensor.evaluate_tick(context)
        (asked,) = found.run_requests or []
        run_id = run_in_process(compiled["delay_model"], instance, None, asked.tags)
        assert instance.get_run_by_id(run_id).is_success  # type: ignore[union-attr]
        with dg.build_sensor_context(instance, cursor=found.cursor, repository_def=repository) as context:
            assert not sensor.evaluate_tick(context).run_requests
