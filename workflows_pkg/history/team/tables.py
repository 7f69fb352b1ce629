"""Which tables has the team's history? Those of one machine's, with a `sealed` one beside each `live` one that has days."""

from __future__ import annotations

import duckdb

from workflows_pkg.history.migrations import applied
from workflows_pkg.history.records import Record
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import BOOKKEEPING, LIVE, columns, create_table, names, quoted
from workflows_pkg.history.sealed import SEALABLE, visible

SEALED = "sealed"
"""Schema of the rows of finished days: the Parquet files that the writer sealed, each registered as it is."""


def is_of_version(con: duckdb.DuckDBPyConnection, migrations: tuple[str, ...]) -> bool:
    """Whether the tables are there and as this list of migrations makes them."""
    return applied(con) == migrations


def make_tables(con: duckdb.DuckDBPyConnection) -> None:
    """The tables of this version, inside a transaction: `live` ones empty, `sealed` ones keep their files and get new columns."""
    for schema in (LIVE, SEALED, BOOKKEEPING):
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    for record_type in TABLES:
        con.execute(f"DROP TABLE IF EXISTS {LIVE}.{quoted(record_type.table)}")
        con.execute(create_table(record_type))
    for record_type in SEALABLE:
        table = f"{SEALED}.{quoted(record_type.table)}"
        # without NOT NULL and defaults: files from before a column came do not have it, and the view fills it
        listed = ", ".join(f"{quoted(column.name)} {column.sql_type}" for column in columns(record_type))
        con.execute(f"CREATE TABLE IF NOT EXISTS {table} ({listed})")
        have = {str(name) for name, *_ in con.execute(f"DESCRIBE {table}").fetchall()}
        for column in columns(record_type):
            if column.name not in have:
                con.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column.name)} {column.sql_type}")
    con.execute(f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.migrations (name VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)")
    con.execute(f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.replaced_runs (run_id VARCHAR NOT NULL)")
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.sealed_objects "
        "(table_name VARCHAR NOT NULL, file VARCHAR NOT NULL, object VARCHAR NOT NULL)"
    )
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {BOOKKEEPING}.publications "
        "(generation VARCHAR NOT NULL, host VARCHAR NOT NULL, published_at TIMESTAMPTZ NOT NULL)"
    )
    for record_type in TABLES:
        con.execute(f"CREATE OR REPLACE VIEW main.{quoted(record_type.table)} AS {_view(record_type)}")


def _view(record_type: type[Record]) -> str:
    table, wanted = quoted(record_type.table), names(record_type.model_fields)
    live = f"SELECT {wanted} FROM {LIVE}.{table}"
    if record_type not in SEALABLE:
        return live
    filled = ", ".join(
        quoted(column.name)
        if column.default in (None, "NULL")
        else f"coalesce({quoted(column.name)}, {column.default}) AS {quoted(column.name)}"
        for column in columns(record_type)
    )
    return f"{live} UNION ALL SELECT * FROM (SELECT {filled} FROM {SEALED}.{table}) s{visible(record_type)}"
