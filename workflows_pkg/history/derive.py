"""What do the events of a run say about it, its attempts, and what they made and used? Recomputed as a whole for the runs
named.

Events of a run count in the order of the source's own numbers, which is the order in which they were written.

Outcome: the first terminal event decides. Attempts: one begins with `step_started` or `step_restarted`, or with an end
whose beginning was never written. An attempt without an end of its own is `canceled` in a canceled run and a `failure` by
`infrastructure` in a failed one. A duration that would be below zero, since two clocks wrote its ends, is unknown.

What an attempt used is what its metered event says, and what its materializations and observations tell beside it (`spec.used`), added
up. Dagster writes the metadata of a step that made several partitions of an asset at once into the materialization of each: what
partitions tell alike counts once. A figure that is none is not counted, and its event is put into quarantine with the reason.

In `Event.data` these keys are read: `workflows/*` of metered events; the keys of `spec.used` of those, materialized and observed ones;
`dagster/row_count`, `size_bytes`, `dagster/code_version` and `dagster/data_version` of materialized ones; the last of observed ones;
`check_name`, `passed` and `severity` of checked ones; `log_key`, `step_keys`, `url`, `stdout_url` and `stderr_url` of logs_captured ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime

import duckdb
import pandas as pd
import pyarrow as pa

from workflows_pkg.history.cost import ALWAYS, Counting, counting, price_sql
from workflows_pkg.history.records import (
    AssetCheck,
    Event,
    Materialization,
    Observation,
    Quarantined,
    Record,
    Run,
    StepAttempt,
    StepLog,
    Usage,
)
from workflows_pkg.history.rollups import kept as rollups_kept
from workflows_pkg.history.schema import LIVE, columns, first_row, literal, names, quoted
from workflows_pkg.history.sealed import remember_replaced, sealed_rows
from workflows_pkg.history.store import Writer
from workflows_pkg.spec.rates import RateCard
from workflows_pkg.spec.used import EXPECTED, FIGURES, KEYS, MOST, OF_LIBRARIES, OWN

FACT_COLUMNS = (
    "run_id", "source_id", "job_name", "created_at", "workflow", "version", "digest", "trial_id", "partition_key", "trigger",
    "trigger_name", "launched_by", "owner", "parent_run_id", "job_snapshot_id", "deadline_at",
)  # fmt: skip
"""What is known of a run from the source's table of runs, by the names of `Run`; beside them `status`, the source's word
for how it is.
"""

DERIVED: tuple[type[Record], ...] = (Run, StepAttempt, Materialization, Observation, AssetCheck, StepLog, Usage)

_READ = tuple(name for name in Event.model_fields if name != "job_name")
"""Columns of events that are read."""

_TEMPORARY = (
    "derived_facts", "derived_seen", "derived_events", "derived_marks", "derived_steps", "derived_told", "derived_usage",
    "derived_attempts",
)  # fmt: skip


def derive(
    writer: Writer,
    run_facts: pd.DataFrame | pa.Table,
    *,
    card: RateCard | None = None,
    causes: Mapping[str, str] | None = None,
    whole_runs: pa.Table | None = None,
) -> int:
    """Recomputes runs, step_attempts, materializations, checks and usage of the runs in `run_facts`; returns how many runs.

    `run_facts`: one row per run with `run_id`, `source_id`, `job_name`, `created_at` and any other of `FACT_COLUMNS`, and
    `status`; of a status only success, failure and canceled (in any case of letters) are understood, others mean that the
    run is open. `card`: the only rate card; None: those that the history has. `causes`: failure cause by error class; a class it does not
    know is `unknown`. `whole_runs`: all events there are of the runs that occur in it (`LandResult.whole_runs`), so that they need not
    be looked for among all others.
    """
    con = writer.con
    known = pa.table(
        {"error_class": pa.array(list(causes or {}), pa.string()), "cause": pa.array(list((causes or {}).values()), pa.string())}
    )
    con.register("known_facts", run_facts)
    con.register("known_causes", known)
    try:
        with writer.transaction():
            first, last = _facts(con, run_facts)
            if first is None or last is None:
                return 0
            _events(writer, (first, last), whole_runs)
            con.execute(_MARKS)
            con.execute(_STEPS)
            # most batches have none that tell, and only to plan these statements takes longer than all the others
            tells = con.execute("select 1 from derived_steps where event_hash is not null limit 1").fetchone() is not None
            if tells:
                con.execute(_TOLD)
                con.execute(_MISTAKEN, [datetime.now(UTC)])
            con.execute(_usage(_WITH_TOLD if tells else _WITHOUT_TOLD))
            con.execute(_ATTEMPTS)
            with rollups_kept(con, writer.files, "select run_id from derived_facts", (first, last)):
                remember_replaced(con, writer.files, "select run_id from derived_facts", (first, last))
                for record_type, select in _selects(counting(con) if card is None else [(ALWAYS, card)]).items():
                    con.execute(
                        f"delete from {LIVE}.{quoted(record_type.table)} where run_id in (select run_id from derived_facts)"
                    )
                    con.execute(f"insert into {LIVE}.{quoted(record_type.table)} by name {select}")
            (count,) = first_row(con.execute("select count(*) from derived_facts"))
            for table in _TEMPORARY:
                con.execute(f"drop table if exists {table}")
    finally:
        con.unregister("known_facts")
        con.unregister("known_causes")
        con.unregister("whole_runs")
    return int(count)


def _facts(con: duckdb.DuckDBPyConnection, run_facts: pd.DataFrame | pa.Table) -> tuple[date | None, date | None]:
    """Makes `derived_facts`, typed and one row per run, and returns the first and the last day on which its runs were asked
    for.
    """
    given = set(run_facts.column_names if isinstance(run_facts, pa.Table) else map(str, run_facts.columns))
    items: list[str] = []
    for column in columns(Run):
        if column.name in FACT_COLUMNS:
            default = column.default or "NULL"
            value = f"coalesce({quoted(column.name)}, {default})" if column.name in given else default
            items.append(f"{value}::{column.sql_type} as {quoted(column.name)}")
    terminal = "case when lower(status) in ('success', 'failure', 'canceled') then lower(status) end"
    status = terminal if "status" in given else "NULL::varchar"
    con.execute(
        f"create or replace temp table derived_facts as select distinct on (run_id) {', '.join(items)}, {status} as status "
        "from known_facts"
    )
    first, last = first_row(con.execute("select min(created_at)::date, max(created_at)::date from derived_facts"))
    return first, last


def _events(writer: Writer, days: tuple[date, date], whole_runs: pa.Table | None) -> None:
    """Makes `derived_events`, the events of these runs that say something, sealed ones too, numbered in the order of the source; and
    `derived_seen`, the runs that have events at all.
    """
    con = writer.con
    columns = names(_READ)
    live = f"select {columns} from {LIVE}.{quoted(Event.table)}"
    sealed = sealed_rows(con, writer.files, Event, days=days)
    if sealed is not None:
        rows = f"{live} union all select {columns} from ({sealed})"
    elif whole_runs is not None:
        con.register("whole_runs", whole_runs)
        others = "select run_id from derived_facts except select run_id from whole_runs"
        rows = f"select {columns} from whole_runs"
        # rows lie in the order in which they came: of runs that go on, few others are behind their first
        (begin,) = first_row(con.execute(f"select min(rowid) from {LIVE}.{quoted(Event.table)} where run_id in ({others})"))
        if begin is not None:
            rows += f" union all {live} where rowid >= {begin} and run_id in ({others})"
    else:
        rows = live
    own = f"({rows}) e semi join derived_facts f on f.run_id = e.run_id and f.source_id = e.source_id"
    con.execute(f"create or replace temp table derived_seen as select distinct run_id, true as has_events from {own}")
    con.execute(
        f"""
        create or replace temp table derived_events as
        select * exclude (source_id, event_hash), case when {_TELLS} then event_hash end as event_hash,
            row_number() over (partition by run_id order by event_id, "at", event_hash) as n
        from {own} where kind <> 'other'
        """
    )


_TELLS = (
    "kind in ('metered', 'materialized', 'observed') "
    f"and coalesce(regexp_matches(data, {literal('|'.join(map(re.escape, KEYS)))}), false)"
)
"""Whether an event may tell what its attempt used; the hashes of others are not needed any more."""

_TERMINAL = "kind in ('run_succeeded', 'run_failed', 'run_canceled')"

_MARKS = f"""
create or replace temp table derived_marks as
select *, coalesce(
    case first_terminal
        when 'run_succeeded' then 'success' when 'run_failed' then 'failure' when 'run_canceled' then 'canceled' end,
    status) as outcome
