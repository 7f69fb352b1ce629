"""How does what happened in a Dagster instance get into history?

    sync_events("~/.dagster", history_home)                                # a DAGSTER_HOME folder
    sync_events("postgresql://dagster:...@db/dagster", history_home)       # or its database

Every event is landed exactly once, whatever happens in between: the rows of a batch, the cursors behind them and what is derived
from them are one transaction, and a row is known by instance, run, number and hash of its text. So reading on after a crash, or
reading again, changes nothing.

A run is read to the end when it has been over for a while, since a worker writes its last words after the run's last event; it is
opened again when its row changes. What was deleted in the instance stays in history, and its cursor says so. How a log is read on
from where it was left, and why no row of it is lost, is said in `positions`.

Lines logged by user code are counted, not landed: they are most of the text of a log, hold whatever a program prints, and
nothing is derived from them; the instance keeps them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from workflows_pkg.errors import SetupError
from workflows_pkg.history.cost import use_written
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.derive import derive
from workflows_pkg.history.ingest import LandResult, land
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Backfill, Cursor, JobStep, Materialization, Observation, Quarantined, Tick
from workflows_pkg.history.schema import first_row
from workflows_pkg.history.store import Writer, open_history, writer
from workflows_pkg.orchestration.backfills import changed_backfills
from workflows_pkg.orchestration.batches import PATH, PIECE_ROWS, RUNS, TICKS, Batch, Plan, ReadAhead, earlier, plan, reached
from workflows_pkg.orchestration.facts import tick_record
from workflows_pkg.orchestration.job_structure import job_steps
from workflows_pkg.orchestration.own import SYNC_SENSOR
from workflows_pkg.orchestration.positions import OVERLAP
from workflows_pkg.orchestration.sources import Source, open_source
from workflows_pkg.orchestration.sources.rows import RUNLESS
from workflows_pkg.orchestration.translation import CAUSES, TRANSLATE_SQL

_log = logging.getLogger("workflows")

PUBLISH_EVERY_S = 10.0
"""A long import shows what it has landed this often."""

_FROM_OUTSIDE = """
select run_id, asset_key, coalesce(partition_key, '') as partition_key, "at",
  arg_max(try_cast(json_extract_string(data, '$."dagster/row_count"') as bigint), event_id) as "rows",
  arg_max(try_cast(json_extract_string(data, '$."size_bytes"') as bigint), event_id) as bytes
from events where source_id = ? and run_id = '' and kind = 'materialized' and asset_key is not null group by all
"""
_SEEN_FROM_OUTSIDE = """
select run_id, asset_key, coalesce(partition_key, '') as partition_key, "at",
  arg_max(json_extract_string(data, '$."dagster/data_version"'), event_id) as data_version, arg_max(data, event_id) as data
