"""How are the rows of Dagster's default event log read without disturbing it?

Dagster's default storage keeps three kinds of SQLite files: `history/runs.db` with one row per run, `history/runs/<run id>.db`
with the events of that run, numbered from 1 in each, and `schedules/schedules.db` with the ticks. This module opens them read
only and hands out raw rows; what an event means is the matter of `translation`.

Reading takes no lock that could make Dagster wait, and leaves no file behind where it can: a database that has been quiet for
a second is read as immutable and the read is thrown away if the file changed meanwhile; one in use is opened with `mode=ro`,
where readers and the writer of a write-ahead log do not wait for each other.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from dagster_shared.yaml_utils import load_yaml_from_path

from workflows_pkg.errors import BusyError, SetupError, bounded

QUIET_S = 1.0
"""A file untouched for this long is read as immutable. Well above the coarsest modification time in use (ext4: 4 ms)."""

PATIENCE_S = 5.0
"""How long to wait for a database that somebody holds exclusively, which only a database without a write-ahead log allows."""

LONGEST_EVENT = 8_000_000
"""Characters of an event that are read; a longer one is no longer JSON then and goes to quarantine."""

_COPY_TRIES = 5
"""A copy that changed under way is made again this often: writers pause between events."""

_ENDED = "'SUCCESS', 'FAILURE', 'CANCELED'"

Result = TypeVar("Result")


@dataclass(frozen=True)
class RunRow:
    """One row of `runs.db`, without its body. `number` counts runs in the order they were asked for."""

    number: int
    run_id: str
    status: str
    updated: str
    ended: float | None


@dataclass(frozen=True)
class EventRow:
    """One stored event. `text` is as stored; `digest` is blake2b of its bytes, 16 bytes in hex; `log`: a line logged by user code."""

    event_id: int
    digest: str
    text: str
    log: bool


@dataclass(frozen=True)
class TickRow:
    """One row of `schedules.db`. `at` and `updated` are texts as stored, UTC; `body` is JSON."""

    number: int
    status: str
    kind: str
    at: str
    body: str
    updated: str


@dataclass(frozen=True)
class RunBody:
    """What `runs.db` says of one run beside its state. `created` is text as stored, UTC."""

    run_id: str
    job_name: str
    status: str
    created: str | None
    snapshot_id: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """The files of one instance."""

    runs: Path
    shards: Path
    schedules: Path

    def shard(self, run_id: str) -> Path:
        return self.shards / f"{run_id}.db"


def open_source(instance_home: Path) -> Source:
    """Where the instance keeps its SQLite files, by its `dagster.yaml`; raises SetupError for another kind of storage."""
    home = Path(instance_home).expanduser()
    if not home.is_dir():
        raise SetupError(f"There is no Dagster instance at {home}: no such folder.", fix="Set DAGSTER_HOME, or name the folder.")
    source = _storage(home, _settings(home / "dagster.yaml"))
    if not source.runs.exists():
        raise SetupError(
            f"There is no Dagster event log at {source.runs}: the instance has not run anything, or is not at {home}.",
            fix="Start one run in this instance, or name another folder.",
        )
    return source


def _settings(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        loaded = load_yaml_from_path(str(file))
    except Exception as error:  # the YAML reader's errors have no common class outside the yaml package
        raise SetupError(f"{file} cannot be read: {bounded(error, 200)}", fix="Mend the file.") from error
    return loaded if isinstance(loaded, dict) else {}


def _storage(home: Path, settings: dict[str, Any]) -> Source:
    for old in ("run_storage", "event_log_storage", "schedule_storage"):
        name = (settings.get(old) or {}).get("class", "")
        if name and name not in ("SqliteRunStorage", "SqliteEventLogStorage", "SqliteScheduleStorage"):
            raise _unsupported(home, f"{old}: {name}")
    storage = settings.get("storage") or {}
    base: Any = home
    if storage:
        if not isinstance(storage, dict) or "sqlite" not in storage:
            raise _unsupported(home, f"storage: {', '.join(storage) if isinstance(storage, dict) else storage}")
        base = (storage["sqlite"] or {}).get("base_dir", home)
        if not isinstance(base, (str, Path)):
            raise _unsupported(home, "storage: sqlite with a base_dir from the environment")
    folders = {
        name: (settings.get(key) or {}).get("config", {}).get("base_dir", default)
        for name, key, default in (
            ("runs", "run_storage", Path(base) / "history"),
            ("shards", "event_log_storage", Path(base) / "history" / "runs"),
            ("schedules", "schedule_storage", Path(base) / "schedules"),
        )
    }
    return Source(Path(folders["runs"]) / "runs.db", Path(folders["shards"]), Path(folders["schedules"]) / "schedules.db")


def _unsupported(home: Path, found: str) -> SetupError:
    return SetupError(
        f"{home / 'dagster.yaml'}: history reads Dagster's default SQLite storage; found {bounded(found)}, which it cannot read yet.",
        fix="Use an instance with the default storage.",
    )


def read(path: Path, query: Callable[[sqlite3.Connection], Result]) -> Result:
    """`query` of a read-only connection to `path`; raises BusyError where somebody holds the file, SetupError where it is broken.

    `query` may be called twice and must read all it wants before it returns.
    """
    try:
        if (before := _quiet(path)) is not None:
            try:
                with _connection(path, "immutable=1") as connection:
                    result = query(connection)
                if _quiet(path, before) == before:
                    return result
            except sqlite3.DatabaseError:  # changed under the reader; the locked way below tells a broken file from a busy one
                pass
        try:
            with _connection(path, "mode=ro") as connection:
                return query(connection)
        except sqlite3.OperationalError:
            if not _unwritable(path):
                raise
            with _copy(path) as copied, _connection(copied, "mode=rw") as connection:
                return query(connection)
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise BusyError(f"{path} is held by another program: {error}.", fix="Wait and try again.") from error
        raise SetupError(f"{path} cannot be read: {error}.", fix="Check that it is Dagster's and may be read.") from error
    except sqlite3.DatabaseError as error:
        raise SetupError(f"{path} is not a readable SQLite file: {error}.", fix="Restore it from a backup.") from error


@contextmanager
def _connection(path: Path, how: str) -> Generator[sqlite3.Connection]:
    uri = path.resolve().as_uri()  # as_uri quotes '?', '#' and '%', which SQLite would read as parameters
    with closing(sqlite3.connect(f"{uri}?{how}", uri=True, timeout=PATIENCE_S)) as connection:
        connection.execute("pragma query_only = 1")
        yield connection


def _quiet(path: Path, before: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """Modification time and size, where nothing is being written; None where something is, or was a moment ago."""
    try:
        stat = path.stat()
        log = Path(f"{path}-wal")
        if log.exists() and log.stat().st_size > 0:
            return None
    except OSError:
        return None
    if before is None and time.time() - stat.st_mtime < QUIET_S:
        return None
    return (stat.st_mtime_ns, stat.st_size)


def _unwritable(path: Path) -> bool:
    """Whether SQLite could not make the index of the write-ahead log, as in a folder that this user may only read."""
    return Path(f"{path}-wal").exists() and path.exists()


@contextmanager
def _copy(path: Path) -> Generator[Path]:
    """A private copy of the file and its write-ahead log as they were at one moment; raises BusyError where they never rest."""
    log = Path(f"{path}-wal")
    with tempfile.TemporaryDirectory(prefix="workflows-") as folder:
        copied = Path(folder) / path.name
        for _ in range(_COPY_TRIES):
            before = _states(path, log)
            shutil.copyfile(path, copied)
            if log.exists():
                shutil.copyfile(log, f"{copied}-wal")
            if _states(path, log) == before:
                yield copied
                return
        raise BusyError(f"{path} changes faster than it can be copied, and its folder may only be read.", fix="Try again later.")


def _states(*files: Path) -> list[tuple[int, int] | None]:
    found = [file.stat() if file.exists() else None for file in files]
    return [(stat.st_mtime_ns, stat.st_size) if stat else None for stat in found]


def identity(source: Source) -> str | None:
    """The id that Dagster gave this instance's run storage, None where it has not given one yet."""

    def query(connection: sqlite3.Connection) -> str | None:
        found = connection.execute("select run_storage_id from instance_info limit 1").fetchone()
        return found[0] if found else None

    return read(source.runs, query)


