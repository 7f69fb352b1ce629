"""Every event of real runs is landed once, as Dagster itself tells it, whatever happens to the log or to the reader."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterEventLogInvalidForRun
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus
from dagster._core.storage.tags import PARENT_RUN_ID_TAG

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.history import sqlite_files
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration import batches, events
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.facts import run_facts
from workflows_pkg.orchestration.own import SYNC_SENSOR
from workflows_pkg.orchestration.sources import Source
from workflows_pkg.orchestration.sources.rows import LONGEST_EVENT, RunBody
from workflows_pkg.orchestration.translation import KINDS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def rows(home: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(open_history(home)) as con:
        return con.execute(sql).fetchall()


def told_by_dagster(instance: dg.DagsterInstance, run_id: str) -> list[tuple[Any, ...]]:
    """(number, kind, microseconds, step, job) of each of Dagster's own events of a run; lines of user logs are none."""
    found = []
    for record in instance.get_records_for_run(run_id, limit=None).records:
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        kind = KINDS.get(event.event_type_value, "other")
        if event.is_engine_event and "workflows/attempt" in event.engine_event_data.metadata:
            kind = "metered"
        entry = record.event_log_entry
        found.append((record.storage_id, kind, round(entry.timestamp * 1_000_000), entry.step_key, entry.job_name))
    return found


def landed(home: Path, run_id: str) -> list[tuple[Any, ...]]:
    return rows(
        home, f"""select event_id, kind, epoch_us("at"), step_key, job_name from events where run_id = '{run_id}' order by 1"""
    )


def run_ids(instance: dg.DagsterInstance) -> list[str]:
    return [run.run_id for run in instance.get_runs()]


def shard(home: Path, run_id: str) -> Path:
    return home / "history" / "runs" / f"{run_id}.db"


def change(file: Path, sql: str, values: tuple[Any, ...] = ()) -> None:
    with closing(sqlite3.connect(file)) as con, con:
        con.execute(sql, values)


def run_named(home: Path, job: str) -> str:
    with closing(sqlite3.connect(home / "history" / "runs.db")) as con:
        return con.execute("select run_id from runs where pipeline_name = ? order by id", (job,)).fetchone()[0]


