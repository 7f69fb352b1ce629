"""How does the report read history? Plain SQL over a connection it is given, answered as a DataFrame with instants in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import pandas as pd

from workflows_pkg.history.records import Record

R = TypeVar("R", bound=Record)
Frame = Any
"""A pandas DataFrame. pandas has types for a part only: each column of a DataFrame is a union of a dozen there."""


class Connection(Protocol):
    """What is needed of a DuckDB connection; `history.store.open_history` gives one."""

    def execute(self, query: str, parameters: Any = None, /) -> Any:
        """Runs a query; the answer can be fetched as an Arrow table."""
        ...


def frame(con: Connection, sql: str, parameters: Sequence[object] = ()) -> Frame:
    """The rows of a query. Instants come as UTC whatever the connection's time zone; missing numbers as NaN."""
    # By way of Arrow: DuckDB's own conversion of TIMESTAMPTZ columns warns on pandas 3.
    found: Frame = con.execute(sql, list(parameters)).to_arrow_table().to_pandas()
    for name in found.columns:
        if isinstance(found[name].dtype, pd.DatetimeTZDtype):
            found[name] = found[name].dt.tz_convert("UTC")
    return found


def rows(con: Connection, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries; missing values are None."""
    answer: list[dict[str, Any]] = con.execute(sql, list(parameters)).to_arrow_table().to_pylist()
    return answer


def records(con: Connection, kind: type[R], tail: str = "") -> list[R]:
    """The rows of a record's table as records; `tail` is what follows the table's name, such as a WHERE and an ORDER BY."""
    columns = ", ".join(kind.model_fields)
    return [kind.model_validate(row) for row in rows(con, f"SELECT {columns} FROM {kind.table} {tail}")]
