"""Does every run say what to expect of it before it starts, and is it launched whatever stands in the way of that?"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
import yaml

from workflows_pkg.instance.coordinator import ForecastingRunCoordinator
from workflows_pkg.orchestration.budget import SAID_TAG as BUDGET_TAG
from workflows_pkg.orchestration.deadline_tags import SAID_TAG
from workflows_pkg.orchestration.run_tags import EXPECTED_TAG, MISS_TAG, SAID, STATE_TAG
from workflows_pkg.prediction.lookup import FILE
from workflows_pkg.prediction.picks import PER_STEP_TIME, pick_name

HERE = Path(__file__).parent
Submit = Callable[..., dg.DagsterRun]


def test_a_run_says_what_to_expect_before_it_starts(instance: dg.DagsterInstance, submit: Submit, beside: ModuleType) -> None:
    run = submit()
    assert run.status == dg.DagsterRunStatus.QUEUED
    assert run.tags[EXPECTED_TAG] == "30 s (24–42 s)"
    assert [tag for tag in run.tags if not tag.startswith((".dagster/", "dagster/"))] == [EXPECTED_TAG], "one visible tag"
    said, queued = beside.events(instance, run)
    assert (said.event_type_value, queued.event_type_value) == ("ENGINE_EVENT", "PIPELINE_ENQUEUED")
    assert said.message == (
        "Expected 30 s (9 of 10 runs take 24–42 s), after 3 s in the queue and 4 s to start; 3 of 100 fail (between 1 and 8); "
        "costs $0.0004 by the rate card. Rests on 48 runs, mostly by median of 10, as of 2026-10-01 12:00 UTC."
    )
    metadata = said.event_specific_data.metadata
    assert [row.data["step"] for row in metadata["slowest steps"].records] == ["clean", "extract", "score"]
    assert metadata[SAID].value == {
        "said": "expected", "expected_s": 30.0, "p05_s": 24.0, "p95_s": 42.0, "failure_share": 0.03, "cost_usd": 0.0004,
        "runs_behind_it": 48, "predictor": "median_of_10", "part_of_the_job": False, "as_of": beside.AS_OF.isoformat(),
    }  # fmt: skip


def test_a_run_says_what_moved_its_time_and_what_memory_its_steps_should_ask_for(
    home: Path, instance: dg.DagsterInstance, submit: Submit, beside: ModuleType
) -> None:
    moved = json.dumps({"usual": 25.0, "outcomes": 40, "ratio": 1.2, "moved": [["weekday", 1.25, 5]]})
    known = [item.model_copy(update={"basis": moved}) if item.step == "" else item for item in beside.nightly_forecasts()]
    known += [
        beside.forecast("nightly", "clean", name, 400.0, 400.0, 400.0) for name in ("peak_memory_mib", "memory_request_mib")
    ]
    beside.publish(home, known)
    (said,) = beside.events(instance, submit(), "ENGINE_EVENT")
    assert said.message.endswith("UTC. 20 % above its usual 25 s: 5 of the same weekday were 25 % above it.")
    rows = [row.data for row in said.event_specific_data.metadata["slowest steps"].records]
    assert [(row["step"], row["memory"], row["ask for"]) for row in rows] == [
        ("clean", "400 MiB", "400 MiB"), ("extract", "unknown", "unknown"), ("score", "unknown", "unknown"),
    ]  # fmt: skip


def test_a_run_with_a_deadline_says_how_likely_it_misses_it(
    instance: dg.DagsterInstance, submit: Submit, beside: ModuleType
) -> None:
    risks = [float(submit(tags={SAID_TAG: deadline}).tags[MISS_TAG]) for deadline in ("2m", "45s", "37s", "30s", "10s")]
    assert risks == sorted(risks)
    assert risks[0] < 0.02
    assert risks[2] == pytest.approx(0.5, abs=0.05), "3 s in the queue, 4 s to start and 30 s to run, in the middle"
    assert risks[-1] > 0.98
    likely = submit(tags={SAID_TAG: "30s"})
    (said,) = beside.events(instance, likely, "ENGINE_EVENT")
    assert f"{100 * risks[3]:.0f} of 100 such runs miss that: probably late." in said.message
    figures = said.event_specific_data.metadata[SAID].value
    assert figures["warned"] is True
    assert figures["deadline_miss_probability"] == pytest.approx(risks[3], abs=0.01)
    assert MISS_TAG not in submit().tags, "control: without a deadline nothing is said of one"


def test_a_run_that_is_sure_to_cost_more_than_its_budget_is_not_begun_and_says_why(
    instance: dg.DagsterInstance, submit: Submit, beside: ModuleType
) -> None:
    refused = submit(tags={BUDGET_TAG: "0.0002"})
    assert refused.status == dg.DagsterRunStatus.FAILURE
    (failure,) = beside.events(instance, refused, "PIPELINE_FAILURE")
    assert failure.message == (
        "Budget: not begun. 95 of 100 such runs cost $0.0003 or more by the rate card, and this one may cost $0.0002."
    )
    assert beside.events(instance, refused, "PIPELINE_ENQUEUED") == []
    # control: half of such runs cost more than this, but not all do
    allowed = submit(tags={BUDGET_TAG: "0.00035"})
    assert allowed.status == dg.DagsterRunStatus.QUEUED
    assert submit(beside.first_time, tags={BUDGET_TAG: "0.0000001"}).status == dg.DagsterRunStatus.QUEUED, (
        "nothing is known of it"
    )


def test_a_deadline_that_is_none_is_told_of_and_stops_nothing(
    instance: dg.DagsterInstance, submit: Submit, beside: ModuleType
) -> None:
    run = submit(tags={SAID_TAG: "tomorrow"})
    assert run.status == dg.DagsterRunStatus.QUEUED
    assert MISS_TAG not in run.tags
    (said,) = beside.events(instance, run, "ENGINE_EVENT")
    assert "Its deadline 'tomorrow' is not understood: expected a duration such as 30m" in said.message


def test_a_budget_that_is_none_is_told_of_also_of_a_job_that_is_new(
    instance: dg.DagsterInstance, submit: Submit, beside: ModuleType
) -> None:
    wrong = {"workflows/budget_usd": "$0.50", SAID_TAG: "7 o'clock"}
    for run in (submit(tags=wrong), submit(beside.first_time, tags=wrong)):
        assert run.status == dg.DagsterRunStatus.QUEUED
        (said,) = beside.events(instance, run, "ENGINE_EVENT")
        assert "Its budget '$0.50' is not understood, so it has none: write US dollars as a number, such as 0.50." in said.message
        assert "Its deadline '7 o'clock' is not understood" in said.message
    control = submit(beside.first_time, tags={"workflows/budget_usd": "0.50"})
    assert beside.events(instance, control, "ENGINE_EVENT") == []


def test_a_copied_probability_is_not_taken_for_this_runs(submit: Submit, beside: ModuleType) -> None:
    assert submit(tags={MISS_TAG: "1"}).tags[MISS_TAG] == "unknown"
    assert submit(beside.first_time, tags={MISS_TAG: "1", EXPECTED_TAG: "30 s"}).tags[MISS_TAG] == "unknown"
    assert submit(tags={MISS_TAG: "1", SAID_TAG: "2m"}).tags[MISS_TAG] not in ("1", "unknown")  # control


def test_of_a_job_that_nothing_is_known_of_nothing_is_said(
    instance: dg.DagsterInstance, submit: Submit, beside: ModuleType
) -> None:
    run = submit(beside.first_time)
    assert not {EXPECTED_TAG, STATE_TAG} & run.tags.keys()
    assert [event.event_type_value for event in beside.events(instance, run)] == ["PIPELINE_ENQUEUED"]


def implicit(beside: ModuleType) -> dg.JobDefinition:
    """The job of three steps under the name of Dagster's own, as a pick of its assets runs them."""
    return dg.JobDefinition(graph_def=beside.nightly.graph, name="__ASSET_JOB")