from derived_facts left join (
    select
        run_id,
        arg_min("at", n) filter (where kind = 'run_queued') as queued_at,
        arg_min("at", n) filter (where kind = 'run_dequeued') as dequeued_at,
        arg_min("at", n) filter (where kind = 'run_starting') as starting_at,
        arg_min("at", n) filter (where kind = 'run_started') as started_at,
        min(n) filter (where kind = 'run_canceling') as canceling_n,
        arg_min(kind, n) filter (where {_TERMINAL}) as first_terminal,
        arg_min("at", n) filter (where {_TERMINAL}) as ended_at,
        count(distinct kind) filter (where {_TERMINAL}) > 1 as contradicted
    from derived_events group by run_id
) using (run_id) left join derived_seen using (run_id)
"""

# The events of steps, once for usage and attempts. `begun` numbers the attempt that an event belongs to; `worker_starting` asks for a
# process for the attempt to come.
_STEPS = """
create or replace temp table derived_steps as
select *, kind = 'worker_starting' as asks, kind in ('step_started', 'step_restarted') as begins,
    kind like 'step_%' and not begins as ends,
    sum(case when begins or ends and coalesce(before, 'step_retried') = 'step_retried' then 1 else 0 end)
        over (partition by run_id, step_key order by n rows unbounded preceding)::bigint as begun
