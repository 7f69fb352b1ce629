"""Do clock and files start the right runs? Ticks evaluated on a real instance, at moments of the test's choosing."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.orchestration import file_sensor
from workflows_pkg.orchestration.compiled import definitions
from workflows_pkg.orchestration.launch import run_in_process
from workflows_pkg.orchestration.schedules import next_missing

NOON = datetime(2024, 1, 4, 12, 0, tzinfo=UTC)
SCHEDULED = {"schedule": {"cron": "0 6 * * *", "timezone": "America/New_York"}}
DAILY = {"partitions": {"daily": {"start": "2024-01-01", "timezone": "America/New_York"}}}


def _tick(bench: Any, spec: dict[str, Any], at: datetime = NOON) -> Any:
    """The partition that a tick asks for, None for a run without one, or the reason why it asks for none."""
    compiled = bench.compile(spec)
    (schedule,) = compiled.schedules
    context = dg.build_schedule_context(
        instance=bench.instance, scheduled_execution_time=at, repository_def=definitions([compiled]).get_repository_def()
    )
    data = schedule.evaluate_tick(context)
    return [request.partition_key for request in data.run_requests or []] or data.skip_message


def _run(bench: Any, spec: dict[str, Any], partition: str, works: bool = True) -> None:
    bench.functions = {"a": (lambda c, p: 1) if works else (lambda c, p: 1 / 0)}
    run_in_process(bench.compile(spec), bench.instance, partition)


def test_a_schedule_keeps_its_time_zone_and_is_on(bench: Any) -> None:
    (schedule,) = bench.compile({**SCHEDULED, "steps": {"a": {}}}).schedules
    assert (schedule.name, schedule.cron_schedule, schedule.execution_timezone) == (
        "bench__schedule",
        "0 6 * * *",
        "America/New_York",
    )
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def test_without_partitions_every_tick_asks_for_one_run(bench: Any) -> None:
    spec = {**SCHEDULED, "steps": {"a": {}}}
    assert _tick(bench, spec) == _tick(bench, spec) == [None]


def test_the_earliest_missing_partition_is_asked_for_until_none_is_left(bench: Any) -> None:
    spec = {**SCHEDULED, **DAILY, "steps": {"a": {}}}
    asked = []
    for _ in range(3):
        (key,) = _tick(bench, spec)
        asked.append(key)
        _run(bench, spec, key)
    assert asked == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert _tick(bench, spec) == "None of the 3 partitions is missing."


def test_partitions_never_tried_come_before_those_that_failed_the_fewest_failures_first(bench: Any) -> None:
    spec = {**SCHEDULED, **DAILY, "steps": {"a": {}}}
    for key in ("2024-01-01", "2024-01-01", "2024-01-02"):
        _run(bench, spec, key, works=False)
    assert _tick(bench, spec) == ["2024-01-03"]
    _run(bench, spec, "2024-01-03")
    assert _tick(bench, spec) == ["2024-01-02"]
    _run(bench, spec, "2024-01-02", works=False)
    _run(bench, spec, "2024-01-02", works=False)
    assert _tick(bench, spec) == ["2024-01-01"]


@pytest.mark.parametrize("status", ["STARTING", "STARTED", "CANCELING", "NOT_STARTED"])
def test_a_partition_with_an_open_run_is_not_asked_for_again(bench: Any, status: str) -> None:
    spec = {**SCHEDULED, **DAILY, "steps": {"a": {}}}
    job = definitions([bench.compile(spec)]).resolve_job_def("bench")
    bench.instance.create_run_for_job(job, status=dg.DagsterRunStatus[status], tags={"dagster/partition": "2024-01-01"})
    assert _tick(bench, spec) == ["2024-01-02"]
    assert next_missing(bench.instance, "bench", ["2024-01-01"]) is None
    assert next_missing(bench.instance, "another", ["2024-01-01"]) == "2024-01-01"


def test_latest_partition_is_the_last_that_has_ended(bench: Any) -> None:
    spec = {"schedule": {**SCHEDULED["schedule"], "run": "latest_partition"}, **DAILY, "steps": {"a": {}}}
    assert _tick(bench, spec) == ["2024-01-03"]
    assert _tick(bench, spec, datetime(2024, 1, 4, 4, 59, tzinfo=UTC)) == ["2024-01-02"]  # still 3 January in New York
    assert _tick(bench, spec, datetime(2024, 1, 1, 12, 0, tzinfo=UTC)) == "No partition has ended yet."


ARRIVALS = {"sensor": {"file_arrival": {"path": "inbox/**/*.csv", "every": "5s"}}, "steps": {"a": {}}}


def _look(bench: Any, cursor: str | None = None) -> Any:
    (sensor,) = bench.compile(ARRIVALS).sensors
    context = dg.build_sensor_context(instance=bench.instance, cursor=cursor)
    return sensor.evaluate_tick(context)


def _arrive(bench: Any, name: str, content: str = "x", age_s: float = 10) -> Path:
    path: Path = bench.files / "inbox" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def _files(data: Any) -> list[str]:
    return [request.tags[file_sensor.SENSOR_FILE_TAG] for request in data.run_requests]


def test_a_new_file_is_asked_for_once(bench: Any) -> None:
    _arrive(bench, "a.csv", age_s=20)
    _arrive(bench, "deep/b.csv", age_s=10)
    _arrive(bench, "c.txt")
    first = _look(bench)
    assert _files(first) == ["inbox/a.csv", "inbox/deep/b.csv"]
    again = _look(bench, first.cursor)
    assert again.run_requests == []
    assert again.skip_message == "None of the 2 files that match 'inbox/**/*.csv' is new and at rest."


def test_a_changed_file_is_asked_for_again_under_another_run_key(bench: Any) -> None:
    _arrive(bench, "a.csv")
    first = _look(bench)
    _arrive(bench, "a.csv", "longer", age_s=5)
    second = _look(bench, first.cursor)
    assert _files(second) == ["inbox/a.csv"]
    assert first.run_requests[0].run_key != second.run_requests[0].run_key


def test_a_lost_cursor_gives_the_same_run_keys_so_nothing_runs_twice(bench: Any) -> None:
    _arrive(bench, "a.csv")
    keys = {_look(bench, cursor).run_requests[0].run_key for cursor in (None, "no json", '{"marks": 3}', "[]")}
    assert len(keys) == 1


def test_a_file_that_is_still_being_written_is_left_for_the_next_look(bench: Any) -> None:
    _arrive(bench, "a.csv", age_s=0)
    assert _look(bench).run_requests == []
    _arrive(bench, "a.csv", age_s=file_sensor.QUIET_S + 0.1)
    assert _files(_look(bench)) == ["inbox/a.csv"]


def test_a_link_that_leads_out_of_the_data_folder_is_passed_over(bench: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text("secret")
    os.utime(outside, (1, 1))
    (bench.files / "inbox").mkdir()
    (bench.files / "inbox" / "link.csv").symlink_to(outside)
    assert _look(bench).run_requests == []
    outside.rename(bench.files / "inbox" / "inside.csv")  # control: the same content inside is seen
    assert _files(_look(bench)) == ["inbox/inside.csv"]


def test_a_flood_of_files_is_worked_off_and_the_cursor_stays_small(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_sensor, "MOST_REMEMBERED", 30)
    for number in range(60):
        _arrive(bench, f"{number:03d}.csv", age_s=1000 - number)
    asked: list[str] = []
    cursor = None
    for _ in range(5):
        data = _look(bench, cursor)
        cursor = data.cursor or cursor
        asked += _files(data)
    assert asked == [f"inbox/{number:03d}.csv" for number in range(60)]
    assert len(cursor or "") < 30 * 20 + 100
    _arrive(bench, "new.csv", age_s=5)
    assert _files(_look(bench, cursor)) == ["inbox/new.csv"]


def test_without_a_data_folder_the_tick_says_so(bench: Any) -> None:
    bench.files = None
    with pytest.raises(SetupError, match="no data folder"):
        list(file_sensor.arrivals("*.csv", bench.allow))
