"""How do tables come in and go out? Parquet, CSV and JSON files are read; DuckDB files are written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
from pydantic import Field, model_validator

from workflows_pkg.errors import CodeProblem, DataProblem, bounded, suggestion
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.contract import Parameters, StepContext, StepKind, StepValue
from workflows_pkg.steps.data.engine import (
    closed_connection,
    column_types,
    duckdb_errors,
    equals,
    identifier,
    reading_connection,
    register,
    require_columns,
    step_error,
)
from workflows_pkg.steps.values import as_table, is_tabular

READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".json": "read_json"}
"""DuckDB's reader of each kind of file that `data.read_table` takes."""
DATABASE = ".duckdb"
_INCOMING = "incoming rows"
"""Name of the view over the rows to write; with a space, so that no table of a workflow is called the same."""
_TABLE_NAME = r"^[a-z][a-z0-9_]{0,62}$"


class ReadTable(Parameters):
    """Parameters of the step kind `data.read_table`."""

    source: str = Field(
        description="Name of a table that the code location offers, or a path below the data folder"
        " that ends in .parquet, .csv, .json or .duckdb.",
        min_length=1,
        max_length=300,
    )
    table: str | None = Field(None, description="Which table of a .duckdb file.", pattern=_TABLE_NAME)
    columns: list[str] | None = Field(None, description="Columns to read; left out: all.", min_length=1)
    where: dict[str, Any] = Field(
        default_factory=dict, description="Rows to read, as column: value. A list means one of its values, null a missing one."
    )


class WriteTable(Parameters):
    """Parameters of the step kind `data.write_table`."""

    database: str = Field(description="Path of a DuckDB file below the data folder, ending in .duckdb.", max_length=300)
    table: str = Field(description="Name of the table; it is made when missing.", pattern=_TABLE_NAME)
    from_: str | None = Field(None, alias="from", description="The needed step whose rows are written; left out: the only one.")
    mode: Literal["replace", "append"] = Field(
        "replace", description="replace: the rows are the whole table; append: added to it."
    )
    replace_where: dict[str, Any] | None = Field(
        None,
        description="Replace only the rows where column: value holds, such as those of one partition,"
        " so that running twice leaves the same table.",
        min_length=1,
    )

    @model_validator(mode="after")
    def _one_way_of_writing(self) -> WriteTable:
        if self.replace_where is not None and self.mode == "append":
            raise ValueError("expected either mode: append or replace_where, found both")
        return self


def read(context: StepContext, params: ReadTable) -> StepValue:
    """The chosen rows and columns of a file as a table."""
    path = _source(context.allow, params.source)
    if path.suffix == DATABASE and params.table is None:
        raise CodeProblem(f"'{bounded(params.source)}' is a database.", fix="Say which table of it, under table.")
    if path.suffix != DATABASE and params.table is not None:
        raise CodeProblem(f"'{bounded(params.source)}' is one table, not a database.", fix="Leave out table.")
    what = f"Reading '{bounded(params.source)}'"
    try:
        connection = _open_database(path, read_only=True) if params.table else reading_connection(str(path))
    except duckdb.Error as error:
        raise step_error(what, error, file=path) from error
    try:
        with duckdb_errors(what, context.on_stop, connection, path):
            if params.table:
                _require_table(connection, params.table)
                relation, values = identifier(params.table), list[Any]()
            else:
                relation, values = f"{READERS[path.suffix]}($1)", [str(path)]
            types = column_types(connection, relation, values)
            require_columns(params.columns or (), types)
            condition, wanted = equals(types, params.where, first=len(values) + 1)
            chosen = ", ".join(identifier(column) for column in params.columns or types)
            return connection.execute(f"select {chosen} from {relation} where {condition}", [*values, *wanted]).df()
    finally:
        connection.close()


def write(context: StepContext, params: WriteTable) -> StepValue:
    """How many rows were written, and where: `{"rows": 120, "table": "flights"}`. All of them, or none."""
    path = context.allow.path(params.database)
    if path.suffix != DATABASE:
        raise CodeProblem(f"'{bounded(params.database)}' is not a DuckDB file.", fix=f"Write a path that ends in {DATABASE}.")
    rows = _rows_to_write(context, params)
    path.parent.mkdir(parents=True, exist_ok=True)
    what = f"Writing '{bounded(params.database)}'"
    try:
        connection = _open_database(path, read_only=False)
    except duckdb.Error as error:
        raise step_error(what, error, file=path) from error
    try:
        with duckdb_errors(what, context.on_stop, connection, path):
            register(connection, _INCOMING, rows)
            connection.begin()
            _write(connection, params)
            connection.commit()
    finally:
        # Closing an open transaction rolls it back.
        connection.close()
    context.log(f"{len(rows)} rows written to {params.table} in {params.database}")
    return {"rows": len(rows), "table": params.table}


