"""How does what happened in a Dagster instance get into history?

    sync_events(Path("~/.dagster").expanduser(), history_home)

Every event is landed exactly once, whatever happens in between: the rows of a batch, the cursors behind them and what is derived
from them are one transaction, and a row is known by instance, run, number and hash of its text. So reading on after a crash, or
reading again, changes nothing.

A run's log is read from the last number seen. Its row is looked at once more: where it has another hash or is gone, events were deleted
and their numbers used again, and the log is read anew. A run is read to the end when it has been over for a while, since a worker
writes its last words after the run's last event; it is opened again when its row changes. What was deleted in the instance stays in
history, and its cursor says so.

Lines logged by user code are counted, not landed: they are most of the text of a log, hold whatever a program prints, and
nothing is derived from them; the instance keeps them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from workflows_pkg.errors import BusyError, SetupError, bounded
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.derive import derive
from workflows_pkg.history.ingest import RAW_SCHEMA, land
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor, Materialization, Quarantined, Tick
from workflows_pkg.history.store import Writer, open_history, writer
from workflows_pkg.orchestration import sources
from workflows_pkg.orchestration.facts import instant, run_facts, tick_record
from workflows_pkg.orchestration.sources import EventRow, RunRow, Source
from workflows_pkg.orchestration.translation import CAUSES, TRANSLATE_SQL, plain_json

GRACE = timedelta(seconds=60)
"""How long after its end a run may still write: its process says good-bye after the last event (dagster/_grpc/impl.py)."""

OVERLAP = timedelta(seconds=120)
"""How far back updates are looked at again: a row carries the time of the event, and is written later."""

BATCH_ROWS, BATCH_BYTES, BATCH_RUNS = 5_000, 24 * 2**20, 400
"""Most of what one transaction takes: some tenths of a second of work, and memory for one of the longest events besides."""

PUBLISH_EVERY_S = 10.0
"""A long import shows what it has landed this often."""

SYNC_SENSOR = "workflows_history_sync"
"""Name of the sensor that syncs. Its own ticks are not landed: each would be news for the next."""

_OVER = ("SUCCESS", "FAILURE", "CANCELED")
_PATH, _RUNS, _TICKS = "instance", "runs", "ticks"  # cursors beside those of the runs' logs, whose shard is the run id

_RUNLESS = ""
"""Run id of what was reported from outside, such as by Dagster's REST API; `runs/.db` is its log, and no row of runs belongs to it."""

_FROM_OUTSIDE = """
select run_id, asset_key, coalesce(partition_key, '') as partition_key, "at",
  arg_max(try_cast(json_extract_string(data, '$."dagster/row_count"') as bigint), event_id) as "rows",
  arg_max(try_cast(json_extract_string(data, '$."size_bytes"') as bigint), event_id) as bytes
from events where source_id = ? and run_id = '' and kind = 'materialized' and asset_key is not null group by all
"""


@dataclass(frozen=True)
class SyncResult:
    """What one sync did. `complete` is False where the budget ended it first; `runs_left` are then still to be read."""

    events: int = 0
    runs: int = 0
    ticks: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    complete: bool = True
    runs_left: int = 0
    log_lines: int = 0