def implicit_forecasts(beside: ModuleType) -> list[Any]:
    """What training publishes of it: no time of the whole, but how the steps' times added up compared with those of runs."""
    kept = [each for each in beside.nightly_forecasts("__ASSET_JOB") if (each.step, each.quantity) != ("", "run_time_s")]
    risks = [beside.forecast("__ASSET_JOB", step, "failure_share", 0.0, 0.1, 0.2) for step in ("extract", "clean", "score")]
    costs = [beside.forecast("__ASSET_JOB", step, "cost_usd", 0.001, 0.001, 0.002) for step in ("extract", "clean", "score")]
    return [*kept, *risks, *costs, beside.forecast("__ASSET_JOB", "", PER_STEP_TIME, 0.5, 0.8, 1.0)]


def test_picked_assets_that_ran_together_are_expected_to_take_as_long_again(
    instance: dg.DagsterInstance, submit: Submit, home: Path, beside: ModuleType
) -> None:
    together = pick_name("__ASSET_JOB", ["score", "clean", "extract"])
    beside.publish(home, [*implicit_forecasts(beside), beside.forecast(together, "", "run_time_s", 20.0, 22.0, 28.0)])
    run = submit(implicit(beside))
    assert run.tags[EXPECTED_TAG] == "22 s (20–28 s)"
    (said,) = beside.events(instance, run, "ENGINE_EVENT")
    assert "after 3 s in the queue and 4 s to start" in said.message
    assert "27 of 100 fail" in said.message, "1 - 0.9 x 0.9 x 0.9"
    assert "$0.003 by the rate card" in said.message
    assert "Only" not in said.message