def update_run(home: Path, run_id: str, **columns: Any) -> None:
    """Changes a run's row as Dagster does: the time of the update moves too."""
    columns["update_timestamp"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    names = ", ".join(f"{name} = ?" for name in columns)
    change(home / "history" / "runs.db", f"update runs set {names} where run_id = ?", (*columns.values(), run_id))


# conformance


def test_every_event_is_as_dagster_tells_it(home: Path, instance: dg.DagsterInstance) -> None:
    result = sync_events(home, home)
    assert (result.runs, result.quarantined, result.complete) == (6, 0, True)  # five runs, and what was reported from outside
    count = 0
    for run_id in run_ids(instance):
        told = told_by_dagster(instance, run_id)
        assert landed(home, run_id) == told
        count += len(told)
    assert count > 60
    assert result.events == count + 1


def test_reading_twice_changes_nothing(home: Path) -> None:
    sync_events(home, home)
    before = (home / "history.duckdb").stat()
    again = sync_events(home, home)
    assert (again.events, again.runs, again.ticks, again.complete) == (0, 0, 0, True)
    assert (home / "history.duckdb").stat().st_ino == before.st_ino  # not even published anew


def test_lines_of_user_logs_are_counted_not_landed(home: Path, instance: dg.DagsterInstance) -> None:
    lines = sum(1 for run_id in run_ids(instance) for entry in instance.all_logs(run_id) if entry.dagster_event is None)
    assert lines > 0
    assert sync_events(home, home).log_lines == lines
    assert rows(home, "select count(*) from events where data like '%user''s own log%'") == [(0,)]


def test_attempts_causes_and_use_are_derived(home: Path) -> None:
    sync_events(home, home)
    found = rows(
        home, "select job_name, step, attempt, outcome, failure_cause, cpu_s is not null, peak_memory_mib > 20 from step_attempts"
    )
    assert set(found) == {
        ("works", "flaky", 1, "failure", "dependency", True, None),
        ("works", "flaky", 2, "success", None, True, None),
        ("works", "maybe", 1, "success", None, False, None),
        ("works", "after", 1, "skipped", None, False, None),
        ("breaks", "fails_deep", 1, "failure", "infrastructure", False, None),
        ("breaks", "limited", 1, "failure", "dependency", False, None),
        ("everything", "flaky", 1, "failure", "dependency", True, True),
        ("everything", "flaky", 2, "success", None, True, True),
        ("everything", "dies", 1, "failure", "infrastructure", False, None),
        ("flights", "flights__raw", 1, "success", None, False, None),
    }


def test_facts_of_runs_come_from_their_rows_and_tags(home: Path) -> None:
    sync_events(home, home)
    found = rows(home, 'select job_name, outcome, workflow, version, owner, partition_key, "trigger", trigger_name from runs')
    assert set(found) == {
        ("works", "success", None, None, None, None, "schedule", "nightly"),
        ("works", "canceled", None, None, None, None, "manual", None),
        ("breaks", "failure", None, None, None, None, "manual", None),
        ("everything", "failure", None, None, None, None, "manual", None),
        ("flights", "success", "flights", 4, "ops", "2020-01-02", "manual", None),
    }


def test_materializations_are_found_also_those_reported_from_outside(home: Path) -> None:
    sync_events(home, home)
    found = rows(home, "select run_id = '', asset_key, partition_key, \"rows\", bytes from materializations")
    assert set(found) == {(False, "flights/raw", "2020-01-02", 10, 22), (True, "from/outside", "", None, 7)}
    assert rows(home, "select asset_key, check_name, passed, severity from checks") == [("flights/raw", "late", False, "warn")]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, ("manual", None)),
        ({"dagster/schedule_name": "s"}, ("schedule", "s")),
        ({"dagster/sensor_name": "s"}, ("sensor", "s")),
        ({"dagster/backfill": "b", "dagster/schedule_name": "s"}, ("backfill", "b")),
        ({PARENT_RUN_ID_TAG: "p", "dagster/schedule_name": "s"}, ("retry", None)),
        ({"workflows/trial": "t", "dagster/sensor_name": "s"}, ("trial", "t")),
    ],
)
def test_the_trigger_is_read_from_the_tags(tags: dict[str, str], expected: tuple[str, str | None]) -> None:
    facts = run_facts("s", [RunBody("r", "job", "SUCCESS", "2020-01-01 00:00:00", None, tags)]).to_pylist()[0]
    assert (facts["trigger"], facts["trigger_name"]) == expected


@pytest.mark.parametrize(
    ("tags", "seconds"),
    [
        ({"workflows/deadline_s": "90"}, 90.0),
        ({".dagster/workflows_deadline_s": "1.5"}, 1.5),
        ({"workflows/deadline": "1m30s"}, 90.0),
        ({"workflows/deadline": "02:00 Europe/Berlin"}, 3600.0),
        ({"workflows/deadline": "1m", ".dagster/workflows_deadline": "2m"}, 120.0),
        ({"workflows/deadline": "soon"}, None),
        ({"workflows/deadline_s": "soon"}, None),
        ({"workflows/deadline_s": "-1"}, None),
        ({"workflows/deadline_s": "1e300"}, None),
        ({}, None),
    ],
)
def test_the_deadline_is_read_from_the_tags(tags: dict[str, str], seconds: float | None) -> None:
    (facts,) = run_facts("s", [RunBody("r", "job", "SUCCESS", "2020-01-01 00:00:00", None, tags)]).to_pylist()
    assert (facts["deadline_at"] and (facts["deadline_at"] - facts["created_at"]).total_seconds()) == seconds


# going on


