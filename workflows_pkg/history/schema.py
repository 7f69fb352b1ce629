"""Which tables do the records make? Columns, types, DDL and Arrow schemas, all derived from the annotations in `records`."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

import duckdb
import pyarrow as pa

from workflows_pkg.history.records import Json, Record

LIVE = "live"
"""Schema of the hot database that holds the rows; the views in `main` add the sealed ones."""

BOOKKEEPING = "store"
"""Schema of the hot database for what the store must remember about itself."""

_SQL_TYPES: dict[type, str] = {
    str: "VARCHAR",
    int: "BIGINT",
    float: "DOUBLE",
    bool: "BOOLEAN",
    datetime: "TIMESTAMPTZ",
    date: "DATE",
}
_ARROW_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", tz="UTC"),
    date: pa.date32(),
}


@dataclass(frozen=True)
class Column:
    """One column of one table. `default` is its SQL literal, `NULL` where a missing value means unknown."""

    name: str
    python_type: type
    nullable: bool
    default: str | None
    is_json: bool
    description: str

    @property
    def sql_type(self) -> str:
        """DuckDB's name of the type."""
        return _SQL_TYPES[self.python_type]


@cache
def columns(record_type: type[Record]) -> tuple[Column, ...]:
    """The columns of the record's table, in the order of its fields; raises TypeError for a type no column can have."""
    return tuple(_column(name, field) for name, field in record_type.model_fields.items())


def create_table(record_type: type[Record], schema: str = LIVE) -> str:
    """The DDL of the record's table.

    Without PRIMARY KEY: rows are written by `Writer.upsert` and `ingest.land` only, which look for the key themselves; the index
    of a key would make the hot file, and with it every published copy, four times as large (docs/decisions/0001-history-files.md).
    """
    lines: list[str] = []
    for column in columns(record_type):
        default = f" DEFAULT {column.default}" if column.default not in (None, "NULL") else ""
        lines.append(f"  {quoted(column.name)} {column.sql_type}{default}{'' if column.nullable else ' NOT NULL'}")
    return f"CREATE TABLE IF NOT EXISTS {quoted(schema)}.{quoted(record_type.table)} (\n" + ",\n".join(lines) + "\n)"


def arrow_schema(record_type: type[Record]) -> pa.Schema:
    """The Arrow schema of the record's rows."""
    return pa.schema([pa.field(column.name, _ARROW_TYPES[column.python_type]) for column in columns(record_type)])


def quoted(name: str) -> str:
    """`name` as an SQL identifier; `at`, `trigger` and others are words of SQL."""
    return '"' + name.replace('"', '""') + '"'


def names(found: Iterable[str], alias: str = "") -> str:
    """Quoted identifiers separated by commas, each behind `alias` where one is given."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(prefix + quoted(name) for name in found)


def literal(value: object) -> str:
    """`value` as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"


def same_key(record_type: type[Record], left: str, right: str) -> str:
    """The condition that two relations' rows have the same key; key columns are never NULL."""
    return " and ".join(f"{left}.{quoted(name)} = {right}.{quoted(name)}" for name in record_type.key)


def first_row(result: duckdb.DuckDBPyConnection) -> tuple[Any, ...]:
    """The first row of an answer that has one. All rows are fetched: duckdb 2 refuses other work beside a half-read answer."""
    return result.fetchall()[0]


def _column(name: str, field: Any) -> Column:
    python_type, nullable, in_json = _unwrapped(field.annotation)
    if python_type not in _SQL_TYPES:
        raise TypeError(f"column '{name}': no column type for {python_type!r}")
    is_json = in_json or any(isinstance(mark, Json) for mark in field.metadata)
    default = None if field.is_required() else literal(field.default)
    return Column(name, python_type, nullable, default, is_json, field.description or "")


def _unwrapped(annotation: Any) -> tuple[type, bool, bool]:
    """The plain type, whether None is allowed, and whether the text is a JSON document."""
    if get_origin(annotation) is Annotated:
        plain, *marks = get_args(annotation)
        python_type, nullable, in_json = _unwrapped(plain)
        return python_type, nullable, in_json or any(isinstance(mark, Json) for mark in marks)
    if get_origin(annotation) in (Union, types.UnionType):
        arms = [arm for arm in get_args(annotation) if arm is not type(None)]
        if len(arms) == 1:
            python_type, _, in_json = _unwrapped(arms[0])
            return python_type, True, in_json
    return annotation, False, False
