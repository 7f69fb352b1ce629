"""What people name is opened as Dagster would, or refused in one sentence that says what was probably meant."""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from dagster._core.events import DagsterEventType

from workflows_pkg.errors import BusyError, MissingExtra, SetupError
from workflows_pkg.history import sqlite_files
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.sources import notes, open_source
from workflows_pkg.orchestration.sources.settings import Shards, storage_of
from workflows_pkg.security.postgres_url import PostgresUrl


@pytest.fixture
def home(copied: Callable[[str], Any]) -> Path:
    return copied("sharded").home


def refused(where: Path | str, **more: Any) -> str:
    with pytest.raises(SetupError) as caught:
        open_source(where, **more)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    return str(caught.value)


# folders


@pytest.mark.parametrize(
    "inside", ["history", "history/runs", "history/runs.db", "schedules", "dagster.yaml", "history/runs/index.db", "nowhere"]
)
def test_a_place_inside_an_instance_is_refused_with_the_folder_that_was_meant(home: Path, inside: str) -> None:
    said = refused(home / inside)
    assert f"Did you mean {home}?" in said
    assert str(home / inside) in said


def test_a_folder_above_an_instance_is_refused_with_the_folder_that_was_meant(home: Path, tmp_path: Path) -> None:
    above = tmp_path / "project"
    shutil.copytree(home, above / ".dagster_home")
    (above / "code").mkdir()
    assert f"Did you mean {above / '.dagster_home'}?" in refused(above)


def test_an_empty_folder_and_one_without_runs_are_told_apart(tmp_path: Path) -> None:
    empty, fresh = tmp_path / "a" / "empty", tmp_path / "b" / "fresh"
    empty.mkdir(parents=True)
    fresh.mkdir(parents=True)
    (fresh / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    assert "There is no Dagster event log at" in refused(empty)
    assert "has not run anything yet" in refused(fresh)
    assert "no such folder" in refused(tmp_path / "nowhere")


def test_reading_the_settings_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {sqlite: {base_dir: %s}}\n" % (tmp_path / "made"))
    refused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dagster.yaml"]


# dagster.yaml

URL = "postgresql://me:geheim@db.example:5433/dagster"
POSTGRES = PostgresUrl(URL, "db.example:5433/dagster")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("{home}/history/runs.db", "{home}/history/runs", "{home}/schedules/schedules.db")),
        ("storage: {sqlite: {base_dir: /d}}", ("/d/history/runs.db", "/d/history/runs", "/d/schedules/schedules.db")),
        ("storage: {sqlite: {base_dir: {env: WHERE}}}", ("/e/history/runs.db", "/e/history/runs", "/e/schedules/schedules.db")),
        (
            "storage: {custom: {module: dagster._core.storage.sqlite_storage, class: DagsterSqliteStorage, config: {base_dir: /d}}}",
            ("/d/history/runs.db", "/d/history/runs", "/d/schedules/schedules.db"),
        ),
        (
            "event_log_storage: {module: m, class: ConsolidatedSqliteEventLogStorage, config: {base_dir: /one}}",
            ("{home}/history/runs.db", "/one/event_log.db", "{home}/schedules/schedules.db"),
        ),
        (
            "run_storage: {module: m, class: SqliteRunStorage, config: {base_dir: /r}}\n"
            "event_log_storage: {module: m, class: SqliteEventLogStorage, config: {base_dir: /l}}\n"
            "schedule_storage: {module: m, class: SqliteScheduleStorage, config: {base_dir: {env: WHERE}}}",
            ("/r/runs.db", "/l", "/e/schedules.db"),
        ),
        (f"storage: {{postgres: {{postgres_url: '{URL}'}}}}", (POSTGRES,) * 3),
        ("storage: {postgres: {postgres_url: {env: PG}}}", (POSTGRES,) * 3),
        (
            "storage: {postgres: {postgres_db: {username: me, password: {env: WORD}, hostname: db.example, db_name: dagster, port: 5433}}}",
            (POSTGRES,) * 3,
        ),
        (
            "run_storage: {module: dagster_postgres.run_storage, class: PostgresRunStorage, config: {postgres_url: {env: PG}}}",
            (POSTGRES, "{home}/history/runs", "{home}/schedules/schedules.db"),
        ),
    ],
)
def test_the_settings_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[Any, ...]) -> None:
    for name, value in (("WHERE", "/e"), ("PG", URL.replace("postgresql", "postgresql+psycopg2")), ("WORD", "geheim")):
        monkeypatch.setenv(name, value)
    (tmp_path / "dagster.yaml").write_text(text)
    storage = storage_of(tmp_path)
    found = (storage.runs, storage.events.folder if isinstance(storage.events, Shards) else storage.events, storage.schedules)
    wanted = tuple(Path(part.format(home=tmp_path)) if isinstance(part, str) else part for part in expected)
    assert found == wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("storage:\n  mysql:\n    mysql_url: mysql://me:geheim@h/d", "storage: mysql"),
        ("storage: {custom: {module: mine, class: MyStorage, config: {}}}", "storage: custom: MyStorage"),
        ("event_log_storage: {module: mine, class: MyEvents}", "event_log_storage: MyEvents"),
        ("run_storage: {module: dagster_mysql.run_storage, class: MySQLRunStorage, config: {}}", "MySQLRunStorage"),
        ("instance_class: {module: dagster_cloud, class: DagsterCloudAgentInstance}", "DagsterCloudAgentInstance"),
        ("storage: {postgres: {postgres_url: {env: NOT_SET_HERE}}}", "environment variable NOT_SET_HERE, which is not set"),
        ("storage: {postgres: {postgres_db: {username: u, password: {env: NOT_SET_HERE}}}}", "NOT_SET_HERE"),
        ("storage: {postgres: {}}", "expected postgres_url or postgres_db"),
        ("storage: {postgres: {postgres_db: {password: geheim}}}", "expected username, password, hostname and db_name"),
        ("storage: {postgres: {postgres_url: 'mysql://me:geheim@h/d'}}", "Expected a PostgreSQL URL"),
        ("storage: [sqlite, postgres]", "expected one of sqlite, postgres, mysql or custom"),
        ("storage: {sqlite: {base_dir: 3}}", "expected a folder, found 3"),
        ("storage: {a: [", "cannot be read"),
    ],
)
def test_settings_that_cannot_be_followed_are_named(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "dagster.yaml").write_text(text)
    said = refused(tmp_path)
    assert found in said
    assert "geheim" not in said
    assert re.search(r"[.!?:'\"] [A-Z][a-z]+ [^.]*\.$", said), "what to do is a sentence of its own"
    if "URL" not in found:
        assert str(tmp_path / "dagster.yaml") in said


