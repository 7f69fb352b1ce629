"""How are the events of many runs read from the two ways in which Dagster lays them out?

`ShardedLogs`: one SQLite file for each run, its events numbered from 1. `OneLog`: one table for all runs, in SQLite or PostgreSQL,
with numbers that run through; many runs are asked for at once there.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Protocol

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.orchestration.sources.database import Database, Select, marks
from workflows_pkg.orchestration.sources.notes import Notes
from workflows_pkg.orchestration.sources.rows import LONGEST_EVENT, EventRow, Piece, Wanted, event_row
from workflows_pkg.orchestration.sources.sqlite import read

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
                start = piece.rows[-1].event_id + 1 if piece.rows else start

    def state(self, run_id: str) -> str:
        try:
            stat = os.stat(self._path(run_id))
        except OSError:
            return ""
        return f"{stat.st_mtime_ns} {stat.st_size}"

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _path(self, run_id: str) -> str:
        return f"{self._folder}/{run_id}.db"

    def _piece(self, run_id: str, start: int, limit: int, limit_bytes: int) -> Piece:
        path = self._path(run_id)
        if not os.path.exists(path):
            self._notes.no_log(run_id)
            return Piece(run_id, [], gone=True)
        try:
            rows, last = read(path, partial(self._rows, run_id, start, limit, limit_bytes), untouched=self._untouched)
        except (SetupError, BusyError) as error:
            self._notes.unreadable(run_id)
            return Piece(run_id, [], failed=error)
        return Piece(run_id, rows, last)

    def _rows(
        self, run_id: str, start: int, limit: int, limit_bytes: int, connection: sqlite3.Connection
    ) -> tuple[list[EventRow], bool]:
        connection.text_factory = bytes  # one text may be no UTF-8, the others are
        values = (run_id, start, limit)
        known = True
        try:
            cursor = connection.execute(_one_run("dagster_event_type"), values)
        except sqlite3.OperationalError:
            columns = {row[0].decode() for row in connection.execute("select name from pragma_table_info(?)", (_TABLE,))}
            if not columns:
                return [], True  # a log that is being made
            _refuse_foreign(self._path(run_id), columns)
            if "dagster_event_type" in columns:
                raise
            self._notes.without_column(_TABLE, "dagster_event_type")
            cursor = connection.execute(_one_run(_UNKNOWN), values)
            known = False
        found: list[EventRow] = []
        size = 0
        for event_id, stored, kind in cursor:
            stored = bytes(stored or b"")[:LONGEST_EVENT]
            log = self._notes.heard(kind) if known else _NO_EVENT in stored
            found.append(event_row(event_id, stored, log))
            size += len(stored)
            if size > limit_bytes:
                return found, False
        return found, len(found) < limit


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
                    found, full = self._database.read(partial(self._rows, group, limit, limit_bytes))
                    rows = {run_id: [row for _, row in pairs] for run_id, pairs in groupby(found, key=lambda pair: pair[0])}
                    cut_off = found[-1][0] if full else None
                    yield from (Piece(run_id, some_rows) for run_id, some_rows in rows.items() if run_id != cut_off)
                    if cut_off is None:
                        yield from (Piece(run.run_id, []) for run in group if run.run_id not in rows)
                        break
                    yield from self._rest(cut_off, rows[cut_off], limit, limit_bytes)
                    group = [run for run in group if run.run_id not in rows]

    def _rest(self, run_id: str, rows: list[EventRow], limit: int, limit_bytes: int) -> Iterator[Piece]:
        """The pieces of a run whose log goes on behind `rows`."""
        more = True
        while more:
            yield Piece(run_id, rows, last=False)
            after = Wanted(run_id, rows[-1].event_id + 1)
            found, more = self._database.read(partial(self._rows, [after], limit, limit_bytes))
            rows = [row for _, row in found]
        yield Piece(run_id, rows)

    def state(self, run_id: str) -> str:
        del run_id
        return ""

    def cancel(self) -> None:
        self._database.cancel()

    def close(self) -> None:
        self._database.close()

    def _rows(
        self, wanted: Sequence[Wanted], limit: int, limit_bytes: int, select: Select
    ) -> tuple[list[tuple[str, EventRow]], bool]:
        """Events in the order of runs and numbers, and whether the limits cut them off."""
        kind = self._kind
        sql = (
            f"select run_id, id, {self._database.as_bytes(f'substr(event, 1, {LONGEST_EVENT})')}, kind from ("
            f"select e.run_id, e.id, e.event, {kind} as kind from {_where(wanted)} order by e.run_id, e.id limit ?"
            ") found order by run_id, id"
        )
        values = [run.run_id for run in wanted] if _from_the_beginning(wanted) else [part for run in wanted for part in run]
        found: list[tuple[str, EventRow]] = []
        size = 0
        for run_id, event_id, stored, kind_found in select(sql, (*values, limit)):
            stored = bytes(stored or b"")
            log = self._notes.heard(kind_found) if kind != _UNKNOWN else _NO_EVENT in stored
            found.append((run_id, event_row(event_id, stored, log)))
            size += len(stored)
            if len(found) >= limit or size > limit_bytes:
                return found, True
        return found, False

    def _probe(self) -> None:
        """Finds out once what a database older or newer than this Dagster has: the type of an event may be missing."""
        if self._kind is None:
            columns = self._database.columns(_TABLE)
            _refuse_foreign(self._database.place, columns)
            self._kind = "e.dagster_event_type" if "dagster_event_type" in columns else _UNKNOWN
            if self._kind == _UNKNOWN:
                self._notes.without_column(_TABLE, "dagster_event_type")


def _from_the_beginning(wanted: Sequence[Wanted]) -> bool:
    return all(run.start <= 1 for run in wanted)


def _where(wanted: Sequence[Wanted]) -> str:
    """Which rows, in the form whose order each database takes from its index on runs and numbers where it can."""
    if _from_the_beginning(wanted):
        return f"{_TABLE} e where e.run_id in ({marks(wanted)})"
    if len(wanted) == 1:
        return f"{_TABLE} e where e.run_id = ? and e.id >= ?"
    starts = ", ".join("(?, ?)" for _ in wanted)
    # SQLite takes the left side of a cross join first, which is the short one
    return f"(values {starts}) w cross join {_TABLE} e where e.run_id = w.column1 and e.id >= w.column2"


def _one_run(kind: str) -> str:
    return f"select id, event, {kind} from {_TABLE} where run_id = ? and id >= ? order by id limit ?"


def _refuse_foreign(place: str, columns: set[str]) -> None:
    if missing := sorted(_NEEDED - columns):
        raise SetupError(
            f"{place} is not Dagster's event log: its table {_TABLE} has no {', '.join(missing)}.",
            fix="Name the folder or the URL of a Dagster instance.",
        )
