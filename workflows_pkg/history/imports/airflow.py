"""What does Airflow's metadata database say? Runs of DAGs, and the tries of their task instances; SQLite, Airflow 2.2 and later.

Which tables and columns are there depends on the version and is looked at: earlier tries are in `task_instance_history` (2.10 and
later), the failed ones before that in `task_fail`, without a number. Airflow records no errors, so why a try failed is unknown.
The database is opened untouched: not a byte of it or beside it changes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from workflows_pkg.history.imports.reading import Reading, Source, count, finished
from workflows_pkg.history.schema import quoted
from workflows_pkg.history.sqlite_files import read as read_sqlite

_OF_RUN = (
    "dag_id", "run_id", "run_type", "state", "queued_at", "start_date", "end_date", "run_after", "logical_date", "execution_date",
    "triggering_user_name",
)  # fmt: skip
_OF_TRY = (
    "dag_id", "run_id", "task_id", "map_index", "try_number", "state", "start_date", "end_date", "queued_dttm", "hostname", "pid",
)  # fmt: skip
_OF_FAIL = ("dag_id", "run_id", "task_id", "map_index", "start_date", "end_date")

_TABLES: dict[str, Sequence[str]] = {
    "dag_run": _OF_RUN,
    "task_instance": _OF_TRY,
    "task_instance_history": _OF_TRY,
    "task_fail": _OF_FAIL,
}
_NUMBERS = ("map_index", "try_number", "pid")
_BATCH = 50_000
"""Rows fetched at a time: a database of millions is never a list of Python values as a whole."""


def read(con: duckdb.DuckDBPyConnection, source: Source) -> Reading:
    """Every run in the database. Raises WorkflowsError where it is not Airflow's, or of a version before 2.2."""
    tables = read_sqlite(str(source.file.absolute()), lambda there: _tables(source, there), untouched=True)
    for name, table in tables.items():
        con.register(f"their_{name}", table)
    con.execute("SET TimeZone = 'UTC'")  # in which Airflow stores all instants, without saying so
    con.execute(f"create temp view tries as {_TRIES}")
    con.execute(f"create temp view their_runs as {_RUNS}")
    remarks: list[str] = []
    waiting = count(con, f"their_task_instance where {_NOT_BEGUN}")
    if waiting:
        remarks.append(f"{waiting:,} task instances had not begun and are left out")
    return finished(con, source, "tries", "their_runs", remarks)


def _tables(source: Source, there: sqlite3.Connection) -> dict[str, pa.Table]:
    known = {name: _columns(there, name) for name in _TABLES}
    for name in ("dag_run", "task_instance"):
        if not known[name]:
            raise source.refuse(f"is a SQLite database without a table {name}; expected Airflow's metadata database.")
        if "run_id" not in known[name]:
            raise source.refuse(f"has no column {name}.run_id; expected the database of Airflow 2.2 or later.")
    if "run_id" not in known["task_fail"]:  # before 2.3 it names the run by its date
        known["task_fail"] = set()
    return {name: _table(there, name, wanted, known[name]) for name, wanted in _TABLES.items()}


def _columns(there: sqlite3.Connection, table: str) -> set[str]:
    return {str(row[0]) for row in there.execute("select name from pragma_table_info(?)", (table,))}