def test_a_budget_stops_early_and_the_next_call_goes_on(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_RUNS", 2)
    monkeypatch.setattr(batches, "PIECE_ROWS", 15)
    monkeypatch.setattr(batches, "BATCH_ROWS", 15)
    seen: list[tuple[int, int]] = []
    calls = 1
    while not (result := sync_events(home, home, budget_s=0, progress=lambda done, total: seen.append((done, total)))).complete:
        assert result.runs_left > 0
        calls += 1
    assert calls > 3
    assert max(total for _, total in seen) == len(run_ids(instance)), "runs, and nothing else"
    for run_id in run_ids(instance):
        assert landed(home, run_id) == told_by_dagster(instance, run_id)


def test_runs_are_followed_while_they_are_written(home: Path, instance: dg.DagsterInstance) -> None:
    @dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
    def retried(context) -> None:  # Dagster reads annotations, and these are texts here
        if context.retry_number == 0:
            raise TimeoutError

    @dg.job
    def busy() -> None:
        retried.alias("one")()
        retried.alias("two")()

    def work() -> None:
        for _ in range(4):
            busy.execute_in_process(instance=instance)

    thread = threading.Thread(target=work)
    thread.start()
    syncs = 0
    while thread.is_alive():
        syncs += sync_events(home, home).events > 0
    thread.join()
    sync_events(home, home)
    assert syncs > 2
    for run_id in run_ids(instance):
        assert landed(home, run_id) == told_by_dagster(instance, run_id)


def test_a_run_is_read_again_when_its_row_changes_after_its_end(home: Path) -> None:
    run_id = run_named(home, "works")
    sync_events(home, home)
    age(home)
    sync_events(home, home)
    assert rows(home, f"select complete from cursors where shard = '{run_id}'") == [(True,)]
    update_run(home, run_id, status="FAILURE")  # a worker that was thought dead writes its own end
    change(shard(home, run_id), "update event_logs set id = id")  # the log itself is as before
    result = sync_events(home, home)
    assert (result.events, result.runs) == (0, 1)
    assert rows(home, f"select outcome, outcome_conflict from runs where run_id = '{run_id}'") == [("success", True)]


def test_events_after_the_end_are_landed(home: Path, instance: dg.DagsterInstance) -> None:
    run_id = run_named(home, "works")
    sync_events(home, home)
    age(home)
    sync_events(home, home)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_canceled(run)
    assert sync_events(home, home).events >= 1
    assert landed(home, run_id) == told_by_dagster(instance, run_id)
    assert rows(home, f"select outcome, outcome_conflict from runs where run_id = '{run_id}'") == [("success", True)]


def age(home: Path) -> None:
    """Makes all runs have ended an hour ago."""
    then = datetime.now(UTC) - timedelta(hours=1)
    change(home / "history" / "runs.db", "update runs set end_time = ? where end_time is not null", (then.timestamp(),))


# logs that change behind the reader's back


def test_numbers_used_again_after_deletion_are_noticed(home: Path, instance: dg.DagsterInstance) -> None:
    run_id = run_named(home, "works")
    sync_events(home, home)
    before = landed(home, run_id)
    last = before[-1][0]
    with closing(sqlite3.connect(shard(home, run_id))) as con, con:
        stored = con.execute("select event, dagster_event_type, timestamp, step_key from event_logs order by id").fetchall()
        con.execute("delete from event_logs")
        for number, (text, kind, at, step) in enumerate(reversed(stored), start=1):
            con.execute(
                "insert into event_logs (id, run_id, event, dagster_event_type, timestamp, step_key) values (?, ?, ?, ?, ?, ?)",
                (number, run_id, text, kind, at, step),
            )
        beyond = con.execute("select count(*) from event_logs where id > ?", (last,)).fetchone()[0]
    update_run(home, run_id)
    assert beyond == 0  # control: a reader that only asks for larger numbers finds nothing
    assert sync_events(home, home).events > 10
    told = told_by_dagster(instance, run_id)
    found = landed(home, run_id)
    assert set(told) <= set(found)
    assert set(before) <= set(found)  # what was landed stays


def test_a_deleted_run_stays_in_history_and_leaves_a_tombstone(home: Path, instance: dg.DagsterInstance) -> None:
    run_id = run_named(home, "breaks")
    sync_events(home, home)
    before = landed(home, run_id)
    instance.delete_run(run_id)
    assert sync_events(home, home).events == 0
    assert landed(home, run_id) == before
    assert rows(home, f"select outcome from runs where run_id = '{run_id}'") == [("failure",)]
    ((position, complete),) = rows(home, f"select position, complete from cursors where shard = '{run_id}'")
    assert (json.loads(position)["deleted"], complete) == (True, True)


def test_a_log_that_is_gone_stops_nothing(home: Path) -> None:
    gone, kept = run_named(home, "breaks"), run_named(home, "works")
    shard(home, gone).unlink()
    result = sync_events(home, home)
    assert result.complete
    assert landed(home, gone) == []
    assert landed(home, kept)
    assert rows(home, f"select outcome, attempt_count from runs where run_id = '{gone}'") == [("failure", None)]


@pytest.mark.parametrize(
    "poison",
    [b'{"truncated": ', b'"\xff\xfe"', b"[1, 2]", b"x" * (LONGEST_EVENT + 10)],
    ids=lambda text: text[:8].decode("latin1"),
)
def test_a_poison_row_is_put_aside_once_and_its_neighbours_land(home: Path, instance: dg.DagsterInstance, poison: bytes) -> None:
    run_id = run_named(home, "works")
    told = told_by_dagster(instance, run_id)
    with closing(sqlite3.connect(shard(home, run_id))) as con, con:
        con.execute("update event_logs set event = cast(? as text) where id = 4", (poison,))
    if poison.startswith(b"{"):
        with pytest.raises(DagsterEventLogInvalidForRun):  # control: Dagster's own reader stops at the row
            instance.get_records_for_run(run_id)
    assert sync_events(home, home).quarantined == 1
    assert landed(home, run_id) == [row for row in told if row[0] != 4]
    assert rows(home, "select run_id, event_id, reason <> '' from quarantine") == [(run_id, 4, True)]
    update_run(home, run_id)
    assert sync_events(home, home).quarantined == 0
    assert rows(home, "select count(*) from quarantine") == [(1,)]


def test_a_broken_log_is_put_aside_and_read_once_it_is_mended(home: Path, instance: dg.DagsterInstance) -> None:
    run_id = run_named(home, "works")
    told = told_by_dagster(instance, run_id)
    whole = shard(home, run_id).read_bytes()
    shard(home, run_id).write_bytes(b"this is no database" * 1000)
    result = sync_events(home, home)
    assert (result.quarantined, result.complete, result.events > 50) == (1, True, True)
    assert sync_events(home, home) == events.SyncResult(seconds=pytest.approx(0, abs=5))  # no news: it is not tried again
    shard(home, run_id).write_bytes(whole)
    sync_events(home, home)
    assert landed(home, run_id) == told


# beside other programs


@pytest.fixture
def held(home: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(home / "history" / "runs.db", isolation_level=None)) as con:
        con.execute("begin exclusive")
        con.execute("update runs set mode = 'x'")
        yield con
        con.execute("rollback")


def test_a_writer_that_holds_the_log_does_not_keep_the_reader_waiting(home: Path, held: sqlite3.Connection) -> None:
    with (
        pytest.raises(sqlite3.OperationalError, match="locked"),
        closing(sqlite3.connect(home / "history" / "runs.db", timeout=0)) as other,
    ):
        other.execute("begin immediate")  # control: it is locked
    assert sync_events(home, home).events > 60


def test_the_reader_never_keeps_a_writer_waiting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    real = Source.log_pieces

    def write_meanwhile(source: Source, *args: Any) -> Any:
        def query(con: sqlite3.Connection) -> None:
            con.execute("select * from runs").fetchone()  # a read in progress
            change(home / "history" / "runs.db", "update runs set mode = 'y'")
            waited.append("no")

        for piece in real(source, *args):
            (home / "history" / "runs.db").touch()  # in use: read under SQLite's own rules
            sqlite_files.read(str(home / "history" / "runs.db"), query)
            yield piece

    monkeypatch.setattr(Source, "log_pieces", write_meanwhile)
    sync_events(home, home)
    assert len(waited) > 5


def test_a_log_without_write_ahead_that_is_held_is_busy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "PATIENCE_S", 0.1)
    with closing(sqlite3.connect(home / "history" / "runs.db", isolation_level=None)) as con:
        con.execute("pragma journal_mode = delete")
        con.execute("begin exclusive")
        con.execute("update runs set mode = 'x'")
        con.execute("pragma user_version")
        with pytest.raises(BusyError, match="is held by another program"):
            sync_events(home, home)
        con.execute("rollback")