@dataclass(frozen=True)
class _Position:
    """How far one run's log was read.

    updated: the state of the run's row at that time.
    deleted: the run is no longer in the instance.
    broken: state of a log's file that could not be read; it is tried again when that changes.
    """

    event_id: int = 0
    digest: str = ""
    updated: str = ""
    deleted: bool = False
    broken: str = ""

    @classmethod
    def of(cls, cursor: Cursor | None) -> _Position:
        return cls() if cursor is None else cls(**json.loads(cursor.position))

    def text(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class _Batch:
    """What one transaction lands."""

    rows: list[tuple[str, str, int, str, str]] = field(default_factory=list)
    cursors: dict[str, Cursor] = field(default_factory=dict)
    unreadable: list[Quarantined] = field(default_factory=list)
    log_lines: int = 0
    size: int = 0

    @property
    def full(self) -> bool:
        return len(self.rows) >= BATCH_ROWS or self.size >= BATCH_BYTES or len(self.cursors) >= BATCH_RUNS


@dataclass(frozen=True)
class _Plan:
    """Which runs to look at, as of one moment. `watermark` is the latest update of any run then."""

    source: Source
    source_id: str
    cursors: Mapping[str, Cursor]
    runs: Sequence[RunRow]
    deleted: Sequence[str]
    watermark: str
    now: datetime


def sync_events(
    instance_home: Path,
    history_home: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    budget_s: float | None = None,
    wait_s: float = 30,
) -> SyncResult:
    """Lands what is new in the Dagster instance at `instance_home` in the history at `history_home`.

    progress: called with the number of runs read and the number to read.
    budget_s: stop after about this many seconds; the next call goes on. None: until everything is landed.
    wait_s: how long to wait for another writer.

    Raises SetupError for an instance it cannot read, BusyError where another process writes this history or holds the event log.
    """
    started = time.monotonic()
    deadline = None if budget_s is None else started + budget_s
    source = sources.open_source(instance_home)
    with closing(open_history(history_home)) as con:
        published = read(con, Cursor)
    if not _news(_plan(source, published)):
        return SyncResult(seconds=time.monotonic() - started)
    with writer(history_home, wait_s) as history:
        plan = _plan(source, read(history.con, Cursor))
        result = _land_all(history, plan, progress, deadline)
    return replace(result, seconds=time.monotonic() - started)


def _plan(source: Source, cursors: Sequence[Cursor]) -> _Plan:
    source_id = _source_id(source, cursors)
    own = {cursor.shard: cursor for cursor in cursors if cursor.source_id == source_id}
    shards = {shard: cursor for shard, cursor in own.items() if shard not in (_PATH, _RUNS, _TICKS)}
    positions = {shard: _Position.of(cursor) for shard, cursor in shards.items()}
    since = _earlier(own[_RUNS].position, OVERLAP) if _RUNS in own else ""
    known = {
        shard: cursor.complete and not positions[shard].deleted for shard, cursor in shards.items()
    }  # a deleted run may come back
    rows, ids = sources.run_rows(source, since, known)
    watermark = max([row.updated for row in rows], default=own[_RUNS].position if _RUNS in own else "")
    fresh = [row for row in rows if not (known.get(row.run_id) and positions[row.run_id].updated == row.updated)]
    if source.shard(_RUNLESS).exists():
        fresh.append(RunRow(0, _RUNLESS, "", "", None))
    return _Plan(
        source=source,
        source_id=source_id,
        cursors=own,
        # what runs now first: a long import must not keep people from seeing it
        runs=sorted(fresh, key=lambda row: (row.status in _OVER, row.number)),
        deleted=[shard for shard in shards if shard not in ids and shard != _RUNLESS and not positions[shard].deleted],
        watermark=watermark,
        now=datetime.now(UTC),
    )


def _source_id(source: Source, cursors: Sequence[Cursor]) -> str:
    """What this instance was called before; else the id Dagster gave it, or, where it has none yet, one made from its path."""
    path = str(source.runs.resolve())
    before = next((cursor.source_id for cursor in cursors if cursor.shard == _PATH and cursor.position == path), None)
    return before or sources.identity(source) or f"sqlite-{blake2b(path.encode(), digest_size=6).hexdigest()}"


def _news(plan: _Plan) -> bool:
    """Whether there is anything to write; found without the writer's lock, so that a sync with nothing to do disturbs nobody."""
    return bool(plan.deleted) or next(_batches(plan, None), None) is not None or next(_tick_batches(plan), None) is not None


def _land_all(history: Writer, plan: _Plan, progress: Callable[[int, int], None] | None, deadline: float | None) -> SyncResult:
    events = quarantined = log_lines = ticks = 0
    touched: set[str] = set()
    done = 0
    complete = True
    published_at = time.monotonic()

    def count(number: int) -> None:
        nonlocal done
        done = number
        if progress is not None:
            progress(number, len(plan.runs))

    with history.transaction():
        history.upsert(Cursor, [_cursor(plan, _PATH, str(plan.source.runs.resolve()))])
        history.upsert(Cursor, [_gone(plan, run_id) for run_id in plan.deleted])
    for batch in _batches(plan, count):
        crash_point("after_read")
        landed = _land_batch(history, plan, batch)
        events += landed.events
        quarantined += landed.quarantined + len(batch.unreadable)
        log_lines += batch.log_lines
        touched |= set(batch.cursors)
        crash_point("between_batches")
        if deadline is not None and time.monotonic() >= deadline:
            complete = False
            break
        if time.monotonic() - published_at > PUBLISH_EVERY_S:
            history.publish()
            published_at = time.monotonic()
    for rows, cursor in _tick_batches(plan) if complete else ():
        with history.transaction():
            ticks += history.upsert(Tick, rows)
            if cursor is not None:
                history.upsert(Cursor, [cursor])
    if complete and plan.watermark:
        history.upsert(Cursor, [_cursor(plan, _RUNS, plan.watermark)])
    left = 0 if complete else len(plan.runs) - done
    return SyncResult(
        events, len(touched), ticks, quarantined, complete=complete and not left, runs_left=left, log_lines=log_lines
    )


def _land_batch(history: Writer, plan: _Plan, batch: _Batch) -> Any:
    columns = zip(*batch.rows, strict=True) if batch.rows else ([] for _ in RAW_SCHEMA.names)
    table = pa.table([pa.array(column, type) for column, type in zip(columns, RAW_SCHEMA.types, strict=True)], schema=RAW_SCHEMA)
    facts = run_facts(plan.source_id, sources.run_bodies(plan.source, sorted(batch.cursors)))
    with history.transaction():
        landed = land(history, table, TRANSLATE_SQL, list(batch.cursors.values()))
        if batch.unreadable:
            history.upsert(Quarantined, batch.unreadable)
        derive(history, facts, causes=CAUSES)
        if _RUNLESS in batch.cursors:
            history.upsert(Materialization, history.con.execute(_FROM_OUTSIDE, [plan.source_id]).to_arrow_table())
    return landed


def _batches(plan: _Plan, count: Callable[[int], None] | None) -> Iterator[_Batch]:
    """The news of the plan's runs in pieces for one transaction each; `count` hears how many runs were read."""
    batch = _Batch()
    for number, run in enumerate(plan.runs, start=1):
        for rows, position, complete in _log(plan, run, batch):
            batch.rows += [
                (plan.source_id, run.run_id, row.event_id, row.digest, plain_json(row.text)) for row in rows if not row.log
            ]
            batch.log_lines += sum(row.log for row in rows)
            batch.size += sum(len(row.text) for row in rows)
            batch.cursors[run.run_id] = _cursor(plan, run.run_id, position.text(), complete)
            if batch.full:
                yield batch
                batch = _Batch()
        if count is not None:
            count(number)
    if batch.cursors:
        yield batch


def _log(plan: _Plan, run: RunRow, batch: _Batch) -> Iterator[tuple[list[EventRow], _Position, bool]]:
    """New rows of one run's log, in pieces, each with the position behind it; nothing where nothing changed."""
    file = plan.source.shard(run.run_id)
    cursor = plan.cursors.get(run.run_id)
    position = before = _Position.of(cursor)
    try:
        if not before.broken or before.broken != _state(file):
            while (piece := _piece(plan.source, run.run_id, position)) is not None:
                rows, position = piece
                yield rows, replace(position, updated=run.updated), False
            position = replace(position, broken="")
    except SetupError as error:  # one broken log must not stop the others
        position = replace(position, broken=_state(file))
        batch.unreadable.append(_unreadable(plan, run.run_id, position.broken, str(error)))
    except BusyError:
        return  # somebody holds this one log; it is looked at again next time
    position = replace(position, updated=run.updated, deleted=False)
    complete = _over_for(run, plan.now) >= GRACE and not position.broken
    if cursor is None or position != before or complete != cursor.complete:
        yield [], position, complete


def _piece(source: Source, run_id: str, position: _Position) -> tuple[list[EventRow], _Position] | None:
    """The next rows of a log and the position behind them; None where there are no more."""
    rows = sources.event_rows(source, run_id, max(position.event_id, 1), BATCH_ROWS, BATCH_BYTES)
    if position.event_id:
        if rows and (rows[0].event_id, rows[0].digest) == (position.event_id, position.digest):
            rows = rows[1:]
        elif rows or source.shard(run_id).exists():
            # Events were deleted, and their numbers may have been used again: read it all anew; what is known is known by its hash.
            rows = sources.event_rows(source, run_id, 1, BATCH_ROWS, BATCH_BYTES)
            position = replace(position, event_id=0, digest="")
            if not rows:
                return [], position
        # else the whole log was deleted: what was landed stays
    return (rows, replace(position, event_id=rows[-1].event_id, digest=rows[-1].digest)) if rows else None


def _unreadable(plan: _Plan, run_id: str, state: str, reason: str) -> Quarantined:
    """A log that cannot be opened, as one row of quarantine."""
    return Quarantined(
        source_id=plan.source_id, run_id=run_id, event_id=0, event_hash=state, reason=bounded(reason, 500), found_at=plan.now
    )


def _state(file: Path) -> str:
    """What tells a changed file from an unchanged one; empty where there is none."""
    try:
        stat = file.stat()
    except OSError:
        return ""
    return f"{stat.st_mtime_ns} {stat.st_size}"


def _over_for(run: RunRow, now: datetime) -> timedelta:
    """How long the run has been over; negative while it is not."""
    if run.status not in _OVER:
        return timedelta(seconds=-1)
    ended = datetime.fromtimestamp(run.ended, UTC) if run.ended else instant(run.updated)
    return now - ended if ended else GRACE


def _tick_batches(plan: _Plan) -> Iterator[tuple[list[Tick], Cursor | None]]:
    """New and changed ticks in pieces; the cursor comes with the last piece."""
    cursor = plan.cursors.get(_TICKS)
    before: dict[str, Any] = json.loads(cursor.position) if cursor is not None else {"updated": "", "seen": {}}
    since = _earlier(before["updated"], OVERLAP)
    latest, seen, after = before["updated"], {}, 0
    pieces: list[list[Tick]] = []
    while rows := sources.tick_rows(plan.source, since, after, BATCH_ROWS):
        after = rows[-1].number
        latest = max([latest, *(row.updated for row in rows)])
        state = {str(row.number): f"{row.status} {row.updated}" for row in rows}
        changed = [row for row in rows if before["seen"].get(str(row.number)) != state[str(row.number)]]
        seen.update(state)
        if ticks := [
            tick for row in changed if (tick := tick_record(plan.source_id, row)) is not None and tick.name != SYNC_SENSOR
        ]:
            pieces.append(ticks)
            if len(pieces) > 1:
                yield pieces.pop(0), None
    if pieces:
        recent = _earlier(latest, OVERLAP)
        kept = {number: state for number, state in seen.items() if state.split(" ", 1)[1] >= recent}
        yield pieces[0], _cursor(plan, _TICKS, json.dumps({"updated": latest, "seen": kept}))


def _cursor(plan: _Plan, shard: str, position: str, complete: bool = False) -> Cursor:
    return Cursor(source_id=plan.source_id, shard=shard, position=position, complete=complete, updated_at=plan.now)


def _gone(plan: _Plan, run_id: str) -> Cursor:
    """The tombstone of a run that was deleted in the instance."""
    before = _Position.of(plan.cursors[run_id])
    return _cursor(plan, run_id, _Position(before.event_id, before.digest, before.updated, deleted=True).text(), complete=True)


def _earlier(text: str, by: timedelta) -> str:
    """The instant `by` before, in the form in which it is stored."""
    at = instant(text)
    return "" if at is None else (at - by).strftime("%Y-%m-%d %H:%M:%S")
