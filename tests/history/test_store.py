"""One writer at a time, readers at any time, and what is written is what is read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from workflows_pkg.errors import BusyError, SetupError, WorkflowsError
from workflows_pkg.history.layout import layout
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import RECORDS, Event, Forecast, Run, Suggestion
from workflows_pkg.history.store import open_history, query, writer

NOW = datetime.now(UTC)


def run(run_id: str, **more) -> Run:
    return Run(**{"run_id": run_id, "source_id": "here", "job_name": "etl", "created_at": NOW, **more})


def forecast(number: int) -> Forecast:
    return Forecast(
        job_name="etl", quantity="run_time_s", p05=1, p50=number, p95=9, sample_count=5, predictor="median", as_of=NOW
    )


def count(home, table="runs") -> int:
    with open_history(home) as con:
        return con.execute(f"select count(*) from {table}").fetchone()[0]


def test_before_anything_was_written_every_table_is_there_and_empty(tmp_path):
    for home in (tmp_path, tmp_path / "not made yet"):
        with open_history(home) as con:
            for record_type in RECORDS:
                assert read(con, record_type) == []
    assert list(tmp_path.iterdir()) == [], "looking changes nothing"


def test_what_was_written_is_read_back_and_instants_are_utc(tmp_path):
    rows = [run("a", outcome="success", cost_usd=0.25, version=3), run("b")]
    with writer(tmp_path) as history:
        assert history.upsert(Run, rows) == 2
    with open_history(tmp_path) as con:
        assert read(con, Run) == rows
        assert read(con, Run, "cost_usd > ?", [0.1]) == rows[:1]
        assert str(con.execute("select created_at from runs").fetchone()[0].tzinfo) == "UTC"


def test_an_upsert_replaces_rows_of_the_same_key_and_the_last_one_given_counts(tmp_path):
    with writer(tmp_path) as history:
        history.upsert(Forecast, [forecast(1)])
        assert history.upsert(Forecast, [forecast(2), forecast(3)]) == 1
        assert [row.p50 for row in read(history.con, Forecast)] == [3]
        assert history.upsert(Forecast, []) == 0


def test_a_frame_may_leave_out_columns_and_values_that_have_defaults(tmp_path):
    frame = pd.DataFrame(
        {"run_id": ["a", "b"], "source_id": "here", "job_name": "etl", "created_at": NOW, "trigger": ["sensor", None]}
    )
    with writer(tmp_path) as history:
        history.upsert(Run, frame)
        assert [row.trigger for row in read(history.con, Run)] == ["sensor", "manual"]
        with pytest.raises(ValueError, match="no column 'owners'"):
            history.upsert(Run, frame.assign(owners="me"))


def test_an_event_that_is_there_never_changes(tmp_path):
    event = Event(source_id="here", run_id="a", event_id=1, event_hash="x", kind="other", at=NOW)
    with writer(tmp_path) as history:
        assert history.upsert(Event, [event]) == 1
        assert history.upsert(Event, [event.model_copy(update={"kind": "checked"})]) == 0
        assert [row.kind for row in read(history.con, Event)] == ["other"]


def test_rows_filed_under_a_day_are_not_deleted_one_by_one(tmp_path):
    suggestion = Suggestion(suggestion_id="s", kind="timeout", workflow="w", step="a", based_on=1, title="t", change="[]", spec="{}",
                            evidence="{}", quantity="q", created_at=NOW)  # fmt: skip
    with writer(tmp_path) as history:
        history.upsert(Suggestion, [suggestion, suggestion.model_copy(update={"suggestion_id": "kept", "status": "applied"})])
        history.delete(Suggestion, status="open")
        assert [row.suggestion_id for row in read(history.con, Suggestion)] == ["kept"]
        with pytest.raises(ValueError, match="'runs' are history"):
            history.delete(Run, run_id="a")


def write_and_fail(history) -> None:
    with history.transaction():
        with history.transaction():
            history.upsert(Run, [run("a")])
        raise ZeroDivisionError


def test_a_transaction_is_all_or_nothing_and_an_inner_one_joins_it(tmp_path):
    with writer(tmp_path) as history:
        with pytest.raises(ZeroDivisionError):
            write_and_fail(history)
        with history.transaction():
            history.upsert(Run, [run("b")])
            with pytest.raises(RuntimeError, match="after the transaction"):
                history.publish()
    assert count(tmp_path) == 1


def test_a_reader_may_hold_one_state_while_publishing_goes_on(tmp_path):
    with writer(tmp_path) as history:
        history.upsert(Run, [run("0")])
    held = open_history(tmp_path)
    for number in range(1, 6):
        with writer(tmp_path, wait_s=0) as history:
            history.upsert(Run, [run(str(number))])
        assert held.execute("select count(*) from runs").fetchone() == (1,)
        assert count(tmp_path) == number + 1, "a new connection of the same process shows the newest state"


def test_any_duckdb_client_opens_the_published_file(tmp_path):
    with writer(tmp_path) as history:
        history.upsert(Run, [run("a"), run("old", created_at=datetime(2024, 1, 1, tzinfo=UTC), outcome="success")])
    with duckdb.connect(str(tmp_path / "history.duckdb"), read_only=True) as con:
        assert con.execute("select count(*) from runs").fetchone() == (2,)
    with duckdb.connect() as con:
        con.execute(f"attach '{tmp_path}/history.duckdb' as theirs (read_only)")
        assert con.execute("select count(*) from theirs.runs").fetchone() == (2,)


def test_nothing_is_published_when_nothing_changed(tmp_path):
    with writer(tmp_path) as history:
        history.upsert(Run, [run("a")])
        assert history.publish()
        assert not history.publish()
    published = (tmp_path / "history.duckdb").stat().st_ino
    with writer(tmp_path) as history, history.transaction():
        history.upsert(Run, [])
        history.con.execute("delete from live.runs where run_id = 'nobody'")
    assert (tmp_path / "history.duckdb").stat().st_ino == published


def test_a_log_left_beside_the_published_file_by_mistake_does_no_harm(tmp_path):
    with writer(tmp_path) as history:
        history.upsert(Run, [run("a")])
    os.chmod(tmp_path / "history.duckdb", 0o644)
    with duckdb.connect(str(tmp_path / "history.duckdb")) as mistaken:
        mistaken.execute("create table mine as select 1")
        with writer(tmp_path, wait_s=0) as history:
            history.upsert(Run, [run("b")])
    assert count(tmp_path) == 2


def test_readers_reach_no_other_file_and_no_setting(tmp_path):
    (tmp_path / "secret.csv").write_text("word\nhidden\n")
    with writer(tmp_path) as history:
        history.upsert(Run, [run("a", created_at=datetime(2024, 1, 1, tzinfo=UTC), outcome="success")])
    with open_history(tmp_path) as con:
        assert con.execute("select count(*) from runs").fetchone() == (1,), "sealed days can be read"
        for statement in (
            f"select * from read_csv('{tmp_path}/secret.csv')",
            f"select * from '{tmp_path}/history.store/sealed/../../secret.csv'",
            f"copy runs to '{tmp_path}/out.csv'",
            f"attach '{tmp_path}/other.duckdb'",
            "set enable_external_access = true",
            "set allowed_directories = ['/']",
            "delete from runs",
            "create table mine as select 1",
            "install httpfs",
        ):
            with pytest.raises(duckdb.Error):
                con.execute(statement)
        con.execute("create temp table mine as select * from runs")
        con.register("frame", pd.DataFrame({"run_id": ["a"]}))
        assert con.execute("select count(*) from mine join frame using (run_id)").fetchone() == (1,)


def test_a_question_that_cannot_be_answered_says_why(tmp_path):
    with open_history(tmp_path) as con:
        assert list(query(con, "select 1 as one")["one"]) == [1]
        with pytest.raises(WorkflowsError, match="run_idd"):
            query(con, "select run_idd from runs")


def test_a_second_writer_is_told_who_is_writing(tmp_path):
    with writer(tmp_path):
        begun = time.monotonic()
        with pytest.raises(BusyError, match=f"process {os.getpid()} is writing"), writer(tmp_path, wait_s=0.2):
            pass
        assert 0.2 <= time.monotonic() - begun < 2
    with writer(tmp_path, wait_s=0):
        pass


def test_a_second_process_is_refused_and_the_lock_dies_with_its_holder(nursery, tmp_path):
    pid = nursery.start("hold", tmp_path, seconds=60)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(BusyError, match=f"process {pid} "), writer(tmp_path, wait_s=0.1):
        pass
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    with writer(tmp_path, wait_s=5) as history:
        history.upsert(Run, [run("a")])
    assert time.monotonic() - begun < 5
    assert nursery.wait() == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forking beside threads
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    read_end, write_end = os.pipe()
    with writer(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write_end)
            os.read(read_end, 1)  # lives until the parent closes its end
            os._exit(0)
    try:
        with writer(tmp_path, wait_s=0):
            pass
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(child, 0)


def test_threads_take_turns(tmp_path):
    def add(number: int) -> None:
        with writer(tmp_path, wait_s=30) as history:
            history.upsert(Run, [run(f"thread {number}")])

    threads = [threading.Thread(target=add, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(tmp_path) == 4


def test_the_hot_database_in_another_program_is_named(tmp_path, nursery):
    with writer(tmp_path):
        pass
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_open_hot, args=[str(layout(tmp_path).hot), ready, done])
    other.start()
    assert ready.wait(30)
    try:
        with pytest.raises(BusyError, match="open in another program"), writer(tmp_path):
            pass
    finally:
        done.set()
        other.join()


def _open_hot(path, ready, done):
    with duckdb.connect(path):
        ready.set()
        done.wait(30)


def test_a_file_that_is_no_history_is_named_with_the_way_out(tmp_path):
    (tmp_path / "history.duckdb").write_text("this is not a database" * 100)
    with pytest.raises(SetupError, match=r"history\.duckdb cannot be read.*workflows history sync"):
        open_history(tmp_path)
    layout(tmp_path).store.mkdir()
    layout(tmp_path).hot.write_text("nor is this" * 1000)
    with pytest.raises(SetupError, match=r"hot\.duckdb cannot be read"), writer(tmp_path):
        pass


def test_a_home_that_was_moved_still_finds_its_sealed_days(tmp_path):
    old, new = tmp_path / "old [home]", tmp_path / "it's new"
    with writer(old) as history:
        history.upsert(Run, [run("a", created_at=datetime(2024, 1, 1, tzinfo=UTC), outcome="success")])
    assert count(old) == 1
    old.rename(new)
    with writer(new):
        pass
    assert count(new) == 1


def test_free_space_is_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr("workflows_pkg.history.store._SLACK_BYTES", 0)
    with writer(tmp_path) as history:
        history.con.execute(
            'insert into live.events (source_id, run_id, event_id, event_hash, kind, "at") '
            "select 's', 'r' || i // 9, i % 9, md5(i::varchar), 'other', now() from range(200_000) t(i)"
        )
        history.upsert(Run, [run("kept")])
        history.publish()
        full = layout(tmp_path).hot.stat().st_size
        history.con.execute("delete from live.events")
    with writer(tmp_path) as history:
        assert read(history.con, Run) == [run("kept")]
        history.upsert(Run, [run("new")])
    assert layout(tmp_path).hot.stat().st_size < full / 2
    assert count(tmp_path) == 2


def _open_many(home: str, opens: int, answers) -> None:
    errors = 0
    for _ in range(opens):
        try:
            with open_history(Path(home)) as con:
                con.execute("select count(*) from runs").fetchone()
        except Exception:  # counting them is the test
            errors += 1
    answers.put(errors)


def _open_raw(file: str, opens: int, answers) -> None:
    errors = 0
    for _ in range(opens):
        try:
            with duckdb.connect(file, read_only=True) as con:
                con.execute("select count(*) from t").fetchone()
        except duckdb.Error:
            errors += 1
    answers.put(errors)


def errors_in_another_process(target, place: str, opens: int, write) -> tuple[int, int]:
    """Errors of `opens` readers in another process, and how often `write` succeeded meanwhile."""
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    reader = spawn.Process(target=target, args=[place, opens, answers])
    reader.start()
    writes = 0
    while reader.is_alive():
        write(writes)
        writes += 1
        time.sleep(0.05)  # the readers are to meet writes, not to wait for a processor
    reader.join()
    return answers.get(), writes


def test_200_readers_during_writes_meet_no_lock(tmp_path):
    def write(number: int) -> None:
        with writer(tmp_path) as history:
            history.upsert(Run, [run(str(number))])

    errors, writes = errors_in_another_process(_open_many, str(tmp_path), 200, write)
    assert writes > 5
    assert errors == 0
    assert count(tmp_path) == writes


def test_control_readers_of_a_raw_duckdb_file_do_meet_locks(tmp_path):
    file = str(tmp_path / "raw.duckdb")
    with duckdb.connect(file) as con:
        con.execute("create table t (i int)")
    failed_writes = 0

    def write(number: int) -> None:
        nonlocal failed_writes
        try:
            with duckdb.connect(file) as con:
                con.execute("insert into t values (?)", [number])
                time.sleep(0.02)
        except duckdb.Error:
            failed_writes += 1

    errors, _ = errors_in_another_process(_open_raw, file, 200, write)
    assert errors + failed_writes > 0


def test_days_before_1970_and_far_ahead_are_kept(tmp_path):
    with writer(tmp_path) as history:
        history.upsert(
            Run,
            [run("past", created_at=datetime(1969, 7, 20, tzinfo=UTC)), run("far", created_at=datetime(2200, 1, 1, tzinfo=UTC))],
        )
        assert history.seal(date(2300, 1, 1)) == 0, "open runs stay"
    assert count(tmp_path) == 2


THREADS = """
import os, sys
from pathlib import Path
from workflows_pkg.history.store import writer
if sys.argv[2] == "one core":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with writer(Path(sys.argv[1])) as history:
    print(history.con.execute("select current_setting('threads')").fetchone()[0])
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux keeps a process on some of the cores")
@pytest.mark.parametrize("on", ["one core", "all cores"])
def test_the_writer_has_no_more_threads_than_the_process_has_cores(tmp_path, on):
    """All cores is the control: DuckDB's own number stays."""
    command = [sys.executable, "-c", THREADS, str(tmp_path), on]
    threads = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    with duckdb.connect() as con:
        (usual,) = con.execute("select current_setting('threads')").fetchone()
    assert threads == (1 if on == "one core" else min(usual, len(os.sched_getaffinity(0))))