def test_picked_assets_that_never_ran_together_take_their_steps_added_up(
    instance: dg.DagsterInstance, submit: Submit, home: Path, beside: ModuleType
) -> None:
    beside.publish(home, implicit_forecasts(beside))
    run = submit(implicit(beside))
    assert run.tags[EXPECTED_TAG] == "24 s (15–30 s)", "30 s of steps; earlier runs took 0.8 of theirs, between 0.5 and all of it"
    (said,) = beside.events(instance, run, "ENGINE_EVENT")
    assert "mostly by steps added up" in said.message
    assert submit(implicit(beside), op_selection=["clean"]).tags[EXPECTED_TAG] == "12 s (7.5–15 s)"


def test_a_pick_with_an_asset_that_never_ran_is_not_forecast(submit: Submit, home: Path, beside: ModuleType) -> None:
    without = [each for each in implicit_forecasts(beside) if each.step != "score"]
    beside.publish(home, without)
    assert EXPECTED_TAG not in submit(implicit(beside)).tags
    assert EXPECTED_TAG in submit(implicit(beside), op_selection=["extract", "clean"]).tags  # control


def test_a_part_of_a_job_is_expected_to_take_its_share(instance: dg.DagsterInstance, submit: Submit, beside: ModuleType) -> None:
    run = submit(op_selection=["clean", "score"])
    assert run.tags[EXPECTED_TAG] == "20 s (16–28 s)", "20 of the 30 seconds that steps take"
    (said,) = beside.events(instance, run, "ENGINE_EVENT")
    assert "Only 2 of 3 steps run" in said.message
    assert "fail" not in said.message, "what is known of the risk is known of whole runs"


def test_a_copied_tag_of_the_repeated_run_is_not_taken_for_a_forecast(
    instance: dg.DagsterInstance, submit: Submit, home: Path
) -> None:
    copied = {EXPECTED_TAG: "30 s, took 31 s +3 %", STATE_TAG: "told"}
    again = submit(tags=copied)
    assert (again.tags[EXPECTED_TAG], again.tags[STATE_TAG]) == ("30 s (24–42 s)", "open")
    (home / FILE).unlink()
    (home / FILE).write_text("{")
    unreadable = submit(tags=copied)
    assert (unreadable.tags[EXPECTED_TAG], unreadable.tags[STATE_TAG]) == ("unknown", "none")
    (home / FILE).unlink()
    unknown = submit(tags=copied)
    assert (unknown.tags[EXPECTED_TAG], unknown.tags[STATE_TAG]) == ("unknown", "none")


def test_a_run_that_was_submitted_already_is_left_alone(instance: dg.DagsterInstance, submit: Submit, beside: ModuleType) -> None:
    run = submit()
    before = beside.events(instance, run)
    beside.submit_again(instance, run)
    assert beside.events(instance, run) == before


def _nothing(file: Path) -> None:
    file.unlink()