def _source(allow: Allow, source: str) -> Path:
    name = allow.tables.get(source)
    path = allow.path(source if name is None else name)
    if path.suffix not in (*READERS, DATABASE):
        raise CodeProblem(
            f"'{bounded(source)}' is neither a table that the code location offers nor a file that can be read.",
            fix=suggestion(source, allow.tables) or f"Files end in {', '.join(READERS)} or {DATABASE}.",
        )
    if any(character in path.name for character in "*?[]{}") or any(character in str(path.parent) for character in "*?[]{}"):
        # DuckDB's readers would take it for a pattern and read files that nobody has checked.
        raise CodeProblem(f"'{bounded(source)}' is a pattern; one file is read.", fix="Name the file.")
    if not path.is_file():
        raise DataProblem(
            f"There is no file '{bounded(source)}' in the data folder.", fix=suggestion(source, _beside(path, allow))
        )
    return path


def _beside(path: Path, allow: Allow) -> list[str]:
    """Files in the same folder, as paths below the data folder, and the names of tables on offer."""
    root = (allow.files or path.parent).resolve()
    names = list(path.parent.iterdir()) if path.parent.is_dir() else []
    return [*allow.tables, *(str(name.relative_to(root)) for name in names)]


def _open_database(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    return closed_connection(str(path), **({"access_mode": "READ_ONLY"} if read_only else {}))


def _require_table(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    known = [str(row[0]) for row in connection.execute("select table_name from duckdb_tables()").fetchall()]
    if table not in known:
        raise DataProblem(
            f"The database has no table '{table}'.", fix=suggestion(table, known) or f"Its tables: {', '.join(known)}."
        )


def _rows_to_write(context: StepContext, params: WriteTable) -> pd.DataFrame:
    tables = {step: value for step, value in context.inputs.items() if is_tabular(value)}
    if params.from_ is not None:
        if params.from_ not in context.inputs:
            raise CodeProblem(
                f"from names '{bounded(params.from_)}', which is not among the needed steps.",
                fix=suggestion(params.from_, context.inputs) or "Add it to needs.",
            )
        return as_table(context.inputs[params.from_], params.from_)
    if len(tables) != 1:
        found = f"{len(tables)} ({', '.join(sorted(tables))})" if tables else "none"
        raise CodeProblem(f"Expected one needed step that gives a table, found {found}.", fix="Say which one under from.")
    ((step, value),) = tables.items()
    return as_table(value, step)


def _write(connection: duckdb.DuckDBPyConnection, params: WriteTable) -> None:
    table, incoming = identifier(params.table), identifier(_INCOMING)
    exists = connection.execute("select 1 from duckdb_tables() where table_name = $1", [params.table]).fetchone() is not None
    if params.replace_where is not None:
        condition, values = equals(column_types(connection, incoming), params.replace_where)
        outside = connection.execute(f"select count(*) from {incoming} where not coalesce({condition}, false)", values).fetchone()
        if outside and outside[0]:
            raise DataProblem(
                f"{outside[0]} rows lie outside replace_where, and a second run would write them again.",
                fix="Filter them out before, or widen replace_where.",
            )
    if not exists or (params.mode == "replace" and params.replace_where is None):
        connection.execute(f"create or replace table {table} as from {incoming}")
        return
    _require_same_columns(connection, params.table)
    if params.replace_where is not None:
        condition, values = equals(column_types(connection, table), params.replace_where)
        connection.execute(f"delete from {table} where {condition}", values)
    connection.execute(f"insert into {table} by name from {incoming}")


def _require_same_columns(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    have, get = set(column_types(connection, identifier(table))), set(column_types(connection, identifier(_INCOMING)))
    if have != get:
        parts = [
            f"{word} {', '.join(sorted(names))}" for word, names in (("without", have - get), ("with new", get - have)) if names
        ]
        raise DataProblem(
            f"The rows do not fit the table '{table}': they come {bounded(' and '.join(parts), 200)}.",
            fix="Select the columns of the table, or replace the whole table.",
        )


READ_TABLE = StepKind(
    name="data.read_table",
    summary="Reads rows of a Parquet, CSV, JSON or DuckDB file below the data folder.",
    params=ReadTable,
    run=read,
    example={"source": "flights", "columns": ["carrier", "dep_delay"], "where": {"date": "2013-01-01", "origin": ["JFK", "LGA"]}},
)
WRITE_TABLE = StepKind(
    name="data.write_table",
    summary="Writes the rows of a needed step to a table of a DuckDB file, all of them or none.",
    params=WriteTable,
    run=write,
    example={"database": "warehouse.duckdb", "table": "flights", "from": "clean", "replace_where": {"date": "2013-01-01"}},
)
