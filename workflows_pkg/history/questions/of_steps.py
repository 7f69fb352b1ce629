"""Questions about steps: which take the time, how long over time, what retries cost, and why attempts fail.

All are answered from the rollups of `rollup_records`. An attempt counts for the UTC day on which it began.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

import duckdb
import pandas as pd

from workflows_pkg.history.bins import quantiles
from workflows_pkg.history.questions.reading import Day, frame, narrowed


def slowest_steps(
    con: duckdb.DuckDBPyConnection,
    limit: int = 20,
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """Steps by the time they took in total, over attempts that were not skipped and whose run time is known.

    One row per step, at most `limit`: `workflow`, `step`, `attempts`, `p50_s`, `p95_s`, `max_s` (run time by nearest rank, within 1 %),
    `total_s`, and `share`, the step's part of the seconds of all steps asked about, 0 to 1.
    """
    where, values = narrowed("begun_on", since=since, until=until, workflow=workflow, exclude_trials=exclude_trials)
    top = frame(
        con,
        f"""
        select workflow, step, sum(run_us) as total_us, sum(run_us) / nullif(sum(sum(run_us)) over (), 0) as share
        from step_days where {where} group by all having sum(attempts) > 0 order by total_us desc, workflow, step limit ?
        """,
        [*values, limit],
    )
    # Named one by one, since bins lie in the order of workflow and step: only blocks with these are read.
    steps = [*top["workflow"], *top["step"]]
    named = f"workflow in ({marks}) and step in ({marks})" if (marks := ", ".join("?" * len(top))) else "false"
    counted = f"""
        select workflow, step, bin, sum(attempts)::bigint as n from ({_bins(since, until)})
        where {named}{" and not trial" if exclude_trials else ""} group by all"""
    bins = frame(con, quantiles(counted, ("workflow", "step"), {"p50_s": "0.5", "p95_s": "0.95"}, "attempts"), steps)
    found = top.merge(bins, on=["workflow", "step"], how="left")
    found["total_s"] = found["total_us"] / 1e6
    return found.filter(items=["workflow", "step", "attempts", "p50_s", "p95_s", "max_s", "total_s", "share"])


def duration_quantiles(
    con: duckdb.DuckDBPyConnection,
    step: str,
    by: Literal["day", "week", "month"] = "day",
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """How long the attempts of a step run, over time.

    One row per workflow that has a step of this name, and UTC day, week (from Monday) or month with attempts that were not skipped and
    whose run time is known: `workflow`, `begins_on`, `attempts`, `p05_s`, `p50_s`, `p95_s`, `max_s` (seconds by nearest rank, within 1 %).
    Attempts of which neither begin nor end is known belong to no day and are left out.
    """
    where, values = narrowed("begun_on", since=since, until=until, workflow=workflow, step=step, exclude_trials=exclude_trials)
    counted = f"""
        select workflow, date_trunc('{by}', begun_on)::date as begins_on, bin, sum(attempts)::bigint as n
        from step_time_bins where {where} and begun_on > date '1970-01-01' group by all"""
    shares = {"p05_s": "0.05", "p50_s": "0.5", "p95_s": "0.95"}
    return frame(con, f"{quantiles(counted, ('workflow', 'begins_on'), shares, 'attempts')} order by workflow, begins_on", values)


def retry_cost(
    con: duckdb.DuckDBPyConnection,
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """What retrying cost, the most expensive step first.

    One row per step that was retried: `workflow`, `step`, `retries` (attempts that were followed by another), `rescued_runs` and
    `lost_runs` (runs in which the step succeeded after all, and in which it failed or was canceled; a mapped copy counts for itself),
    `wasted_s` (seconds the retried attempts ran), `waited_s` (seconds waited before the next), `wasted_usd` (their cost). A sum is over
    what is known, and missing where nothing is.
    """
    where, values = narrowed("begun_on", since=since, until=until, workflow=workflow, exclude_trials=exclude_trials)
    return frame(
        con,
        f"""
        select workflow, step, sum(retries)::bigint as retries, sum(rescued_runs)::bigint as rescued_runs,
            sum(lost_runs)::bigint as lost_runs,
            case when sum(timed_retries) > 0 then sum(wasted_us) / 1e6 end as wasted_s,
            case when sum(waited_retries) > 0 then sum(waited_us) / 1e6 end as waited_s,
            case when sum(priced_retries) > 0 then sum(wasted_nusd) / 1e9 end as wasted_usd
        from step_days where {where} group by all having sum(retries) > 0
        order by sum(wasted_us) + sum(waited_us) desc, workflow, step
        """,
        values,
    )


def failures_by_cause(
    con: duckdb.DuckDBPyConnection,
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """Why attempts fail, the most frequent first.

    One row per step, cause and error class: `workflow`, `step`, `failure_cause` (code, data, timeout, memory, dependency,
    infrastructure, unknown), `error_class` (missing: unknown), `failures` (attempts), `final` (those without a further attempt),
    `last_at` and `last_message` (end and message of the newest; missing: unknown).
    """
    where, values = narrowed("begun_on", since=since, until=until, workflow=workflow, exclude_trials=exclude_trials)
    return frame(
        con,
        f"""
        select workflow, step, failure_cause, error_class, failures, final, newest.t as last_at, newest.m as last_message from (
            select workflow, step, failure_cause, nullif(error_class, '') as error_class, sum(failures)::bigint as failures,
                sum(final)::bigint as final, max(struct_pack(t := last_at, m := last_message)) filter (last_at is not null) as newest
            from failure_days where {where} group by all having sum(failures) > 0
        ) order by failures desc, workflow, step, failure_cause, error_class
        """,
        values,
    )


def _bins(since: Day, until: Day) -> str:
    """SQL: counts of durations by workflow, step, trial and bin within these days: of whole months, and of the days around them."""
    first, end = (date.fromisoformat(day) if isinstance(day, str) else day for day in (since, until))
    months = "select workflow, step, trial, bin, attempts from step_month_bins where true"
    days = "select workflow, step, trial, bin, attempts from step_time_bins where "
    parts: list[str] = []
    begin = None if first is None else _month(first, 0 if first.day == 1 else 1)
    until_month = None if end is None else _month(end, 0)
    if first is not None and end is not None and begin is not None and until_month is not None and begin >= until_month:
        return f"{days} begun_on >= date '{first}' and begun_on < date '{end}'"
    if first is not None and begin is not None:
        months += f" and month >= date '{begin}'"
        parts.append(f"{days} begun_on >= date '{first}' and begun_on < date '{begin}'")
    if end is not None and until_month is not None:
        months += f" and month < date '{until_month}'"
        parts.append(f"{days} begun_on >= date '{until_month}' and begun_on < date '{end}'")
    return " union all ".join([months, *parts])


def _month(day: date, later: int) -> date:
    """The first day of the month, or of a later one."""
    number = day.year * 12 + day.month - 1 + later
    return date(number // 12, number % 12 + 1, 1)
