"""Airflow's metadata database: made here with the columns of two versions, and by Airflow itself in the long test."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.history.imports import import_files

V2_8 = """
create table dag_run (id integer primary key, dag_id varchar, queued_at timestamp, execution_date timestamp, start_date timestamp,
    end_date timestamp, state varchar, run_id varchar, external_trigger boolean, run_type varchar, conf blob);
create table task_instance (task_id varchar, dag_id varchar, run_id varchar, map_index integer, start_date timestamp, end_date timestamp,
    duration float, state varchar, try_number integer, max_tries integer, hostname varchar, pid integer, queued_dttm timestamp);
create table task_fail (id integer primary key, task_id varchar, dag_id varchar, run_id varchar, map_index integer,
    start_date timestamp, end_date timestamp, duration integer);
"""

V3 = """
create table dag_run (id integer primary key, dag_id varchar, queued_at timestamp, logical_date timestamp, start_date timestamp,
    end_date timestamp, state varchar, run_id varchar, run_type varchar, triggering_user_name varchar, run_after timestamp);
create table task_instance (id varchar primary key, task_id varchar, dag_id varchar, run_id varchar, map_index integer,
    start_date timestamp, end_date timestamp, duration float, state varchar, try_number integer, max_tries integer,
    hostname varchar, pid integer, queued_dttm timestamp);
create table task_instance_history (task_instance_id varchar, task_id varchar, dag_id varchar, run_id varchar, map_index integer,
    try_number integer, start_date timestamp, end_date timestamp, duration float, state varchar, hostname varchar, pid integer,
    queued_dttm timestamp);
