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
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

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

_ROW_GROUP = 20_480
"""Rows of a Parquet file that are read or left together. Rows lie in the order of their key, so that of a merged month about this many
are read to find one run; the smallest that DuckDB fills without getting larger files (2 % at a tenth of it).
"""


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


def days_to_seal(con: duckdb.DuckDBPyConnection, before: date) -> list[tuple[date, date]]:
    """First and last days of the files to write, oldest first: days that end before `before` and have something to seal, ended runs or
    rows without a run; a month that was merged is one.
    """
    parts = [f"select created_at::date as day from {LIVE}.{quoted(Run.table)} where {_ended(before)}"]
    parts += [
        f"select {quoted(record_type.day or '')}::date as day from {LIVE}.{quoted(record_type.table)}"
        for record_type in SEALABLE
        if not _of_run(record_type)
    ]
    return con.execute(
        f"""select distinct coalesce(f.day, d.day) as first, coalesce(f.last_day, d.day) as last
        from (select distinct day from ({" union all ".join(parts)}) where day < ?) d
        left join (select distinct day, last_day from {BOOKKEEPING}.sealed_files where last_day > day) f
            on d.day between f.day and f.last_day
        order by all""",
        [before],
    ).fetchall()


def seal_days(con: duckdb.DuckDBPyConnection, layout: Layout, first: date, last: date, before: date) -> int:
    """Moves the finished rows of these days into Parquet and returns their number; to be called inside a transaction.

    A run that is open, or ended on `before` or later, stays live with all its rows; a later call merges it into the day.
    """
    con.execute(
        f"create or replace temp table runs_to_seal as select run_id, created_at::date as day from {LIVE}.{quoted(Run.table)} "
        f"where created_at::date between ? and ? and {_ended(before)}",
        [first, last],
    )
    moved = 0
    for record_type in SEALABLE:
        for begin, end in _files_of(con, record_type, first, last):
            due = _due(record_type, begin, end)
            (rows,) = first_row(con.execute(f"select count(*) from {LIVE}.{quoted(record_type.table)} t where {due}"))
            if rows or (
                _of_run(record_type) and record_type is not Event and _has_replaced(con, layout, record_type, begin, end)
            ):
                _write(con, layout, record_type, begin, end, due)
                con.execute(f"delete from {LIVE}.{quoted(record_type.table)} t where {due}")
            moved += rows
    con.execute(f"delete from {BOOKKEEPING}.replaced_runs where run_id in (select run_id from runs_to_seal)")
    con.execute("drop table runs_to_seal")
    create_views(con, layout)
    return moved


def months_to_merge(con: duckdb.DuckDBPyConnection, before: date) -> list[tuple[str, date, date]]:
    """Table, first and last day of months that lie wholly before `before` and are in several files still."""
    return con.execute(
        f"""select table_name, month::date, (month + interval 1 month - interval 1 day)::date as ends
        from (select table_name, date_trunc('month', day) as month from {BOOKKEEPING}.sealed_files
              where list_contains(?, table_name) group by all having count(*) > 1)
        where ends < ? order by all""",
        [[record_type.table for record_type in MERGED], before - MERGE_AFTER],
    ).fetchall()


def merge_month(con: duckdb.DuckDBPyConnection, layout: Layout, table: str, first: date, last: date) -> None:
    """Makes one file of the files of a month; to be called inside a transaction. The views are made anew by the caller."""
    record_type = next(one for one in MERGED if one.table == table)
    _write(con, layout, record_type, first, last, "false")


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


def _files_of(con: duckdb.DuckDBPyConnection, record_type: type[Record], first: date, last: date) -> list[tuple[date, date]]:
    """The first and last days of the files that one call may write for a table."""
    if first == last or record_type in MERGED:
        return [(first, last)]
    days = (
        "select day from runs_to_seal"
        if _of_run(record_type)
        else f"select {quoted(record_type.day or '')}::date as day from {LIVE}.{quoted(record_type.table)}"
    )
    found = con.execute(f"select distinct day from ({days}) where day between ? and ? order by day", [first, last]).fetchall()
    return [(day, day) for (day,) in found]


def _has_replaced(con: duckdb.DuckDBPyConnection, layout: Layout, record_type: type[Record], first: date, last: date) -> bool:
    """Whether sealed rows of runs that are sealed now must go, though none comes in their place."""
    older = sealed_rows(con, layout, record_type, days=(first, last))
    if older is None:
        return False
    (some,) = first_row(con.execute(f"select exists (from ({older}) s where s.run_id in (select run_id from runs_to_seal))"))
    return bool(some)


def _write(con: duckdb.DuckDBPyConnection, layout: Layout, record_type: type[Record], first: date, last: date, due: str) -> None:
    """Writes the new file of one table for these days, what is sealed of them and what is `due`, and makes it the one that counts."""
    older = sealed_rows(con, layout, record_type, days=(first, last))
    select = f"SELECT {names(_names(record_type), 't')} from {LIVE}.{quoted(record_type.table)} t where {due}"
    if older is not None:
        select += f" UNION ALL SELECT * FROM ({older}) s{visible(record_type)}"
    file = f"{record_type.table}/{first}-{_next_number(layout, record_type, first)}.parquet"
    path = layout.sealed / file
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    con.execute(
        f"COPY (SELECT * FROM ({select}) ORDER BY {names(record_type.key)}) "
        f"TO {literal(unfinished)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
    )
    sync(unfinished)
    crash_point("before_seal_rename")
    os.replace(unfinished, path)
    sync(path.parent)
    crash_point("after_seal_rename")
    # several files only where a month is merged: a file of more than one day is the only one of its days
    superseded = f"from {BOOKKEEPING}.sealed_files where table_name = ? and last_day >= ? and day <= ?"
    con.execute(f"insert into {BOOKKEEPING}.superseded_files select file, now() {superseded}", [record_type.table, first, last])
    con.execute(f"delete {superseded}", [record_type.table, first, last])
    instant = quoted(record_type.day or "")
    con.execute(
        f"insert into {BOOKKEEPING}.sealed_files (table_name, day, last_day, file, columns, row_count, first_at, last_at) "
        f"select ?, ?, ?, ?, ?, count(*), min({instant}), max({instant}) from read_parquet({literal(as_pattern(path))})",
        [record_type.table, first, last, file, list(_names(record_type))],
    )


def _due(record_type: type[Record], first: date, last: date) -> str:
    """Which live rows `t` go: those of the runs to seal, or of the days themselves where a row belongs to no run."""
    between = f"between {literal(first)}::date and {literal(last)}::date"
    if _of_run(record_type):
        return f"t.run_id in (select run_id from runs_to_seal where day {between})"
    return f"t.{quoted(record_type.day or '')}::date {between}"


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
