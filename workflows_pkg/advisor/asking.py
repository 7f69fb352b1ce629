"""How does advice ask the history? In SQL with every value written in, so that a reader can run what is quoted as evidence."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from workflows_pkg.prediction.rows import Connection


def literal(value: str | datetime) -> str:
    """A value as SQL text, for queries that a reader can run as they stand.

    >>> literal("it's")
    "'it''s'"
    """
    if isinstance(value, datetime):
        return f"timestamptz '{value.isoformat()}'"
    return "'" + value.replace("'", "''") + "'"


def rows(con: Connection, sql: str) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries; missing values are None."""
    answer: list[dict[str, Any]] = con.execute(sql).to_arrow_table().to_pylist()
    return answer


def runs_before(now: datetime) -> str:
    """SQL for the runs asked for before `now`, trials left out, as a relation."""
    return f"(select * from runs where trial_id is null and created_at < {literal(now)})"


def attempts_before(now: datetime) -> str:
    """SQL for the attempts of these runs."""
    return f"(select a.* from step_attempts a join {runs_before(now)} r using (run_id))"


def one(sql: str, **where: str) -> str:
    """The rows of `sql` for one job, step or other name."""
    conditions = " and ".join(f"{name} = {literal(value)}" for name, value in where.items())
    return f"select * from ({' '.join(sql.split())}) where {conditions}"
