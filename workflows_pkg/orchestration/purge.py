"""What of an event log may go, and how does it go so that Dagster shows the same afterwards and all of it can come back?

Only rows of kinds that Dagster reads for nothing but the page of their own run go (`GOES`); every event about an asset, a partition
or a check stays, every change of a run's state, every step's beginning and end, and what a re-execution from failure looks up. A kind
that this version does not know stays. The last row of a run stays whatever it is: SQLite would give its number away again, and
history knows by it how far the log was read.

Before a row goes it was read back from the archive, byte for byte the same, and history has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.history.archive import Archive, Part, StoredRow, row_digest
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration.archiving import OldRuns, alone, old_runs, parts_of_runs
from workflows_pkg.orchestration.sources import open_source
from workflows_pkg.orchestration.sources.rows import digest
from workflows_pkg.orchestration.sources.stored import CHANGED_AT_ONCE, StoredLogs, open_stored

GOES = frozenset(
    {
        None,  # a line logged by user code
        "ENGINE_EVENT",
        "HANDLED_OUTPUT",
        "HOOK_COMPLETED",
        "HOOK_SKIPPED",
        "LOADED_INPUT",
        "OBJECT_STORE_OPERATION",
        "RESOURCE_INIT_STARTED",
        "RESOURCE_INIT_SUCCESS",
        "STEP_INPUT",
        "STEP_WORKER_STARTED",
        "STEP_WORKER_STARTING",
    }
)
"""Kinds of event that go. Dagster 1.13.27 reads them by run only: for the run's page (dagster/_core/execution/stats.py, markers of the
step timeline), and, while the run is going on, to count how often it was resumed (dagster/_daemon/monitoring/run_monitoring.py) and
to find a Pipes session again (dagster/_core/pipes/reattach.py). Re-execution reads STEP_OUTPUT and others, which stay
(dagster/_core/execution/plan/state.py)."""


@dataclass(frozen=True)
class Gone:
    """What goes, or went, of the runs of one job: runs, rows, and bytes of the rows' texts."""

    runs: int = 0
    rows: int = 0
    bytes: int = 0

    def __add__(self, other: Gone) -> Gone:
        return Gone(self.runs + other.runs, self.rows + other.rows, self.bytes + other.bytes)


@dataclass(frozen=True)
class PurgeResult:
    """What a purge did, or with `done` False would do.

    not_archived, not_in_history, changed, busy: runs that are old enough and were left alone, by the reason: they are not in the
    archive; history has not all of them; their log has rows that the archive has not; somebody held their file.
    file_bytes_before, file_bytes_after: of the purged runs' own files, 0 where all runs are in one database.
    """

    done: bool
    jobs: Mapping[str, Gone]
    not_archived: int = 0
    not_in_history: int = 0
    changed: int = 0
    busy: int = 0
    file_bytes_before: int = 0
    file_bytes_after: int = 0

    @property
    def total(self) -> Gone:
        """Over all jobs."""
        return sum(self.jobs.values(), Gone())


def purge(
    home: Path,
    archive: Archive,
    older_than: timedelta,
    *,
    do: bool,
    progress: Callable[[int, int], None] | None = None,
) -> PurgeResult:
    """Removes from the instance in `home` what is archived of runs that have been over for longer than `older_than`.

    do: without it nothing is changed, and the result says what would be.
    progress: called with the number of runs looked at, and to look at.

    What was done stays done when it dies or raises; calling it again does the rest. Raises BusyError while another archive, purge or
    restore runs, or where a database is held; SetupError where a file of the archive is damaged, before a run in it is touched, or
    where the instance cannot be changed.
    """
    with alone(home), open_source(home) as source, closing(open_stored(home)) as stored, open_history(home) as history:
        runs = old_runs(source, history, older_than)
        parts = archive.parts(runs.source_id)
        purge_of = _Purge(archive, stored, history, runs, do, progress)
        purge_of.all(parts)
    if do and purge_of.unlanded:
        _read_on(home, runs.source_id, purge_of.unlanded)
    return purge_of.result()


@dataclass
class _Run:
    """One run's rows in the archive: hash by number, and those that history should have."""

    digests: dict[int, bytes] = field(default_factory=dict)
    landed: list[tuple[int, str]] = field(default_factory=list)


