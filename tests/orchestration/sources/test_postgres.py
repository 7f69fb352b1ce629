"""A PostgreSQL database is read without writing, without waiting for long, and without showing a password."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.sources import logs, open_source, postgres
from workflows_pkg.orchestration.sources.postgres import PostgresServer
from workflows_pkg.security.postgres_url import PostgresUrl


@pytest.fixture
def copy(copied: Callable[[str], Any]) -> Any:
    return copied("postgres")


def test_nothing_can_be_written(copy: Any) -> None:
    server = PostgresServer(PostgresUrl.of(copy.where))
    with pytest.raises(SetupError, match="read-only transaction"):
        server.read(lambda select: list(select("select lo_create(0)", ())))
    with pytest.raises(SetupError, match="read-only transaction"):
        server.read(lambda select: list(select("select nextval('event_logs_id_seq')", ())))
    server.close()
    assert copy.sql("select count(*) from runs") == [(4,)]


def test_the_server_sees_no_row_change_and_no_lock_that_stays(copy: Any, tmp_path: Path) -> None:
    def state() -> list[tuple[Any, ...]]:
        time.sleep(0)
        return copy.sql("select relname, n_tup_ins, n_tup_upd, n_tup_del from pg_stat_user_tables order by 1")

    before = state()
    with open_source(copy.where) as source:
        sync_events(source, tmp_path)
        held = copy.sql(
            "select count(*) from pg_locks l join pg_class c on c.oid = l.relation where c.relname in ('runs', 'event_logs', 'job_ticks') "
            "and pid <> pg_backend_pid()"
        )
    assert held == [(0,)]
    assert state() == before


@pytest.fixture
def with_passwords(server: Any, copy: Any) -> Iterator[Any]:
    """The server asks the user `reader` for a password."""
    hba = server.folder / "pg_hba.conf"
    before = hba.read_text()
    server.run("drop role if exists reader")
    server.run("create role reader login password 'geheim/1@x'")
    hba.write_text("local all reader scram-sha-256\n" + before)
    server.run("select pg_reload_conf()")
    deadline = time.monotonic() + 30
    while server.run("select count(*) from pg_hba_file_rules where auth_method = 'scram-sha-256'") == [(0,)]:
        assert time.monotonic() < deadline
    copy.sql("grant select on all tables in schema public to reader")
    yield server
    hba.write_text(before)
    server.run("select pg_reload_conf()")
    copy.sql("drop owned by reader")
    server.run("drop role reader")


@pytest.mark.parametrize("spelled", ["geheim%2F1%40x", "geheim/1@x"])
def test_a_user_who_may_only_read_is_enough(copy: Any, with_passwords: Any, tmp_path: Path, spelled: str) -> None:
    url = f"postgresql://reader:{spelled}@/{copy.database}?host={with_passwords.folder}"
    assert sync_events(url, tmp_path).events > 50
    with closing(open_history(tmp_path)) as con:
        stored = con.execute("select position from cursors where shard = 'instance'").fetchall()
    assert stored == [(f"postgresql://{with_passwords.folder}:5432/{copy.database}",)]


@pytest.mark.parametrize("password", ["wrong-geheim", "wrong%2Fgeheim%40x", "wrong/geheim@:#x"])
def test_a_wrong_password_is_refused_and_not_shown(copy: Any, with_passwords: Any, password: str) -> None:
    url = f"postgresql://reader:{password}@/{copy.database}?host={with_passwords.folder}"
    with pytest.raises(SetupError, match="password authentication failed") as caught:
        open_source(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "geheim" not in f"{error} {error!r}"
        error = error.__cause__


def test_a_table_that_may_not_be_read_says_what_to_grant(copy: Any, with_passwords: Any, tmp_path: Path) -> None:
    copy.sql("revoke select on event_logs from reader")
    url = f"postgresql://reader:geheim%2F1%40x@/{copy.database}?host={with_passwords.folder}"
    with pytest.raises(SetupError, match="Grant SELECT"):
        sync_events(url, tmp_path)


def test_a_wrong_port_host_or_database_is_refused(server: Any) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"127.0.0.1:{port}/d cannot be reached") as caught:
            open_source(f"postgresql://u:geheim@127.0.0.1:{port}/d")
        assert "geheim" not in str(caught.value)
    with pytest.raises(SetupError, match='database "nowhere" does not exist'):
        open_source(server.url("nowhere"))


def test_a_server_that_does_not_answer_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "CONNECT_S", 2)
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(SetupError, match=r"cannot be reached: .*timeout expired"):
            open_source(f"postgresql://u:geheim@127.0.0.1:{silent.getsockname()[1]}/d")
        assert time.monotonic() - started < 30


def test_a_database_that_is_not_dagsters_is_refused(server: Any) -> None:
    database = server.new_database()
    with pytest.raises(SetupError, match="is not the database of a Dagster instance: it has no table 'runs'"):
        open_source(server.url(database))
    server.run("create table runs (number integer)", database)
    with pytest.raises(SetupError, match="a table 'runs' that is not Dagster's"):
        open_source(server.url(database))


def test_a_table_held_exclusively_is_busy_and_nobody_waits_for_long(
    copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_WAIT_S", 1)
    with closing(psycopg2.connect(copy.where)) as migrating:
        with migrating.cursor() as cursor:
            cursor.execute("lock table event_logs in access exclusive mode")
        started = time.monotonic()
        with pytest.raises(BusyError, match="did not answer in time"):
            sync_events(copy.where, tmp_path)
        assert time.monotonic() - started < 30
    assert sync_events(copy.where, tmp_path).events > 50


def test_reading_does_not_keep_a_migration_waiting(copy: Any, tmp_path: Path) -> None:
    with open_source(copy.where) as source:
        sync_events(source, tmp_path)
        copy.sql("set lock_timeout = '5s'; alter table event_logs add column more text")
        assert sync_events(source, tmp_path).events == 0


def test_a_connection_that_was_lost_is_made_again(copy: Any, tmp_path: Path) -> None:
    with open_source(copy.where) as source:
        copy.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'workflows'")
        assert sync_events(source, tmp_path).events > 50


def test_instants_are_right_where_the_server_has_another_zone(copy: Any, tmp_path: Path) -> None:
    copy.sql(f"alter database {copy.database} set timezone = 'Asia/Tokyo'")

    @dg.job
    def far_away() -> None:
        pass

    started = time.time()
    with copy.instance() as instance:
        run = instance.create_run_for_job(far_away)
        instance.report_run_canceling(run)
        instance.report_run_canceled(run)
    as_stored = copy.sql("select extract(epoch from create_timestamp) from runs where run_id = %s", (run.run_id,))[0][0]
    assert float(as_stored) - started > 8 * 3600  # control: what is stored, taken for UTC, is nine hours late
    sync_events(copy.where, tmp_path)
    with closing(open_history(tmp_path)) as con:
        created, ended = con.execute(
            "select epoch(created_at), epoch(ended_at) from runs where run_id = ?", [run.run_id]
        ).fetchone()
    assert created == pytest.approx(started, abs=60)
    assert ended == pytest.approx(created, abs=60)


def test_many_runs_are_asked_for_at_once_and_long_logs_in_pieces(
    copy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = logs.OneLog._rows

    def counted(self: Any, wanted: Any, *args: Any) -> Any:
        asked.append(len(wanted))
        return real(self, wanted, *args)

    monkeypatch.setattr(logs.OneLog, "_rows", counted)
    sync_events(copy.where, tmp_path / "a")
    assert asked == [5]  # four runs and what was reported from outside
    monkeypatch.setattr("workflows_pkg.orchestration.batches.PIECE_ROWS", 7)
    sync_events(copy.where, tmp_path / "b")
    assert len(asked) > 8
    found = []
    for name in ("a", "b"):
        with closing(open_history(tmp_path / name)) as con:
            found.append(con.execute("select run_id, event_id, event_hash from events order by all").fetchall())
    assert found[0] == found[1]


@pytest.fixture
def grown(copy: Any) -> Any:
    """The table of events has grown since the server counted its rows: 100 runs of 200 events that have just ended."""
    copy.sql("alter table event_logs set (autovacuum_enabled = off)")
    copy.sql("analyze event_logs")
    copy.sql(
        "insert into runs (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp, update_timestamp, end_time) "
        "select 'ended-' || n, snapshot_id, pipeline_name, 'SUCCESS', replace(run_body, run_id, 'ended-' || n), create_timestamp, "
        "now() at time zone 'utc', extract(epoch from now()) + 60 "
        "from (select * from runs order by id limit 1) r, generate_series(1, 100) n"
    )
    copy.sql(_EVENTS, (20,))
    return copy


_EVENTS = (
    "insert into event_logs (run_id, event, dagster_event_type, timestamp, step_key) "
    "select 'ended-' || n, event, dagster_event_type, timestamp, step_key "
    "from (select * from event_logs where dagster_event_type is not null order by id limit 10) e, "
    "generate_series(1, %s) again, generate_series(1, 100) n"
)


def _rows_looked_at(copy: Any) -> int:
    """By all that closed their connections; the server adds it up when they are gone."""
    copy.sql("select pg_stat_clear_snapshot()")
    return copy.sql("select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'event_logs'")[0][
        0
    ]


def _looked_at_by_second_sync(grown: Any, home: Path) -> int:
    assert sync_events(grown.where, home).events >= 20_000
    grown.sql(_EVENTS, (1,))
    time.sleep(1)
    before = _rows_looked_at(grown)
    assert sync_events(grown.where, home).events == 1_000
    time.sleep(1)
    return _rows_looked_at(grown) - before


def test_what_is_new_is_found_without_going_through_a_table_that_grew(grown: Any, tmp_path: Path) -> None:
    assert _looked_at_by_second_sync(grown, tmp_path) < 3_000


def test_control_as_a_join_the_server_goes_through_all_of_it(grown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = logs._which

    def joined(wanted: Any) -> str:
        if all(run.start <= 1 for run in wanted):
            return real(wanted)
        starts = ", ".join("(?, ?)" for _ in wanted)
        return f"(e.run_id, true) in (select w.column1, e.id >= w.column2 from (values {starts}) w) order by e.run_id"

    monkeypatch.setattr(logs, "_which", joined)
    assert _looked_at_by_second_sync(grown, tmp_path) > 15_000


def test_a_poison_row_is_put_aside_and_its_neighbours_land(copy: Any, tmp_path: Path) -> None:
    number = copy.sql("select min(id) + 3 from event_logs")[0][0]
    copy.sql("update event_logs set event = '{\"truncated\": ' where id = %s", (number,))
    result = sync_events(copy.where, tmp_path)
    assert result.quarantined == 1
    assert result.events > 50
