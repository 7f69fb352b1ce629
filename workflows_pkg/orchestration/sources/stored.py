"""How are the stored rows of a run's log read whole, taken out and put back, in each of Dagster's storages?

Reading for history is the matter of `logs`. Here a row keeps every column as it is stored, and this is the one place that changes an
event log, in transactions that are over in well under a second: a writer of Dagster waits 30 s for SQLite, and never for a row of
PostgreSQL that is none of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from workflows_pkg.errors import BusyError, SetupError, bounded
from workflows_pkg.history.archive import StoredRow
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.sqlite_files import PATIENCE_S
from workflows_pkg.orchestration.sources.database import Database, Select, marks
from workflows_pkg.orchestration.sources.postgres import PostgresServer
from workflows_pkg.orchestration.sources.settings import Shards, storage_of
from workflows_pkg.orchestration.sources.sqlite import SqliteFile
from workflows_pkg.security.postgres_url import PostgresUrl

TABLE = "event_logs"
COLUMNS = ("id", "event", "dagster_event_type", "timestamp", "step_key", "asset_key", "partition")
"""Columns of a stored row, in the order of `StoredRow`; beside them there is `run_id`, and nothing else may be there."""

CHANGED_AT_ONCE = 1_000
"""Most rows of one transaction: some 20 ms under SQLite's lock with Dagster's seven indexes."""

PIECE_ROWS, PIECE_BYTES = 5_000, 24 * 2**20

SHARD_PAGE = 512
"""Bytes of a page of a rewritten shard. A log of Dagster has 25 tables and indexes, most of them empty, and each takes a page at least:
with SQLite's usual 4,096 bytes a shard without any event is 112 KiB (docs/archive-and-purge.md has the figures)."""

Result = TypeVar("Result")


class StoredLogs(Protocol):
    """The logs of an instance, to be read whole and changed."""

    def rows(self, run_id: str, after: int = 0) -> Iterator[list[StoredRow]]:
        """The rows of one run numbered above `after`, in pieces, in the order of their numbers."""
        ...

    def take_out(self, wanted: Sequence[tuple[str, Sequence[int]]]) -> int:
        """Removes these rows, by run and number, each run's in one transaction; returns how many were there."""
        ...

    def put_back(self, rows: Sequence[tuple[str, StoredRow]]) -> None:
        """Inserts rows that are not there, by run and under their own numbers, each run's in one transaction."""
        ...

    def has(self, run_id: str) -> bool:
        """Whether there is a log of a run that the instance has; its file may have been deleted."""
        ...

    def shrink(self, run_id: str) -> bool:
        """Gives back the space of what was taken out, where a run has a file of its own; False where somebody has it open."""
        ...

    def size(self, run_id: str) -> int:
        """Bytes of the run's own file; 0 where it has none."""
        ...

    def close(self) -> None:
        """Lets go of connections."""
        ...


def open_stored(home: Path) -> StoredLogs:
    """The logs of the instance in `home`, wherever its dagster.yaml says they are.

    Raises SetupError where the table of events has other columns than this version knows: what is not known cannot be put back.
    """
    events = storage_of(home).events
    if isinstance(events, Shards):
        return ShardedStored(events.folder)
    database: SqliteFile | PostgresServer = PostgresServer(events) if isinstance(events, PostgresUrl) else SqliteFile(events)
    return OneStored(database)


