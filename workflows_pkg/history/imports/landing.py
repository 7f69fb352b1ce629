"""How does a file of another system become history, and how does it go again?

What one import brought has a source id of its own, `import:NAME`, so no sync of a Dagster instance touches it. A file is imported
once: its content's hash is remembered with how it was read. A run is written as a whole, and only where something about it is new
or different, so importing again, or a database that has grown, changes nothing else. What has no cost of its own is priced by the rate
card.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import duckdb
import pyarrow as pa

from workflows_pkg.errors import NotFound, WorkflowsError, bounded, suggestion
from workflows_pkg.history import rollups
from workflows_pkg.history.cost import Counting, counting, price_sql, use_written
from workflows_pkg.history.imports import airflow, nextflow, table, wfformat
from workflows_pkg.history.imports.detecting import detected
from workflows_pkg.history.imports.reading import Format, Reading, Source, reading_connection, unreadable
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor, Run, StepAttempt, UsedRateCard
from workflows_pkg.history.schema import literal, names
from workflows_pkg.history.sealed import forget_runs
from workflows_pkg.history.store import Writer, open_history, writer

IMPORTED = "import:"
"""Begin of the source id of what was imported; the import's name follows."""

READERS = {"nextflow": nextflow.read, "wfformat": wfformat.read, "airflow": airflow.read, "table": table.read}


@dataclass(frozen=True)
class Imported:
    """What one file held, and how many of its runs were new or different; `changed` 0: nothing was written."""

    file: Path
    format: Format
    name: str
    jobs: tuple[str, ...]
    runs: int
    attempts: int
    first: datetime
    last: datetime
    changed: int
    remarks: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _File:
    """A file and how it is read; `done` where just this was imported before."""

    source: Source
    format: Format
    position: str
    grown_from: Cursor | None
    done: bool


def import_files(
    home: Path,
    files: Sequence[Path],
    *,
    format: Format | None = None,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    timezone: str = "UTC",
    dry_run: bool = False,
    wait_s: float = 30,
) -> list[Imported]:
    """Imports `files` into the history under `home`, all of them or none, and says what each held.

    format: told from the content where it is not given. columns: for tables, our column -> theirs (`table.read`). name: of the
    import, by which it is undone; also the job's, for formats whose file is one run. Left out: the file's name without its ending,
    which only one file can give. timezone: of instants that name none. dry_run: reads and compares, writes nothing.

    Raises WorkflowsError with what was expected and found where a file cannot be read, was imported under another name or in
    another way; BusyError where the writer's turn does not come.
    """
    zone = _zone(timezone)
    if not files:
        raise WorkflowsError("No file is named.", fix="Name at least one: workflows history import FILE")
    if name is None and len(files) > 1:
        raise WorkflowsError(f"{len(files)} files need a name for their import.", fix="Add --name NAME.")
    source_id = IMPORTED + (name or Source(files[0], "", "", zone).stem)
    with closing(open_history(home)) as con:
        cursors = read(con, Cursor, "starts_with(source_id, ?)", [IMPORTED])
        opened = [_opened(file, source_id, format, dict(columns or {}), name, zone, cursors) for file in files]
        readings = [(file, *_read(file)) for file in opened]
        if dry_run:
            cards = counting(con)
            return [
                _told(file, reading, _changed(con, _priced(con, reading, cards)).num_rows, s) for file, reading, s in readings
            ]
    with writer(home, wait_s) as history, history.transaction():
        use_written(history)
        cards = counting(history.con)
        return [
            _told(file, reading, _land(history, file, _priced(history.con, reading, cards)), s) for file, reading, s in readings
        ]


def undo_import(home: Path, name: str, wait_s: float = 30) -> int:
    """Takes everything out of the history that was imported as `name`, and returns how many runs that were.

    Raises NotFound with the nearest name where nothing was; BusyError where the writer's turn does not come.
    """
    source_id = IMPORTED + name
    with closing(open_history(home)) as con:
        known = {cursor.source_id for cursor in read(con, Cursor, "starts_with(source_id, ?)", [IMPORTED])}
    if source_id not in known:
        raise NotFound("import", name, [one.removeprefix(IMPORTED) for one in known])
    with writer(home, wait_s) as history, history.transaction():
        ids = history.con.execute("select run_id from runs where source_id = ?", [source_id]).to_arrow_table()
        _forget(history, ids)
        history.delete(Cursor, source_id=source_id)
        if not history.con.execute("select 1 from step_attempts where rate_card is not null limit 1").fetchone():
            history.delete(UsedRateCard)  # nothing is left that was priced by them
    return len(ids)


