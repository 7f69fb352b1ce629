"""How do the logs of runs that are long over get into an archive, and back from it?

The archive has whole rows, lines logged by user code too, which history does not keep. A run is archived with all its rows; what its log
says later comes with the next archive. Nothing in the instance is changed by archiving; `purge` says what may go afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, NoReturn

import duckdb

from workflows_pkg.errors import BusyError, NotFound, SetupError
from workflows_pkg.history.archive import Archive, Part, PartWriter, StoredRow, row_digest
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.layout import layout
from workflows_pkg.history.lock import only_writer
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.batches import GRACE, over_for, source_id_of
from workflows_pkg.orchestration.facts import instant
from workflows_pkg.orchestration.positions import Position
from workflows_pkg.orchestration.sources import Source, open_source
from workflows_pkg.orchestration.sources.stored import CHANGED_AT_ONCE, StoredLogs, open_stored

_ASKED_AT_ONCE = 500

Progress = Callable[[int, int], None]
"""Hears how many runs are done, and how many there are to do."""


@dataclass(frozen=True)
class OldRuns:
    """The runs of an instance that have been over for longer than an age: `over` says of each whether history has all of it."""

    source_id: str
    over: Mapping[str, bool]


@dataclass(frozen=True)
class ArchiveResult:
    """What went into the archive: runs, rows, bytes of the rows' texts, files and their bytes; `unreadable` runs could not be read."""

    runs: int = 0
    rows: int = 0
    bytes: int = 0
    files: int = 0
    file_bytes: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class RestoreResult:
    """What came back: rows of how many runs.

    complete: runs whose rows were all there. deleted: runs that are no longer in the instance, of which nothing is put back.
    conflicts: runs in whose log another row has the number of an archived one, which are left alone.
    """

    runs: int = 0
    rows: int = 0
    complete: int = 0
    deleted: int = 0
    conflicts: int = 0


def alone(home: Path) -> AbstractContextManager[None]:
    """For the block, no other archive, purge or restore works on the instance in `home`; raises BusyError where one does."""
    folder = layout(home).store
    folder.mkdir(parents=True, exist_ok=True)
    return only_writer(folder / "archive.lock", 0, "archiving or purging")


def old_runs(source: Source, history: duckdb.DuckDBPyConnection, older_than: timedelta) -> OldRuns:
    """The runs that have been over for longer than `older_than`, which is at least a minute: a worker says good-bye after its run."""
    cursors = read(history, Cursor)
    source_id = source_id_of(source, cursors)
    positions = {one.shard: (one.complete, one.position) for one in cursors if one.source_id == source_id}
    rows, _ = source.run_rows("", {})
    now, age = datetime.now(UTC), max(older_than, GRACE)

    def landed(run_id: str, updated: str) -> bool:
        complete, text = positions.get(run_id, (False, ""))
        if not complete:
            return False
        position = Position.of(text)
        return not position.deleted and not position.broken and position.updated == updated

    return OldRuns(source_id, {row.run_id: landed(row.run_id, row.updated) for row in rows if over_for(row, now) > age})


