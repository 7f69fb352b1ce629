"""How do the data steps use DuckDB? Closed connections, bound values, and DuckDB's errors in the project's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from workflows_pkg.errors import (
    CodeProblem,
    DataProblem,
    MemoryLimit,
    PeerUnavailable,
    Refused,
    StepError,
    StepTimeout,
    bounded,
    suggestion,
)

CLOSED: Mapping[str, str] = {
    # Without this, `select * from rows` reads any Python variable called rows in a calling frame.
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Spilling would go to .tmp in the working directory and turn a memory limit into a slow disk.
    "temp_directory": "",
}
_SIMPLE_TYPE = re.compile(r"[A-Z]+|DECIMAL\(\d+,\d+\)|TIMESTAMP_(S|MS|NS)|TIMESTAMP WITH TIME ZONE")
"""Types written into a cast as DuckDB names them; the name of a STRUCT or ENUM holds text of the file."""
_LOCK_HOLDER = re.compile(r"Conflicting lock is held in (\S+) \(PID (\d+)\)")


def closed_connection(database: str = ":memory:", **settings: str) -> duckdb.DuckDBPyConnection:
    """A connection that reaches no file besides `database`, no network, no extension and no Python variable."""
    return duckdb.connect(database, config={**CLOSED, "enable_external_access": "false", **settings})


def reading_connection(path: str) -> duckdb.DuckDBPyConnection:
    """A connection in memory that can read the one file `path`, and nothing else."""
    connection = duckdb.connect(":memory:", config=dict(CLOSED))
    # Set in this order: the list of allowed paths cannot be changed once external access is off.
    connection.execute(f"set allowed_paths = [{literal(path)}]")
    connection.execute("set enable_external_access = false")
    lock(connection)
    return connection


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the settings of `connection` final."""
    connection.execute("set lock_configuration = true")


def identifier(name: str) -> str:
    """`name` quoted for SQL, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string, for the few statements that take no bound values."""
    return "'" + text.replace("'", "''") + "'"


def register(connection: duckdb.DuckDBPyConnection, name: str, table: pd.DataFrame) -> None:
    """Makes `table` visible to SQL as the view `name`."""
    try:
        connection.register(name, pa.Table.from_pandas(table, preserve_index=False))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataProblem(
            f"The table '{name}' has a column that mixes types: {bounded(error, 200)}.", fix="Give each column one type."
        ) from error


def equals(columns: Mapping[str, str], where: Mapping[str, Any], *, first: int = 1) -> tuple[str, list[Any]]:
    """A condition `column = value` (list: one of; null: missing) with its bound values.

    columns: type of each column of the table, by name. first: number of the first bound value.
    A value is cast to the column's type, so that the text '2013-01-01' finds a date.
    Raises DataProblem for a column that the table does not have.
    """
    require_columns(where, columns)
    conditions: list[str] = []
    values: list[Any] = []

    def bind(value: object, kind: str) -> str:
        values.append(value)
        place = f"${first + len(values) - 1}"
        return f"cast({place} as {kind})" if _SIMPLE_TYPE.fullmatch(kind) else place

    for column, wanted in where.items():
        quoted = identifier(column)
        choices: Sequence[object] = wanted if isinstance(wanted, list) else [wanted]
        bound = ", ".join(bind(choice, columns[column]) for choice in choices if choice is not None)
        either = [f"{quoted} in ({bound})"] if bound else []
        if any(choice is None for choice in choices):
            either.append(f"{quoted} is null")
        conditions.append("(" + (" or ".join(either) or "false") + ")")
    return " and ".join(conditions) or "true", values


def require_columns(wanted: Iterable[str], columns: Mapping[str, str]) -> None:
    """Raises DataProblem for the first of `wanted` that is not among `columns`."""
    for column in wanted:
        if column not in columns:
            raise DataProblem(
                f"The table has no column '{bounded(column)}'.",
                fix=suggestion(column, columns) or f"Its columns: {bounded(', '.join(columns), 200)}.",
            )


def column_types(connection: duckdb.DuckDBPyConnection, relation: str, values: Sequence[object] = ()) -> dict[str, str]:
    """Type of each column of `relation` (SQL after `from`), by name."""
    described = connection.execute(f"describe select * from {relation}", list(values)).fetchall()
    return {str(row[0]): str(row[1]) for row in described}


@contextmanager
def duckdb_errors(
    what: str,
    on_stop: Callable[[Callable[[], None]], None],
    connection: duckdb.DuckDBPyConnection,
    file: Path | None = None,
) -> Generator[None]:
    """Inside, DuckDB's errors become step errors (see `step_error`); the attempt's timeout interrupts `connection`."""

    def interrupt() -> None:
        # A stop that comes after the end finds the connection closed, and nothing to stop.
        with suppress(duckdb.Error):
            connection.interrupt()

    on_stop(interrupt)
    try:
        yield
    except duckdb.Error as error:
        raise step_error(what, error, file=file) from error


def step_error(what: str, error: duckdb.Error, *, memory_limit: str | None = None, file: Path | None = None) -> StepError:
    """The step error that says what `error` means for a reader of the run; it begins with `what`.

    file: set where the SQL is this package's own, so that what is wrong is the file. Its folder is left out of the text.
    """
    text = str(error).split("\n\n")[0]
    text = bounded(text.replace(f"{file.parent}/", "") if file else text, 300)
    match error:
        case duckdb.OutOfMemoryException():
            return MemoryLimit(
                f"{what} needs more memory than "
                + (f"its limit of {memory_limit}." if memory_limit else "this machine gives DuckDB.")
                + " Nothing is moved to disk.",
                fix="Raise memory_limit, or read fewer rows or columns at a time, such as one partition.",
            )
        case duckdb.InterruptException():
            return StepTimeout(f"{what} was stopped.", fix="Give the step a longer timeout, or read less.")
        case duckdb.PermissionException():
            return Refused(
                f"{what} reaches for a file, an extension or the network: {text}", fix="Use data.read_table or http for that."
            )
        case duckdb.IOException():
            return _locked(what, str(error)) or DataProblem(f"{what}: {text}")
        case duckdb.ConnectionException() | duckdb.TransactionException():
            return PeerUnavailable(f"{what} met another step that uses the same database: {text}", fix="Try again later.")
        case duckdb.DataError() | duckdb.IntegrityError():
            return DataProblem(f"{what}: {text}")
        case duckdb.ProgrammingError() | duckdb.NotSupportedError():
            return DataProblem(f"{what}: {text}") if file else CodeProblem(f"{what}: {text}")
        case _:
            return StepError(f"{what}: {text}")


def _locked(what: str, text: str) -> PeerUnavailable | None:
    if "Could not set lock" not in text:
        return None
    holder = _LOCK_HOLDER.search(text)
    by = f"process {holder[2]} ({holder[1].rsplit('/', 1)[-1]})" if holder else "another process"
    return PeerUnavailable(f"{what} is locked by {by}.", fix="It is free when that process closes it; a retry waits for that.")
