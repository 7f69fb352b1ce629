"""How are the events of many runs read from the two ways in which Dagster lays them out?

`ShardedLogs`: one SQLite file for each run, its events numbered from 1. `OneLog`: one table for all runs, in SQLite or PostgreSQL,
with numbers that run through; many runs are asked for at once there.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.history.sqlite_files import read
from workflows_pkg.orchestration.sources.database import Database, Select, marks
from workflows_pkg.orchestration.sources.notes import Notes
from workflows_pkg.orchestration.sources.rows import LONGEST_EVENT, NO_ROWS, Piece, Rows, Wanted
from workflows_pkg.orchestration.sources.settings import not_looked_at
from workflows_pkg.orchestration.sources.sqlite import first_bytes

RUNS_AT_ONCE = 200
"""Runs of one question to a table of all events: some 10,000 events of ordinary runs, and parameters below SQLite's limit of 999."""

_TABLE = "event_logs"
_NEEDED = frozenset({"id", "run_id", "event"})
_UNKNOWN = "null"
_NO_EVENT = b'"dagster_event": null'  # what a line logged by user code has in its text


class EventLogs(Protocol):
    """The event logs of an instance.

    out_of_order: an event may become visible after one with a larger number, as on PostgreSQL, which numbers before it commits.
    """

    out_of_order: bool

    def pieces(self, wanted: Sequence[Wanted], limit: int, limit_bytes: int) -> Iterator[Piece]:
        """The events of these runs; pieces of one run follow each other, and each run has at least one.

        A piece has at most `limit` events, and no further one after `limit_bytes` of text.
        """
        ...

    def state(self, run_id: str) -> str:
        """What tells a changed log from an unchanged one; empty where there is no log of its own."""
        ...

    def cancel(self) -> None:
        """Ends the question that another thread is asking, where that may take long."""
        ...

    def close(self) -> None:
        """Lets go of connections."""
        ...


class ShardedLogs:
    """One SQLite file for each run in `folder`, as Dagster does unless told otherwise."""

    out_of_order = False

    def __init__(self, folder: Path, notes: Notes, *, untouched: bool) -> None:
        self._folder = str(folder.resolve())
        self._notes = notes
        self._untouched = untouched

    def pieces(self, wanted: Sequence[Wanted], limit: int, limit_bytes: int) -> Iterator[Piece]:
        for run_id, start in wanted:
            last = False
            while not last:
                piece = self._piece(run_id, start, limit, limit_bytes)
                yield piece
                last = piece.last
                start = piece.rows.numbers[-1] + 1 if piece.rows else start

    def state(self, run_id: str) -> str:
        try:
            stat = os.stat(self._path(run_id))
        except FileNotFoundError:
            return ""
        except OSError as error:  # once it may be read, its state is another one
            return str(error.strerror)
        return f"{stat.st_mtime_ns} {stat.st_size}"

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _path(self, run_id: str) -> str:
        return f"{self._folder}/{run_id}.db"

    def _piece(self, run_id: str, start: int, limit: int, limit_bytes: int) -> Piece:
        path = self._path(run_id)
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._notes.no_log(run_id)
            return Piece(run_id, gone=True)
        except OSError as error:
            return Piece(run_id, failed=not_looked_at(path, error))
        try:
            rows, last = read(path, partial(self._rows, run_id, start, limit, limit_bytes), untouched=self._untouched)
        except SetupError as error:
            return Piece(run_id, failed=error)
        except BusyError as error:
            self._notes.held(run_id)
            return Piece(run_id, failed=error)
        return Piece(run_id, rows, last)

    def _rows(self, run_id: str, start: int, limit: int, limit_bytes: int, connection: sqlite3.Connection) -> tuple[Rows, bool]:
        connection.text_factory = bytes  # one text may be no UTF-8, the others are
        values = (run_id, start, limit)
        typed = True
        try:
            cursor = connection.execute(_one_run("dagster_event_type"), values)
        except sqlite3.OperationalError:
            columns = {row[0].decode() for row in connection.execute("select name from pragma_table_info(?)", (_TABLE,))}
            if not columns:
                return NO_ROWS, True  # a log that is being made
            _refuse_foreign(self._path(run_id), columns)
            if "dagster_event_type" in columns:
                raise
            self._notes.without_column(_TABLE, "dagster_event_type")
            cursor = connection.execute(_one_run(_UNKNOWN), values)
            typed = False
        found, cut_off = _by_run(cursor, limit, limit_bytes, self._notes if typed else None)
        return found.get(run_id, NO_ROWS), cut_off is None


