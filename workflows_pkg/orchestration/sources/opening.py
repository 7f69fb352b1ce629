"""Which instance does a folder or a URL mean, and can it be read?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.orchestration.sources.database import Database
from workflows_pkg.orchestration.sources.logs import EventLogs, OneLog, ShardedLogs
from workflows_pkg.orchestration.sources.notes import Notes
from workflows_pkg.orchestration.sources.postgres import PostgresServer
from workflows_pkg.orchestration.sources.settings import READABLE, Shards, Storage, looked_at, on_postgres, shown, storage_of
from workflows_pkg.orchestration.sources.source import Source
from workflows_pkg.orchestration.sources.sqlite import SqliteFile
from workflows_pkg.security.postgres_url import PostgresUrl

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/")

_STRAY = " \t\r\n\"'`"
"""What comes along when a URL is copied out of a file or a mail."""

_ALMOST_URL = re.compile(r"^(postgres|jdbc:)|@|//|\w+\s*=", re.IGNORECASE)
"""What somebody typed who meant a database: a scheme, a login, or libpq's `host=...`."""

_LOOKED_AT = 500
"""Entries of a folder among which an instance is looked for, so that a wrong folder is refused at once, however big."""


def open_source(where: Path | str, *, untouched: bool = False) -> Source:
    """The instance meant by `where`: a DAGSTER_HOME folder, whose `dagster.yaml` is followed, or a PostgreSQL URL.

    untouched: not a byte of the instance changes, nor does a file appear beside its files; what is in use is read from a private copy.

    Opens what it needs to see that it is Dagster's. Raises SetupError where it is not or cannot be read, with the folder that was
    probably meant; BusyError where somebody holds it exclusively.
    """
    typed = str(where).strip(_STRAY)
    named = _URL.match(typed)
    if named:
        return _opened(on_postgres(_url(typed, named[1])), None, untouched)
    try:
        home = Path(where).expanduser()
    except RuntimeError:  # a user that does not exist
        home = Path(where)
    with looked_at(home):
        if not home.is_dir():
            raise _not_a_folder(home)
        storage = storage_of(home)
        if isinstance(storage.runs, Path) and not storage.runs.is_file():
            raise _no_runs(home, storage.runs)
        return _opened(storage, home, untouched)


def _url(text: str, scheme: str) -> PostgresUrl:
    if "://" not in text:  # pathlib takes one slash away
        text = text.replace(":/", "://", 1)
    if not scheme.lower().startswith("postgres"):
        raise SetupError(
            f"{READABLE} Found a URL of kind '{bounded(scheme, 30)}'.",
            fix="Name a DAGSTER_HOME folder or write postgresql://user:password@host:5432/database.",
        )
    return PostgresUrl.of(text)


def _opened(storage: Storage, home: Path | None, untouched: bool) -> Source:
    servers: dict[PostgresUrl, PostgresServer] = {}

    def database(at: Path | PostgresUrl) -> Database:
        if isinstance(at, Path):
            return SqliteFile(at.resolve(), untouched=untouched)
        return servers.setdefault(at, PostgresServer(at))

    notes = Notes()
    runs, schedules = database(storage.runs), database(storage.schedules)
    try:
        _refuse_foreign(runs)
    except BaseException:
        runs.close()
        raise
    logs: EventLogs
    if isinstance(storage.events, Shards):
        logs = ShardedLogs(storage.events.folder, notes, untouched=untouched)
    else:
        logs = OneLog(database(storage.events), notes, out_of_order=isinstance(storage.events, PostgresUrl))
    return Source(runs, logs, schedules, notes, _described(storage, home))


def _described(storage: Storage, home: Path | None) -> str:
    if isinstance(storage.events, PostgresUrl):
        described = f"PostgreSQL at {storage.events.place}"
    else:
        described = f"{'run-sharded' if isinstance(storage.events, Shards) else 'consolidated'} SQLite at {home}"
    if isinstance(storage.runs, PostgresUrl) and not isinstance(storage.events, PostgresUrl):
        return f"{described}, runs in PostgreSQL at {storage.runs.place}"
    if isinstance(storage.events, PostgresUrl) and isinstance(storage.runs, Path):
        return f"{described}, runs at {storage.runs}"
    return described


def _refuse_foreign(runs: Database) -> None:
    columns = runs.columns("runs")
    if not {"run_id", "status"} <= columns:
        found = "no table 'runs'" if not columns else "a table 'runs' that is not Dagster's"
        raise SetupError(
            f"{runs.place} is not the database of a Dagster instance: it has {found}.",
            fix="Name the folder or the database in which Dagster keeps its runs.",
        )


def _not_a_folder(home: Path) -> SetupError:
    if not home.exists():
        typed = str(home).strip(_STRAY)
        if _ALMOST_URL.search(typed):
            return SetupError(
                f"There is no folder {shown(typed)}; it looks like the address of a database, and is no URL.",
                fix="Write postgresql://user:password@host:5432/database.",
            )
        return SetupError(f"There is no Dagster instance at {shown(home)}: no such folder.", fix=_meant(home) or _ASK)
    return SetupError(f"{shown(home)} is a file; expected the folder of a Dagster instance.", fix=_meant(home) or _ASK)


def _no_runs(home: Path, runs: Path) -> SetupError:
    meant = _meant(home)
    if (home / "dagster.yaml").exists() and not meant:
        return SetupError(
            f"The Dagster instance at {home} has not run anything yet: there is no {runs}.", fix="Start one run in it first."
        )
    return SetupError(
        f"There is no Dagster event log at {runs}: {home} is not an instance that has run anything.", fix=meant or _ASK
    )


_ASK = "Set DAGSTER_HOME, or name the folder that has history/runs.db in it."


def _meant(given: Path) -> str:
    """A sentence with the folder that was probably meant, empty where none is near."""
    found = [folder for folder in _near(given) if folder != given and os.access(folder / "history" / "runs.db", os.F_OK)]
    return f"Did you mean {found[0]}?" if found else ""


def _near(given: Path) -> Iterator[Path]:
    """Folders above and below, the nearest first."""
    above = given.absolute()
    yield from islice(above.parents, 3)
    if given.is_dir():
        below = sorted(islice(_folders(given), _LOOKED_AT))
        yield from below
        for folder in below:
            yield from islice(_folders(folder), _LOOKED_AT // 10)


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return
