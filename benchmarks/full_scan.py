"""The questions as plain SQL over `runs` and `step_attempts`: what the answers must equal (tests), and what they are compared with.

Written without the rollups and without what makes them; quantiles are exact, by nearest rank.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import duckdb
import pandas as pd

NAME = "coalesce(workflow, job_name)"
DAY = "coalesce(started_at, ended_at, timestamptz '1970-01-01 00:00:00+00')::date"


def where(
    day: str,
    since: Any = None,
    until: Any = None,
    workflow: str | None = None,
    step: str | None = None,
    exclude_trials: bool = True,
) -> str:
    parts = ["true"]
    parts += [f"{day} >= '{since}'::date"] if since else []
    parts += [f"{day} < '{until}'::date"] if until else []
    parts += [f"{NAME} = '{workflow}'"] if workflow else []
    parts += [f"step = '{step}'"] if step else []
    parts += ["trial_id is null"] if exclude_trials else []
    return " and ".join(parts)


def runs_by_outcome_per_day(**f: Any) -> str:
    return f"""select created_at::date as day, coalesce(outcome, 'open') as outcome, count(*) as runs
        from runs where {where("created_at::date", **f)} group by all order by day, outcome"""


def queue_time_by_hour(by: str = "hour_of_day", **f: Any) -> str:
    hour = "extract(hour from created_at)" if by == "hour_of_day" else "date_trunc('hour', created_at)"
    return f"""select {hour} as hour, count(*) as runs, avg(queue_time_s) as mean_s, quantile_disc(queue_time_s, 0.5) as p50_s,
        quantile_disc(queue_time_s, 0.95) as p95_s, max(queue_time_s) as max_s
        from runs where {where("created_at", **f)} and queue_time_s is not null group by all order by hour"""


def cost_by_owner_and_month(**f: Any) -> str:
    return f"""select date_trunc('month', created_at)::date as month, owner, count(*) as runs, count(cost_usd) as priced_runs,
        sum(cost_usd) as cost_usd,
        case when count(cost_usd) > 0 then coalesce(sum(cost_usd) filter (outcome in ('failure', 'canceled')), 0) end as failed_usd
        from runs where {where("created_at::date", **f)} group by all order by month, cost_usd desc nulls last, owner"""


def deadline_misses(now: datetime | None = None, **f: Any) -> str:
    now = now or datetime.now(UTC)
    late = "outcome is not null and ended_at > deadline_at"
    return f"""select {NAME} as workflow, count(deadline_at) filter (outcome is not null) as deadline_runs,
        count(*) filter ({late}) as missed_runs,
        case when deadline_runs > 0 then missed_runs / deadline_runs end as missed_share,
        avg(epoch(ended_at) - epoch(deadline_at)) filter ({late}) as late_mean_s,
        max(created_at::date) filter ({late}) as last_missed_on,
        count(*) filter (outcome is null and deadline_at < '{now}'::timestamptz) as overdue_runs
        from runs where {where("created_at::date", **f)} group by all having deadline_runs > 0 or overdue_runs > 0
        order by missed_runs desc, overdue_runs desc, workflow"""


RAN = "run_time_s is not null and outcome is distinct from 'skipped'"


def slowest_steps(limit: int = 20, **f: Any) -> str:
    return f"""select {NAME} as workflow, step, count(*) as attempts, quantile_disc(run_time_s, 0.5) as p50_s,
        quantile_disc(run_time_s, 0.95) as p95_s, max(run_time_s) as max_s, sum(run_time_s) as total_s,
        total_s / nullif(sum(total_s) over (), 0) as share
        from step_attempts where {where(DAY, **f)} and {RAN} group by all order by total_s desc, workflow, step limit {limit}"""


def duration_quantiles(step: str, by: str = "day", **f: Any) -> str:
    return f"""select {NAME} as workflow, date_trunc('{by}', {DAY})::date as begins_on, count(*) as attempts,
        quantile_disc(run_time_s, 0.05) as p05_s, quantile_disc(run_time_s, 0.5) as p50_s, quantile_disc(run_time_s, 0.95) as p95_s,
        max(run_time_s) as max_s
        from step_attempts where {where(DAY, step=step, **f)} and {RAN} and coalesce(started_at, ended_at) is not null
        group by all order by workflow, begins_on"""


def retry_cost(**f: Any) -> str:
    return f"""with each as (
        select {NAME} as workflow, step, run_id, step_key, min({DAY}) as d, count(*) filter (will_retry) as retries,
            arg_max(coalesce(outcome, 'open'), attempt) as ends_as,
            sum(run_time_s) filter (will_retry) as wasted, sum(retry_wait_s) filter (will_retry) as waited,
            sum(cost_usd) filter (will_retry) as usd, any_value(trial_id) as trial_id
        from step_attempts group by all having retries > 0)
        select workflow, step, sum(retries)::bigint as retries, count(*) filter (ends_as = 'success') as rescued_runs,
            count(*) filter (ends_as in ('failure', 'canceled')) as lost_runs, sum(wasted) as wasted_s, sum(waited) as waited_s,
            sum(usd) as wasted_usd
        from each where {where("d", **f).replace(NAME, "workflow")} group by all
        order by coalesce(sum(wasted), 0) + coalesce(sum(waited), 0) desc, workflow, step"""


def failures_by_cause(**f: Any) -> str:
    return f"""select {NAME} as workflow, step, coalesce(failure_cause, 'unknown') as failure_cause, error_class,
        count(*) as failures, count(*) filter (not will_retry) as final, max(ended_at) as last_at,
        nullif(arg_max(coalesce(error_message, ''), (ended_at, coalesce(error_message, ''))) filter (ended_at is not null), '')
            as last_message
        from step_attempts where {where(DAY, **f)} and outcome = 'failure'
        group by all order by failures desc, workflow, step, failure_cause, error_class"""


def concurrency(by: str = "hour", since: Any = None, until: Any = None) -> str:
    """By intervals: each bucket meets what runs in it; the peak is the most at its begin or at the end of one of its minutes."""
    last = "(select max(m) from (select unnest([started_at, ended_at]) as m from spans where ended_at is null or ended_at > started_at))"
    begin = f"'{since}'::date::timestamptz" if since else f"date_trunc('{by}', date_trunc('minute', {last}) - interval 7 day)"
    end = f"'{until}'::date::timestamptz" if until else f"date_trunc('{by}', {last}) + interval 1 {by}"
    sums = ", ".join(
        f"""(select coalesce(sum(epoch_us(least(coalesce(ended_at, 'infinity'), b + interval 1 {by}))
                - epoch_us(greatest(started_at, b))), 0)
            from spans where kind = '{kind}' and started_at < b + interval 1 {by} and (ended_at > b or ended_at is null))
            / (epoch_us(b + interval 1 {by}) - epoch_us(b)) as {kind}_mean,
        (select max(n) from (
            select m, count(s.kind) as n from unnest(generate_series(b, b + interval 1 {by}, interval 1 minute)) t(m)
            left join spans s on s.kind = '{kind}' and s.started_at < m and (s.ended_at >= m or s.ended_at is null) group by m
        )) as {kind}_peak"""
        for kind in ("runs", "attempts")
    )
    return f"""with spans as materialized (
        select 'runs' as kind, started_at, ended_at from runs
            where started_at is not null and (outcome is null or ended_at >= started_at)
        union all
        select 'attempts', a.started_at, a.ended_at from step_attempts a left join runs r using (run_id)
            where a.started_at is not null and (a.outcome is null and r.run_id is not null and r.outcome is null
                or a.outcome is not null and a.outcome <> 'skipped' and a.ended_at >= a.started_at))
        select b as begins_at, {sums} from unnest(generate_series({begin}, {end} - interval 1 second, interval 1 {by})) t(b) order by b"""


def concurrency_at_minutes(by: str = "hour", since: Any = None, until: Any = None) -> str:
    """As `concurrency`, but with means of what runs at the ends of minutes: what one would write for millions of rows."""
    return f"""with changes as (
        select date_trunc('minute', t) as m, sum(r) as r, sum(a) as a from (
            select started_at as t, 1 as r, 0 as a from runs where started_at is not null and (outcome is null or ended_at >= started_at)
            union all select ended_at, -1, 0 from runs where ended_at >= started_at
            union all select started_at, 0, 1 from step_attempts where outcome is distinct from 'skipped' and ended_at >= started_at
            union all select ended_at, 0, -1 from step_attempts where outcome is distinct from 'skipped' and ended_at >= started_at
        ) group by all
    ), running as (select m, sum(r) over (order by m) as r, sum(a) over (order by m) as a from changes)
    select date_trunc('{by}', m) as begins_at, avg(r) as runs_mean, max(r) as runs_peak, avg(a) as attempts_mean, max(a) as attempts_peak
    from running where m >= (select max(m) from changes) - interval 7 day group by all order by begins_at"""


FULL_SCANS = {
    ask.__name__: ask
    for ask in (
        runs_by_outcome_per_day, slowest_steps, duration_quantiles, queue_time_by_hour, retry_cost, failures_by_cause,
        cost_by_owner_and_month, deadline_misses, concurrency,
    )
}  # fmt: skip
"""Those of the twelve that are answered from rollups; the others read rows anyway."""


def full_scan(con: duckdb.DuckDBPyConnection, name: str, **filters: Any) -> pd.DataFrame:
    """The answer of the plain scan."""
    return con.execute(FULL_SCANS[name](**filters)).df()