"""

NIGHT = "scheduled__2025-03-01T02:00:00+00:00"


def at(time: str) -> str:
    return f"2025-03-02 {time}.000000"


def instant(time: str) -> datetime:
    return datetime.fromisoformat(f"2025-03-02 {time}").replace(tzinfo=UTC)


def database(path: Path, version: str) -> Path:
    """One scheduled run: `load` succeeds at its third try, `each` is mapped, `tell` was skipped, `late` waits for a retry; one runs."""
    with closing(sqlite3.connect(path)) as con:
        con.executescript(version)
        user = {"triggering_user_name": "ada"} if version is V3 else {}
        _put(con, "dag_run", dag_id="etl", run_id=NIGHT, run_type="scheduled", state="failed", queued_at=at("02:00:01"),
             start_date=at("02:00:03"), end_date=at("02:10:00"), **user)  # fmt: skip
        _put(con, "dag_run", dag_id="etl", run_id="manual__1", run_type="manual", state="running", start_date=at("03:00:00"))
        of = {"dag_id": "etl", "run_id": NIGHT}
        tries = [("02:01:00", "02:01:30"), ("02:02:00", "02:02:40"), ("02:03:00", "02:03:50")]
        begin, end = tries[2]
        _ti(con, version, **of, task_id="load", map_index=-1, try_number=3, state="success", start_date=at(begin), end_date=at(end),
            queued_dttm=at("02:02:55"), hostname="w1", pid=77)  # fmt: skip
        for n, (begin, end) in enumerate(tries[:2], 1):
            times = {"start_date": at(begin), "end_date": at(end)}
            if version is V3:
                _put(con, "task_instance_history", **of, task_id="load", map_index=-1, try_number=n, state="failed", **times)
            else:
                _put(con, "task_fail", **of, task_id="load", map_index=-1, **times)
        for index, state in enumerate(["success", "failed"]):
            times = {"start_date": at("02:05:00"), "end_date": at("02:06:00")}
            _ti(con, version, **of, task_id="each", map_index=index, try_number=1, state=state, **times)
        if version is not V3:  # a final failure is in that table too
            _put(con, "task_fail", **of, task_id="each", map_index=1, start_date=at("02:05:00"), end_date=at("02:06:00"))
        _ti(con, version, **of, task_id="tell", map_index=-1, try_number=0, state="upstream_failed", start_date=at("02:07:00"))
        _ti(con, version, **of, task_id="gone", map_index=-1, try_number=0, state="removed")
        open_run = {"dag_id": "etl", "run_id": "manual__1"}
        _ti(con, version, **open_run, task_id="load", map_index=-1, try_number=1, state="running", start_date=at("03:00:05"))
        _ti(con, version, **open_run, task_id="late", map_index=-1, try_number=1, state="up_for_retry", start_date=at("03:00:05"),
            end_date=at("03:00:09"))  # fmt: skip
        _ti(con, version, **open_run, task_id="tell", map_index=-1, try_number=0, state=None)
        con.commit()
    os.utime(path, (1, 1))
    return path


def _put(con: sqlite3.Connection, table: str, **values: object) -> None:
    con.execute(f"insert into {table} ({', '.join(values)}) values ({', '.join('?' * len(values))})", list(values.values()))


def _ti(con: sqlite3.Connection, version: str, **values: object) -> None:
    identity = {"id": "-".join(str(values[key]) for key in ("run_id", "task_id", "map_index"))} if version is V3 else {}
    _put(con, "task_instance", **values, **identity)


@pytest.mark.parametrize("version", [V2_8, V3], ids=["2.8", "3"])
def test_a_database_gives_runs_and_every_try(home, ask, tmp_path, version) -> None:
    (told,) = import_files(home, [database(tmp_path / "airflow.db", version)])
    assert (told.format, told.jobs, told.runs, told.attempts) == ("airflow", ("etl",), 2, 8)
    assert told.remarks == ("2 task instances had not begun and are left out",)
    rows = ask(
        "select step, step_key, attempt, a.outcome, will_retry, a.started_at, a.ended_at, a.run_time_s, a.start_time_s, a.retry_wait_s, "
        "failure_cause from step_attempts a join runs r using (run_id) where r.outcome = 'failure' order by 2, 3"
    )
    assert rows == [
        ("each", "each[0]", 1, "success", False, instant("02:05:00"), instant("02:06:00"), 60.0, None, None, None),
        ("each", "each[1]", 1, "failure", False, instant("02:05:00"), instant("02:06:00"), 60.0, None, None, "unknown"),
        ("load", "load", 1, "failure", True, instant("02:01:00"), instant("02:01:30"), 30.0, None, 30.0, "unknown"),
        ("load", "load", 2, "failure", True, instant("02:02:00"), instant("02:02:40"), 40.0, None, 15.0, "unknown"),
        ("load", "load", 3, "success", False, instant("02:03:00"), instant("02:03:50"), 50.0, 5.0, None, None),
        ("tell", "tell", 1, "skipped", False, instant("02:07:00"), None, None, None, None, None),
    ]
    assert ask(
        'select outcome, "trigger", launched_by, created_at, started_at, ended_at, queue_time_s, run_time_s, retry_wait_s, attempt_count '
        "from runs order by created_at"
    ) == [
        ("failure", "schedule", "ada" if version is V3 else None, instant("02:00:01"), instant("02:00:03"), instant("02:10:00"),
         2.0, 597.0, 45.0, 6),
        (None, "manual", None, instant("03:00:00"), instant("03:00:00"), None, None, None, None, 2),
    ]  # fmt: skip
    assert ask("select step, outcome, will_retry, ended_at is null from step_attempts semi join (from runs where outcome is null) "
               "using (run_id) order by 1") == [("late", "failure", True, False), ("load", None, False, True)]  # fmt: skip


def test_a_database_that_has_grown_changes_what_is_different_only(home, ask, everything, tmp_path) -> None:
    path = database(tmp_path / "airflow.db", V3)
    import_files(home, [path])
    kept = ask("select * from step_attempts semi join (from runs where outcome = 'failure') using (run_id) order by all")
    with closing(sqlite3.connect(path)) as con:
        con.execute(f"update task_instance set state = 'success', end_date = '{at('03:01:00')}' where run_id = 'manual__1'")
        con.execute(f"update dag_run set state = 'success', end_date = '{at('03:01:00')}' where run_id = 'manual__1'")
        con.commit()
    (told,) = import_files(home, [path])
    assert (told.runs, told.changed) == (2, 1)
    assert ask("select * from step_attempts semi join (from runs where outcome = 'failure') using (run_id) order by all") == kept
    assert ask("select outcome, run_time_s from runs order by created_at") == [("failure", 597.0), ("success", 60.0)]


def test_the_database_is_not_touched(home, tmp_path) -> None:
    path = database(tmp_path / "airflow.db", V2_8)
    before = path.read_bytes(), path.stat().st_mtime_ns
    import_files(home, [path])
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["airflow.db", "home"]


def test_a_database_in_use_is_read_with_its_log(home, ask, tmp_path) -> None:
    """What stands in the write-ahead log only is there, and nothing beside the database is made anew."""
    path = database(tmp_path / "airflow.db", V3)
    with closing(sqlite3.connect(path)) as con:
        con.execute("pragma journal_mode = wal")
        con.execute("pragma wal_autocheckpoint = 0")
        con.execute("update dag_run set state = 'success' where dag_id = 'etl'")
        con.commit()
        log = path.with_name("airflow.db-wal")
        before = path.read_bytes(), log.read_bytes()
        import_files(home, [path])
        assert (path.read_bytes(), log.read_bytes()) == before
        assert ask("select distinct outcome from runs") == [("success",)]
        con.execute("update dag_run set state = 'failed' where dag_id = 'etl'")
        con.commit()
        (told,) = import_files(home, [path])
        assert told.changed == 2, "a change in the log alone is a change"


def test_another_database_is_refused(home, tmp_path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as con:
        con.execute("create table dag_run (id integer, run_id varchar)")
        con.commit()
    with pytest.raises(WorkflowsError, match="without a table task_instance; expected Airflow's metadata database"):
        import_files(home, [path])
    with closing(sqlite3.connect(path)) as con:
        con.execute("create table task_instance (task_id varchar, dag_id varchar, execution_date timestamp)")
        con.commit()
    with pytest.raises(WorkflowsError, match=r"no column task_instance\.run_id; expected the database of Airflow 2\.2"):
        import_files(home, [path])


DAG = """
from datetime import datetime
from airflow.sdk import dag, task

