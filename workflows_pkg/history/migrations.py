"""How does a history of an older version become one of this version? Named steps, each once, each in a transaction of its own.

A step may find its work done already (a new history gets today's tables from the first step), so each says `IF NOT EXISTS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import duckdb

from workflows_pkg.errors import SetupError
from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.records import RECORDS
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import BOOKKEEPING, LIVE, columns, create_table, quoted

Migration = Callable[[duckdb.DuckDBPyConnection], None]


def create_tables(con: duckdb.DuckDBPyConnection) -> None:
    """The tables of all records, and those of the store itself."""
    con.execute(f"CREATE SCHEMA IF NOT EXISTS {LIVE}")
    for record_type in RECORDS:
        con.execute(create_table(record_type))
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.sealed_files ("
        "table_name VARCHAR NOT NULL, day DATE NOT NULL, file VARCHAR NOT NULL, columns VARCHAR[] NOT NULL, "
        "row_count BIGINT NOT NULL, first_at TIMESTAMPTZ, last_at TIMESTAMPTZ)"
    )
    con.execute(f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.superseded_files (file VARCHAR NOT NULL, since TIMESTAMPTZ NOT NULL)")
    con.execute(f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.replaced_runs (run_id VARCHAR NOT NULL)")
    con.execute(f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.views (folder VARCHAR NOT NULL)")


def rollups(con: duckdb.DuckDBPyConnection) -> None:
    """Deadlines, steps of jobs, the rollups with what the store must remember of them, and sealed files of more than one day."""
    add_what_is_missing(con)
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.rollups "
        "(table_name VARCHAR NOT NULL, definition VARCHAR NOT NULL, merged_rows BIGINT NOT NULL)"
    )
    con.execute(f"ALTER TABLE {BOOKKEEPING}.sealed_files ADD COLUMN IF NOT EXISTS last_day DATE")
    con.execute(f"UPDATE {BOOKKEEPING}.sealed_files SET last_day = day WHERE last_day IS NULL")


def observations(con: duckdb.DuckDBPyConnection) -> None:
    """Versions of what was made, observations, backfills, and places of logs."""
    add_what_is_missing(con)


def rate_cards(con: duckdb.DuckDBPyConnection) -> None:
    """Rate cards, and by which of them an attempt was priced."""
    add_what_is_missing(con)


def forecast_bases(con: duckdb.DuckDBPyConnection) -> None:
    """What a forecast rests on, and what memory a step is allowed."""
    add_what_is_missing(con)


def used_figures(con: duckdb.DuckDBPyConnection) -> None:
    """Tokens, bytes and calls of attempts, and the pool of their steps."""
    add_what_is_missing(con)


def add_what_is_missing(con: duckdb.DuckDBPyConnection) -> None:
    """Tables and columns of this version that the history does not have; older rows take a new column's default."""
    found: dict[str, set[str]] = defaultdict(set)
    # asked once: each question to the catalogue takes some milliseconds
    for table, column in con.execute(
        "select table_name, column_name from duckdb_columns() where schema_name = ? and database_name = current_database()",
        [LIVE],
    ).fetchall():
        found[table].add(column)
    for record_type in TABLES:
        if record_type.table not in found:
            con.execute(create_table(record_type))
            continue
        table = f"{LIVE}.{quoted(record_type.table)}"
        for column in columns(record_type):
            if column.name not in found[record_type.table]:
                default = "" if column.default is None else f" DEFAULT {column.default}"
                con.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column.name)} {column.sql_type}{default}")
                if not column.nullable:
                    con.execute(f"ALTER TABLE {table} ALTER COLUMN {quoted(column.name)} SET NOT NULL")


MIGRATIONS: tuple[tuple[str, Migration], ...] = (
    ("create_tables", create_tables),
    ("rollups", rollups),
    ("observations", observations),
    ("rate_cards", rate_cards),
    ("forecast_bases", forecast_bases),
    ("used_figures", used_figures),
)
"""In the order in which they are applied; a released entry is never changed, only followed."""


def migrate(
    con: duckdb.DuckDBPyConnection, place: str, migrations: Sequence[tuple[str, Migration]] = MIGRATIONS
) -> tuple[str, ...]:
    """Applies what is missing and returns its names; an interrupted call is taken up by the next. `place` is for the message.

    Raises SetupError when the history was written by a later version of this package.
    """
    known = [name for name, _ in migrations]
    already = applied(con)
    refuse_newer(already, known, place)
    missing = [(name, change) for name, change in migrations if name not in already]
    for name, change in missing:
        con.execute("BEGIN")
        try:
            con.execute(f"CREATE SCHEMA IF NOT EXISTS {BOOKKEEPING}")
            con.execute(
                f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)"
            )
            change(con)
            crash_point("during_migration")
            con.execute(f"INSERT INTO {BOOKKEEPING}.migrations VALUES (?, ?)", [name, datetime.now(UTC)])
            con.execute("COMMIT")
        except BaseException:
            con.execute("ROLLBACK")
            raise
    return tuple(name for name, _ in missing)


def applied(con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Names of the migrations that this history has had, in order; none for an empty database."""
    # Asking the catalogue first would take most of the time of opening a history.
    try:
        rows = con.execute(f"select name from {BOOKKEEPING}.migrations order by applied_at, rowid").fetchall()
    except duckdb.CatalogException:
        return ()
    return tuple(name for (name,) in rows)


def refuse_newer(already: Sequence[str], known: Sequence[str], place: str) -> None:
    """Raises SetupError when `already` holds a migration that this code does not know."""
    unknown = [name for name in already if name not in known]
    if unknown:
        raise SetupError(
            f"{place} was written by a later version of agentic-workflows: "
            f"this version does not know its migration '{unknown[-1]}'.",
            fix="Run: pip install --upgrade agentic-workflows",
        )


def refuse_older(already: Sequence[str], place: str) -> None:
    """Raises SetupError when a migration of this code is missing from a published copy."""
    missing = [name for name, _ in MIGRATIONS if name not in already]
    if missing:
        raise SetupError(
            f"{place} was written by an earlier version of agentic-workflows: migration '{missing[0]}' is missing.",
            fix="Run: workflows history sync",
        )