def test_reading_leaves_no_file_behind(home: Path) -> None:
    for file in [*home.glob("history/**/*.db"), *home.glob("schedules/*.db")]:
        os.utime(file, (1, 1))
    for left in [*home.glob("history/**/*-wal"), *home.glob("history/**/*-shm")]:
        left.unlink()
    before = {file: file.stat().st_mtime_ns for file in (home / "history").rglob("*")}
    sync_events(home, home.parent / "elsewhere")
    assert {file: file.stat().st_mtime_ns for file in (home / "history").rglob("*")} == before


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv to become somebody else; 2026-11-22"
)
def test_a_folder_that_may_only_be_read_is_read(home: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db")) as con:
        con.execute("pragma wal_autocheckpoint = 0")
        con.execute("update runs set mode = 'x'")
        con.commit()
        copy = shutil.copytree(home, tmp_path / "frozen")  # with a write-ahead log that was never moved into the file
    assert (copy / "history" / "runs.db-wal").stat().st_size > 0
    (copy / "history" / "runs.db-shm").unlink()
    for folder in [copy, *copy.parents][:6]:
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    code = "\n".join(
        (
            "import sys",
            "from pathlib import Path",
            f"sys.path.insert(0, {str(ROOT)!r})",
            "from workflows_pkg.history import sqlite_files",
            f"file = Path({str(copy / 'history' / 'runs.db')!r})",
            "print(sqlite_files.read(file, lambda con: con.execute('select count(*) from runs').fetchone()[0]))",
        )
    )
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    if (
        as_nobody
        and subprocess.run([*as_nobody, sys.executable, "-c", f"open({__file__!r})"], capture_output=True).returncode != 0
    ):
        pytest.skip("2026-11-22: root may write anywhere, and nobody else can start this interpreter here")
    (copy / "history").chmod(0o555)
    done = subprocess.run([*as_nobody, sys.executable, "-c", code], capture_output=True, text=True)
    (copy / "history").chmod(0o755)
    assert done.stdout.strip() == "5", done.stderr


def test_two_syncs_at_once_take_turns(home: Path) -> None:
    with writer(home), pytest.raises(BusyError):
        sync_events(home, home, wait_s=0)
    assert sync_events(home, home, wait_s=0).events > 60


# other instances


def test_a_folder_without_an_event_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no Dagster event log"):
        sync_events(tmp_path, tmp_path)
    with pytest.raises(SetupError, match="no such folder"):
        sync_events(tmp_path / "nowhere", tmp_path)


def test_the_folder_of_dagster_yaml_is_followed(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "dagster.yaml").write_text(f"storage: {{sqlite: {{base_dir: {home}}}}}\n")
    assert sync_events(other, other).events > 60


# ticks


def test_ticks_are_landed_and_change_with_their_outcome(home: Path, instance: dg.DagsterInstance) -> None:
    def tick(name: str, status: TickStatus, **more: Any) -> Any:
        return instance.create_tick(
            TickData("origin", name, InstigatorType.SENSOR, status, datetime.now(UTC).timestamp(), selector_id=name, **more)
        )

    started = tick("looks", TickStatus.STARTED)
    tick("nothing", TickStatus.SKIPPED, skip_reason="nothing there")
    tick(SYNC_SENSOR, TickStatus.SKIPPED, skip_reason="of no interest")
    assert sync_events(home, home).ticks == 2
    assert rows(home, "select name, kind, status, reason from ticks order by name") == [
        ("looks", "sensor", "started", None),
        ("nothing", "sensor", "skipped", "nothing there"),
    ]
    instance.update_tick(started.with_status(TickStatus.SUCCESS, run_ids=["r1"]))
    assert sync_events(home, home).ticks == 1
    assert rows(home, "select status, run_ids from ticks where name = 'looks'") == [("success", '["r1"]')]
    assert sync_events(home, home).ticks == 0


# crashes


def after_deaths(home: Path, folder: Path, mode: str, deaths: list[str]) -> list[dict[str, Any]]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "dying_sync.py"), str(home), str(folder), mode, *deaths],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


