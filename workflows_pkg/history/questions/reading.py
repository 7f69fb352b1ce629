"""How are rows of the history read, as a DataFrame or as records, and narrowed to what is asked about?

All questions work on a connection of `open_history` and on the writer's. Instants are UTC, durations seconds, costs USD; a missing
value means unknown. Trial runs, which try a changed version, are left out unless said otherwise. `workflow` matches the name of a
workflow, and for jobs that were not compiled from one the name of the job.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TypeVar

import duckdb
import pandas as pd

from workflows_pkg.history.records import Record, Run, StepAttempt
from workflows_pkg.history.schema import names, quoted

R = TypeVar("R", bound=Record)

Day = date | str | None
"""A UTC day, as text `2026-01-31`; None: no limit."""


def frame(con: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> pd.DataFrame:
    """The answer to an SQL query as a DataFrame; `values` for its `?`, or by name for its `$name`."""
    result = con.execute(sql, dict(values) if isinstance(values, Mapping) else list(values))
    with warnings.catch_warnings():
        # duckdb 1.5.5 calls pandas in a way that pandas 3.1 warns about, for every column of instants.
        warnings.filterwarnings("ignore", message="The inplace keyword in DataFrame")
        return result.df()


def read(con: duckdb.DuckDBPyConnection, record_type: type[R], where: str = "true", values: Sequence[object] = ()) -> list[R]:
    """Rows as records, ordered by key; `where` is an SQL condition with a `?` for each of `values`.

    `read(con, Run, "outcome = ?", ["failure"])`
    """
    wanted = tuple(record_type.model_fields)
    rows = con.execute(
        f"select {names(wanted)} from {quoted(record_type.table)} where {where} order by {names(record_type.key)}", list(values)
    ).fetchall()
    return [record_type(**dict(zip(wanted, row, strict=True))) for row in rows]


def runs(con: duckdb.DuckDBPyConnection, workflow: str | None = None, exclude_trials: bool = True) -> pd.DataFrame:
    """One row per run, the columns of `Run`, oldest first."""
    where, values = _where(workflow, exclude_trials)
    return frame(con, f"select {names(Run.model_fields)} from runs where {where} order by created_at, run_id", values)


def attempts(con: duckdb.DuckDBPyConnection, workflow: str | None = None, exclude_trials: bool = True) -> pd.DataFrame:
    """One row per attempt of a step, the columns of `StepAttempt`, oldest first."""
    where, values = _where(workflow, exclude_trials)
    return frame(
        con,
        f"select {names(StepAttempt.model_fields)} from step_attempts where {where} "
        "order by started_at, run_id, step_key, attempt",
        values,
    )


def recent_runs(con: duckdb.DuckDBPyConnection, limit: int = 20) -> pd.DataFrame:
    """The newest runs, trials too; columns `run_id, workflow, version, partition_key, trigger, outcome, created_at,
    queue_time_s, start_time_s, run_time_s, attempt_count, cost_usd`.
    """
    return frame(
        con,
        """
        select run_id, coalesce(workflow, job_name) as workflow, version, partition_key, trigger, outcome, created_at,
            queue_time_s, start_time_s, run_time_s, attempt_count, cost_usd
        from runs order by created_at desc, run_id limit ?
        """,
        [limit],
    )


def cost_by_workflow(con: duckdb.DuckDBPyConnection, exclude_trials: bool = True) -> pd.DataFrame:
    """What the runs of each workflow cost, the most expensive first; columns `workflow, runs, cost_usd, cost_per_run_usd,
    failed_usd`.

    `runs` counts those whose cost is known, `failed_usd` what was spent on runs that did not succeed.
    """
    where, values = _where(None, exclude_trials)
    return frame(
        con,
        f"""
        select coalesce(workflow, job_name) as workflow, count(cost_usd) as runs, sum(cost_usd) as cost_usd,
            avg(cost_usd) as cost_per_run_usd, coalesce(sum(cost_usd) filter (where outcome <> 'success'), 0) as failed_usd
        from runs where {where} group by all order by cost_usd desc nulls last, workflow
        """,
        values,
    )


def _where(workflow: str | None, exclude_trials: bool) -> tuple[str, list[object]]:
    parts, values = ["true"], list[object]()
    if workflow is not None:
        parts.append("coalesce(workflow, job_name) = ?")
        values.append(workflow)
    if exclude_trials:
        parts.append("trial_id is null")
    return " and ".join(parts), values


def narrowed(
    day: str, *, since: Day, until: Day, workflow: str | None = None, step: str | None = None, exclude_trials: bool = False
) -> tuple[str, list[object]]:
    """The condition on rows of a rollup and its values; `day` is the column that `since` (in) and `until` (out) are about."""
    parts, values = ["true"], list[object]()
    for condition, value in (
        (f"{day} >= ?::date", since),
        (f"{day} < ?::date", until),
        ("workflow = ?", workflow),
        ("step = ?", step),
    ):
        if value is not None:
            parts.append(condition)
            values.append(value)
    if exclude_trials:
        parts.append("not trial")
    return " and ".join(parts), values
