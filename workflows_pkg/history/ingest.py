"""How do raw rows of an event log become events, each exactly once, whatever happens in between?

Rows and cursors go into one transaction: after a crash both are there or neither, so reading on from the cursor neither
loses nor doubles a row. Rows that are there already are dropped before they are parsed. A row that cannot be read goes to
`quarantine`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from workflows_pkg.errors import bounded
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor, Event, Quarantined
from workflows_pkg.history.schema import LIVE, arrow_schema, columns, first_row, literal, names, quoted, same_key
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

Find = Callable[[pa.ChunkedArray, Sequence[str]], list[int]]

_REASON_LENGTH = 500

_FAILED = pa.schema([*(RAW_SCHEMA.field(name) for name in Event.key), ("reason", pa.string())])


@dataclass(frozen=True)
class LandResult:
    """Rows that were new: landed as events, and put aside because they could not be read.

    whole_runs: the landed events of those runs of which there were none before.
    """

    events: int
    quarantined: int
    whole_runs: pa.Table | None = field(default=None, compare=False, repr=False)


def land(writer: Writer, batch: pa.Table, translate_sql: str, cursors: Sequence[Cursor]) -> LandResult:
    """Lands `batch` (columns of `RAW_SCHEMA`) and moves `cursors`, in one transaction, or in the caller's where one is open.

    `translate_sql` is a SELECT over a relation `raw` that yields columns of `Event` by name: at least its key, `kind` and
    `at`; what it leaves out is unknown. A row whose kind or instant comes out unknown, that gets lost on the way, or on
    which the SELECT fails is quarantined with the reason. Raises duckdb.Error where the SELECT itself is wrong.
    """
    with writer.transaction():
        crash_point("before_insert")
        known_runs, first_row_id = _known_runs(writer.con, batch)
        fresh = _fresh(writer.con, batch, known=bool(known_runs), first_row_id=first_row_id)
        result = LandResult(0, 0)
        if len(fresh):
            events, failed = _translated(writer, fresh, translate_sql)
            _insert(writer, events, failed)
            whole = events.filter(~pc.field("run_id").isin(known_runs)) if known_runs else events
            result = LandResult(len(events), len(failed), whole)
        crash_point("mid_batch")
        _move(writer, cursors)
    return result


@contextmanager
def finder() -> Generator[Find]:
    """Gives a function that tells the places of the texts that hold one of some words; DuckDB looks through them ten times as fast as
    Python.
    """
    with _looker().cursor() as con:

        def find(texts: pa.ChunkedArray, words: Sequence[str]) -> list[int]:
            held = " or ".join(f"contains(text, {literal(word)})" for word in words)
            with _shown(con, "looked_through", pa.table({"text": texts})):
                found = con.execute(
                    f"select place from (select text, row_number() over () - 1 as place from looked_through) where {held}"
                ).fetchall()
            return [place for (place,) in found]

        yield find


@cache
def _looker() -> duckdb.DuckDBPyConnection:
    """Kept open: to open a database takes as long as to look through some thousand events."""
    return duckdb.connect(config={"threads": 1})


def _known_runs(con: duckdb.DuckDBPyConnection, batch: pa.Table) -> tuple[list[str], int | None]:
    """Those of the batch's runs of which there are events, or rows in quarantine; and DuckDB's number of the first row among these events.

    Rows lie in the order in which they came, so that those of runs that go on are behind that number, and few others.
    """
    own = "semi join (select distinct run_id from batch) using (run_id)"
    with _shown(con, "batch", batch):
        found = con.execute(f"select run_id, min(rowid) from {LIVE}.{quoted(Event.table)} {own} group by run_id").fetchall()
        aside = con.execute(f"select distinct run_id from {LIVE}.{quoted(Quarantined.table)} {own}").fetchall()
    known = {run_id for run_id, *_ in (*found, *aside)}
    return sorted(known), min((number for _, number in found), default=None)


def _fresh(con: duckdb.DuckDBPyConnection, batch: pa.Table, *, known: bool, first_row_id: int | None) -> pa.Table:
    """The rows of `batch` that are neither events nor quarantined, each once. Their texts are not looked at: they are what is big.

    known: whether any of its runs has rows already; most batches of an import have runs that nobody has seen. first_row_id: events before
    this row are of other runs; None: all are.
    """
    key = names(Event.key)
    with _shown(con, "batch", batch):
        if not known:
            (different,) = first_row(con.execute(f"select count(*) from (select distinct {key} from batch)"))
            if different == len(batch):
                return batch
        seen = f"anti join {LIVE}.{quoted(Quarantined.table)} using ({key})"
        if first_row_id is not None:
            events = f"select {key} from {LIVE}.{quoted(Event.table)} where rowid >= {first_row_id}"
            seen += f" anti join ({events}) using ({key})"
        places = con.execute(
            f"select place from (select {key}, row_number() over () - 1 as place from batch) {seen} "
            f"qualify row_number() over (partition by {key} order by place) = 1 order by place"
        ).to_arrow_table()
    return batch if len(places) == len(batch) else batch.take(places["place"])


def _translated(writer: Writer, fresh: pa.Table, translate_sql: str) -> tuple[pa.Table, pa.Table]:
    """What the SELECT makes of the rows: events, typed and new, and the keys of rows that could not be read with the reason.

    The SELECT runs beside the transaction, which DuckDB would give up at the first failing row.
    """
    beside = writer.con.cursor()
    try:
        beside.execute("SET TimeZone = 'UTC'")
        select = _typed(translate_sql)
        events, failed = _selected(beside, fresh, select)
        if failed or not _one_for_one(fresh, events):
            events, aside = _sorted_out(beside, fresh, events, failed)
        else:
            aside = _FAILED.empty_table()
    finally:
        beside.close()
    with _shown(writer.con, "translated", events):
        new = writer.unsealed("translated")
        return (events if new is None else writer.con.execute(new).to_arrow_table()), aside


@cache
def _typed(translate_sql: str) -> str:
    """The SELECT with the column types of events. Raises ValueError where it cannot give events, whatever the rows; a mistake in it
    is not the rows' fault. Remembered, since to plan a long SELECT takes as long as to answer it for a thousand rows.
    """
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("raw", RAW_SCHEMA.empty_table())
        given = con.execute(translate_sql).to_arrow_table().column_names
    missing = [name for name in (*Event.key, "kind", "at") if name not in given]
    if missing:
        raise ValueError(f"the translation gives no column {', '.join(map(repr, missing))}")
    values = {column.name: quoted(column.name) if column.name in given else "null" for column in columns(Event)}
    casts = [f"try_cast({values[column.name]} as {column.sql_type}) as {quoted(column.name)}" for column in columns(Event)]
    return f"select {', '.join(casts)} from ({translate_sql})"


def _selected(con: duckdb.DuckDBPyConnection, fresh: pa.Table, select: str) -> tuple[pa.Table, list[dict[str, object]]]:
    """The answer to the SELECT without the rows on which it fails, and these with what DuckDB says of them."""
    found: list[pa.Table] = []
    failed: list[dict[str, object]] = []
    parts = [fresh]
    while parts:
        part = parts.pop()
        try:
            with _shown(con, "raw", part):
                found.append(con.execute(select).to_arrow_table())
        except duckdb.Error as error:
            half = len(part) // 2
            if half:  # halving finds the rows that cause it; the others land
                parts += [part.slice(half), part.slice(0, half)]
            else:
                key = {name: part[name][0].as_py() for name in Event.key}
                failed.append({**key, "reason": bounded(error, _REASON_LENGTH)})
    return pa.concat_tables(found or [arrow_schema(Event).empty_table()]), failed


def _one_for_one(fresh: pa.Table, events: pa.Table) -> bool:
    """Whether each row has become one event, in their order, of a known kind and instant."""
    whole = events["kind"].null_count == 0 and events["at"].null_count == 0
    return whole and all(events[name].equals(fresh[name]) for name in Event.key)


def _sorted_out(
    con: duckdb.DuckDBPyConnection, fresh: pa.Table, events: pa.Table, failed: list[dict[str, object]]
) -> tuple[pa.Table, pa.Table]:
    """The good ones of `events`, each once, and all other rows with the reason."""
    with _shown(con, "fresh", fresh), _shown(con, "found", events), _shown(con, "failed", pa.Table.from_pylist(failed, _FAILED)):
        good = con.execute(
            f'select distinct on ({names(Event.key)}) * from found where kind is not null and "at" is not null'
        ).to_arrow_table()
        aside = con.execute(
            f"""
            select * from failed union all
            select {names(Event.key, "f")}, case
                when f.event is null or not json_valid(f.event) then 'Its text is not JSON.'
                when t.source_id is null then 'The translation gave no row for it.'
                when t.kind is null then 'Its kind is unknown.'
                else 'Its instant is unknown.' end
            from fresh f
            left join (select distinct on ({names(Event.key)}) * from found order by kind is null or "at" is null) t
                on {same_key(Event, "f", "t")}
            anti join failed x on {same_key(Event, "x", "f")}
            where t.source_id is null or t.kind is null or t."at" is null
            """
        ).to_arrow_table()
    return good, aside


def _insert(writer: Writer, events: pa.Table, failed: pa.Table) -> None:
    con = writer.con
    with _shown(con, "translated", events), _shown(con, "failed", failed):
        con.execute(f"insert into {LIVE}.{quoted(Event.table)} by name select * from translated")
        if len(failed):
            con.execute(
                f"insert into {LIVE}.{quoted(Quarantined.table)} by name select *, ?::timestamptz as found_at from failed",
                [datetime.now(UTC)],
            )


@contextmanager
def _shown(con: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> Generator[None]:
    """Lets DuckDB see the rows under this name, for the length of the block."""
    con.register(name, rows)
    try:
        yield
    finally:
        con.unregister(name)


def _move(writer: Writer, cursors: Sequence[Cursor]) -> None:
    """Writes the cursors that moved; one that stands still is left alone, so that an idle reader changes nothing."""
    shards = [cursor.shard for cursor in cursors]
    found = {
        (cursor.source_id, cursor.shard): (cursor.position, cursor.complete)
        for cursor in read(writer.con, Cursor, "list_contains(?, shard)", [shards])
    }
    moved = [cursor for cursor in cursors if found.get((cursor.source_id, cursor.shard)) != (cursor.position, cursor.complete)]
    writer.upsert(Cursor, moved)
