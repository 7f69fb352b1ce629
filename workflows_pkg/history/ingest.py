"""How do raw rows of an event log become events, each exactly once, whatever happens in between?

Rows and cursors go into one transaction: after a crash both are there or neither, so reading on from the cursor neither
loses nor doubles a row. Rows that are there already are dropped before they are parsed. A row that cannot be read goes to
`quarantine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from workflows_pkg.errors import bounded
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor, Event, Quarantined
from workflows_pkg.history.schema import LIVE, columns, first_row, names, quoted, same_key
from workflows_pkg.history.store import Writer

RAW_SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("run_id", pa.string()),
        ("event_id", pa.int64()),
        ("event_hash", pa.string()),
        ("event", pa.string()),
    ]
)
"""What a batch looks like: the key of an event, and its text as stored in the source."""

_REASON_LENGTH = 500


@dataclass(frozen=True)
class LandResult:
    """Rows that were new: landed as events, and put aside because they could not be read."""

    events: int
    quarantined: int


def land(writer: Writer, batch: pa.Table, translate_sql: str, cursors: Sequence[Cursor]) -> LandResult:
    """Lands `batch` (columns of `RAW_SCHEMA`) and moves `cursors`, in one transaction, or in the caller's where one is open.

    `translate_sql` is a SELECT over a relation `raw` that yields columns of `Event` by name: at least its key, `kind` and
    `at`; what it leaves out is unknown. A row whose kind or instant comes out unknown, that gets lost on the way, or on
    which the SELECT fails is quarantined with the reason. Raises duckdb.Error where the SELECT itself is wrong.
    """
    with writer.transaction():
        crash_point("before_insert")
        fresh = _fresh(writer.con, batch)
        result = LandResult(0, 0)
        if len(fresh):
            writer.con.register("fresh", fresh)
            try:
                _translate(writer.con, fresh, translate_sql)
                result = _insert(writer, datetime.now(UTC))
            finally:
                writer.con.unregister("fresh")
        crash_point("mid_batch")
        _move(writer, cursors)
    return result


def _fresh(con: duckdb.DuckDBPyConnection, batch: pa.Table) -> pa.Table:
    """The rows of `batch` that are neither events nor quarantined, each once."""
    known = " ".join(f"anti join {LIVE}.{quoted(table)} using ({names(Event.key)})" for table in (Event.table, Quarantined.table))
    con.register("batch", batch)
    try:
        return con.sql(f"select distinct on ({names(Event.key)}) {names(RAW_SCHEMA.names)} from batch {known}").to_arrow_table()
    finally:
        con.unregister("batch")


def _translate(con: duckdb.DuckDBPyConnection, fresh: pa.Table, translate_sql: str) -> None:
    """Makes `translated`, with the columns of `events`, and `failed`: the keys of rows on which the SELECT fails, with why.

    The SELECT runs beside the transaction, which DuckDB would give up at the first failing row.
    """
    con.execute(f"create or replace temp table translated as from {LIVE}.{quoted(Event.table)} limit 0")
    con.execute(f"create or replace temp table failed as select {names(Event.key)}, '' as reason from translated")
    beside = con.cursor()
    try:
        beside.execute("SET TimeZone = 'UTC'")
        _check(beside, fresh.slice(0, 0), translate_sql)
        parts = [fresh]
        while parts:
            part = parts.pop()
            try:
                rows = _select(beside, part, translate_sql)
            except duckdb.Error as error:
                half = len(part) // 2
                if half:  # halving finds the rows that cause it; the others land
                    parts += [part.slice(0, half), part.slice(half)]
                else:
                    con.execute(
                        "insert into failed values (?, ?, ?, ?, ?)",
                        [*(part[name][0].as_py() for name in Event.key), bounded(error, _REASON_LENGTH)],
                    )
                continue
            _keep(con, rows)
    finally:
        beside.close()


def _check(con: duckdb.DuckDBPyConnection, nothing: pa.Table, translate_sql: str) -> None:
    """Raises ValueError where the SELECT cannot give events, whatever the rows; a mistake in it is not the rows' fault."""
    given = _select(con, nothing, translate_sql).column_names
    missing = [name for name in (*Event.key, "kind", "at") if name not in given]
    if missing:
        raise ValueError(f"the translation gives no column {', '.join(map(repr, missing))}")


def _select(con: duckdb.DuckDBPyConnection, raw: pa.Table, translate_sql: str) -> pa.Table:
    con.register("raw", raw)
    try:
        return con.sql(translate_sql).to_arrow_table()
    finally:
        con.unregister("raw")


def _keep(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    present = [column for column in columns(Event) if column.name in rows.column_names]
    con.register("translation", rows)
    try:
        con.execute(
            f"insert into translated by name select distinct on ({names(Event.key)}) "
            + ", ".join(f"try_cast({quoted(column.name)} as {column.sql_type}) as {quoted(column.name)}" for column in present)
            + " from translation"
        )
    finally:
        con.unregister("translation")


def _insert(writer: Writer, now: datetime) -> LandResult:
    """Moves what was translated into `events`, and what could not be read into `quarantine`."""
    con = writer.con
    con.execute(
        f"""
        insert into failed
        select {names(Event.key, "f")}, case
            when f.event is null or not json_valid(f.event) then 'Its text is not JSON.'
            when t.source_id is null then 'The translation gave no row for it.'
            when t.kind is null then 'Its kind is unknown.'
            else 'Its instant is unknown.' end
        from fresh f
        left join translated t on {same_key(Event, "f", "t")}
        anti join failed x on {same_key(Event, "x", "f")}
        where t.source_id is null or t.kind is null or t."at" is null
        """
    )
    con.execute('delete from translated where kind is null or "at" is null')
    writer.drop_sealed_events("translated")
    con.execute(f"insert into {LIVE}.{quoted(Event.table)} by name select * from translated")
    con.execute(f"insert into {LIVE}.{quoted(Quarantined.table)} by name select *, ?::timestamptz as found_at from failed", [now])
    events, quarantined = first_row(con.execute("select (select count(*) from translated), (select count(*) from failed)"))
    con.execute("drop table translated")
    con.execute("drop table failed")
    return LandResult(int(events), int(quarantined))


def _move(writer: Writer, cursors: Sequence[Cursor]) -> None:
    """Writes the cursors that moved; one that stands still is left alone, so that an idle reader changes nothing."""
    shards = [cursor.shard for cursor in cursors]
    found = {
        (cursor.source_id, cursor.shard): (cursor.position, cursor.complete)
        for cursor in read(writer.con, Cursor, "list_contains(?, shard)", [shards])
    }
    moved = [cursor for cursor in cursors if found.get((cursor.source_id, cursor.shard)) != (cursor.position, cursor.complete)]
    writer.upsert(Cursor, moved)
