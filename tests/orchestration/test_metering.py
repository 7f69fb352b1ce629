"""One engine event per attempt says what the attempt used, and leaves out what cannot be told for it alone."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob

from workflows_pkg.orchestration import metering
from workflows_pkg.orchestration.metering import Mark, begin, is_metered, metered, report

HELD_MIB = 80


@dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
def burns(context: dg.OpExecutionContext) -> int:
    mark = begin()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    failed = context.retry_number == 0
    report(context, mark, context.retry_number + 1, failed=failed)
    if failed:
        raise ConnectionError
    return 1


@dg.op
def holds(context: dg.OpExecutionContext, number: int) -> int:
    mark = begin()
    held = len(bytearray(HELD_MIB * 2**20))
    report(context, mark, context.retry_number + 1)
    return held


@dg.op
def runs_a_child(context: dg.OpExecutionContext, number: int) -> None:
    mark = begin()
    code = f"x = bytearray({2 * HELD_MIB} * 2**20)\nimport time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    report(context, mark, context.retry_number + 1)


@dg.job
def metered_job() -> None:
    runs_a_child(holds(burns()))


def metered_job_again() -> dg.JobDefinition:
    return metered_job


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


def used(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str | None, int], dict[str, Any]]:
    found: dict[tuple[str | None, int], dict[str, Any]] = {}
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is not None and event.is_engine_event and metering.ATTEMPT in event.engine_event_data.metadata:
            data = {name: value.value for name, value in event.engine_event_data.metadata.items()}
            assert (event.step_key, data[metering.ATTEMPT]) not in found, "an attempt was metered twice"
            found[event.step_key, data[metering.ATTEMPT]] = data
    return found


@pytest.mark.parametrize("start_method", [pytest.param("spawn", marks=pytest.mark.long), "forkserver"])
def test_a_process_of_its_own_gives_cpu_and_memory(instance: dg.DagsterInstance, start_method: str) -> None:
    job = ReconstructableJob.for_file(os.path.abspath(__file__), "metered_job_again")
    config = {"execution": {"config": {"multiprocess": {"start_method": {start_method: {}}}}}}
    with dg.execute_job(job, instance, run_config=config) as result:
        measured = used(instance, result.run_id)
        pids = {
            e.dagster_event.step_key: e.dagster_event.pid
            for e in instance.all_logs(result.run_id)
            if e.dagster_event and e.dagster_event.is_step_success
        }
    assert set(measured) == {("burns", 1), ("burns", 2), ("holds", 1), ("runs_a_child", 1)}
    assert all(data[metering.DEDICATED] for data in measured.values())
    assert 0.15 < measured["burns", 1][metering.CPU] < 1.0
    plain = measured["burns", 2][metering.PEAK_MEMORY]
    assert HELD_MIB * 0.9 < measured["holds", 1][metering.PEAK_MEMORY] - plain < HELD_MIB * 1.5
    assert measured["runs_a_child", 1][metering.PEAK_MEMORY] > 2 * HELD_MIB  # a child larger than the step's process
    assert measured["runs_a_child", 1][metering.CPU] > 0.25
    assert {
        step: data[metering.PROCESS_ID] for (step, attempt), data in measured.items() if (step, attempt) != ("burns", 1)
    } == pids
    assert measured["burns", 1][metering.PROCESS_ID] != measured["burns", 2][metering.PROCESS_ID]


def test_in_a_shared_process_cpu_is_the_attempts_own_and_memory_unknown(instance: dg.DagsterInstance) -> None:
    measured = used(instance, metered_job.execute_in_process(instance=instance).run_id)
    assert set(measured) == {("burns", 1), ("burns", 2), ("holds", 1), ("runs_a_child", 1)}
    assert not any(data[metering.DEDICATED] or metering.PEAK_MEMORY in data for data in measured.values())
    assert 0.15 < measured["burns", 2][metering.CPU] < 1.0
    assert measured["holds", 1][metering.CPU] < 0.15
    assert measured["runs_a_child", 1][metering.CPU] > 0.25


def test_control_the_whole_process_would_be_wrong_for_one_step(instance: dg.DagsterInstance) -> None:
    measured = used(instance, metered_job.execute_in_process(instance=instance).run_id)
    process = resource.getrusage(resource.RUSAGE_SELF)
    assert process.ru_utime + process.ru_stime > 2 * measured["holds", 1][metering.CPU]
    assert process.ru_maxrss / 1024 > HELD_MIB  # of whatever step ran here


def test_attempts_side_by_side_have_unknown_cpu() -> None:
    alone = begin()
    assert not alone.shared
    others: list[Mark] = []
    thread = threading.Thread(target=lambda: others.append(begin()))
    thread.start()
    thread.join()
    assert alone.shared
    assert others[0].shared
    assert metering._spent(alone) is None


def test_an_attempt_that_never_reported_does_not_spoil_the_next() -> None:
    begin()  # dropped by its thread
    mark = begin()
    assert not mark.shared
    assert metering._spent(mark) is not None


def test_no_failure_of_metering_reaches_the_step(caplog: pytest.LogCaptureFixture) -> None:
    class Gone:
        run_id, job_name, step_key = "r", "j", "s"

        @property
        def instance(self) -> dg.DagsterInstance:
            raise OSError("the event log is gone")

    with caplog.at_level("DEBUG", logger=metering.__name__):
        report(Gone(), begin(), 1)
        report(None, None, 1)  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        "What an attempt told of its use could not be read.",
        "An attempt could not be metered.",
        "An attempt could not be metered.",
    ]
    assert all(record.levelname == "DEBUG" for record in caplog.records)


def test_the_name_that_tells_a_steps_own_process_is_still_dagsters() -> None:
    from dagster._core.executor import child_process_executor

    assert callable(getattr(child_process_executor, metering._STEP_WORKER))


def test_a_metered_function_is_itself_outside_a_step() -> None:
    def add(a: int, b: int = 2) -> int:
        return a + b

    made = metered(add, first=lambda context: pytest.fail("there is no step"))
    assert (made(1), made(1, b=5)) == (3, 6)
    assert metered(made) is made
    assert is_metered(made)
    assert not is_metered(add)


def test_a_function_that_returns_a_generator_is_measured_to_its_end(instance: dg.DagsterInstance) -> None:
    def later():
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        yield dg.Output(1)

    made = dg.OpDefinition(compute_fn=metered(lambda context, inputs: later()), name="made")

    @dg.job
    def of_one() -> None:
        made()

    measured = used(instance, of_one.execute_in_process(instance=instance).run_id)
    assert set(measured) == {("made", 1)}
    assert measured["made", 1][metering.CPU] > 0.15


def test_what_runs_first_cannot_break_the_step(instance: dg.DagsterInstance) -> None:
    def refuse(context: dg.OpExecutionContext) -> None:
        raise OSError("the database is gone")

    made = dg.op(name="goes_on")(metered(lambda: 1, first=refuse))

    @dg.job
    def of_one() -> None:
        made()

    assert set(used(instance, of_one.execute_in_process(instance=instance).run_id)) == {("goes_on", 1)}
