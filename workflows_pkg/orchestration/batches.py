"""What is new in an instance, in pieces that one transaction lands each?

A `Plan` says which runs may have news, by one look at the table of runs; `batches` reads their logs from where each was left. Reading
goes on in a thread of its own while a batch is landed: half of the time of an import is SQLite's and Python's, half is DuckDB's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

import duckdb
import pyarrow as pa

from workflows_pkg.errors import BusyError, SetupError, bounded
from workflows_pkg.history.ingest import RAW_SCHEMA, Find, finder
from workflows_pkg.history.records import Cursor, Quarantined
from workflows_pkg.orchestration.facts import instant, moment, run_facts
from workflows_pkg.orchestration.positions import OVERLAP, Position, Reading, is_deleted
from workflows_pkg.orchestration.sources.rows import NO_ROWS, RUNLESS, Piece, Rows, RunBody, RunRow, Wanted
from workflows_pkg.orchestration.sources.source import Source
from workflows_pkg.orchestration.translation import plain_texts, texts_of

GRACE = timedelta(seconds=60)
"""How long after its end a run may still write: its process says good-bye after the last event (dagster/_grpc/impl.py)."""

TALKS_ON, TURN_S = timedelta(seconds=5), 5
"""What a run writes after its end comes within seconds; later its log is looked at by the first sync of every so many seconds until the
last look at it, since of a busy instance thousands of runs ended within `GRACE`. So ten seconds pass at most between two looks, where
there is a sync every five as the sensor makes them.
"""

BATCH_ROWS, BATCH_BYTES, BATCH_RUNS = 100_000, 48 * 2**20, 5_000
"""Most of what one transaction takes: a second or two of work. Three of them are in memory at once, each of them twice."""

PIECE_ROWS, PIECE_BYTES = 5_000, 24 * 2**20
"""Most that is read of one log at once, so that a batch ends soon after it is full; one of the longest events comes on top."""

PART_BYTES = 2**20
"""Text that is held row by row before it is put into columns: small, so that the same memory is used again and again."""

RUNS_ASKED = 400
"""Runs whose logs are asked for together."""

PATH, RUNS, TICKS = "instance", "runs", "ticks"
"""Cursors beside those of the runs' logs, whose shard is the run id."""

RUN_ROW = -1
"""In the place of an event's number: the run's own row could not be read. 0 stands for its log."""

_OVER = ("SUCCESS", "FAILURE", "CANCELED")
_WAIT_S = 0.2  # how often somebody who waits for a batch hears how many runs were read
_PATIENCE_S = 1.0  # how long the end of a question is waited for before it is stopped


@dataclass(frozen=True)
class _News:
    """Something new of one run's log. Without a cursor nothing changed; `done`: the log was read as far as it goes."""

    run_id: str
    rows: Rows = NO_ROWS
    cursor: Cursor | None = None
    unreadable: Quarantined | None = None
    done: bool = True


class Reached(NamedTuple):
    """How far a shard was read, as history says: a `Cursor` that is not checked again, since there is one for each run of the history.

    updated_at: seconds since 1970.
    """

    source_id: str
    shard: str
    position: str
    complete: bool
    updated_at: float


def reached(con: duckdb.DuckDBPyConnection) -> list[Reached]:
    """How far each shard was read; of a hundred thousand runs in a tenth of the time that records take."""
    found = con.execute("select source_id, shard, position, complete, epoch(updated_at) from cursors").fetchall()
    return list(map(Reached._make, found))