def run_rows(source: Source, since: str, known: Mapping[str, bool]) -> tuple[list[RunRow], set[str]]:
    """Runs that may have news, in the order they were asked for, and the ids of all runs there are.

    News may have: runs updated at `since` or later (text as stored), runs that are not over, and those that `known` (run id -> whether all
    of it was read) does not have or has as not read to the end.
    """
    columns = "id, run_id, status, coalesce(update_timestamp, ''), end_time"

    def query(connection: sqlite3.Connection) -> tuple[list[RunRow], set[str]]:
        ids = {row[0] for row in connection.execute("select run_id from runs")}
        rows = connection.execute(
            f"select {columns} from runs where coalesce(update_timestamp, '') >= ? or status not in ({_ENDED})", (since,)
        ).fetchall()
        seen = {row[1] for row in rows}
        for some in _chunks(sorted(run_id for run_id in ids - seen if not known.get(run_id, False))):
            rows += connection.execute(f"select {columns} from runs where run_id in ({_marks(some)})", some).fetchall()
        return [RunRow(*row) for row in sorted(rows)], ids

    return read(source.runs, query)


def event_rows(source: Source, run_id: str, start: int, limit: int, limit_bytes: int) -> list[EventRow]:
    """Events of one run numbered `start` or above, in order; empty where the run has no log (any more).

    At most `limit` of them, and no further one after `limit_bytes` of text.
    """
    path = source.shard(run_id)
    if not path.exists():
        return []

    def query(connection: sqlite3.Connection) -> list[EventRow]:
        connection.text_factory = bytes
        if not connection.execute("select 1 from sqlite_master where name = 'event_logs'").fetchone():
            return []  # a log that is being made
        found: list[EventRow] = []
        size = 0
        for number, text, log in connection.execute(
            "select id, substr(event, 1, ?), dagster_event_type is null from event_logs where run_id = ? and id >= ? order by id limit ?",
            (LONGEST_EVENT, run_id, start, limit),
        ):
            found.append(EventRow(number, digest(text), _text(text), bool(log)))
            size += len(text or b"")
            if size > limit_bytes:
                break
        return found

    return read(path, query)