class ShardedStored:
    """One SQLite file for each run. The file `index.db` beside them, from which Dagster tells the state of assets, is never opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def rows(self, run_id: str, after: int = 0) -> Iterator[list[StoredRow]]:
        path = self._path(run_id)
        if path.exists():
            yield from _read(SqliteFile(path), run_id, after)

    def take_out(self, wanted: Sequence[tuple[str, Sequence[int]]]) -> int:
        return sum(_take_out_of_file(self._path(run_id), [(run_id, ids)]) for run_id, ids in wanted)

    def put_back(self, rows: Sequence[tuple[str, StoredRow]]) -> None:
        for run_id, of_run in groupby(rows, key=lambda pair: pair[0]):
            _put_into_file(self._path(run_id), list(of_run))

    def has(self, run_id: str) -> bool:
        return self._path(run_id).exists()

    def shrink(self, run_id: str) -> bool:
        """Writes the file anew with small pages, which SQLite does only outside of its write-ahead mode.

        The mode is changed only where nobody has the file open, and what dies in between leaves a file that Dagster uses as before.
        """
        path = self._path(run_id)
        with _changing(path) as con:
            (free,) = con.execute("pragma freelist_count").fetchone()
            (page,) = con.execute("pragma page_size").fetchone()
            if free == 0 and page == SHARD_PAGE and _mode(con) == b"wal":
                return True
            try:
                if _mode(con, "delete") != b"delete":
                    return False
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    return False
                raise
            crash_point("purge.before_rewrite")
            con.execute(f"pragma page_size = {SHARD_PAGE}")
            con.execute("vacuum")
            crash_point("purge.after_rewrite")
            return _mode(con, "wal") == b"wal"

    def size(self, run_id: str) -> int:
        path = self._path(run_id)
        return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())

    def close(self) -> None:
        pass

    def _path(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.db"


class OneStored:
    """One table for all runs, in a SQLite file or on a PostgreSQL server."""

    def __init__(self, database: SqliteFile | PostgresServer) -> None:
        self._database = database
        _refuse_unknown(database)

    def rows(self, run_id: str, after: int = 0) -> Iterator[list[StoredRow]]:
        return _pieces(self._database, run_id, after)

    def take_out(self, wanted: Sequence[tuple[str, Sequence[int]]]) -> int:
        if isinstance(self._database, SqliteFile):
            return _take_out_of_file(self._database.path, wanted)

        def change(cursor: Any) -> int:
            count = 0
            for run_id, ids in wanted:
                cursor.execute(f"delete from {TABLE} where run_id = %s and id = any(%s)", (run_id, list(ids)))
                count += cursor.rowcount
            return count

        return self._database.change(change)

    def put_back(self, rows: Sequence[tuple[str, StoredRow]]) -> None:
        if isinstance(self._database, SqliteFile):
            _put_into_file(self._database.path, rows)
            return
        columns = ", ".join(("run_id", *COLUMNS))
        values = [(run_id, row.event_id, row.event.decode(), *row[2:]) for run_id, row in rows]
        self._database.insert(f"insert into {TABLE} ({columns}) values %s", values)

    def has(self, run_id: str) -> bool:
        return True

    def shrink(self, run_id: str) -> bool:
        return True  # what is free is used again: both would have to lock out every writer to make the file smaller

    def size(self, run_id: str) -> int:
        return 0

    def close(self) -> None:
        self._database.close()


def _read(database: SqliteFile, run_id: str, after: int) -> Iterator[list[StoredRow]]:
    _refuse_unknown(database)
    return _pieces(database, run_id, after)


def _refuse_unknown(database: Database) -> None:
    have, known = database.columns(TABLE), {"run_id", *COLUMNS}
    if have != known:
        differs = [f"no column {', '.join(sorted(known - have))}"] * bool(known - have)
        differs += [f"a column {', '.join(sorted(have - known))} that this version does not know"] * bool(have - known)
        raise SetupError(
            f"{database.place}: the table {TABLE} has {' and '.join(differs)}, so its rows could not be put back as they were.",
            fix="Bring the instance up to date with `dagster instance migrate`, or use a version of agentic-workflows for this Dagster.",
        )


def _pieces(database: Database, run_id: str, after: int) -> Iterator[list[StoredRow]]:
    # an instant as the storage's own text; on SQLite it is one already
    texts = ", ".join(database.as_bytes(f"cast({column} as text)") for column in COLUMNS[1:])
    sql = f"select id, {texts} from {TABLE} where run_id = ? and id > ? order by id limit {PIECE_ROWS}"

    def query(select: Select) -> tuple[list[StoredRow], bool]:
        found: list[StoredRow] = []
        size = 0
        for row in select(sql, (run_id, after)):
            found.append(_stored(database, run_id, row))
            size += len(found[-1].event)
            if size > PIECE_BYTES:
                return found, True
        return found, len(found) == PIECE_ROWS

    more = True
    while more:
        found, more = database.read(query)
        if found:
            yield found
            after = found[-1].event_id


def _stored(database: Database, run_id: str, row: tuple[Any, ...]) -> StoredRow:
    try:
        return StoredRow(row[0], bytes(row[1]), *(None if value is None else bytes(value).decode() for value in row[2:]))
    except UnicodeDecodeError as error:
        raise SetupError(
            f"{database.place}: event {row[0]} of run {run_id} has a column that is not UTF-8.", fix="Mend or delete that row."
        ) from error


def _take_out_of_file(path: Path, wanted: Sequence[tuple[str, Sequence[int]]]) -> int:
    count = 0
    with _changing(path) as con:
        con.execute("pragma synchronous = normal")  # after a power cut the last rows are there again, and go the next time
        con.execute("begin immediate")
        for run_id, ids in wanted:
            for start in range(0, len(ids), 500):  # below SQLite's oldest limit of parameters
                some = ids[start : start + 500]
                count += con.execute(f"delete from {TABLE} where run_id = ? and id in ({marks(some)})", (run_id, *some)).rowcount
        con.execute("commit")
    return count


def _put_into_file(path: Path, rows: Sequence[tuple[str, StoredRow]]) -> None:
    columns = ", ".join(("run_id", *COLUMNS))
    # as a blob first: the text of an event may be broken, and is to come back as it was
    sql = f"insert into {TABLE} ({columns}) values (?, ?, cast(? as text), ?, ?, ?, ?, ?)"
    with _changing(path) as con:
        con.execute("begin immediate")
        con.executemany(sql, [(run_id, *row) for run_id, row in rows])
        con.execute("commit")


@contextmanager
def _changing(path: Path) -> Generator[sqlite3.Connection]:
    """A connection that may change the file; leaving by an error rolls back. Raises BusyError where somebody holds it."""
    try:
        uri = f"file:{quote(str(path))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_S, isolation_level=None)) as con:
            con.text_factory = bytes
            yield con
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise BusyError(
                f"{path} is held by another program: {error}.",
                fix="Run the same command again when that program is done; what is done by now stays done.",
            ) from error
        raise SetupError(
            f"{path} cannot be changed: {bounded(error, 200)}.",
            fix="Check that this user may write it and that the disk has room; then run the same command again.",
        ) from error
    except sqlite3.DatabaseError as error:
        raise SetupError(f"{path} cannot be changed: {bounded(error, 200)}.", fix="Restore it from a backup.") from error


def _mode(con: sqlite3.Connection, wanted: str = "") -> bytes:
    """The journal's mode, after asking for another one where `wanted` names it; SQLite answers with the one there is."""
    return con.execute(f"pragma journal_mode{f' = {wanted}' if wanted else ''}").fetchone()[0]