@pytest.mark.parametrize(
    ("url", "dsn", "place"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:p@h/d", "h:5432/d"),
        ("postgres://h:5433/d", "postgresql://h:5433/d", "h:5433/d"),
        ("postgresql+psycopg2://u:p@h:1/d?sslmode=require", "postgresql://u:p@h:1/d?sslmode=require", "h:1/d"),
        ("postgresql://u:a%40b@[::1]:5/d", "postgresql://u:a%40b@[::1]:5/d", "[::1]:5/d"),
        ("postgresql://u@/d?host=/run/pg", "postgresql://u@/d?host=/run/pg", "/run/pg:5432/d"),
        ("postgresql://u:a/b@c:#d@h:1/d", "postgresql://u:a%2Fb%40c%3A%23d@h:1/d", "h:1/d"),
        ("postgresql://u:p@h/d?application_name=a@b", "postgresql://u:p@h/d?application_name=a@b", "h:5432/d"),
    ],
)
def test_urls_are_understood_and_show_no_password(url: str, dsn: str, place: str) -> None:
    found = PostgresUrl.of(url)
    assert (found.dsn, found.place) == (dsn, place)
    assert repr(found) == f"PostgresUrl(place={place!r})"


def test_a_url_of_another_kind_is_refused() -> None:
    assert "URL of kind 'mysql'" in refused("mysql://me:geheim@h/d")
    assert "geheim" not in refused("mysql://me:geheim@h/d")
    assert "geheim" not in refused("postgresql://me:geheim:5432/d/x")
    assert "URL of kind 'http'" in refused("http://localhost:3000")


@pytest.mark.parametrize(
    "typed",
    [
        "me:geheim@127.0.0.1/db",
        "postgres:geheim@127.0.0.1/db",
        "postgres:ge@heim:5@127.0.0.1:5432/db",
        "postgresql//me:geheim@h/db",
        "postgresql:me:geheim@h/db",
        "jdbc:postgresql://me:geheim@h/db",
        "host=127.0.0.1 password=geheim",
        "host=127.0.0.1 user=me PASSWORD = 'ge heim' dbname=d",
        '"host=127.0.0.1 password=geheim"',
        "me:geheim@h/" + "x" * 5000,
    ],
)
def test_what_is_almost_a_url_is_told_so_without_its_password(typed: str) -> None:
    said = refused(typed)
    assert "heim" not in said
    assert "ge@" not in said
    assert "***" in said
    assert "postgresql://user:password@host:5432/database" in said or "too long" in said


@pytest.mark.parametrize("around", [" {}", '"{}"', "'{}'", "{}\n", ' "{}" '])
def test_a_url_with_something_stray_around_it_works(around: str, server: Any) -> None:
    name = server.new_database()
    said = refused(around.format(server.url(name, password="geheim")))
    assert f"{name} is not the database of a Dagster instance" in said, "it was reached"
    assert "geheim" not in said


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psycopg2", "psycopg2.extensions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'agentic-workflows\[postgres\]'"):
        open_source("postgresql://u:geheim@h/d")