def _corrupt(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def _another_format(file: Path) -> None:
    file.write_text('{"format": 1, "jobs": {"nightly": {"": {"run_time_s": {"p05": 1}}}}}')


def _impossible(file: Path) -> None:
    file.write_text(file.read_text().replace('"run_time_s": [24.0, 30.0, 42.0', '"run_time_s": [24.0, NaN, 42.0'))


def _deep(file: Path) -> None:
    file.write_text('{"format": 2, "as_of": null, "jobs": {\n"nightly": ' + "[" * 100_000 + "\n}}\n")


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _huge(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(50 * 2**30)  # 50 GiB of zeros that take no room


OBSTACLES = (_nothing, _corrupt, _another_format, _impossible, _deep, _folder, _loop, _pipe, _huge)


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda made: made.__name__.strip("_"))
def test_a_file_that_cannot_be_used_keeps_no_run_from_being_launched(
    instance: dg.DagsterInstance, submit: Submit, home: Path, obstacle: Callable[[Path], None], beside: ModuleType
) -> None:
    assert EXPECTED_TAG in submit().tags, "control: it is used as it was"
    obstacle(home / FILE)
    run = submit()
    assert run.status == dg.DagsterRunStatus.QUEUED
    assert not {EXPECTED_TAG, STATE_TAG} & run.tags.keys()
    assert [event.event_type_value for event in beside.events(instance, run)] == ["PIPELINE_ENQUEUED"]


def test_a_storage_that_takes_no_tags_keeps_no_run_from_being_launched(
    instance: dg.DagsterInstance, submit: Submit, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db")) as runs:
        runs.execute(
            "create trigger no_tags before insert on run_tags when new.key like '%workflows%' "
            "begin select raise(abort, 'this storage is full'); end"
        )
        runs.commit()
    ForecastingRunCoordinator._warned = False
    with caplog.at_level(logging.DEBUG, logger="workflows.instance"):
        first, second = submit(), submit()
    assert {first.status, second.status} == {dg.DagsterRunStatus.QUEUED}
    told = [(record.levelname, "this storage is full" in record.getMessage()) for record in caplog.records]
    assert told == [("WARNING", True), ("DEBUG", True)], "said aloud once in a process"
    with pytest.raises(Exception, match="this storage is full"):  # control: the trigger does what it says
        instance.add_run_tags(first.run_id, {"workflows/a": "b"})


def _instance_with(tmp_path: Path, settings: dict[str, Any]) -> dg.DagsterInstance:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"telemetry": {"enabled": False}, **settings}))
    return dg.DagsterInstance.from_config(str(tmp_path))


OURS = {"module": "workflows_pkg.instance.coordinator", "class": "ForecastingRunCoordinator"}
QUEUE = {
    "max_concurrent_runs": 3,
    "tag_concurrency_limits": [{"key": "database", "limit": 1}],
    "dequeue_interval_seconds": 7,
    "dequeue_use_threads": True,
    "dequeue_num_workers": 2,
    "max_user_code_failure_retries": 4,
    "user_code_failure_retry_delay": 5,
    "block_op_concurrency_limited_runs": {"enabled": True, "op_concurrency_slot_buffer": 1},
}


def test_it_takes_the_settings_of_dagsters_queue_and_hands_them_on(tmp_path: Path) -> None:
    (tmp_path / "stock").mkdir()
    (tmp_path / "ours").mkdir()
    with (
        _instance_with(tmp_path / "stock", {"run_queue": QUEUE}) as stock,
        _instance_with(tmp_path / "ours", {"run_coordinator": {**OURS, "config": QUEUE}}) as ours,
    ):
        assert isinstance(ours.run_coordinator, ForecastingRunCoordinator)
        assert isinstance(stock.run_coordinator, dg.QueuedRunCoordinator)
        kept = ("dequeue_interval_seconds", "dequeue_use_threads", "dequeue_num_workers")
        for name in kept:
            assert getattr(ours.run_coordinator, name) == getattr(stock.run_coordinator, name) == QUEUE[name]
        assert ours.run_coordinator.get_run_queue_config() == stock.run_coordinator.get_run_queue_config()
        assert ours.get_required_daemon_types() == stock.get_required_daemon_types()


def test_limits_under_concurrency_hold_beside_it(tmp_path: Path) -> None:
    limits = {"runs": {"max_concurrent_runs": 2, "tag_concurrency_limits": [{"key": "database", "limit": 1}]}}
    with _instance_with(tmp_path, {"run_coordinator": OURS, "concurrency": limits}) as ours:
        queue = ours.get_concurrency_config().run_queue_config
        assert queue is not None
        assert (queue.max_concurrent_runs, queue.tag_concurrency_limits) == (2, [{"key": "database", "limit": 1}])


SUBMITS = """
import sys
sys.path[:0] = sys.argv[2:]
import dagster as dg
import nightly
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    run = nightly.submit_to(instance)
heavy = {"sklearn", "duckdb", "pandas", "numpy", "scipy", "pyarrow", "plotly", "openai"} & set(sys.modules)
print(run.tags["workflows/expected"], sorted(heavy))
"""


def test_no_heavy_library_is_imported_where_runs_are_submitted(instance: dg.DagsterInstance, home: Path) -> None:
    def answer(program: str) -> str:
        command = [sys.executable, "-c", program, str(home), str(HERE), str(HERE.parents[1])]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert answer(SUBMITS) == "30 s (24–42 s) []"
    assert "'pandas'" in answer(SUBMITS.replace("import nightly\n", "import nightly, workflows_pkg.prediction.forecasts\n")), (
        "control"
    )