from events where source_id = ? and run_id = '' and kind = 'observed' and asset_key is not null group by all
"""


@dataclass(frozen=True)
class SyncResult:
    """What one sync did. `complete` is False where the budget ended it first; `runs_left` are then still to be read."""

    events: int = 0
    runs: int = 0
    ticks: int = 0
    backfills: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    complete: bool = True
    runs_left: int = 0
    log_lines: int = 0


def sync_events(
    instance: Path | str | Source,
    history_home: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    budget_s: float | None = None,
    wait_s: float = 30,
) -> SyncResult:
    """Lands what is new in `instance` in the history at `history_home`.

    instance: a DAGSTER_HOME folder or a PostgreSQL URL, as `open_source` takes them, or a source that is open already.
    progress: called with the number of runs read and the number to read.
    budget_s: stop after about this many seconds; the next call goes on. None: until everything is landed.
    wait_s: how long to wait for another writer.

    Raises SetupError for an instance it cannot read, BusyError where another process writes this history or holds the event log.
    """
    started = time.monotonic()
    deadline = None if budget_s is None else started + budget_s
    with nullcontext(instance) if isinstance(instance, Source) else open_source(instance) as source:
        try:
            opened = open_history(history_home)
        except SetupError:  # of an earlier version: a writer brings it up to date, or says what else is wrong
            with writer(history_home, wait_s):
                pass
            opened = open_history(history_home)
        with closing(opened) as con:
            published, filled, state = reached(con), read(con, Backfill), _state(con)
        ahead = ReadAhead(plan(source, published))
        try:
            first = ahead.next()
            # found without the writer's lock, so that a sync with nothing to do disturbs nobody
            nothing_read = first is None and not ahead.plan.deleted and next(_tick_batches(ahead.plan), None) is None
            if nothing_read and not changed_backfills(source, ahead.plan.source_id, filled):
                return SyncResult(seconds=time.monotonic() - started)
            with writer(history_home, wait_s) as history:
                if _state(history.con) != state:  # somebody else wrote meanwhile, or died before it could publish
                    ahead.close()
                    ahead = ReadAhead(plan(source, reached(history.con)))
                    first = ahead.next()
                result = _land_all(history, ahead, first, progress, deadline)
        finally:
            ahead.close()
    return replace(result, seconds=time.monotonic() - started)


def _state(con: duckdb.DuckDBPyConnection) -> tuple[Any, ...]:
    """What tells one state of the cursors from another, without fetching them: there is one for each run of the history."""
    return first_row(con.execute("select count(*), bit_xor(hash(c)) from cursors c"))


def _land_all(
    history: Writer,
    ahead: ReadAhead,
    first: Batch | None,
    progress: Callable[[int, int], None] | None,
    deadline: float | None,
) -> SyncResult:
    events = quarantined = log_lines = ticks = 0
    touched: set[str] = set()
    plan = ahead.plan
    published_at = time.monotonic()

    def waiting(runs_read: int) -> None:
        if progress is not None:
            progress(runs_read, plan.run_count)

    if first is None:
        with history.transaction():
            _mark(history, plan, begins=True, ends=True)
    marked = first is None
    complete = True
    landed_runs = 0
    batch = first
    while batch is not None:
        crash_point("after_read")
        history.expect(len(batch.raw))
        landed = _land_batch(history, plan, batch, begins=batch is first)
        marked = batch.last
        events += landed.events
        quarantined += landed.quarantined + len(batch.unreadable)
        log_lines += batch.log_lines
        touched |= set(batch.cursors)
        landed_runs = batch.runs_read
        waiting(landed_runs)
        crash_point("between_batches")
        if deadline is not None and time.monotonic() >= deadline and landed_runs < plan.run_count:
            complete = False
            break
        if time.monotonic() - published_at > PUBLISH_EVERY_S:
            history.publish()
            published_at = time.monotonic()
        batch = ahead.next(waiting)
    for rows, cursor in _tick_batches(plan) if complete else ():
        with history.transaction():
            ticks += history.upsert(Tick, rows)
            if cursor is not None:
                history.upsert(Cursor, [cursor])
    backfills = changed_backfills(plan.source, plan.source_id, read(history.con, Backfill)) if complete else []
    history.upsert(Backfill, backfills)
    if complete and not marked:
        _mark(history, plan, begins=False, ends=True)
    left = 0 if complete else plan.run_count - landed_runs
    return SyncResult(
        events, len(touched), ticks, len(backfills), quarantined, complete=complete, runs_left=left, log_lines=log_lines
    )


def _mark(history: Writer, plan: Plan, *, begins: bool, ends: bool) -> None:
    """Writes where the instance is and which runs are gone; and when all logs were read, up to which update of a run that was."""
    marks: list[Cursor] = []
    if begins:
        use_written(history)
        marks += [plan.cursor(PATH, plan.source.place), *(plan.tombstone(run_id) for run_id in plan.deleted)]
    if ends and plan.watermark:
        marks.append(plan.cursor(RUNS, plan.watermark))
    history.upsert(Cursor, marks)


def _land_batch(history: Writer, plan: Plan, batch: Batch, *, begins: bool) -> LandResult:
    """One transaction, also with what is noted of the instance: each is written twice, to the log of the database and to its file."""
    with history.transaction():
        _mark(history, plan, begins=begins, ends=batch.last)
        landed = land(history, batch.raw, TRANSLATE_SQL, list(batch.cursors.values()))
        if batch.unreadable:
            history.upsert(Quarantined, batch.unreadable)
        derive(history, batch.facts, causes=CAUSES, whole_runs=landed.whole_runs)
        _land_structures(history, batch)
        if RUNLESS in batch.cursors:
            for record_type, select in ((Materialization, _FROM_OUTSIDE), (Observation, _SEEN_FROM_OUTSIDE)):
                history.upsert(record_type, history.con.execute(select, [plan.source_id]).to_arrow_table())
    return landed


def _land_structures(history: Writer, batch: Batch) -> None:
    """Lands the steps of jobs whose structure is new; a structure never changes, its id is a hash of it."""
    known = {row[0] for row in history.con.execute("select distinct job_snapshot_id from job_steps").fetchall()}
    for snapshot_id, stored in batch.structures.items():
        if snapshot_id not in known:
            history.upsert(JobStep, job_steps(snapshot_id, stored))


def _tick_batches(plan: Plan) -> Iterator[tuple[list[Tick], Cursor | None]]:
    """New and changed ticks in pieces; the cursor comes with the last piece."""
    cursor = plan.cursors.get(TICKS)
    before: dict[str, Any] = json.loads(cursor.position) if cursor is not None else {"updated": "", "seen": {}}
    since = earlier(before["updated"], OVERLAP)
    latest, seen, after = before["updated"], {}, 0
    pieces: list[list[Tick]] = []
    while rows := plan.source.tick_rows(since, after, PIECE_ROWS):
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
        recent = earlier(latest, OVERLAP)
        kept = {number: state for number, state in seen.items() if state.split(" ", 1)[1] >= recent}
        yield pieces[0], plan.cursor(TICKS, json.dumps({"updated": latest, "seen": kept}))