# files that are not as they should be


def test_a_half_written_table_of_runs_is_refused(home: Path) -> None:
    file = home / "history" / "runs.db"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    Path(f"{file}-wal").unlink(missing_ok=True)
    assert str(file) in refused(home)
    file.write_bytes(b"")
    assert "has no table 'runs'" in refused(home)
    file.write_bytes(b"this is no database" * 1000)
    assert "not a readable SQLite file" in refused(home)


def test_a_database_of_somebody_else_is_refused(home: Path) -> None:
    file = home / "history" / "runs.db"
    file.unlink()
    with closing(sqlite3.connect(file)) as con, con:
        con.execute("create table runs (number integer)")
    assert "a table 'runs' that is not Dagster's" in refused(home)


def test_a_broken_log_is_a_note_and_the_others_are_read(home: Path, tmp_path: Path) -> None:
    logs = sorted((home / "history" / "runs").glob("*-*.db"))
    logs[0].write_bytes(b"this is no database" * 1000)
    logs[1].unlink()
    with open_source(home, untouched=True) as source:
        result = sync_events(source, tmp_path / "history")
        assert source.notes == ("1 run without a log: deleted, or kept elsewhere",)
    assert (result.quarantined, result.complete) == (1, True)
    with closing(open_history(tmp_path / "history")) as con:
        assert con.execute("select count(distinct run_id) from events").fetchone() == (3,)
        assert con.execute("select count(*) from runs").fetchone() == (4,)


def test_a_missing_or_broken_table_of_ticks_is_a_note(home: Path, tmp_path: Path) -> None:
    file = home / "schedules" / "schedules.db"
    file.write_bytes(b"this is no database" * 1000)
    with open_source(home) as source:
        assert sync_events(source, tmp_path / "a").events > 50
        assert source.notes == (f"ticks: {file} is not a readable SQLite file: file is not a database.",)
    file.unlink()
    with open_source(home) as source:
        assert sync_events(source, tmp_path / "b").events > 50
        assert source.notes == ("ticks: no schedules.db",)


def test_a_database_held_exclusively_is_busy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "PATIENCE_S", 0.1)
    with closing(sqlite3.connect(home / "history" / "runs.db", isolation_level=None)) as con:
        con.execute("pragma journal_mode = delete")
        con.execute("pragma locking_mode = exclusive")
        con.execute("begin exclusive")
        con.execute("update runs set mode = 'x'")
        with pytest.raises(BusyError, match="is held by another program"):
            open_source(home)
        con.execute("rollback")


# another version of Dagster


def test_an_older_or_newer_instance_is_read_as_far_as_it_is_known(place: Any, tmp_path: Path) -> None:
    if place.kind == "postgres":
        place.sql("alter table event_logs add column something_new text")
        place.sql("alter table runs drop column snapshot_id")
        place.sql("alter table runs drop column end_time")
    else:
        with closing(sqlite3.connect(place.home / "history" / "runs.db")) as con, con:
            con.execute("alter table runs rename column snapshot_id to something_else")
            con.execute("alter table runs rename column end_time to something_new")
    kind = "update event_logs set event = replace(event, 'STEP_START\"', 'STEP_DREAMS\"'), dagster_event_type = 'STEP_DREAMS' "
    kind += "where dagster_event_type = 'STEP_START'"
    if place.kind == "sharded":
        for log in (place.home / "history" / "runs").glob("*-*.db"):
            with closing(sqlite3.connect(log)) as con, con:
                con.execute(kind)
    else:
        place.sql(kind)
    with open_source(place.where) as source:
        result = sync_events(source, tmp_path)
        assert source.notes == (
            "events of kinds that this version of Dagster does not know: STEP_DREAMS",
            "columns that this instance does not have: runs.end_time, runs.snapshot_id",
        )
    assert result.quarantined == 0
    with closing(open_history(tmp_path)) as con:
        assert con.execute("select count(*) > 2 from events where kind = 'other' and step_key is not null").fetchone() == (True,)
        assert con.execute("select count(*) from runs").fetchone() == (4,)


def test_a_log_without_the_column_of_types_is_read(place: Any, tmp_path: Path) -> None:
    drop = "alter table event_logs rename column dagster_event_type to of_another_name"
    if place.kind == "sharded":
        for log in (place.home / "history" / "runs").glob("*-*.db"):
            with closing(sqlite3.connect(log)) as con, con:
                con.execute(drop)
    else:
        place.sql(drop)
    with open_source(place.where) as source:
        result = sync_events(source, tmp_path)
        assert source.notes == ("columns that this instance does not have: event_logs.dagster_event_type",)
    assert result.events > 50
    assert result.quarantined == 0
    assert result.log_lines > 0


def test_the_known_types_of_event_are_dagsters() -> None:
    assert set(notes._KINDS.split()) == {kind.value for kind in DagsterEventType}