def _opened(
    file: Path,
    source_id: str,
    asked: Format | None,
    columns: Mapping[str, str],
    name: str | None,
    zone: ZoneInfo,
    cursors: Sequence[Cursor],
) -> _File:
    if not file.is_file():
        raise WorkflowsError(f"There is no file {file}.", fix=_nearest(file))
    format_ = asked or detected(file)
    if columns and format_ != "table":
        raise WorkflowsError(f"{file} is {format_}, whose columns are known.", fix="Use --map for CSV and Parquet only.")
    digest = _digest(file)
    source = Source(file, source_id, digest, zone, name, columns)
    how = {"format": format_, "timezone": zone.key, "columns": dict(sorted(columns.items()))}
    position = json.dumps({"file": str(file.absolute()), "bytes": file.stat().st_size, **how})
    grown_from = None
    done = False
    for cursor in cursors:
        before = json.loads(cursor.position)
        if cursor.shard == digest and cursor.source_id != source_id:
            already = cursor.source_id.removeprefix(IMPORTED)
            raise WorkflowsError(
                f"{file} was imported as '{already}' already; twice it would count twice.",
                fix=f"Take that out first: workflows history import --undo {already}",
            )
        if cursor.shard == digest:
            if {key: before[key] for key in how} != how:
                raise WorkflowsError(
                    f"{file} was imported in another way already: {_described(before)}.",
                    fix=f"Take that out first: workflows history import --undo {source_id.removeprefix(IMPORTED)}",
                )
            done = True
        elif cursor.source_id == source_id and format_ == "nextflow" and _begins_as(file, cursor, before):
            grown_from = cursor
    return _File(source, format_, position, grown_from, done)


def _read(file: _File) -> tuple[Reading, float]:
    started = time.monotonic()
    with closing(reading_connection(file.source.zone)) as con:
        try:
            reading = READERS[file.format](con, file.source)
        except duckdb.Error as error:
            raise unreadable(file.source, error) from error
        except OSError as error:
            raise file.source.refuse(f"cannot be read: {error.strerror}.") from error
    return reading, time.monotonic() - started


def _land(history: Writer, file: _File, reading: Reading) -> int:
    """Writes the runs that are new or different, each as a whole, in the caller's transaction; returns how many."""
    source = file.source
    if file.grown_from is not None:
        before = Source(source.file, source.source_id, file.grown_from.shard, source.zone)
        _forget(history, history.con.execute(f"select {before.run_id(literal(before.digest))} as run_id").to_arrow_table())
        history.delete(Cursor, source_id=source.source_id, shard=file.grown_from.shard)
    changed = _changed(history.con, reading)
    if changed.num_rows:
        _forget(history, changed)
        for record_type, rows in ((Run, reading.runs), (StepAttempt, reading.attempts)):
            history.upsert(record_type, rows if changed.num_rows == len(reading.runs) else _of_runs(history.con, rows, changed))
    if not file.done:
        cursor = Cursor(
            source_id=source.source_id,
            shard=source.digest,
            position=file.position,
            complete=True,
            updated_at=datetime.now(UTC),
        )
        history.upsert(Cursor, [cursor])
    return changed.num_rows


def _priced(con: duckdb.DuckDBPyConnection, reading: Reading, cards: Counting) -> Reading:
    """The same with costs where the file brought none: by the card in force when an attempt began, as of what a sync lands."""
    usd, digest = price_sql(cards)
    con.register("read_attempts", reading.attempts)
    con.register("read_runs", reading.runs)
    try:
        attempts = con.execute(
            f"""select * replace (coalesce(cost_usd, {usd}) as cost_usd, case when cost_usd is null then {digest} end as rate_card)
            from read_attempts"""
        ).to_arrow_table()
        con.register("priced_attempts", attempts)
        runs = con.execute(
            """select r.* replace (coalesce(r.cost_usd, s.usd) as cost_usd) from read_runs r
            left join (select run_id, sum(cost_usd) as usd from priced_attempts group by run_id) s using (run_id)"""
        ).to_arrow_table()
    finally:
        for name in ("read_attempts", "read_runs", "priced_attempts"):
            con.unregister(name)
    return replace(reading, runs=runs, attempts=attempts)


