"""How does a workflow compute with SQL? One SELECT in DuckDB over the tables of the needed steps, and over nothing else."""

from __future__ import annotations

import json
import os
import threading
from typing import Annotated, Any

import duckdb
import pandas as pd
from pydantic import Field, field_validator

from workflows_pkg.errors import CodeProblem, Refused, StepError, bounded, suggestion
from workflows_pkg.spec.mistakes import UnfitError
from workflows_pkg.steps.contract import Literally, Parameters, StepContext, StepKind, StepValue
from workflows_pkg.steps.data.engine import closed_connection, duckdb_errors, lock, register, step_error
from workflows_pkg.steps.values import as_table, is_tabular, kind_of

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "repeat", "repeat_row", "json_each", "json_tree", "summary"})
"""Functions that a query may read from. DuckDB has others that run SQL from text (`query`), end the process when
called with null (`pandas_scan(null)` in 1.5.5), or open files; a list of the harmless ones outlives new versions."""


class _Parsers(threading.local):
    """One closed connection for each thread, which reads queries and runs none.

    Opening one takes 15 ms, which a folder of a thousand queries would wait for. A forked process opens its own.
    """

    def __init__(self) -> None:
        self._open: tuple[int, duckdb.DuckDBPyConnection] | None = None

    def connection(self) -> duckdb.DuckDBPyConnection:
        if self._open is None or self._open[0] != os.getpid():
            self._open = os.getpid(), closed_connection(threads="1")
            lock(self._open[1])
        return self._open[1]


_PARSERS = _Parsers()


class Sql(Parameters):
    """Parameters of the step kind `data.sql`."""

    query: Annotated[str, Literally("bind the value under params and write $name in the query")] = Field(
        description="One SELECT statement of DuckDB. Tables of the needed steps are called by the steps' names.",
        min_length=1,
        max_length=50_000,
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Values bound to $name in the query, by name.")
    memory_limit: str | None = Field(
        None,
        description="Most memory DuckDB takes for the query, such as 64MB. Nothing spills to disk: beyond it the attempt fails.",
        pattern=r"^[1-9][0-9]{0,6}(KB|MB|GB|KiB|MiB|GiB)$",
    )
    threads: int | None = Field(None, description="Threads DuckDB uses; left out: one for each core.", ge=1, le=256)

    @field_validator("query")
    @classmethod
    def _can_be_a_query(cls, query: str) -> str:
        """Finds at loading what the text alone tells; tables, columns and types are known in the run only."""
        connection = _PARSERS.connection()
        try:
            with duckdb_errors("The query", lambda stop: None, connection):
                _check_statement(connection, query)
        except StepError as error:
            raise UnfitError(error.message[:1].lower() + error.message[1:], error.fix) from None
        return query


def run(context: StepContext, params: Sql) -> StepValue:
    """The rows of the query as a table."""
    settings = {"memory_limit": params.memory_limit} if params.memory_limit else {}
    if params.threads:
        settings["threads"] = str(params.threads)
    connection = closed_connection(**settings)
    try:
        with duckdb_errors("The query", context.on_stop, connection):
            _check_names(_check_statement(connection, params.query), params)
            for step, value in context.inputs.items():
                if is_tabular(value):
                    register(connection, step, as_table(value, step))
            lock(connection)
            return _rows(connection, context, params)
    finally:
        connection.close()


def _rows(connection: duckdb.DuckDBPyConnection, context: StepContext, params: Sql) -> pd.DataFrame:
    try:
        return connection.execute(params.query, params.params or None).df()
    except duckdb.OutOfMemoryException as error:
        raise step_error("The query", error, memory_limit=params.memory_limit) from error
    except duckdb.CatalogException as error:
        raise CodeProblem(f"The query: {bounded(str(error).splitlines()[0], 200)}", fix=_tables(context)) from error


def _check_statement(connection: duckdb.DuckDBPyConnection, query: str) -> set[str]:
    """Refuses all but one SELECT over tables, and raises CodeProblem where it is none; gives the names it wants bound."""
    try:
        statements = connection.extract_statements(query)
    except duckdb.ParserException as error:
        raise CodeProblem(f"The query is not valid SQL: {_syntax(str(error))}") from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = [statement.type.name for statement in statements]
        if kinds[-1:] == ["SELECT"] and set(kinds[:-1]) == {"CREATE"}:
            raise CodeProblem("The query has a PIVOT without its values.", fix="Write them: pivot … on column in ('a', 'b').")
        raise Refused(
            f"Expected one SELECT statement, found {' and '.join(kinds) or 'none'}.",
            fix="Write one SELECT; data.write_table keeps its result.",
        )
    row = connection.execute("select json_serialize_sql($1)", [query]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    if tree.get("error"):
        raise Refused("The query cannot be examined before it runs.", fix="Write it as one plain SELECT statement.")
    for function in sorted(_table_functions(tree) - TABLE_FUNCTIONS):
        raise Refused(
            f"A query does not read from '{bounded(function)}'.",
            fix="It reads the tables of the steps it needs; data.read_table and http bring others in.",
        )
    return statements[0].named_parameters


def _table_functions(tree: object) -> set[str]:
    """Names of all functions that stand where a table can, anywhere in a serialised statement."""
    found: set[str] = set()
    open_nodes = [tree]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, dict):
            if node.get("type") == "TABLE_FUNCTION":
                found.add(str(node["function"].get("function_name", "")).lower())
            open_nodes.extend(node.values())
        elif isinstance(node, list):
            open_nodes.extend(node)
    return found


def _check_names(needed: set[str], params: Sql) -> None:
    for name in sorted(needed - params.params.keys()):
        if name.isdigit():
            raise CodeProblem("The query has a '?' or '$1' to bind; values are bound by name.", fix="Write $name.")
        raise CodeProblem(
            f"The query has ${name}, which params does not give.", fix=suggestion(name, params.params) or f"Add {name} to params."
        )
    for name in sorted(params.params.keys() - needed):
        raise CodeProblem(f"params gives '{bounded(name)}', which the query does not use.", fix=suggestion(name, needed))


def _syntax(text: str) -> str:
    """DuckDB's message with the line it points at, without the marker that needs a fixed-width font."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and set(line.strip()) != {"^"}]
    return bounded(" - ".join(lines).removeprefix("Parser Error: "), 300)


def _tables(context: StepContext) -> str:
    tables = sorted(step for step, value in context.inputs.items() if is_tabular(value))
    others = [f"'{step}' gave {kind_of(value)}" for step, value in sorted(context.inputs.items()) if not is_tabular(value)]
    known = f"Tables here: {', '.join(tables)}." if tables else "No table is here: name the steps that give them under needs."
    return known + (f" Not a table: {', '.join(others)}." if others else "")


SQL = StepKind(
    name="data.sql",
    summary="Runs one SELECT in DuckDB over the tables of the steps it needs.",
    params=Sql,
    run=run,
    example={
        "query": "select carrier, count(*) as flights from departures where date = $day group by carrier",
        "params": {"day": "2013-01-01"},
        "memory_limit": "256MB",
    },
)
