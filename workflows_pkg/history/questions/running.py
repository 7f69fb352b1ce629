"""The question about now: what is running, and is it in time by what was forecast?"""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pandas as pd

from workflows_pkg.history.questions.reading import frame

# Open runs are never sealed: the live tables have all there is to know of them.
_RUNNING = """
with open as (
    select *, (epoch_us($now) - epoch_us(coalesce(started_at, created_at))) / 1e6 as for_s, started_at is null as queued
    from live.runs where outcome is null
), told as (
    select job_name, step, quantity, p50, p95 from forecasts f semi join open o on o.job_name = f.job_name
    where as_of <= $now and quantity in ('queue_time_s', 'start_time_s', 'run_time_s', 'time_left_s')
    qualify as_of = max(as_of) over (partition by f.job_name)
), of_run as (
    select job_name, any_value(p50) filter (quantity = 'run_time_s') as run_p50, any_value(p95) filter (quantity = 'run_time_s') as run_p95,
        any_value(p50) filter (quantity = 'queue_time_s') as queue_p50, any_value(p95) filter (quantity = 'queue_time_s') as queue_p95,
        coalesce(any_value(p50) filter (quantity = 'start_time_s'), 0) as start_p50,
        coalesce(any_value(p95) filter (quantity = 'start_time_s'), 0) as start_p95
    from told where step = '' group by all
), steps as (
    select run_id, job_name, step, max(ended_at) as ended_at,
        bool_and(ended_at is not null and not coalesce(will_retry, false) or followed) as over
    from (
        select *, lead(attempt) over (partition by run_id, step_key order by attempt) is not null as followed
        from (from live.step_attempts semi join open using (run_id))
    ) group by all
), last_ended as (
    select s.run_id, count(*) as steps_ended, arg_max(t.p50, s.ended_at) as after_p50, arg_max(t.p95, s.ended_at) as after_p95,
        (epoch_us($now) - epoch_us(max(s.ended_at) filter (t.p50 is not null))) / 1e6 as since_s
    from steps s left join told t on t.job_name = s.job_name and t.step = s.step and t.quantity = 'time_left_s' where s.over group by all
), known as (select job_name, count(distinct step) as steps from told where step <> '' group by all)
select o.run_id, coalesce(o.workflow, o.job_name) as workflow, case when o.queued then 'queued' else 'running' end as state,
    o.created_at, o.started_at, o.for_s, r.run_p50 as expected_p50_s, r.run_p95 as expected_p95_s,
    case when o.queued then greatest(coalesce(r.queue_p50, 0) - o.for_s, 0) + r.start_p50 + r.run_p50
         when l.after_p50 is not null then greatest(l.after_p50 - l.since_s, 0) else greatest(r.run_p50 - o.for_s, 0) end as left_p50_s,
    case when o.queued then greatest(coalesce(r.queue_p95, 0) - o.for_s, 0) + r.start_p95 + r.run_p95
         when l.after_p95 is not null then greatest(l.after_p95 - l.since_s, 0) else greatest(r.run_p95 - o.for_s, 0) end as left_p95_s,
    o.for_s > case when o.queued then r.queue_p95 else r.run_p95 end as late,
    o.deadline_at, $now + to_microseconds((left_p50_s * 1e6)::bigint) > o.deadline_at as deadline_at_risk,
    coalesce(l.steps_ended, 0) as steps_ended, k.steps as steps_known
from open o left join of_run r using (job_name) left join last_ended l using (run_id) left join known k using (job_name)
order by late desc nulls last, left_p50_s desc nulls last, o.created_at, o.run_id
"""


def running_now(con: duckdb.DuckDBPyConnection, now: datetime | None = None) -> pd.DataFrame:
    """What is queued or running, against its newest forecast; what is late first. Trials too.

    One row per run that is not over: `run_id`, `workflow`, `state` (queued, running), `created_at`, `started_at`, `for_s` (seconds in
    that state until `now`, the present if not given), `expected_p50_s` and `expected_p95_s` (forecast of the whole run time),
    `left_p50_s` and `left_p95_s` (from now to the end: what the step that ended last leaves by its forecast, else the run's forecast;
    0: overdue by it), `late` (longer in its state than 95 of 100 runs), `deadline_at`, `deadline_at_risk` (more likely missed than not),
    `steps_ended`, `steps_known` (steps that a forecast knows). Missing: no forecast, no deadline.
    """
    return frame(con, _RUNNING, {"now": now or datetime.now(UTC)})
