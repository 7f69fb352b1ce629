"""How do finished days leave the hot database without a reader noticing? Parquet files, and one view per table over both.

A day's rows are written to a file of their own that never changes; sealing more rows of the same day writes a new file with
all of them. Which files count stands in the hot database and changes in the same transaction that removes the rows, so a
row is always in exactly one place, whenever the writer dies. A live row hides a sealed row of the same key; a run that is
derived again hides all its sealed rows. Rows that belong to a run are filed under the day on which the run was asked for,
so that a run stays together.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb

from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.layout import Layout
from workflows_pkg.history.publish import sync
from workflows_pkg.history.records import RECORDS, Event, Record, Run
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import BOOKKEEPING, LIVE, columns, first_row, literal, names, quoted, same_key

SEAL_AFTER = timedelta(days=3)
"""A finished day stays in the hot database this long: late events come within minutes, and recent days are asked for most."""

KEEP_SUPERSEDED = timedelta(days=1)
"""A reader may hold an older published copy, which names older files; none is expected to be held for a day."""

SEALABLE: tuple[type[Record], ...] = tuple(record_type for record_type in RECORDS if record_type.day is not None)
"""Tables whose rows belong to a day; the others stay in the hot database."""

MERGED: tuple[type[Record], ...] = tuple(
    record_type for record_type in SEALABLE if "run_id" in record_type.key and record_type is not Event
)
"""Tables of which the days of a month become one file: a run is looked for in twelve files a year instead of 365. Events are looked for
by day only, and are most of what there is.
"""

MERGE_AFTER = timedelta(days=7)
"""A month is merged this long after its last day was sealed: what comes late for it need not rewrite the whole of it."""

SEALED_TOGETHER = 500_000
"""Events of the days that go into one transaction, where these are several: some 200 MB of memory, and the views are made anew once."""

_SYNCED_AT_ONCE = 8
"""Files made safe from a power cut at once: the file system writes its journal once for all who wait (measured: half the time)."""

_ROW_GROUP = 20_480
"""Rows of a Parquet file that are read or left together. Rows lie in the order of their key, so that of a merged month about this many
are read to find one run; the smallest that DuckDB fills without getting larger files (2 % at a tenth of it).
"""


class Days(NamedTuple):
    """Days from the first to the last."""

    first: date
    last: date


@dataclass(frozen=True)
class _File:
    """One file of sealed rows, its name below the folder of them."""

    record_type: type[Record]
    days: Days
    name: str


def create_views(con: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    """Makes `main.<table>` for every table: the live rows, and the sealed rows that no live row hides."""
    for record_type in TABLES:
        table = quoted(record_type.table)
        live = f"SELECT {names(_names(record_type))} FROM {LIVE}.{table}"
        sealed = sealed_rows(con, layout, record_type) if record_type in SEALABLE else None
        both = live if sealed is None else f"{live} UNION ALL SELECT * FROM ({sealed}) s{visible(record_type)}"
        con.execute(f"CREATE OR REPLACE VIEW main.{table} AS {both}")
    con.execute(f"DELETE FROM {BOOKKEEPING}.views")
    con.execute(f"INSERT INTO {BOOKKEEPING}.views VALUES (?)", [str(layout.sealed)])


def views_are_current(con: duckdb.DuckDBPyConnection, layout: Layout) -> bool:
    """Whether the views exist and name the files where they are now; not so after the home was moved."""
    return con.execute(f"select folder from {BOOKKEEPING}.views").fetchall() == [(str(layout.sealed),)]


def sealed_rows(
    con: duckdb.DuckDBPyConnection,
    layout: Layout,
    record_type: type[Record],
    *,
    days: tuple[date, date] | None = None,
    instants: tuple[datetime, datetime] | None = None,
) -> str | None:
    """A SELECT over the sealed files of a table, hidden rows included; `None` where there are none.

    `days`: only files of days from the first to the last. `instants`: only files that can hold a row between the two.
    """
    where = ["table_name = ?"]
    values: list[object] = [record_type.table]
    if days is not None:
        where.append("last_day >= ? and day <= ?")
        values.extend(days)
    if instants is not None:
        where.append("last_at >= ? and first_at <= ?")
        values.extend(instants)
    found = con.execute(
        f"select file, columns from {BOOKKEEPING}.sealed_files where {' and '.join(where)} order by day, file", values
    ).fetchall()
    by_columns: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file, file_columns in found:
        by_columns[tuple(file_columns)].append(literal(as_pattern(layout.sealed / file)))
    parts = [
        f"SELECT {_select_list(record_type, have)} FROM read_parquet([{', '.join(files)}])" for have, files in by_columns.items()
    ]
    return " UNION ALL ".join(parts) or None


def rows_of_day(con: duckdb.DuckDBPyConnection, record_type: type[Record], day: date) -> str:
    """SQL: the rows of the runs that were asked for on `day`, as the view of the table has them, without opening the files of other days.

    For readers too; a history of which nothing was published yet has no files.
    """
    table = quoted(record_type.table)
    try:
        ((folder,),) = con.execute(f"select folder from {BOOKKEEPING}.views").fetchall()
    except duckdb.CatalogException:
        return f"from main.{table}"
    layout = Layout(Path(folder).parents[1])
    live = f"select {names(_names(record_type))} from {LIVE}.{table}"
    sealed = sealed_rows(con, layout, record_type, days=(day, day))
    return live if sealed is None else f"{live} union all select * from ({sealed}) s{visible(record_type)}"


def days_to_seal(con: duckdb.DuckDBPyConnection, before: date) -> list[list[Days]]:
    """The days, first and last of each file to write and oldest first, that end before `before` and have something to seal: ended runs, or
    rows without a run. In groups that are sealed together.

    A month that was merged is one file, and so is one that would be merged soon and has not too many events; all others are days.
    """
    parts = [
        f"select r.created_at::date as day, count(e.run_id) as events from {LIVE}.{quoted(Run.table)} r "
        f"left join {LIVE}.{quoted(Event.table)} e using (run_id) where {_ended(before)} group by all"
    ]
    parts += [
        f"select distinct {quoted(record_type.day or '')}::date as day, 0 as events from {LIVE}.{quoted(record_type.table)}"
        for record_type in SEALABLE
        if not _of_run(record_type)
    ]
    found = con.execute(
        f"""with due as (
            select day, sum(events) as events, date_trunc('month', day)::date as begins,
                (date_trunc('month', day) + interval 1 month - interval 1 day)::date as ends
            from ({" union all ".join(parts)}) where day < ? group by day
        ), months as (
            select begins, ends from due group by all having (ends < ? and sum(events) <= ?)
            union
            select day, last_day from {BOOKKEEPING}.sealed_files where last_day > day
        )
        select coalesce(m.begins, d.day) as first, coalesce(m.ends, d.day) as last, sum(events)
        from due d left join months m on d.day between m.begins and m.ends group by all order by all""",
        [before, before - MERGE_AFTER, SEALED_TOGETHER],
    ).fetchall()
    groups: list[list[Days]] = []
    room = 0
    for first, last, events in found:
        if events > room or not groups:
            groups.append([])
            room = SEALED_TOGETHER
        groups[-1].append(Days(first, last))
        room -= events
    return groups


def seal_days(con: duckdb.DuckDBPyConnection, layout: Layout, spans: Sequence[Days], before: date) -> int:
    """Moves the finished rows of these days into Parquet and returns their number; to be called inside a transaction.

    A run that is open, or ended on `before` or later, stays live with all its rows; a later call merges it into the day.
    """
    con.execute("create or replace temp table spans_to_seal (first date, last date)")
    con.executemany("insert into spans_to_seal values (?, ?)", [list(span) for span in spans])
    con.execute(
        f"create or replace temp table runs_to_seal as select run_id, created_at::date as day from {LIVE}.{quoted(Run.table)} "
        f"where {_within_spans('created_at::date')} and {_ended(before)}"
    )
    moved = 0
    written: list[_File] = []
    for record_type in SEALABLE:
        day = "r.day" if _of_run(record_type) else f"t.{quoted(record_type.day or '')}::date"
        due = "join runs_to_seal r using (run_id)" if _of_run(record_type) else f"where {_within_spans(day)}"
        con.execute(
            f"create or replace temp table rows_to_seal as select {names(_names(record_type), 't')}, {day} as sealed_day "
            f"from {LIVE}.{quoted(record_type.table)} t {due}"
        )
        rows = dict(con.execute("select sealed_day, count(*) from rows_to_seal group by 1").fetchall())
        moved += sum(rows.values())
        for first, last in [days for span in spans for days in _files_of(record_type, span, sorted(rows))]:
            if any(first <= day <= last for day in rows) or _has_replaced(con, layout, record_type, first, last):
                select = f"select {names(_names(record_type))} from rows_to_seal where sealed_day {_between(first, last)}"
                written.append(_write(con, layout, record_type, first, last, select))
        con.execute("drop table rows_to_seal")
    _put_in_place(con, layout, written)
    for record_type in SEALABLE:
        due = "run_id in (select run_id from runs_to_seal)"
        if not _of_run(record_type):
            due = _within_spans(f"{quoted(record_type.day or '')}::date")
        con.execute(f"delete from {LIVE}.{quoted(record_type.table)} where {due}")
    con.execute(f"delete from {BOOKKEEPING}.replaced_runs where run_id in (select run_id from runs_to_seal)")
    con.execute("drop table runs_to_seal")
    con.execute("drop table spans_to_seal")
    create_views(con, layout)
    return moved


def months_to_merge(con: duckdb.DuckDBPyConnection, before: date) -> list[tuple[str, Days]]:
    """Tables and months that lie wholly before `before` and are in several files still."""
    found = con.execute(
        f"""select table_name, month::date, (month + interval 1 month - interval 1 day)::date as ends
        from (select table_name, date_trunc('month', day) as month from {BOOKKEEPING}.sealed_files
              where list_contains(?, table_name) group by all having count(*) > 1)
        where ends < ? order by all""",
        [[record_type.table for record_type in MERGED], before - MERGE_AFTER],
    ).fetchall()
    return [(table, Days(first, last)) for table, first, last in found]


def merge_months(con: duckdb.DuckDBPyConnection, layout: Layout, months: Sequence[tuple[str, Days]]) -> None:
    """Makes one file of the files of each month; to be called inside a transaction."""
    tables = {record_type.table: record_type for record_type in MERGED}
    _put_in_place(con, layout, [_write(con, layout, tables[table], *month) for table, month in months])
    create_views(con, layout)


def remember_replaced(con: duckdb.DuckDBPyConnection, layout: Layout, run_ids_sql: str, days: tuple[date, date]) -> None:
    """Hides whatever is sealed of the runs that `run_ids_sql` selects, which were asked for within `days`: they are derived
    anew.
    """
    sealed = sealed_rows(con, layout, Run, days=days)
    if sealed is None:
        return
    con.execute(
        f"insert into {BOOKKEEPING}.replaced_runs select distinct run_id from ({sealed}) where run_id in ({run_ids_sql}) "
        f"and run_id not in (select run_id from {BOOKKEEPING}.replaced_runs)"
    )


def forget_runs(con: duckdb.DuckDBPyConnection, layout: Layout, run_ids_sql: str) -> None:
    """Takes all rows of the runs that `run_ids_sql` selects out, sealed ones too, as if they had never been; inside a transaction,
    whose caller keeps the rollups.

    For runs that nothing will tell of again: those `remember_replaced` hides come back into their day when they are sealed.
    """
    con.execute(f"create or replace temp table runs_to_forget as {run_ids_sql}")
    sealed = sealed_rows(con, layout, Run)
    days = "select NULL::date as day where false"
    if sealed is not None:
        days = f"select distinct created_at::date as day from ({sealed}) semi join runs_to_forget using (run_id)"
    con.execute(f"create or replace temp table days_to_forget as {days}")
    con.execute(f"insert into {BOOKKEEPING}.replaced_runs select run_id from runs_to_forget")
    written: list[_File] = []
    for record_type in SEALABLE:
        if _of_run(record_type) and record_type is not Event:
            con.execute(f"delete from {LIVE}.{quoted(record_type.table)} where run_id in (select run_id from runs_to_forget)")
            files = con.execute(
                f"select distinct f.day, f.last_day from {BOOKKEEPING}.sealed_files f join days_to_forget d "
                "on d.day between f.day and f.last_day where table_name = ? order by all",
                [record_type.table],
            ).fetchall()
            written += [_write(con, layout, record_type, first, last) for first, last in files]
    _put_in_place(con, layout, written)
    con.execute(f"delete from {BOOKKEEPING}.replaced_runs where run_id in (select run_id from runs_to_forget)")
    if first_row(con.execute("select count(*) from days_to_forget"))[0]:
        create_views(con, layout)
    con.execute("drop table runs_to_forget")
    con.execute("drop table days_to_forget")


def sweep(con: duckdb.DuckDBPyConnection, layout: Layout, now: datetime | None = None) -> int:
    """Deletes files that nothing names any more, and those of a writer that died while sealing; returns their number."""
    now = now or datetime.now(UTC)
    con.execute(f"delete from {BOOKKEEPING}.superseded_files where since < ?", [now - KEEP_SUPERSEDED])
    named = {
        file
        for (file,) in con.execute(
            f"select file from {BOOKKEEPING}.sealed_files union select file from {BOOKKEEPING}.superseded_files"
        ).fetchall()
    }
    unnamed = [path for path in layout.sealed.glob("*/*") if f"{path.parent.name}/{path.name}" not in named]
    for path in unnamed:
        path.unlink()
    return len(unnamed)


def _files_of(record_type: type[Record], span: Days, days: Sequence[date]) -> list[Days]:
    """The first and last days of the files that are written of a table for a span, of which there are rows on `days`."""
    if span.first == span.last or record_type in MERGED:
        return [span]
    return [Days(day, day) for day in days if span.first <= day <= span.last]


def _has_replaced(con: duckdb.DuckDBPyConnection, layout: Layout, record_type: type[Record], first: date, last: date) -> bool:
    """Whether sealed rows of runs that are sealed now must go, though none comes in their place."""
    older = sealed_rows(con, layout, record_type, days=(first, last)) if record_type in MERGED else None
    if older is None:
        return False
    (some,) = first_row(con.execute(f"select exists (from ({older}) s where s.run_id in (select run_id from runs_to_seal))"))
    return bool(some)


def _write(
    con: duckdb.DuckDBPyConnection, layout: Layout, record_type: type[Record], first: date, last: date, new: str | None = None
) -> _File:
    """Writes the file of one table for these days, of what is sealed of them and of what the SELECT `new` gives; not in place yet."""
    older = sealed_rows(con, layout, record_type, days=(first, last))
    parts = [] if new is None else [new]
    if older is not None:
        parts.append(f"SELECT * FROM ({older}) s{visible(record_type)}")
    name = f"{record_type.table}/{first}-{_next_number(layout, record_type, first)}.parquet"
    written = _File(record_type, Days(first, last), name)
    unfinished = _unfinished(layout.sealed / name)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    con.execute(
        f"COPY (SELECT * FROM ({' UNION ALL '.join(parts)}) ORDER BY {names(_order(record_type))}) "
        f"TO {literal(unfinished)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
    )
    return written


def _order(record_type: type[Record]) -> tuple[str, ...]:
    """How rows lie in a file: those of a run together, and sorted by what tells them apart soonest, which of events is not the instance."""
    return tuple(sorted(record_type.key, key=lambda name: name != "run_id"))


def _put_in_place(con: duckdb.DuckDBPyConnection, layout: Layout, written: Sequence[_File]) -> None:
    """Gives the files their names once their content is safe, and makes them the ones that count for their days."""
    paths = [layout.sealed / file.name for file in written]
    with ThreadPoolExecutor(_SYNCED_AT_ONCE) as pool:
        list(pool.map(sync, map(_unfinished, paths)))
    for path in paths:
        crash_point("before_seal_rename")
        os.replace(_unfinished(path), path)
    for folder in sorted({path.parent for path in paths}):
        sync(folder)
    crash_point("after_seal_rename")
    for record_type in SEALABLE:
        files = [file for file in written if file.record_type is record_type]
        if files:
            _remember(con, layout, record_type, files)


def _remember(con: duckdb.DuckDBPyConnection, layout: Layout, record_type: type[Record], files: Sequence[_File]) -> None:
    con.execute("create or replace temp table new_files (first date, last date, file varchar)")
    con.executemany("insert into new_files values (?, ?, ?)", [[*file.days, file.name] for file in files])
    # several files of one only where a month is merged: a file of more than one day is the only one of its days
    superseded = (
        f"from {BOOKKEEPING}.sealed_files s where table_name = ? "
        "and exists (select 1 from new_files n where s.last_day >= n.first and s.day <= n.last)"
    )
    con.execute(f"insert into {BOOKKEEPING}.superseded_files select file, now() {superseded}", [record_type.table])
    con.execute(f"delete {superseded}", [record_type.table])
    instant = quoted(record_type.day or "")
    paths = ", ".join(literal(as_pattern(layout.sealed / file.name)) for file in files)
    con.execute(
        f"insert into {BOOKKEEPING}.sealed_files (table_name, day, last_day, file, columns, row_count, first_at, last_at) "
        f"select ?, n.first, n.last, n.file, ?, count(r.path), min(r.instant), max(r.instant) "
        f"from new_files n left join (select filename as path, {instant} as instant from read_parquet([{paths}], filename = true)) r "
        "on ends_with(r.path, '/' || n.file) group by all",
        [record_type.table, list(_names(record_type))],
    )
    con.execute("drop table new_files")


def _unfinished(path: Path) -> Path:
    return path.with_suffix(".unfinished")


def _within_spans(day: str) -> str:
    return f"exists (select 1 from spans_to_seal where {day} between first and last)"


def _between(first: date, last: date) -> str:
    return f"between {literal(first)}::date and {literal(last)}::date"


def visible(record_type: type[Record]) -> str:
    """The condition on sealed rows `s` that nothing live replaces them. Events never change, so nothing can."""
    if record_type is Event:
        return ""
    table = f"{LIVE}.{quoted(record_type.table)}"
    of_key = f"not exists (select 1 from {table} h where {same_key(record_type, 'h', 's')})"
    if not _of_run(record_type):
        return f" WHERE {of_key}"
    return f" WHERE {of_key} and not exists (select 1 from {BOOKKEEPING}.replaced_runs r where r.run_id = s.run_id)"


def _ended(before: date) -> str:
    """The condition that a run of `live.runs` ended before the day `before` began."""
    return f"outcome is not null and coalesce(ended_at, created_at)::date < {literal(before)}::date"


def _of_run(record_type: type[Record]) -> bool:
    return "run_id" in record_type.key


def _names(record_type: type[Record]) -> tuple[str, ...]:
    return tuple(record_type.model_fields)


def _select_list(record_type: type[Record], have: Iterable[str]) -> str:
    """All columns of the table; one that came after the file was written has its default."""
    present = set(have)
    return ", ".join(
        quoted(column.name)
        if column.name in present
        else f"{column.default or 'NULL'}::{column.sql_type} AS {quoted(column.name)}"
        for column in columns(record_type)
    )


def _next_number(layout: Layout, record_type: type[Record], day: date) -> int:
    taken = [int(path.stem.rsplit("-", 1)[1]) for path in (layout.sealed / record_type.table).glob(f"{day}-*.parquet")]
    return max(taken, default=0) + 1


def as_pattern(path: Path) -> str:
    """`path` as read_parquet must be given it, which takes brackets, stars and question marks for patterns."""
    return "".join(f"[{char}]" if char in "[*?" else char for char in str(path))