class _Purge:
    """A purge under way."""

    def __init__(
        self,
        archive: Archive,
        stored: StoredLogs,
        history: duckdb.DuckDBPyConnection,
        runs: OldRuns,
        do: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._archive = archive
        self._stored = stored
        self._history = history
        self._runs = runs
        self._do = do
        self._progress = progress
        self._jobs: defaultdict[str, Gone] = defaultdict(Gone)
        self._left: defaultdict[str, int] = defaultdict(int)
        self._before = self._after = 0
        self._seen = 0
        self.unlanded: set[str] = set()

    def all(self, parts: Sequence[Part]) -> None:
        """Purges part by part: the rows of one are read back from the archive, all of them, before one of its runs is touched."""
        where = parts_of_runs(parts)
        purged = {part.name: self._archive.purged(part) for part in parts}
        gone = {run_id for receipt in purged.values() for run_id in receipt}
        self._left["not_archived"] = len(self._runs.over.keys() - where.keys())
        self._left["not_in_history"] = sum(not self._runs.over[run_id] for run_id in self._runs.over.keys() & where.keys() - gone)
        due = {run_id for run_id, complete in self._runs.over.items() if complete and run_id in where} - gone
        for part in parts:
            wanted = {run_id for run_id in part.runs if run_id in due and where[run_id][-1] is part}
            if not wanted:
                continue
            archived = self._read_back(part, where, wanted)
            for run_id in self._not_landed(archived):
                self._left["not_in_history"] += 1
                self.unlanded.add(run_id)
                del archived[run_id]
            self._purge_part(part, archived, purged[part.name], len(due))

    def result(self) -> PurgeResult:
        jobs = dict(sorted(self._jobs.items()))
        return PurgeResult(self._do, jobs, **self._left, file_bytes_before=self._before, file_bytes_after=self._after)

    def _read_back(self, part: Part, where: Mapping[str, Sequence[Part]], wanted: set[str]) -> dict[str, _Run]:
        """What the archive has of the wanted runs, from all files that have some of it, each read to its end."""
        found: dict[str, _Run] = {run_id: _Run() for run_id in wanted}
        names = {one.name: one for run_id in wanted for one in where[run_id]}
        for one in names.values():
            for run_id, rows in self._archive.rows(one):
                if run_id not in wanted:
                    continue
                run = found[run_id]
                for row in rows:
                    run.digests[row.event_id] = row_digest(row)
                    if row.kind is not None:
                        run.landed.append((row.event_id, digest(row.event)))
        return found

    def _not_landed(self, archived: Mapping[str, _Run]) -> list[str]:
        """Runs of which an event is neither in history nor in its quarantine."""
        keys = [(run_id, *key) for run_id, run in archived.items() for key in run.landed]
        names = ("run_id", "event_id", "event_hash")
        table = pa.table(list(zip(*keys, strict=True)) if keys else [[], [], []], names=names)
        table = table.cast(pa.schema([(names[0], pa.string()), (names[1], pa.int64()), (names[2], pa.string())]))
        self._history.register("archived_rows", table)
        try:
            known = " union all ".join(
                f"select {', '.join(names)} from {of} where source_id = $1 and run_id in (select run_id from archived_rows)"
                for of in ("events", "quarantine")
            )
            missing = f"select distinct run_id from archived_rows anti join ({known}) k using ({', '.join(names)})"
            return [run_id for (run_id,) in self._history.execute(missing, [self._runs.source_id]).fetchall()]
        finally:
            self._history.unregister("archived_rows")

    def _purge_part(self, part: Part, archived: Mapping[str, _Run], receipt: dict[str, int], due: int) -> None:
        waiting: list[tuple[str, list[int]]] = []
        done: dict[str, int] = {}
        sizes: dict[str, int] = {}
        rows = 0
        for run_id, run in archived.items():
            self._seen += 1
            if self._progress is not None:
                self._progress(self._seen, due)
            try:
                goes = _what_goes(self._stored.rows(run_id), run)
            except (SetupError, BusyError):
                self._left["busy"] += 1
                continue
            if goes is None:
                self._left["changed"] += 1
                continue
            ids, size = goes
            self._jobs[part.runs[run_id].job_name] += Gone(bool(ids), len(ids), size)
            done[run_id], sizes[run_id] = len(ids), self._stored.size(run_id)
            waiting.append((run_id, ids))
            rows += len(ids)
            if rows >= CHANGED_AT_ONCE:
                self._take_out(waiting, done, sizes)
                waiting, rows = [], 0
        self._take_out(waiting, done, sizes)
        if self._do and done:
            crash_point("purge.before_receipt")
            self._archive.write_receipt(part, {**receipt, **done})
            crash_point("purge.after_receipt")

    def _take_out(self, runs: Sequence[tuple[str, list[int]]], done: dict[str, int], sizes: Mapping[str, int]) -> None:
        """Removes the rows, and gives their space back; a run whose file is held is taken from `done`, for the next time."""
        if not self._do:
            return
        for some in _transactions(runs):
            crash_point("purge.before_delete")
            self._stored.take_out(some)
            crash_point("purge.after_delete")
        for run_id, _ in runs:
            if self._stored.shrink(run_id):
                self._before += sizes[run_id]
                self._after += self._stored.size(run_id)
            else:
                self._left["busy"] += 1
                del done[run_id]


def _read_on(home: Path, source_id: str, run_ids: set[str]) -> None:
    """Makes the next sync look again at these runs: history took them for complete, and their logs went on."""
    with writer(home) as history:
        cursors = read(
            history.con, Cursor, "source_id = ? and complete and list_contains(?, shard)", [source_id, sorted(run_ids)]
        )
        history.upsert(Cursor, [cursor.model_copy(update={"complete": False}) for cursor in cursors])


def _what_goes(pieces: Iterator[Sequence[StoredRow]], run: _Run) -> tuple[list[int], int] | None:
    """Numbers of the rows that go, and bytes of their texts; None where the log has a row that is not in the archive just so."""
    goes: list[tuple[int, int]] = []
    last = 0
    for rows in pieces:
        for row in rows:
            if run.digests.get(row.event_id) != row_digest(row):
                return None
            if row.kind in GOES:
                goes.append((row.event_id, len(row.event)))
            last = row.event_id
    if goes and goes[-1][0] == last:
        goes.pop()
    return [event_id for event_id, _ in goes], sum(size for _, size in goes)


def _transactions(runs: Sequence[tuple[str, list[int]]]) -> Iterator[list[tuple[str, list[int]]]]:
    """The same rows in groups of at most `CHANGED_AT_ONCE`; a long log comes in several."""
    group: list[tuple[str, list[int]]] = []
    room = CHANGED_AT_ONCE
    for run_id, ids in runs:
        start = 0
        while start < len(ids):
            some = ids[start : start + room]
            group.append((run_id, some))
            start += len(some)
            room -= len(some)
            if room == 0:
                yield group
                group, room = [], CHANGED_AT_ONCE
    if group:
        yield group