@dag(schedule=None, start_date=datetime(2025, 1, 1), catchup=False)
def flaky():
    @task(retries=2, retry_delay=0)
    def sometimes(ti=None):
        if ti.try_number < 2:
            raise ValueError("not yet")
        return [1, 2]

    @task
    def each(x):
        return x

    each.expand(x=sometimes())

flaky()
"""


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_what_airflow_itself_writes_is_read(home, ask, tmp_path) -> None:
    """Airflow, installed for this test, runs a DAG with a retry and a mapped task."""
    place = tmp_path / "airflow"
    (place / "dags").mkdir(parents=True)
    (place / "dags" / "flaky.py").write_text(DAG)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = subprocess.run(
        [str(tmp_path / "venv/bin/pip"), "install", "-q", "apache-airflow==3.1.8"], capture_output=True, text=True, check=False
    )
    if pip.returncode != 0:
        pytest.skip(f"2026-11-25: Airflow does not install here: {pip.stderr[-300:]}")
    environment = {
        "PATH": f"{tmp_path / 'venv/bin'}:/usr/bin:/bin", "HOME": str(tmp_path), "AIRFLOW_HOME": str(place),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }  # fmt: skip
    for command in (["db", "migrate"], ["dags", "test", "flaky"]):
        done = subprocess.run(["airflow", *command], env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    (told,) = import_files(home, [place / "airflow.db"])
    assert (told.jobs, told.runs, told.attempts) == (("flaky",), 1, 4)
    assert ask("select step_key, attempt, outcome, will_retry from step_attempts order by all") == [
        ("each[0]", 1, "success", False),
        ("each[1]", 1, "success", False),
        ("sometimes", 1, "failure", True),
        ("sometimes", 2, "success", False),
    ]
    assert ask("select bool_and(run_time_s > 0 and started_at < ended_at) from step_attempts") == [(True,)]
    assert ask("select outcome, attempt_count, run_time_s > 0 from runs") == [("success", 4, True)]
    shutil.rmtree(tmp_path / "venv")