from (
    select run_id, step_key, kind, n, "at", process_id, seconds, error_class, error_message, event_id, event_hash, asset_key, partition_key,
        case when kind = 'metered' or event_hash is not null then data end as data,
        lag(case when kind like 'step_%' then kind end ignore nulls) over (partition by run_id, step_key order by n) as before
    from derived_events
    where step_key is not null and (kind in (
        'worker_starting', 'step_started', 'step_restarted', 'step_succeeded', 'step_failed', 'step_retried', 'step_skipped',
        'metered') or event_hash is not null)
)
"""


def _told(name: str) -> str:
    """SQL for one figure that an event tells, NULL where it does not; says what `spec.used.told` says."""
    of_libraries = [f"told[{KEYS.index(key) + 1}]" for key in OF_LIBRARIES[name]]
    summed = " + ".join(f"coalesce({one}, 0)" for one in of_libraries)
    otherwise = f"case when coalesce({', '.join(of_libraries)}) is not null then {summed} end" if of_libraries else "NULL"
    own = KEYS.index(OWN[name]) + 1
    return f"case when said[{own}] is not null then told[{own}] else {otherwise} end as {name}"


_PATHS = "[" + ", ".join(literal(f'$."{key}"') for key in KEYS) + "]"
_KEYS = "[" + ", ".join(map(literal, KEYS)) + "]"
_IS_NUMBER = "json_type({0}) in ('UBIGINT', 'BIGINT', 'DOUBLE')"
_NUMBER = "try_cast({0}::varchar as double)"
# says what `spec.used.figure` says
_FIGURE = (
    f"case when {_IS_NUMBER.format('v')} and {_NUMBER.format('v')} between 0 and {MOST} "
    f"and {_NUMBER.format('v')} = floor({_NUMBER.format('v')}) then {_NUMBER.format('v')}::bigint end"
)
_ATTEMPT = "coalesce(try_cast(json_extract_string(data, '$.\"workflows/attempt\"') as bigint), greatest(begun, 1)) as attempt"

# The events that tell a figure, by attempt; `counted` is the same for what partitions of an asset tell alike.
_TOLD = f"""
create or replace temp table derived_told as
select *, {", ".join(map(_told, FIGURES))}, case when kind = 'materialized' and partition_key is not null then 0 else n end as counted
from (
    select *, list_transform(said, lambda v: {_FIGURE}) as told
    from (
        select run_id, step_key, kind, n, "at", event_id, event_hash, asset_key, partition_key, {_ATTEMPT},
            json_extract(data, {_PATHS}) as said
        from derived_steps where event_hash is not null
    )
)
"""

_MEASURED = f"""
    select run_id, step_key, {_ATTEMPT}, "at", n, data, process_id from derived_steps where kind = 'metered'
"""
_WITH_TOLD = f"""{_MEASURED}
    union all by name
    select run_id, step_key, attempt, max("at") as "at", {names(FIGURES)} from derived_told
    where coalesce({names(FIGURES)}) is not null group by run_id, step_key, attempt, asset_key, counted, {names(FIGURES)}
"""
_WITHOUT_TOLD = f"""
    select *, {", ".join(f"NULL::bigint as {name}" for name in FIGURES)} from ({_MEASURED})
"""


_LARGEST = 2**63 - 1
"""What a column holds at most: an attempt that tells too much ten thousand times must not keep what others wrote from landing."""


def _usage(rows: str) -> str:
    return f"""
