"""Questions about runs as a whole: how they end, wait, what they cost, whether they are in time, and how many run at once.

All are answered from the rollups of `rollup_records`, so their cost does not grow with the number of runs.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import duckdb
import pandas as pd

from workflows_pkg.history.bins import quantiles
from workflows_pkg.history.questions.reading import Day, frame, narrowed
from workflows_pkg.history.schema import first_row


def runs_by_outcome_per_day(
    con: duckdb.DuckDBPyConnection,
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """How many runs ended how, per UTC day on which they were asked for.

    One row per day and outcome that has runs: `day`, `outcome` (success, failure, canceled; open: not over yet), `runs`.
    """
    where, values = narrowed("asked_on", since=since, until=until, workflow=workflow, exclude_trials=exclude_trials)
    return frame(
        con,
        f"""
        select asked_on as day, outcome, sum(runs)::bigint as runs
        from run_days where {where} group by all having sum(runs) > 0 order by day, outcome
        """,
        values,
    )


def queue_time_by_hour(
    con: duckdb.DuckDBPyConnection,
    by: Literal["hour_of_day", "hour"] = "hour_of_day",
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """How long runs are queued, by the UTC hour in which they are asked for.

    One row per hour of the day (`hour`, 0 to 23), or with `by="hour"` per hour of the calendar (`hour`, its begin), that has runs whose
    queue time is known: `runs` of them, `mean_s`, and `p50_s`, `p95_s`, `max_s` by nearest rank within 1 %. Seconds from being asked for
    to being taken from the queue.
    """
    where, values = narrowed("hour", since=since, until=until, workflow=workflow, exclude_trials=exclude_trials)
    hour = "epoch_us(hour) // 3600000000 % 24" if by == "hour_of_day" else "hour"
    counted = "select h, bin, n from counted"
    return frame(
        con,
        f"""
        with counted as materialized (
            select {hour} as h, bin, sum(runs)::bigint as n, sum(queue_us)::bigint as us from queue_time_bins where {where} group by all
        )
        select h as hour, runs, us / 1e6 / runs as mean_s, p50_s, p95_s, max_s
        from ({quantiles(counted, ("h",), {"p50_s": "0.5", "p95_s": "0.95"}, "runs")})
        join (select h, sum(us) as us from counted group by h) using (h) order by hour
        """,
        values,
    )


def cost_by_owner_and_month(
    con: duckdb.DuckDBPyConnection,
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """What runs cost, by who answers for them and the month in which they were asked for.

    One row per month and owner: `month` (its first day, UTC), `owner` (missing: nobody is named), `runs`, `priced_runs` (those whose cost
    is known), `cost_usd` and `failed_usd`, the part spent on runs that failed or were canceled; costs are missing where none is known.
    """
    where, values = narrowed("asked_on", since=since, until=until, workflow=workflow, exclude_trials=exclude_trials)
    return frame(
        con,
        f"""
        select date_trunc('month', asked_on)::date as month, nullif(owner, '') as owner, sum(runs)::bigint as runs,
            sum(priced_runs)::bigint as priced_runs, case when sum(priced_runs) > 0 then sum(cost_nusd) / 1e9 end as cost_usd,
            case when sum(priced_runs) > 0
                then coalesce(sum(cost_nusd) filter (outcome in ('failure', 'canceled')), 0) / 1e9 end as failed_usd
        from run_days where {where} group by all having sum(runs) > 0 order by month, cost_usd desc nulls last, owner
        """,
        values,
    )


def deadline_misses(
    con: duckdb.DuckDBPyConnection,
    workflow: str | None = None,
    exclude_trials: bool = True,
    since: Day = None,
    until: Day = None,
    now: datetime | None = None,
) -> pd.DataFrame:
    """Which workflows miss their deadlines, how often and by how much.

    One row per workflow that has runs with a deadline, the most misses first: `workflow`, `deadline_runs` (ended runs that had one),
    `missed_runs` (those that ended after it), `missed_share` (0 to 1), `late_mean_s` (how late these were; missing where none was),
    `last_missed_on` (day on which the newest of these was asked for), `overdue_runs` (not over at `now`, the present if not given, and
    past their deadline).
    """
    where, values = narrowed("asked_on", since=since, until=until, workflow=workflow, exclude_trials=exclude_trials)
    # open runs are never sealed: the live table has all of them
    return frame(
        con,
        f"""
        with ended as (
            select workflow, sum(deadline_runs) as deadline_runs, sum(missed_runs) as missed_runs, sum(late_us) as late_us
            from run_days where {where} and outcome <> 'open' group by all having sum(deadline_runs) > 0
        ), missed as (
            select workflow, max(asked_on) as last_missed_on from (
                select workflow, asked_on from run_days where {where} and outcome <> 'open' group by all having sum(missed_runs) > 0
            ) group by all
        ), overdue as (
            select workflow, count(*) as overdue_runs from (
                select coalesce(workflow, job_name) as workflow, created_at::date as asked_on, trial_id is not null as trial
                from live.runs where outcome is null and deadline_at < ?
            ) where {where} group by all
        )
        select workflow, coalesce(deadline_runs, 0)::bigint as deadline_runs, coalesce(missed_runs, 0)::bigint as missed_runs,
            missed_runs / deadline_runs as missed_share,
            case when missed_runs > 0 then late_us / 1e6 / missed_runs end as late_mean_s, last_missed_on,
            coalesce(overdue_runs, 0) as overdue_runs
        from ended full join overdue using (workflow) left join missed using (workflow)
        order by missed_runs desc, overdue_runs desc, workflow
        """,
        [*values, *values, now or datetime.now(UTC), *values],
    )


def concurrency(
    con: duckdb.DuckDBPyConnection,
    by: Literal["hour", "day"] = "hour",
    since: Day = None,
    until: Day = None,
) -> pd.DataFrame:
    """How many runs and step attempts run at once, over time; trials too, since they take room like others.

    One row per UTC hour or day, none left out: `begins_at`, `runs_mean` and `attempts_mean` (exact means over time), `runs_peak` and
    `attempts_peak` (the most that ran up to its begin or at the end of any minute; what begins and ends between shows in the means only).
    since: the first day; None: seven days before the last change. until: the day after the last; None: up to the last change.
    What has not ended runs on; what ended without anybody knowing when is left out.
    """
    begin, end, runs_before, attempts_before = first_row(
        con.execute(
            f"""
            with last as (select max(minute) as minute from running_minutes),
            ends as (
                select date_trunc('{by}', coalesce(?::date::timestamptz, minute - interval 7 day)) as first,
                    coalesce(?::date::timestamptz, date_trunc('{by}', minute) + interval 1 {by}) as last from last
            )
            select any_value(first), any_value(last), coalesce(sum(runs) filter (minute < first), 0)::bigint,
                coalesce(sum(attempts) filter (minute < first), 0)::bigint
            from ends left join running_minutes on true
            """,
            [since, until],
        )
    )
    span_us = 3_600_000_000 if by == "hour" else 86_400_000_000
    means = ", ".join(
        f"($before_{name} + coalesce(sum({name}_change) over earlier, 0)) + {name}_busy / {span_us} as {name}_mean, "
        f"greatest($before_{name} + coalesce(sum({name}_change) over earlier, 0), {name}_most)::bigint as {name}_peak"
        for name in ("runs", "attempts")
    )
    sums = ", ".join(
        f"sum({name})::bigint as {name}_change, "
        f"sum({name} * ({span_us} - (epoch_us(minute) - epoch_us(begins_at)) - 60000000) + {name}_us)::double as {name}_busy, "
        f"max({name}_upto) as {name}_most"
        for name in ("runs", "attempts")
    )
    return frame(
        con,
        f"""
        with changes as (
            select minute, make_timestamptz(epoch_us(minute) // {span_us} * {span_us}) as begins_at,
                sum(runs)::bigint as runs, sum(runs_us)::bigint as runs_us,
                sum(attempts)::bigint as attempts, sum(attempts_us)::bigint as attempts_us
            from running_minutes where minute >= $begin::timestamptz and minute < $end::timestamptz group by all
        ), followed as (
            select *, $before_runs + sum(runs) over (order by minute) as runs_upto,
                $before_attempts + sum(attempts) over (order by minute) as attempts_upto
            from changes
        ), summed as (select begins_at, {sums} from followed group by all)
        select begins_at, {means} from (
            select begins_at, coalesce(runs_change, 0) as runs_change, coalesce(runs_busy, 0) as runs_busy, runs_most,
                coalesce(attempts_change, 0) as attempts_change, coalesce(attempts_busy, 0) as attempts_busy, attempts_most
            from (select unnest(generate_series($begin::timestamptz, $end::timestamptz - interval 1 second, interval 1 {by})) as begins_at)
            left join summed using (begins_at)
        ) window earlier as (order by begins_at rows between unbounded preceding and 1 preceding) order by begins_at
        """,
        {"begin": begin, "end": end, "before_runs": runs_before, "before_attempts": attempts_before},
    )
