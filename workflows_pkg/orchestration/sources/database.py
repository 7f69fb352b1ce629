"""How is a database of an instance asked, whichever kind it is?

SQLite and PostgreSQL hold the same tables. What differs is how a connection comes about and how an instant is written; both are
behind `Database`, and the questions of `source` and `logs` are asked in SQL that both understand, with `?` for a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

Select = Callable[[str, Sequence[Any]], Iterable[tuple[Any, ...]]]
"""Runs one SELECT with its values and gives the rows; what `first_bytes` gives comes as bytes."""


class Database(Protocol):
    """One database of an instance, only ever read."""

    @property
    def place(self) -> str:
        """Where it is, the same in every process, without a password."""
        ...

    def exists(self) -> bool:
        """Whether there is one; for a server this is found out by connecting."""
        ...

    def read(self, query: Callable[[Select], Result]) -> Result:
        """`query` of one state of the database; raises BusyError where somebody holds it, SetupError where it cannot be read.

        `query` may be called twice and must read all it wants before it returns.
        """
        ...

    def columns(self, table: str) -> set[str]:
        """Names of the table's columns; empty where there is no such table."""
        ...

    def utc(self, column: str) -> str:
        """SQL for an instant that Dagster stored, as UTC text that sorts by time; NULL stays NULL."""
        ...

    def not_before(self, column: str) -> str:
        """SQL: whether an instant that Dagster stored is the `?` or later, which is a text as `utc` gives; not so of NULL."""
        ...

    def as_bytes(self, column: str) -> str:
        """SQL for a text column's stored bytes."""
        ...

    def first_bytes(self, column: str, most: int) -> str:
        """SQL for a text column's stored bytes; of a longer one about the first `most`."""
        ...

    def cancel(self) -> None:
        """Ends the question that another thread is asking, where that may take long."""
        ...

    def close(self) -> None:
        """Lets go of connections and private copies."""
        ...


def marks(values: Sequence[object]) -> str:
    """A question mark for each value."""
    return ", ".join("?" * len(values))


def chunks(ids: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """Pieces below SQLite's oldest limit of 999 parameters in a statement."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