create or replace temp table derived_usage as
select run_id, step_key, attempt, max("at") as "at",
    arg_max(try_cast(json_extract_string(data, '$."workflows/cpu_s"') as double), n) as cpu_s,
    arg_max(try_cast(json_extract_string(data, '$."workflows/peak_memory_mib"') as double), n)
        filter (where json_extract_string(data, '$."workflows/dedicated"') = 'true') as peak_memory_mib,
    arg_max(json_extract_string(data, '$."workflows/host"'), n) as host,
    arg_max(json_extract_string(data, '$."workflows/pool"'), n) as pool,
    arg_max(coalesce(try_cast(json_extract_string(data, '$."workflows/process_id"') as bigint), process_id), n) as process_id,
    {", ".join(f"case when sum({name}) > {_LARGEST} then {_LARGEST} else sum({name}) end::bigint as {name}" for name in FIGURES)}
from ({rows}) group by run_id, step_key, attempt
"""


# what a text says is not repeated: it may be a secret
_FOUND = (
    f"case when {_IS_NUMBER.format('value')} then value::varchar when json_type(value) = 'NULL' then 'NaN' else 'no number' end"
)
_MISTAKEN = f"""
insert into {LIVE}.{quoted(Quarantined.table)} by name
select source_id, run_id, event_id, event_hash, ?::timestamptz as found_at,
    string_agg(format('{{}}: expected {EXPECTED}, found {{}}', key, {_FOUND}), '; ' order by key) || '; not counted' as reason
from (
    select f.source_id, t.run_id, event_id, event_hash, unnest({_KEYS}) as key, unnest(said) as value, unnest(told) as figure
    from derived_told t join derived_facts f on f.run_id = t.run_id
) anti join {LIVE}.{quoted(Quarantined.table)} using (source_id, run_id, event_id, event_hash)
where value is not null and figure is null
group by all
"""

_ATTEMPTS = """
create or replace temp table derived_attempts as
with found as (
    select run_id, step_key, case when asks then begun + 1 else begun end as attempt,
        arg_max("at", n) filter (where asks) as asked_at,
        arg_min("at", n) filter (where begins) as began_at,
        arg_min(process_id, n) filter (where begins) as process_id,
        arg_min(kind, n) filter (where ends) as end_kind,
        arg_min("at", n) filter (where ends) as end_at,
        min(n) filter (where ends) as end_n,
        arg_min(seconds, n) filter (where kind = 'step_retried') as retry_wait_s,
        arg_min(error_class, n) filter (where kind in ('step_failed', 'step_retried')) as error_class,
        arg_min(error_message, n) filter (where kind in ('step_failed', 'step_retried')) as error_message
    from derived_steps where kind not in ('metered', 'materialized', 'observed')
    group by all
    having count(*) filter (where begins or ends) > 0
), judged as (
    select a.*, r.job_name, r.workflow, r.partition_key, r.version, r.trial_id, r.started_at as ready_at,
        lead(attempt) over (partition by a.run_id, step_key order by attempt) is not null as followed,
        case
            when end_kind = 'step_succeeded' then 'success'
            when end_kind = 'step_skipped' then 'skipped'
            when end_kind = 'step_failed' and r.outcome = 'canceled' and end_n > r.canceling_n then 'canceled'
            when end_kind is not null or followed then 'failure'
            when r.outcome in ('canceled', 'failure') then r.outcome
        end as outcome,
        coalesce(began_at, case when end_kind = 'step_skipped' then end_at end) as started_at,
        coalesce(end_at, case when not followed and r.outcome in ('canceled', 'failure') then r.ended_at end) as ended_at
    from found a join derived_marks r using (run_id)
)
select j.* exclude (process_id, error_class, error_message),
    case when outcome = 'failure' then j.error_class end as error_class,
    case when outcome = 'failure' then error_message end as error_message,
    case when outcome <> 'failure' then null when outcome is null then null when end_kind is null then 'infrastructure'
        else coalesce(c.cause, 'unknown') end as failure_cause,
    coalesce(u.process_id, j.process_id) as process_id, u.host, u.pool, u.cpu_s, u.peak_memory_mib,
    u.input_tokens, u.output_tokens, u.moved_bytes, u.calls