def parts_of_runs(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Run -> the parts with rows of it, in the order in which they were written; most runs have one."""
    found: dict[str, list[Part]] = {}
    for part in parts:
        for run_id in part.runs:
            found.setdefault(run_id, []).append(part)
    return found


def archive_runs(home: Path, archive: Archive, older_than: timedelta, progress: Progress | None = None) -> ArchiveResult:
    """Archives what is not archived yet of the runs in the instance in `home` that have been over for longer than `older_than`.

    Files that were finished stay when it dies or raises; calling it again does the rest. Raises BusyError while another archive, purge or
    restore runs, SetupError where the instance cannot be read or the archive not be written.
    """
    with alone(home), open_source(home) as source, closing(open_stored(home)) as stored:
        with open_history(home) as history:
            runs = old_runs(source, history, older_than)
        archive.sweep(runs.source_id)
        parts = archive.parts(runs.source_id)
        reached = {run_id: several[-1].runs[run_id].last_id for run_id, several in parts_of_runs(parts).items()}
        purged = {run_id for part in parts for run_id in archive.purged(part)}
        wanted = [run_id for run_id in runs.over if run_id not in purged]
        due = _days(source, wanted)
        result = _written(archive, runs.source_id, _logs(stored, due, reached, progress))
        return replace(result, unreadable=len(wanted) - len(due) + result.unreadable)


def restore(
    home: Path, archive: Archive, *, run_id: str | None = None, day: date | None = None, progress: Progress | None = None
) -> RestoreResult:
    """Puts archived rows that are missing back into the instance in `home`, under their own numbers and byte for byte.

    run_id, day: only this run, or the runs that were asked for on this day (UTC). Doing it twice changes nothing, and what was done stays
    done when it dies or raises. Raises NotFound where nothing of that run or day is archived, BusyError while another archive,
    purge or restore runs or where a database is held, SetupError where a file of the archive is damaged or the instance cannot be changed.
    """
    with alone(home), open_source(home) as source, closing(open_stored(home)) as stored:
        with open_history(home) as history:
            source_id = source_id_of(source, read(history, Cursor))
        parts = archive.parts(source_id)
        runs = {one for part in parts for one in part.runs if (run_id in (None, one)) and (day in (None, part.day))}
        if not runs:
            _refuse_unknown(archive, parts, run_id, day)
        _, there = source.run_rows("", {})
        restoring = _Restoring(archive, stored, {run_id for run_id in runs & there if stored.has(run_id)})
        done = 0
        for part in parts:
            restoring.part(part)
            done += len(part.runs.keys() & runs)
            if progress is not None and part.runs.keys() & runs:
                progress(done, len(runs))
        return restoring.result(deleted=len(runs) - restoring.wanted)


def _days(source: Source, run_ids: Sequence[str]) -> list[tuple[date, str, str]]:
    """Day on which it was asked for, id and job of each run, the oldest first; a run whose row cannot be read is left out."""
    found: list[tuple[datetime, str, str]] = []
    for start in range(0, len(run_ids), _ASKED_AT_ONCE):
        for body in source.run_bodies(run_ids[start : start + _ASKED_AT_ONCE]):
            created = instant(body.created or "")
            if created is not None:
                found.append((created, body.run_id, body.job_name))
    return [(created.date(), run_id, job_name) for created, run_id, job_name in sorted(found)]


class _Log(NamedTuple):
    """Some rows of one run that are to be archived; `rows` is None where the log cannot be read."""

    day: date
    run_id: str
    job_name: str
    rows: Sequence[StoredRow] | None


def _logs(
    stored: StoredLogs, due: Sequence[tuple[date, str, str]], reached: Mapping[str, int], progress: Progress | None
) -> Iterator[_Log]:
    """What is not archived of these runs; a log that cannot be read keeps nobody from archiving the others."""
    for number, (day, run_id, job_name) in enumerate(due, start=1):
        try:
            for rows in stored.rows(run_id, reached.get(run_id, 0)):
                yield _Log(day, run_id, job_name, rows)
        except (SetupError, BusyError):
            yield _Log(day, run_id, job_name, None)
        if progress is not None:
            progress(number, len(due))


def _written(archive: Archive, source_id: str, logs: Iterator[_Log]) -> ArchiveResult:
    """Writes the rows into parts, one day after the other."""
    total = ArchiveResult()
    unreadable = 0
    log = next(logs, None)
    while log is not None:
        if log.rows is None:
            unreadable += 1
            log = next(logs, None)
            continue
        with PartWriter(archive, source_id, log.day) as writer:
            day, run_id = log.day, log.run_id
            while log is not None and log.day == day and (log.run_id == run_id or not writer.full):
                run_id = log.run_id
                if log.rows is None:
                    unreadable += 1
                else:
                    writer.add(run_id, log.job_name, log.rows)
                log = next(logs, None)
            part = writer.finish()
        runs = part.runs.values()
        total = ArchiveResult(
            total.runs + len(runs),
            total.rows + sum(run.rows for run in runs),
            total.bytes + sum(run.bytes for run in runs),
            total.files + 1,
            total.file_bytes + archive.size(part),
        )
    return replace(total, unreadable=unreadable)


class _Restoring:
    """Rows on their way back into the logs of the `wanted` runs."""

    def __init__(self, archive: Archive, stored: StoredLogs, wanted: set[str]) -> None:
        self._archive = archive
        self._stored = stored
        self._wanted = wanted
        self._rows: dict[str, int] = {}
        self._conflicts: set[str] = set()

    def part(self, part: Part) -> None:
        """Puts back what is missing of one part, after it was read to its end and every log was looked at."""
        missing = self._missing(part)
        receipt = self._archive.purged(part)
        if receipt.keys() & missing.keys():  # before the rows come: what is half there is not purged
            self._archive.write_receipt(part, {run_id: rows for run_id, rows in receipt.items() if run_id not in missing})
        crash_point("restore.before_insert")
        waiting: list[tuple[str, StoredRow]] = []
        for run_id, rows in self._archive.rows(part) if any(missing.values()) else ():
            waiting += ((run_id, row) for row in rows if row.event_id in missing.get(run_id, ()))
            while len(waiting) >= CHANGED_AT_ONCE:
                self._put_back(waiting[:CHANGED_AT_ONCE])
                waiting = waiting[CHANGED_AT_ONCE:]
        self._put_back(waiting)

    @property
    def wanted(self) -> int:
        """Number of runs to which something may come back."""
        return len(self._wanted)

    def result(self, deleted: int) -> RestoreResult:
        came = {run_id: rows for run_id, rows in self._rows.items() if rows}
        return RestoreResult(len(came), sum(came.values()), len(self._rows) - len(came), deleted, len(self._conflicts))

    def _put_back(self, rows: Sequence[tuple[str, StoredRow]]) -> None:
        if rows:
            self._stored.put_back(rows)
            crash_point("restore.after_insert")

    def _missing(self, part: Part) -> dict[str, set[int]]:
        """Numbers of the rows that the log of a run lacks; runs whose log has another row under one of the numbers are left out."""
        archived: dict[str, dict[int, bytes]] = {}
        if not part.runs.keys() & self._wanted:
            return {}
        for run_id, rows in self._archive.rows(part):
            if run_id in self._wanted:
                archived.setdefault(run_id, {}).update((row.event_id, row_digest(row)) for row in rows)
        found: dict[str, set[int]] = {}
        for run_id, digests in archived.items():
            there = {row.event_id: row_digest(row) for rows in self._stored.rows(run_id) for row in rows}
            if any(digests.get(number, digest) != digest for number, digest in there.items()):
                self._conflicts.add(run_id)
                continue
            found[run_id] = digests.keys() - there.keys()
            self._rows[run_id] = self._rows.get(run_id, 0) + len(found[run_id])
        return found


def _refuse_unknown(archive: Archive, parts: Sequence[Part], run_id: str | None, day: date | None) -> NoReturn:
    if not parts:
        raise SetupError(
            f"{archive.place} has nothing of this instance.",
            fix="Name the archive with --from, or write one: workflows history archive.",
        )
    if run_id is not None:
        raise NotFound("archived run", run_id, {one for part in parts for one in part.runs})
    raise NotFound("archived day", str(day), {str(part.day) for part in parts})
