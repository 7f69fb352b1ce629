"""What `workbench()` brings loads beside anybody's definitions, and its sensor lands rows when it is really evaluated."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from workflows_pkg.history.store import open_history, writer
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench

pytestmark = [
    pytest.mark.filterwarnings("ignore:Parameter `execution_type`"),  # Dagster's own, about any AssetSpec
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),  # the foreign project uses what Dagster calls beta
]


def tick(defs: dg.Definitions, instance: dg.DagsterInstance) -> str:
    sensor = defs.get_repository_def().get_sensor_def("workflows_history_sync")
    with dg.build_sensor_context(instance=instance) as context:
        data = sensor.evaluate_tick(context)
    assert data.run_requests == []
    assert data.skip_message is not None
    return data.skip_message


def test_it_merges_with_instrumented_definitions(foreign: ModuleType) -> None:
    merged = dg.Definitions.merge(instrument(foreign.definitions()), workbench())
    dg.Definitions.validate_loadable(merged)
    assert merged.executor is foreign.definitions().executor


def test_merging_it_twice_is_merging_it_once(foreign: ModuleType) -> None:
    part = dg.Definitions.merge(instrument(foreign.definitions()), workbench())
    both = dg.Definitions.merge(part, workbench(), workbench()).get_repository_def()
    once = part.get_repository_def()
    assert [sensor.name for sensor in both.sensor_defs] == [sensor.name for sensor in once.sensor_defs]
    assert both.asset_graph.get_all_asset_keys() == once.asset_graph.get_all_asset_keys()
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Duplicate asset key"):  # control: another one like it
        dg.Definitions.merge(part, workbench.__wrapped__()).get_repository_def()


def test_it_brings_nothing_that_could_collide() -> None:
    brought = workbench()
    assert brought.executor is None
    assert not brought.loggers
    assert [name for name in brought.resources or {} if not name.startswith("workflows_")] == []
    assert {key.path[0] for key in brought.resolve_asset_graph().get_all_asset_keys()} == {"workflows"}


def test_its_sensor_runs_from_the_start_every_five_seconds_without_a_job() -> None:
    (sensor,) = [each for each in workbench().sensors or [] if each.name == "workflows_history_sync"]
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 5
    assert sensor.targets == []


def test_a_tick_lands_what_happened_and_says_so(foreign: ModuleType, instance: dg.DagsterInstance, instance_home: Path) -> None:
    defs = dg.Definitions.merge(foreign.instrumented(), workbench())
    run_id = defs.resolve_job_def("failing").execute_in_process(instance=instance, raise_on_error=False).run_id
    first = tick(defs, instance)
    assert "of 1 run" in first
    assert first.endswith("up to date.")
    with closing(open_history(instance_home)) as con:
        attempts = con.execute(
            "select step, outcome, failure_cause, host is not null from step_attempts where run_id = ? order by 1", [run_id]
        ).fetchall()
    assert attempts == [("fails", "failure", "code", True), ("one", "success", None, True)]
    assert tick(defs, instance).startswith("Landed 0 events of 0 runs and 0 ticks")


def test_a_busy_history_skips_the_tick_with_the_reason(
    foreign: ModuleType, instance: dg.DagsterInstance, instance_home: Path
) -> None:
    defs = dg.Definitions.merge(foreign.definitions(), workbench())
    defs.resolve_job_def("doubling").execute_in_process(instance=instance)
    with writer(instance_home):
        assert "is writing this history" in tick(defs, instance)
    assert "of 1 run" in tick(defs, instance)


@pytest.mark.parametrize(
    "storage",
    ["{mysql: {mysql_url: 'mysql://dagster:hunter2@db/dagster'}}", "{postgres: {postgres_url: 'odd://dagster:hunter2@db/x'}}"],
)
def test_an_instance_it_cannot_read_skips_the_tick_with_the_reason(
    tmp_path: Path, instance: dg.DagsterInstance, storage: str
) -> None:
    (tmp_path / "dagster.yaml").write_text(f"storage: {storage}\n")
    message = tick(workbench(tmp_path), instance)
    assert "PostgreSQL" in message
    assert "hunter2" not in message


def test_an_instance_without_a_folder_is_named() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert "Set DAGSTER_HOME" in tick(workbench(), instance)