from judged j
left join derived_usage u using (run_id, step_key, attempt)
left join known_causes c on c.error_class = j.error_class
"""


def _selects(cards: Counting) -> dict[type[Record], str]:
    """The rows of each derived table, by the names of its columns."""
    cost, digest = price_sql(cards)
    run_time = _between("started_at", "ended_at")
    without_mapping_key = r"regexp_replace(step_key, '\[.*\]$', '')"
    attempts = f"""
        select run_id, step_key, attempt, job_name, workflow, partition_key, version, trial_id, outcome,
            failure_cause, error_class, error_message, started_at, ended_at, retry_wait_s,
            host, pool, process_id, cpu_s, peak_memory_mib, input_tokens, output_tokens, moved_bytes, calls,
            case when workflow is null then {without_mapping_key} else split_part({without_mapping_key}, '.', -1) end as step,
            coalesce(end_kind = 'step_retried', false) as will_retry,
            case when attempt = 1 then {_between("ready_at", "asked_at")} end as queue_time_s,
            {_between("asked_at", "began_at")} as start_time_s,
            {run_time} as run_time_s,
            {cost} as cost_usd, {digest} as rate_card
        from derived_attempts"""
    taken = "coalesce(dequeued_at, starting_at)"
    runs = f"""
        with summed as (
            select run_id, count(*) as attempt_count, sum(cost_usd) as cost_usd,
                case when count(*) filter (where will_retry and retry_wait_s is null) = 0
                    then coalesce(sum(retry_wait_s), 0) end as retry_wait_s
            from ({attempts}) group by run_id
        )
        select {names(FACT_COLUMNS, "r")}, r.outcome, started_at, ended_at,
            coalesce(contradicted or status <> outcome, contradicted, status <> outcome, false) as outcome_conflict,
            {_between("coalesce(queued_at, created_at)", taken)} as queue_time_s,
            {_between(taken, "started_at")} as start_time_s,
            {run_time} as run_time_s,
            case when has_events then coalesce(s.attempt_count, 0) end as attempt_count,
            case when has_events then case when s.run_id is null then 0 else s.retry_wait_s end end as retry_wait_s,
            case when s.run_id is not null then s.cost_usd when has_events and outcome is not null then 0 end as cost_usd
        from derived_marks r left join summed s using (run_id)"""
    materializations = """
        select run_id, asset_key, coalesce(partition_key, '') as partition_key, "at",
            arg_max(step_key, n) as step_key,
            arg_max(try_cast(json_extract_string(data, '$."dagster/row_count"') as bigint), n) as "rows",
            arg_max(try_cast(json_extract_string(data, '$."size_bytes"') as bigint), n) as bytes,
            arg_max(json_extract_string(data, '$."dagster/code_version"'), n) as code_version,
            arg_max(json_extract_string(data, '$."dagster/data_version"'), n) as data_version
        from derived_events where kind = 'materialized' and asset_key is not null group by all"""
    observations = """
        select run_id, asset_key, coalesce(partition_key, '') as partition_key, "at", arg_max(step_key, n) as step_key,
            arg_max(json_extract_string(data, '$."dagster/data_version"'), n) as data_version, arg_max(data, n) as data
        from derived_events where kind = 'observed' and asset_key is not null group by all"""
    logs = """
        select run_id, json_extract_string(data, '$.log_key') as log_key, arg_max("at", n) as "at",
            arg_max(json_extract(data, '$.step_keys')::varchar, n) as step_keys,
            arg_max(json_extract_string(data, '$.url'), n) as url,
            arg_max(json_extract_string(data, '$.stdout_url'), n) as stdout_url,
            arg_max(json_extract_string(data, '$.stderr_url'), n) as stderr_url
        from derived_events where kind = 'logs_captured' and json_extract_string(data, '$.log_key') is not null group by all"""
    checks = """
        select run_id, asset_key, json_extract_string(data, '$.check_name') as check_name, "at", arg_max(partition_key, n) as partition_key,
            arg_max(json_extract_string(data, '$.passed') = 'true', n) as passed,
            arg_max(lower(coalesce(json_extract_string(data, '$.severity'), 'error')), n) as severity
        from derived_events
        where kind = 'checked' and asset_key is not null
            and json_extract_string(data, '$.check_name') is not null
            and json_extract_string(data, '$.passed') is not null
        group by all"""
    return {
        Run: runs,
        StepAttempt: attempts,
        Materialization: materializations,
        Observation: observations,
        AssetCheck: checks,
        StepLog: logs,
        Usage: f"select {names(Usage.model_fields)} from derived_usage",
    }


def _between(begin: str, end: str) -> str:
    """Seconds from `begin` to `end`; unknown where one is, or where they are the wrong way round."""
    return f"case when {end} >= {begin} then (epoch_us({end}) - epoch_us({begin})) / 1e6 end"