POINTS = ["after_read", "before_insert", "mid_batch", "before_commit", "after_commit", "between_batches", "before_publish_rename"]


@pytest.fixture
def expected(home: Path) -> Callable[[dict[str, Any]], bool]:
    """Whether a history is the one that an undisturbed sync gives."""
    sync_events(home, home)
    events_there = [list(row) for row in rows(home, "select run_id, event_id, event_hash from events order by all")]
    runs = [list(row) for row in rows(home, "select run_id, outcome, attempt_count from runs order by all")]
    return lambda found: found["events"] == events_there and found["runs"] == runs


def test_a_crash_at_any_point_loses_and_doubles_nothing(
    home: Path, tmp_path: Path, expected: Callable[[dict[str, Any]], bool]
) -> None:
    outcomes = after_deaths(home, tmp_path / "points", "right", [*POINTS, "mid_batch:kill"])
    assert [outcome["death"] for outcome in outcomes if not outcome["died"]] == []
    assert [outcome["death"] for outcome in outcomes if not expected(outcome)] == []


@pytest.mark.long
def test_a_kill_at_any_time_loses_and_doubles_nothing(
    home: Path, tmp_path: Path, expected: Callable[[dict[str, Any]], bool]
) -> None:
    outcomes = after_deaths(home, tmp_path / "kills", "right", [str(ms) for ms in range(20, 620, 15)])
    assert sum(outcome["died"] for outcome in outcomes) >= 3
    assert [outcome["death"] for outcome in outcomes if not expected(outcome)] == []