def run_bodies(source: Source, run_ids: list[str]) -> list[RunBody]:
    """Those of the runs that are (still) there; the tag `dagster/parent_run_id` also where only the body names the parent."""

    def query(connection: sqlite3.Connection) -> list[RunBody]:
        found: list[RunBody] = []
        for some in _chunks(run_ids):
            tags: dict[str, dict[str, str]] = {}
            for run_id, key, value in connection.execute(
                f"select run_id, key, value from run_tags where run_id in ({_marks(some)})", some
            ):
                tags.setdefault(run_id, {})[key] = value
            for run_id, job, status, created, snapshot, parent in connection.execute(
                "select run_id, pipeline_name, status, create_timestamp, snapshot_id, "
                "case when json_valid(run_body) then json_extract(run_body, '$.parent_run_id') end "
                f"from runs where run_id in ({_marks(some)})",
                some,
            ):
                parents = {"dagster/parent_run_id": parent} if parent else {}
                found.append(RunBody(run_id, job or "", status or "", created, snapshot, {**parents, **tags.get(run_id, {})}))
        return found

    return read(source.runs, query)


def tick_rows(source: Source, since: str, after: int, limit: int) -> list[TickRow]:
    """At most `limit` ticks numbered above `after` that were updated at `since` or later (text as stored), in order."""
    if not source.schedules.exists():
        return []

    def query(connection: sqlite3.Connection) -> list[TickRow]:
        return [
            TickRow(*row)
            for row in connection.execute(
                "select id, status, type, timestamp, tick_body, coalesce(update_timestamp, '') from job_ticks "
                "where id > ? and coalesce(update_timestamp, '') >= ? order by id limit ?",
                (after, since, limit),
            )
        ]

    return read(source.schedules, query)


def digest(text: bytes | None) -> str:
    """blake2b of the stored text, 16 bytes in hex."""
    return blake2b(text or b"", digest_size=16).hexdigest()


def _text(stored: bytes | None) -> str:
    """The stored text; what is not UTF-8 becomes a sentence that is not JSON, so that the event goes to quarantine."""
    try:
        return (stored or b"").decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error}"


def _marks(ids: list[str]) -> str:
    return ", ".join("?" * len(ids))


def _chunks(ids: list[str], size: int = 500) -> Iterator[list[str]]:
    """Pieces below SQLite's limit of 999 parameters in a statement."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
