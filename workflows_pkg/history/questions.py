"""Which questions do people ask of their history? Named queries, each a function from a connection to a DataFrame.

All work on a connection of `open_history` and on the writer's. Instants are UTC, durations seconds, costs USD; a missing
value means unknown. Trial runs, which try a changed version, are left out unless said otherwise. `workflow` matches the
name of a workflow, and for jobs that were not compiled from one the name of the job.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

import duckdb
import pandas as pd

from workflows_pkg.errors import NotFound
from workflows_pkg.history.records import Record, Run, StepAttempt
from workflows_pkg.history.schema import names, quoted

R = TypeVar("R", bound=Record)


def frame(con: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> pd.DataFrame:
    """The answer to an SQL query as a DataFrame."""
    result = con.execute(sql, list(values))
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


def run_timeline(con: duckdb.DuckDBPyConnection, run_id: str) -> pd.DataFrame:
    """The attempts of one run in the order they began; `begins_s` and `ends_s` count from the moment the run was asked for.

    Columns `step, step_key, attempt, outcome, begins_s, ends_s, run_time_s, retry_wait_s, failure_cause, error_class`.
    Raises NotFound for a run that is not in the history.
    """
    if not con.execute("select 1 from runs where run_id = ?", [run_id]).fetchall():
        newest = con.execute("select run_id from runs order by created_at desc limit 1000").fetchall()
        raise NotFound("run", run_id, [name for (name,) in newest])
    return frame(
        con,
        """
        select a.step, a.step_key, a.attempt, a.outcome,
            (epoch_us(a.started_at) - epoch_us(r.created_at)) / 1e6 as begins_s,
            (epoch_us(a.ended_at) - epoch_us(r.created_at)) / 1e6 as ends_s,
            a.run_time_s, a.retry_wait_s, a.failure_cause, a.error_class
        from step_attempts a join runs r using (run_id)
        where run_id = ? order by a.started_at, a.step_key, a.attempt
        """,
        [run_id],
    )


def runs_by_outcome_per_day(
    con: duckdb.DuckDBPyConnection, workflow: str | None = None, exclude_trials: bool = True
) -> pd.DataFrame:
    """How many runs ended how, per UTC day on which they were asked for; columns `day, outcome, runs`; open runs are `open`."""
    where, values = _where(workflow, exclude_trials)
    return frame(
        con,
        f"""
        select created_at::date as day, coalesce(outcome, 'open') as outcome, count(*) as runs
        from runs where {where} group by all order by day, outcome
        """,
        values,
    )


def slowest_steps(
    con: duckdb.DuckDBPyConnection, limit: int = 20, workflow: str | None = None, exclude_trials: bool = True
) -> pd.DataFrame:
    """Steps by the time they took in total; columns `workflow, step, attempts, p50_s, p95_s, max_s, total_s, share`.

    Over attempts whose run time is known, skipped ones left out; `share` is the step's part of all those seconds, 0 to 1.
    """
    where, values = _where(workflow, exclude_trials)
    return frame(
        con,
        f"""
        select coalesce(workflow, job_name) as workflow, step, count(*) as attempts,
            median(run_time_s) as p50_s, quantile_cont(run_time_s, 0.95) as p95_s, max(run_time_s) as max_s,
            sum(run_time_s) as total_s,
            total_s / nullif(sum(total_s) over (), 0) as share
        from step_attempts where {where} and run_time_s is not null and coalesce(outcome, '') <> 'skipped'
        group by all order by total_s desc, step limit ?
        """,
        [*values, limit],
    )


def retry_cost(con: duckdb.DuckDBPyConnection, workflow: str | None = None, exclude_trials: bool = True) -> pd.DataFrame:
    """What retrying cost, per step that was retried; the most expensive first.

    Columns `workflow, step, retries, rescued_runs, lost_runs, wasted_s, waited_s, wasted_usd`: attempts that were followed
    by another; runs in which the step succeeded after all, and in which it did not; seconds those attempts ran, and waited
    before the next; their cost.
    """
    where, values = _where(workflow, exclude_trials)
    return frame(
        con,
        f"""
        with per_run as (
            select coalesce(workflow, job_name) as workflow, step, run_id, step_key,
                count(*) filter (where will_retry) as retries,
                max(attempt) > 1 and arg_max(outcome, attempt) = 'success' as rescued,
                arg_max(outcome, attempt) in ('failure', 'canceled') as lost,
                sum(run_time_s) filter (where will_retry) as wasted_s,
                sum(retry_wait_s) filter (where will_retry) as waited_s,
                sum(cost_usd) filter (where will_retry) as wasted_usd
            from step_attempts where {where} group by all having count(*) filter (where will_retry) > 0
        )
        select workflow, step, sum(retries)::bigint as retries,
            count(*) filter (where rescued) as rescued_runs, count(*) filter (where lost) as lost_runs,
            sum(wasted_s) as wasted_s, sum(waited_s) as waited_s, sum(wasted_usd) as wasted_usd
        from per_run group by all order by coalesce(sum(wasted_s), 0) + coalesce(sum(waited_s), 0) desc, step
        """,
        values,
    )


def failures_by_cause(con: duckdb.DuckDBPyConnection, workflow: str | None = None, exclude_trials: bool = True) -> pd.DataFrame:
    """Failed attempts by step and cause, most frequent first.

    Columns `workflow, step, failure_cause, error_class, failures, final, last_at, last_message`; `final` of them had no
    further attempt.
    """
    where, values = _where(workflow, exclude_trials)
    return frame(
        con,
        f"""
        select coalesce(workflow, job_name) as workflow, step, coalesce(failure_cause, 'unknown') as failure_cause, error_class,
            count(*) as failures, count(*) filter (where not will_retry) as final,
            max(ended_at) as last_at, arg_max(error_message, ended_at) as last_message
        from step_attempts where {where} and outcome = 'failure'
        group by all order by failures desc, workflow, step, failure_cause, error_class
        """,
        values,
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