class OneLog:
    """One table for the events of all runs, in a database that `out_of_order` says to commit out of the order of its numbers."""

    def __init__(self, database: Database, notes: Notes, *, out_of_order: bool) -> None:
        self.out_of_order = out_of_order
        self._database = database
        self._notes = notes
        self._kind: str | None = None

    def pieces(self, wanted: Sequence[Wanted], limit: int, limit_bytes: int) -> Iterator[Piece]:
        waiting = deque(wanted)
        self._probe()
        while waiting:
            some = [waiting.popleft() for _ in range(min(RUNS_AT_ONCE, len(waiting)))]
            for group in ([run for run in some if run.start <= 1], [run for run in some if run.start > 1]):
                while group:
                    rows, cut_off = self._database.read(partial(self._rows, group, limit, limit_bytes))
                    yield from (Piece(run_id, some_rows) for run_id, some_rows in rows.items() if run_id != cut_off)
                    if cut_off is None:
                        yield from (Piece(run.run_id) for run in group if run.run_id not in rows)
                        break
                    yield from self._rest(cut_off, rows[cut_off], limit, limit_bytes)
                    group = [run for run in group if run.run_id not in rows]

    def _rest(self, run_id: str, rows: Rows, limit: int, limit_bytes: int) -> Iterator[Piece]:
        """The pieces of a run whose log goes on behind `rows`."""
        more: str | None = run_id
        while more is not None:
            yield Piece(run_id, rows, last=False)
            after = Wanted(run_id, rows.numbers[-1] + 1)
            found, more = self._database.read(partial(self._rows, [after], limit, limit_bytes))
            rows = found.get(run_id, NO_ROWS)
        yield Piece(run_id, rows)

    def state(self, run_id: str) -> str:
        del run_id
        return ""

    def cancel(self) -> None:
        self._database.cancel()

    def close(self) -> None:
        self._database.close()

    def _rows(self, wanted: Sequence[Wanted], limit: int, limit_bytes: int, select: Select) -> tuple[dict[str, Rows], str | None]:
        """Events by run, in the order of runs and numbers, and the run at which the limits cut them off."""
        kind = self._kind
        text = self._database.first_bytes("e.event", LONGEST_EVENT)
        sql = f"select e.run_id, e.id, {text}, {kind} from {_TABLE} e where {_which(wanted)}, e.id limit ?"
        values = [run.run_id for run in wanted] if _from_the_beginning(wanted) else [part for run in wanted for part in run]
        return _by_run(select(sql, (*values, limit)), limit, limit_bytes, self._notes if kind != _UNKNOWN else None)

    def _probe(self) -> None:
        """Finds out once what a database older or newer than this Dagster has: the type of an event may be missing."""
        if self._kind is None:
            columns = self._database.columns(_TABLE)
            _refuse_foreign(self._database.place, columns)
            self._kind = "e.dagster_event_type" if "dagster_event_type" in columns else _UNKNOWN
            if self._kind == _UNKNOWN:
                self._notes.without_column(_TABLE, "dagster_event_type")


def _by_run(
    rows: Iterable[tuple[Any, ...]], limit: int, limit_bytes: int, notes: Notes | None
) -> tuple[dict[str, Rows], str | None]:
    """Rows of run id, number, text and type, which come ordered by run and number, as `Rows` by run; and the run in which there were
    enough of them: `limit`, or more than `limit_bytes` of text.

    notes: where types of event are noted; None where the database does not know them. An event without a type is a line logged by
    user code.
    """
    runs: list[Any] = []
    numbers: list[int] = []
    texts: list[Any] = []
    kinds: list[Any] = []
    # kept as columns at once: rows that stay would be walked through again and again by Python's collector
    for run_id, number, text, kind in rows:
        runs.append(run_id)
        numbers.append(number)
        texts.append(text)
        kinds.append(kind)
        if text is not None:
            limit_bytes -= len(text)
            if limit_bytes < 0:
                break
    if set(map(type, texts)) != {bytes}:
        texts = [bytes(text or b"") for text in texts]  # psycopg2 gives views, an empty column nothing
    if notes is not None:
        notes.heard(kinds)
    logs = [_NO_EVENT in text for text in texts] if notes is None else [kind is None for kind in kinds]
    found = Rows.of(numbers, texts, logs)
    by_run: dict[str, Rows] = {}
    begin = 0
    for run_id, same in groupby(runs):
        end = begin + sum(1 for _ in same)
        by_run[_text(run_id)] = found.part(begin, end)
        begin = end
    full = bool(runs) and (len(runs) >= limit or limit_bytes < 0)
    return by_run, _text(runs[-1]) if full else None


def _text(run_id: Any) -> str:
    return run_id.decode() if isinstance(run_id, bytes) else run_id


def _from_the_beginning(wanted: Sequence[Wanted]) -> bool:
    return all(run.start <= 1 for run in wanted)


def _which(wanted: Sequence[Wanted]) -> str:
    """Which rows, in the order of runs: in the form that each database answers from its index on runs and numbers."""
    if _from_the_beginning(wanted):
        return f"e.run_id in ({marks(wanted)}) order by e.run_id"
    runs = " or ".join(["e.run_id = ? and e.id >= ?"] * len(wanted))
    # Each run is looked up in the index, and the few rows are sorted. How many there are, PostgreSQL guesses from statistics that lag
    # behind a table that grows; as a join, or in the order of the index, it would go through all rows of all runs for the fear of many.
    return f"{runs} order by e.run_id" if len(wanted) == 1 else f"{runs} order by e.run_id || ''"


def _one_run(kind: str) -> str:
    """All rows of a file belong to one run, so they are read as they lie there: its index would be a way round."""
    text = first_bytes("event", LONGEST_EVENT)
    return f"select run_id, id, {text}, {kind} from {_TABLE} not indexed where run_id = ? and id >= ? order by id limit ?"


def _refuse_foreign(place: str, columns: set[str]) -> None:
    if missing := sorted(_NEEDED - columns):
        raise SetupError(
            f"{place} is not Dagster's event log: its table {_TABLE} has no {', '.join(missing)}.",
            fix="Name the folder or the URL of a Dagster instance.",
        )