class Batch:
    """What one transaction lands: `raw` events, `cursors` behind them, `facts` of their runs, logs that were `unreadable`, and the stored
    `structures` of their jobs by snapshot id.

    `runs_read` counts the plan's runs that were read by then; after the `last` no other follows.
    """

    def __init__(self, source_id: str) -> None:
        self.cursors: dict[str, Cursor] = {}
        self.unreadable: list[Quarantined] = []
        self.log_lines = 0
        self.runs_read = 0
        self.last = False
        self.raw = RAW_SCHEMA.empty_table()
        self.facts: pa.Table | None = None
        self.structures: dict[str, bytes] = {}
        self._source_id = source_id
        self._parts: list[pa.RecordBatch] = []
        self._taken: list[tuple[str, Rows]] = []
        self._rows = self._size = self._taken_size = 0

    @property
    def full(self) -> bool:
        return self._rows >= BATCH_ROWS or self._size >= BATCH_BYTES or len(self.cursors) >= BATCH_RUNS

    def add(self, news: _News) -> None:
        events = news.rows.events()
        self.log_lines += len(news.rows) - len(events)
        if events:
            self._taken.append((news.run_id, events))
            self._rows += len(events)
            self._taken_size += sum(map(len, events.texts))
            if self._taken_size >= PART_BYTES:
                self._pack()
        if news.cursor is not None:
            self.cursors[news.run_id] = news.cursor
        if news.unreadable is not None:
            self.unreadable.append(news.unreadable)

    def closed(self, plan: Plan, runs_read: int, find: Find) -> Batch:
        """With nothing to be added any more."""
        self._pack()
        raw = pa.Table.from_batches(self._parts, schema=RAW_SCHEMA)
        self.raw = raw.set_column(raw.column_names.index("event"), "event", plain_texts(raw["event"], find))
        self._parts = []
        bodies = plan.source.run_bodies(sorted(self.cursors))
        self.facts = facts = run_facts(plan.source_id, bodies)
        self.unreadable += [plan.unreadable_run(body) for body in bodies if instant(body.created or "") is None]
        seen = set(facts["job_snapshot_id"].drop_null().to_pylist()) - plan.structures_read
        self.structures = plan.source.job_snapshots(sorted(seen))
        plan.structures_read.update(seen)
        self.runs_read = runs_read
        return self

    def _pack(self) -> None:
        """Puts what was taken so far into columns outside of Python, so that its memory serves for what comes next."""
        taken, self._taken = self._taken, []
        # Arrow's own pool gives a freed MB back to the system at once, and to get it again costs more than to fill it
        pool = pa.system_memory_pool()
        runs = [run_id for run_id, rows in taken for _ in range(len(rows))]
        columns = [
            [self._source_id] * len(runs),
            runs,
            [number for _, rows in taken for number in rows.numbers],
            [digest for _, rows in taken for digest in rows.digests],
            texts_of([text for _, rows in taken for text in rows.texts], pool),
        ]
        arrays = [pa.array(column, kind, memory_pool=pool) for column, kind in zip(columns, RAW_SCHEMA.types, strict=True)]
        self._parts.append(pa.record_batch(arrays, schema=RAW_SCHEMA))
        self._size += self._taken_size
        self._taken_size = 0


@dataclass(frozen=True)
class Plan:
    """Which runs to look at, as of one moment. `watermark` is the latest update of any run then.

    `structures_read` grows: the job snapshots that a batch brought already.
    """

    source: Source
    source_id: str
    cursors: Mapping[str, Reached]
    runs: Sequence[RunRow]
    deleted: Sequence[str]
    watermark: str
    now: datetime
    structures_read: set[str] = field(default_factory=set)

    @property
    def run_count(self) -> int:
        """How many of `runs` are runs: one entry stands for events of no run."""
        return sum(run.run_id != RUNLESS for run in self.runs)

    def has_turn(self, run_id: str) -> bool:
        """Whether a log that is looked at every `TURN_S` is due: each run has its own second of them, and the last sync was before it."""
        before = self.cursors.get(RUNS)
        second = crc32(run_id.encode()) % TURN_S
        return before is None or (before.updated_at - second) // TURN_S != (self.now.timestamp() - second) // TURN_S

    def cursor(self, shard: str, position: str, complete: bool = False) -> Cursor:
        return Cursor(source_id=self.source_id, shard=shard, position=position, complete=complete, updated_at=self.now)

    def unreadable_run(self, body: RunBody) -> Quarantined:
        """A run of which it is not known when it was asked for, so that it has no place in history, as a row of quarantine."""
        return Quarantined(
            source_id=self.source_id,
            run_id=body.run_id,
            event_id=RUN_ROW,
            event_hash="",
            reason=f"Its row says that it was made at {bounded(body.created)!r}, which is no instant that can be meant.",
            found_at=self.now,
        )

    def tombstone(self, run_id: str) -> Cursor:
        """The cursor of a run that was deleted in the instance."""
        before = Position.of(self.cursors[run_id].position)
        return self.cursor(run_id, Position(before.event_id, before.digest, before.updated, deleted=True).text(), complete=True)