def _changed(con: duckdb.DuckDBPyConnection, reading: Reading) -> pa.Table:
    """`run_id` of the runs of which anything differs from what the history shows, on a writer's or a reader's connection."""
    told: dict[str, str] = {}
    for record_type, rows in ((Run, reading.runs), (StepAttempt, reading.attempts)):
        con.register(f"read_{record_type.table}", rows)
        # A hash per run and not the rows themselves: of a million rows these are some megabytes, and the rows two gigabytes.
        summed = f"run_id, sum(hash({names(record_type.model_fields)})::hugeint) as content, count(*) as number"
        for side, place in (("new", f"read_{record_type.table}"), ("old", record_type.table)):
            told[f"{side}_{record_type.table}"] = (
                f"select {summed} from {place} where run_id in (select run_id from read_runs) group by run_id"
            )
    sums = ", ".join(f"{name} as ({select})" for name, select in told.items())
    joined = " ".join(f"full join {name} using (run_id)" for name in list(told)[1:])
    same = " and ".join(
        f"new_{name}.{column} is not distinct from old_{name}.{column}"
        for name in (Run.table, StepAttempt.table)
        for column in ("content", "number")
    )
    try:
        return con.execute(f"with {sums} select run_id from {next(iter(told))} {joined} where not ({same})").to_arrow_table()
    finally:
        for record_type in (Run, StepAttempt):
            con.unregister(f"read_{record_type.table}")


def _of_runs(con: duckdb.DuckDBPyConnection, rows: pa.Table, run_ids: pa.Table) -> pa.Table:
    con.register("all_rows", rows)
    con.register("wanted_ids", run_ids)
    try:
        return con.execute("select * from all_rows semi join wanted_ids using (run_id)").to_arrow_table()
    finally:
        con.unregister("all_rows")
        con.unregister("wanted_ids")


def _forget(history: Writer, run_ids: pa.Table) -> None:
    history.con.register("forgotten_ids", run_ids)
    try:
        with rollups.kept(history.con, history.files, "select run_id from forgotten_ids"):
            forget_runs(history.con, history.files, "select run_id from forgotten_ids")
    finally:
        history.con.unregister("forgotten_ids")


def _told(file: _File, reading: Reading, changed: int, seconds: float) -> Imported:
    return Imported(
        file=file.source.file,
        format=file.format,
        name=file.source.source_id.removeprefix(IMPORTED),
        jobs=tuple(sorted(reading.runs.column("job_name").unique().to_pylist())),
        runs=len(reading.runs),
        attempts=len(reading.attempts),
        first=reading.first,
        last=reading.last,
        changed=changed,
        remarks=reading.remarks,
        seconds=seconds,
    )


def _digest(file: Path) -> str:
    """Hash of the content, and of a write-ahead log beside a database, which belongs to it."""
    total = hashlib.sha256()
    for path in (file, file.with_name(f"{file.name}-wal")):
        if path.exists() and (path == file or path.stat().st_size):
            with path.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def _begins_as(file: Path, cursor: Cursor, before: Mapping[str, object]) -> bool:
    """Whether `file` is what was imported, and more: the trace of a run that went on."""
    size = before["bytes"]
    if before["file"] != str(file.absolute()) or not isinstance(size, int) or size > file.stat().st_size:
        return False
    with file.open("rb") as opened:
        begin = hashlib.sha256(opened.read(size)).digest()
    return hashlib.sha256(begin).hexdigest() == cursor.shard


def _described(before: Mapping[str, object]) -> str:
    columns = before.get("columns") or {}
    told = [f"--format {before['format']}", f"--timezone {before['timezone']}"]
    if isinstance(columns, dict):
        told += [f"--map {ours}={theirs}" for ours, theirs in columns.items()]
    return bounded(" ".join(told), 300)


def _zone(name: str) -> ZoneInfo:
    known = available_timezones()
    if name not in known:
        raise WorkflowsError(
            f"There is no time zone '{bounded(name)}'.", fix=suggestion(name, known) or "Write one such as Europe/Berlin."
        )
    return ZoneInfo(name)


def _nearest(file: Path) -> str:
    try:
        beside = [str(one) for one in file.parent.iterdir() if one.is_file()][:500]
    except OSError:
        return f"There is no folder {file.parent} either."
    return suggestion(str(file), beside)