def test_control_cursors_ahead_of_rows_lose_rows(home: Path, tmp_path: Path, expected: Callable[[dict[str, Any]], bool]) -> None:
    outcomes = after_deaths(home, tmp_path / "control", "broken", ["mid_batch", "before_insert:kill"])
    assert all(outcome["died"] for outcome in outcomes)
    assert not any(expected(outcome) for outcome in outcomes)


# rows with an instant that nobody can mean


@pytest.mark.parametrize("ended", [1e15, -1e15, 253_402_300_800.0, "soon"])
def test_a_run_whose_end_cannot_be_meant_is_read_like_any_other(home: Path, tmp_path: Path, ended: object) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db")) as con, con:
        con.execute("update runs set end_time = ? where id = (select min(id) from runs)", [ended])
        (number,) = con.execute("select count(*) from runs").fetchone()
    result = sync_events(home, tmp_path / "history")
    assert (result.quarantined, result.complete) == (0, True)
    assert rows(tmp_path / "history", "select count(*) from runs") == [(number,)]


@pytest.mark.parametrize("at", [1e12, 1e300, -5.0, 253_402_300_800.0])
def test_events_whose_instant_cannot_be_meant_are_put_aside_and_the_others_land(home: Path, tmp_path: Path, at: float) -> None:
    (log, *others) = sorted((home / "history" / "runs").glob("*-*.db"))
    with closing(sqlite3.connect(log)) as con, con:
        stored = con.execute("select id, event from event_logs where dagster_event_type is not null order by id").fetchall()
        for number, text in stored[1:]:
            con.execute(
                "update event_logs set event = ? where id = ?", [json.dumps({**json.loads(text), "timestamp": at}), number]
            )
    result = sync_events(home, tmp_path / "history")
    assert (result.quarantined, result.complete) == (len(stored) - 1, True)
    found = rows(tmp_path / "history", "select run_id, reason, count(*) from quarantine group by all")
    assert found == [(log.stem, "Its instant is unknown.", len(stored) - 1)]
    assert rows(tmp_path / "history", "select count(distinct run_id) from events where run_id <> ''") == [(len(others) + 1,)]


def test_a_run_that_was_asked_for_at_no_instant_is_in_quarantine(home: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(home / "history" / "runs.db")) as con, con:
        con.execute("update runs set create_timestamp = '9026-01-02 03:04:05' where id = (select min(id) from runs)")
        run_id, number = con.execute("select (select run_id from runs order by id limit 1), count(*) from runs").fetchone()
    for _ in range(2):
        sync_events(home, tmp_path / "history")
    assert rows(tmp_path / "history", "select count(*), count(*) filter (run_id = ?) from runs".replace("?", f"'{run_id}'")) == [
        (number - 1, 0)
    ]
    ((told, reason),) = rows(tmp_path / "history", "select run_id, reason from quarantine")
    assert told == run_id
    assert "'9026-01-02 03:04:05', which is no instant" in reason