def plan(source: Source, cursors: Sequence[Reached]) -> Plan:
    """What to look at, given how far this instance was read before."""
    source_id = source_id_of(source, cursors)
    own = {cursor.shard: cursor for cursor in cursors if cursor.source_id == source_id}
    shards = {shard: cursor for shard, cursor in own.items() if shard not in (PATH, RUNS, TICKS)}
    since = earlier(own[RUNS].position, OVERLAP) if RUNS in own else ""
    gone = {shard for shard, cursor in shards.items() if is_deleted(cursor.position)}
    known = {shard: cursor.complete and shard not in gone for shard, cursor in shards.items()}  # a deleted run may come back
    rows, ids = source.run_rows(since, known)
    watermark = max([row.updated for row in rows], default=own[RUNS].position if RUNS in own else "")
    fresh = [
        row for row in rows if not (known.get(row.run_id) and Position.of(shards[row.run_id].position).updated == row.updated)
    ]
    fresh.append(RunRow(0, RUNLESS, "", "", None))
    return Plan(
        source=source,
        source_id=source_id,
        cursors=own,
        # what runs now first: a long import must not keep people from seeing it
        runs=sorted(fresh, key=lambda row: (row.status in _OVER, row.number)),
        deleted=[shard for shard in shards if shard not in ids and shard != RUNLESS and shard not in gone],
        watermark=watermark,
        now=datetime.now(UTC),
    )


def source_id_of(source: Source, cursors: Sequence[Cursor | Reached]) -> str:
    """What this instance was called before; else the id Dagster gave it, or, where it has none yet, one made from its place."""
    place = source.place
    before = next((cursor.source_id for cursor in cursors if cursor.shard == PATH and cursor.position == place), None)
    return before or source.identity() or f"{place.partition(':')[0] if '://' in place else 'sqlite'}-{_short_hash(place)}"


def _short_hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=6).hexdigest()


class ReadAhead:
    """The batches of a plan, read in a thread of its own; `runs_read` tells how far it is. Close it, also before its end."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs_read = 0
        self._made: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="workflows-read-ahead", daemon=True)
        self._thread.start()

    def next(self, waiting: Callable[[int], None] | None = None) -> Batch | None:
        """The next batch, None after the last; `waiting` hears now and then how many runs were read."""
        while True:
            try:
                made = self._made.get(timeout=_WAIT_S)
            except queue.Empty:
                if waiting is not None:
                    waiting(self.runs_read)
                continue
            if isinstance(made, BaseException):
                raise made
            return made

    def close(self) -> None:
        """Ends the thread; what it has read is dropped."""
        self._closed.set()
        patient_until = time.monotonic() + _PATIENCE_S
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._made.get(timeout=_WAIT_S / 10)
            if time.monotonic() > patient_until:
                self.plan.source.cancel()

    def _read(self) -> None:
        try:
            for batch in batches(self.plan, self._count):
                self._made.put(batch)
                if self._closed.is_set():
                    return
            self._made.put(None)
        except BaseException as error:  # noqa: BLE001 - told to whoever takes the next batch, interrupts too
            self._made.put(error)

    def _count(self, number: int) -> None:
        self.runs_read = number


def batches(plan: Plan, count: Callable[[int], None] | None = None) -> Iterator[Batch]:
    """The news of the plan's runs, each batch with the facts of its runs; `count` hears how many runs were read."""
    batch = Batch(plan.source_id)
    done = 0
    with finder() as find:
        for news in _news(plan):
            if news.cursor is not None:
                batch.add(news)
            done += news.done and news.run_id != RUNLESS
            if count is not None:
                count(done)
            if batch.full:
                yield batch.closed(plan, done, find)
                batch = Batch(plan.source_id)
        if batch.cursors:
            batch.last = True
            yield batch.closed(plan, done, find)