def _table(there: sqlite3.Connection, name: str, wanted: Sequence[str], have: set[str]) -> pa.Table:
    """The wanted columns, unknown where this version has them not; no rows where it has no such table."""
    schema = pa.schema([(column, pa.int64() if column in _NUMBERS else pa.string()) for column in wanted])
    if not have:
        return schema.empty_table()
    asked = ", ".join(_asked(column) if column in have else "null" for column in wanted)
    rows = there.execute(f"select {asked} from {quoted(name)}")
    batches: list[pa.RecordBatch] = []
    while part := rows.fetchmany(_BATCH):
        arrays = [pa.array(values, kind.type) for values, kind in zip(zip(*part, strict=True), schema, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def _asked(column: str) -> str:
    """SQLite keeps a value of any type in any column."""
    return f"cast({quoted(column)} as {'integer' if column in _NUMBERS else 'text'})"


_NOT_BEGUN = "coalesce(state, '') in ('', 'none', 'removed', 'queued', 'scheduled')"

_KEY = "dag_id, run_id, task_id, map_index"

_TRIES = f"""
with instances as (
    select * replace (coalesce(map_index, -1) as map_index, greatest(coalesce(try_number, 1), 1) as try_number)
    from their_task_instance where not {_NOT_BEGUN}
), histories as (
    select * replace (coalesce(map_index, -1) as map_index) from their_task_instance_history
), earlier as (
    select h.* replace (coalesce(h.state, 'failed') as state) from histories h
    anti join (select {_KEY}, try_number from instances) using ({_KEY}, try_number) where h.try_number >= 1
), failed as (
    select f.dag_id, f.run_id, f.task_id, coalesce(f.map_index, -1) as map_index,
        i.try_number - row_number() over (partition by {", ".join("f." + name for name in _KEY.split(", "))}
            order by f.start_date desc) as try_number,
        'failed' as state, f.start_date, f.end_date
    from their_task_fail f join instances i
        on i.dag_id = f.dag_id and i.run_id = f.run_id and i.task_id = f.task_id and i.map_index = coalesce(f.map_index, -1)
            and f.start_date < i.start_date
    where not exists (select 1 from histories h where h.dag_id = f.dag_id and h.run_id = f.run_id and h.task_id = f.task_id
        and h.map_index = coalesce(f.map_index, -1))
), every as (
    select *, true as latest from instances
    union all by name select *, false as latest from earlier
    union all by name select *, false as latest from failed where try_number >= 1
), judged as (
    select *, start_date::timestamptz as began, end_date::timestamptz as ended, queued_dttm::timestamptz as queued,
        case
            when state = 'success' then 'success'
            when state in ('skipped', 'upstream_failed') then 'skipped'
            when state in ('failed', 'up_for_retry') or not latest then 'failure'
            when state = 'shutdown' then 'canceled'
        end as outcome
    from every
)
select dag_id || chr(31) || run_id as run, row_number() over () as n, dag_id as job_name, task_id as step,
    task_id || case when map_index >= 0 then '[' || map_index || ']' else '' end as step_key,
    try_number as attempt, outcome, case when state = 'up_for_retry' then true end as will_retry,
    queued as submitted_at, began as started_at,
    case when outcome is not null then ended end as ended_at,
    case when outcome <> 'skipped' and ended >= began then (epoch_us(ended) - epoch_us(began)) / 1e6 end as run_time_s,
    case when began >= queued then (epoch_us(began) - epoch_us(queued)) / 1e6 end as start_time_s,
    nullif(hostname, '') as host, pid as process_id
from judged semi join (select dag_id, run_id from their_dag_run) using (dag_id, run_id)
"""

_RUNS = """
with typed as (
    select dag_id || chr(31) || run_id as run, dag_id as job_name, run_type, triggering_user_name as launched_by,
        case state when 'success' then 'success' when 'failed' then 'failure' end as outcome,
        queued_at::timestamptz as queued, start_date::timestamptz as began, end_date::timestamptz as ended,
        coalesce(run_after, logical_date, execution_date)::timestamptz as due
    from their_dag_run
)
select run, job_name, outcome, launched_by,
    case run_type
        when 'scheduled' then 'schedule' when 'backfill' then 'backfill' when 'manual' then 'manual'
        when 'dataset_triggered' then 'sensor' when 'asset_triggered' then 'sensor'
    end as trigger,
    coalesce(queued, began, due) as created_at, began as started_at,
    case when outcome is not null then ended end as ended_at,
    case when began >= queued then (epoch_us(began) - epoch_us(queued)) / 1e6 end as queue_time_s,
    case when outcome is not null and ended >= began then (epoch_us(ended) - epoch_us(began)) / 1e6 end as run_time_s
from typed
"""
