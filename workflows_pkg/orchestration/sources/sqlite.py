"""A SQLite file of Dagster's as a `Database`; how it is read without disturbing it says `history.sqlite_files`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from workflows_pkg.history.sqlite_files import read
from workflows_pkg.orchestration.sources.settings import looked_at

Result = TypeVar("Result")


class SqliteFile:
    """One SQLite file. `untouched`: nothing is written beside it either, also where a log was left behind."""

    def __init__(self, path: Path, *, untouched: bool = False) -> None:
        self.path = path
        self.untouched = untouched

    @property
    def place(self) -> str:
        return str(self.path.resolve())

    def exists(self) -> bool:
        with looked_at(self.path):
            return self.path.exists()

    def read(self, query: Callable[[Any], Result]) -> Result:
        def asked(connection: sqlite3.Connection) -> Result:
            def select(sql: str, values: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
                return connection.execute(sql, values)

            return query(select)

        return read(str(self.path), asked, untouched=self.untouched)

    def columns(self, table: str) -> set[str]:
        return self.read(lambda select: {row[0] for row in select("select name from pragma_table_info(?)", (table,))})

    def utc(self, column: str) -> str:
        return column

    def not_before(self, column: str) -> str:
        return f"{column} >= ?"

    def as_bytes(self, column: str) -> str:
        return f"cast({column} as blob)"

    def first_bytes(self, column: str, most: int) -> str:
        return first_bytes(column, most)

    def cancel(self) -> None:
        pass  # a piece is read in less time than it takes to tell

    def close(self) -> None:
        pass


def first_bytes(column: str, most: int) -> str:
    """SQL for the first bytes of a text; of the text itself SQLite would count the characters."""
    return f"substr(cast({column} as blob), 1, {most})"