def _news(plan: Plan) -> Iterator[_News]:
    for begin in range(0, len(plan.runs), RUNS_ASKED):
        logs = {run.run_id: _Log(plan, run) for run in plan.runs[begin : begin + RUNS_ASKED]}
        wanted = [Wanted(run_id, log.reading.start) for run_id, log in logs.items() if not log.skipped]
        yield from (log.end() for log in logs.values() if log.skipped)
        while wanted:
            again: dict[str, Wanted] = {}
            for piece in plan.source.log_pieces(wanted, PIECE_ROWS, PIECE_BYTES):
                if piece.run_id in again:
                    continue  # the rest of a log that is asked for again
                news = logs[piece.run_id].heard(piece)
                if news is None:
                    again[piece.run_id] = Wanted(piece.run_id, logs[piece.run_id].reading.start)
                else:
                    yield news
            wanted = list(again.values())


class _Log:
    """One run's log while it is read; `skipped`: it could not be read before and has not changed since, or has not its turn."""

    def __init__(self, plan: Plan, run: RunRow) -> None:
        self._plan = plan
        self._run = run
        self._cursor = plan.cursors.get(run.run_id)
        self._before = Position() if self._cursor is None else Position.of(self._cursor.position)
        over = over_for(run, plan.now)
        self._over = over >= GRACE
        resting = (
            run.status in _OVER and not self._over and self._before.window is not None and self._before.updated == run.updated
        )
        self.reading = Reading(
            self._before,
            out_of_order=plan.source.out_of_order,
            closing=self._over,
            begun=self._cursor is not None and not self._cursor.complete and self._before.window is None,
            resting=resting,
            now=plan.now.timestamp(),
        )
        asleep = resting and over >= TALKS_ON and not plan.has_turn(run.run_id)
        self.skipped = asleep or (bool(self._before.broken) and self._before.broken == plan.source.log_state(run.run_id))

    def heard(self, piece: Piece) -> _News | None:
        """What the piece brings; None where the log must be asked for again."""
        if isinstance(piece.failed, BusyError):
            return _News(self._run.run_id)  # somebody holds this one log; it is looked at again next time
        if piece.failed is not None:  # one broken log must not stop the others
            state = self._plan.source.log_state(self._run.run_id)
            return self.end(broken=state, unreadable=self._unreadable(state, piece.failed))
        if piece.gone:
            return self.end()
        rows = self.reading.take(piece.rows, last=piece.last)
        if rows is None:
            return None
        if piece.last:
            return self.end(rows)
        if not rows:  # a position among the rows read before would forget those behind it
            return _News(self._run.run_id, done=False)
        cursor = self._plan.cursor(self._run.run_id, self.reading.position(updated=self._run.updated).text())
        return _News(self._run.run_id, rows, cursor, done=False)

    def end(self, rows: Rows = NO_ROWS, broken: str | None = None, unreadable: Quarantined | None = None) -> _News:
        """The last news of this log; without a cursor where nothing changed."""
        broken = broken if broken is not None else self._before.broken if self.skipped else ""
        position = self.reading.position(updated=self._run.updated, broken=broken)
        complete = self._over and not broken
        run_id, cursor = self._run.run_id, self._cursor
        nothing = run_id == RUNLESS and cursor is None and not rows and unreadable is None
        same = cursor is not None and position == self._before and complete == cursor.complete
        if not rows and (nothing or same):
            return _News(run_id)
        return _News(run_id, rows, self._plan.cursor(run_id, position.text(), complete), unreadable)

    def _unreadable(self, state: str, error: SetupError) -> Quarantined:
        """A log that cannot be opened, as one row of quarantine."""
        return Quarantined(
            source_id=self._plan.source_id,
            run_id=self._run.run_id,
            event_id=0,
            event_hash=state,
            reason=bounded(error, 500),
            found_at=self._plan.now,
        )


def over_for(run: RunRow, now: datetime) -> timedelta:
    """How long the run has been over; negative while it is not."""
    if run.status not in _OVER:
        return timedelta(seconds=-1)
    ended = moment(run.ended) or instant(run.updated)
    return now - ended if ended else GRACE


def earlier(text: str, by: timedelta) -> str:
    """The instant `by` before, in the form in which it is stored."""
    at = instant(text)
    return "" if at is None else (at - by).strftime("%Y-%m-%d %H:%M:%S")
