"""One line adds metering to every step of somebody else's definitions, and changes nothing else."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob

from workflows_pkg.workbench.instrument import HOOK, instrument

pytestmark = pytest.mark.filterwarnings("ignore:Parameter `execution_type`")  # Dagster's own, about any AssetSpec


def used(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str | None, int, dict[str, Any]]]:
    """(step, attempt, what was measured) of each measurement of a run, in order."""
    found = []
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is not None and event.is_engine_event and "workflows/attempt" in event.engine_event_data.metadata:
            data = {name: value.value for name, value in event.engine_event_data.metadata.items()}
            found.append((event.step_key, data["workflows/attempt"], data))
    return found


def attempts(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str | None, int]]:
    return [(step, attempt) for step, attempt, _ in used(instance, run_id)]


def run(defs: dg.Definitions, job: str, instance: dg.DagsterInstance) -> str:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False).run_id


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        pytest.param("doubling", [("one", 1), ("double", 1), ("double_2", 1), ("measures_itself", 1)], id="op job"),
        pytest.param("failing", [("one", 1), ("fails", 1)], id="failing job that only a sensor holds"),
        pytest.param("graph_job", [("one", 1), ("double", 1)], id="graph job"),
        pytest.param(
            "asset_job",
            [("orders", 1), ("orders_orders_are_there", 1), ("totals", 1), ("totals", 2)],
            id="asset job with a check and an attempt that is retried",
        ),
        pytest.param(
            "__anonymous_asset_job_by_target",
            [("held_by_a_schedule", 1), ("orders", 1), ("orders_orders_are_there", 1)],
            id="asset that only a schedule holds",
        ),
    ],
)
def test_every_attempt_is_metered_once(
    foreign: ModuleType, instance: dg.DagsterInstance, job: str, expected: list[tuple[str, int]]
) -> None:
    assert sorted(attempts(instance, run(foreign.instrumented(), job, instance))) == sorted(expected)


def test_ops_inside_a_graph_asset_are_metered(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    steps = attempts(instance, run(foreign.instrumented(), "__ASSET_JOB", instance))
    assert ("from_a_graph.one", 1) in steps
    assert ("from_a_graph.double", 1) in steps


def test_without_the_line_nothing_is_metered(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    defs = foreign.definitions()
    assert attempts(instance, run(defs, "asset_job", instance)) == []
    assert attempts(instance, run(defs, "graph_job", instance)) == []
    foreign.instrumented()  # makes copies; the definitions it was given stay as they were
    assert attempts(instance, run(foreign.definitions(), "graph_job", instance)) == []


def test_instrumenting_twice_is_instrumenting_once(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    once = instrument(foreign.definitions())
    twice = instrument(once)
    assert list(twice.jobs or []) == list(once.jobs or [])
    assert all(before is after for before, after in zip(once.assets or [], twice.assets or [], strict=True))
    assert attempts(instance, run(twice, "doubling", instance)) == attempts(instance, run(once, "doubling", instance))


def test_everything_else_is_preserved(foreign: ModuleType) -> None:
    plain, new = foreign.definitions(), foreign.instrumented()
    assert (new.resources, new.executor, new.loggers, new.metadata) == (
        plain.resources,
        plain.executor,
        plain.loggers,
        plain.metadata,
    )
    before, after = plain.get_repository_def(), new.get_repository_def()
    assert [job.name for job in before.get_all_jobs()] == [job.name for job in after.get_all_jobs()]
    assert set(before.asset_graph.get_all_asset_keys()) == set(after.asset_graph.get_all_asset_keys())
    assert set(before.asset_graph.asset_check_keys) == set(after.asset_graph.asset_check_keys)
    for schedule in before.schedule_defs:
        copy = after.get_schedule_def(schedule.name)
        assert (copy.cron_schedule, copy.execution_timezone, copy.job_name, copy.tags) == (
            schedule.cron_schedule,
            schedule.execution_timezone,
            schedule.job_name,
            schedule.tags,
        )
    for sensor in before.sensor_defs:
        copy = after.get_sensor_def(sensor.name)
        assert type(copy) is type(sensor)
        assert [target.job_name for target in copy.targets] == [target.job_name for target in sensor.targets]
        assert (copy.minimum_interval_seconds, copy.default_status) == (sensor.minimum_interval_seconds, sensor.default_status)
    totals = next(a for a in new.assets or [] if isinstance(a, dg.AssetsDefinition) and dg.AssetKey("totals") in a.keys)
    assert totals.op.retry_policy == foreign.totals.op.retry_policy


def test_the_schedule_and_the_list_hold_the_same_copy(foreign: ModuleType) -> None:
    new = foreign.instrumented()
    listed = next(job for job in new.jobs or [] if job.name == "doubling")
    schedule = next(schedule for schedule in new.schedules or [] if schedule.name == "every_morning")
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert schedule.job is listed
    assert HOOK in listed.hook_defs


def test_a_sensor_still_runs_its_function(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    repository = foreign.instrumented().get_repository_def()
    with dg.build_sensor_context(instance=instance) as context:
        data = repository.get_sensor_def("looks_around").evaluate_tick(context)
    assert data.skip_message == "nothing there"


def test_assets_that_report_for_themselves_are_left_alone() -> None:
    @dg.asset(op_tags={"workflows/metered": "body"})
    def reports() -> int:
        return 1

    new = instrument(dg.Definitions(assets=[reports]))
    assert list(new.assets or []) == [reports]


def test_empty_definitions_stay_empty() -> None:
    new = instrument(dg.Definitions())
    assert (new.assets, new.jobs, new.schedules, new.sensors, new.asset_checks) == (None, None, None, None, None)


def test_instrumented_definitions_merge_with_others(foreign: ModuleType) -> None:
    @dg.asset
    def other() -> int:
        return 1

    dg.Definitions.validate_loadable(dg.Definitions.merge(foreign.instrumented(), dg.Definitions(assets=[other])))


def test_a_broken_measurement_does_not_break_the_step(
    foreign: ModuleType, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("the event log is gone")

    defs = foreign.instrumented()
    with monkeypatch.context() as patch:
        patch.setattr(type(instance), "report_engine_event", refuse)
        run_id = run(defs, "doubling", instance)
    record = instance.get_run_by_id(run_id)
    assert record is not None
    assert record.status == dg.DagsterRunStatus.SUCCESS
    assert attempts(instance, run_id) == []
    kinds = [entry.dagster_event.event_type_value for entry in instance.all_logs(run_id) if entry.dagster_event]
    assert "HOOK_ERRORED" not in kinds


@pytest.mark.parametrize("start_method", [pytest.param("spawn", marks=pytest.mark.long), "forkserver"])
def test_in_a_process_of_its_own_a_step_has_its_own_memory(
    foreign: ModuleType, instance: dg.DagsterInstance, start_method: str
) -> None:
    job = ReconstructableJob.for_file(str(foreign.FILE), "instrumented_eating")
    config = {"execution": {"config": {"start_method": {start_method: {}}, "max_concurrent": 2}}}
    with dg.execute_job(job, instance, run_config=config) as result:
        measured = {step: data for step, _, data in used(instance, result.run_id)}
    assert set(measured) == {"hungry", "one"}
    assert all(data["workflows/dedicated"] for data in measured.values())
    more = measured["hungry"]["workflows/peak_memory_mib"] - measured["one"]["workflows/peak_memory_mib"]
    assert 110 < more < 200  # the op held 120 MiB
    assert measured["hungry"]["workflows/process_id"] != measured["one"]["workflows/process_id"]
    assert all(data["workflows/cpu_s"] > 0 for data in measured.values())


def test_control_in_a_shared_process_memory_is_unknown(foreign: ModuleType, instance: dg.DagsterInstance) -> None:
    measured = used(instance, run(foreign.instrumented(), "eating", instance))
    assert len(measured) == 2
    assert all("workflows/peak_memory_mib" not in data and not data["workflows/dedicated"] for _, _, data in measured)
