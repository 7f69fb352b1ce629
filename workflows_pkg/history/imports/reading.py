"""What does a reader of somebody else's records hand over, and how do tries become numbered attempts and runs?

A reader shows its rows to DuckDB, one per try of a step, with the columns of `StepAttempt` as far as the file has them and
`GIVEN` beside. Here tries are numbered, runs that the file does not describe itself are put together from their attempts, and both
become tables with exactly the columns of `StepAttempt` and `Run`. What a file does not say stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from workflows_pkg.errors import WorkflowsError, bounded
from workflows_pkg.history.records import Record, Run, StepAttempt
from workflows_pkg.history.schema import arrow_schema, columns, first_row, literal, quoted

Format = Literal["nextflow", "wfformat", "airflow", "table"]

GIVEN = ("run", "n", "submitted_at")
"""Beside the columns of `StepAttempt`: the file's own name of the run; the row's number, its own; when the try was handed to
whatever runs it.
"""

TRIGGER_UNKNOWN = "unknown"
"""Trigger of a run whose file does not say what asked for it."""


@dataclass(frozen=True)
class Source:
    """One file and how to read it. name: the one that was asked for, None where none was."""

    file: Path
    source_id: str
    digest: str
    zone: ZoneInfo
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def stem(self) -> str:
        """The file's name without its endings."""
        return self.file.name.partition(".")[0] or self.file.name

    def run_id(self, run: str) -> str:
        """SQL for our id of the run that the file calls `run`: like Dagster's in form, always the same within one import."""
        return f"cast(md5({literal(self.source_id)} || chr(10) || {run}) as uuid)::varchar"

    def refuse(self, found: str, fix: str = "", line: int | None = None) -> WorkflowsError:
        """The error that this file cannot be read, in one line."""
        place = str(self.file) if line is None else f"{self.file}:{line}"
        return WorkflowsError(f"{place}: {found}", fix=fix)


@dataclass(frozen=True)
class Reading:
    """What one file holds: runs and attempts with the columns of `Run` and `StepAttempt`, when the first and the last run were asked
    for, and what a person should know of it.
    """

    runs: pa.Table
    attempts: pa.Table
    first: datetime
    last: datetime
    remarks: tuple[str, ...] = ()


def try_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Tries as an Arrow table; each row has the keys of `GIVEN` and any columns of `StepAttempt`, a missing one is unknown."""
    have = {name for row in rows for name in row}
    given = [("run", pa.string()), ("n", pa.int64()), ("submitted_at", pa.timestamp("us", tz="UTC"))]
    fields = [pa.field(name, kind) for name, kind in given] + [one for one in arrow_schema(StepAttempt) if one.name in have]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


def finished(
    con: duckdb.DuckDBPyConnection, source: Source, tries: str, runs: str | None = None, remarks: Sequence[str] = ()
) -> Reading:
    """The runs and attempts that the relation `tries` on `con` holds; `runs` names one with the file's own rows of runs.

    `tries` has `run` and `n`, and any of `GIVEN` and of the columns of `StepAttempt`; `runs` has `run`, `job_name` and any columns
    of `Run`. A try without a number is a further attempt of the same step key where the one before it failed, else the first
    attempt of another instance, whose key gets `#2`, `#3`, …; so does one whose number is taken.
    """
    have = _columns_of(con, tries)
    con.execute(f"create temp table given_tries as select {_typed(StepAttempt, have, ('run_id',))} from {tries}")
    con.execute(_NUMBERED)
    con.execute(f"create temp table finished_tries as {_FINISHED}")
    attempts = con.sql(f"select {_selected(StepAttempt, run_id=source.run_id('run'))} from finished_tries").to_arrow_table()
    if runs is None:
        con.execute(f"create temp view own_runs as {_runs_of_attempts(have)}")
    else:
        found = _columns_of(con, runs)
        con.execute(f"create temp view own_runs as select {_typed(Run, found, ('run_id', 'source_id'))} from {runs}")
    run_table = con.sql(_runs(source)).to_arrow_table()
    first, last = _span(con, source, run_table)
    return Reading(run_table, attempts, first, last, tuple(remarks))


def reading_connection(zone: ZoneInfo) -> duckdb.DuckDBPyConnection:
    """A private DuckDB in which instants without a zone are taken to be in `zone`."""
    con = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    con.execute(f"SET TimeZone = {literal(zone.key)}")
    return con


def between(begin: str, end: str) -> str:
    """Seconds from `begin` to `end`; unknown where one is, or where they are the wrong way round."""
    return f"case when {end} >= {begin} then (epoch_us({end}) - epoch_us({begin})) / 1e6 end"


# Windows over a few columns, joined to the others afterwards: over all of them a million rows take three times as long.
_NUMBERED = """
create temp table numbered_tries as
with ordered as (
    select n, run, step_key, attempt, outcome, coalesce(submitted_at, started_at) as begins,
        row_number() over (partition by run, step_key order by coalesce(submitted_at, started_at, ended_at), n) as place,
        coalesce(lag(outcome) over (partition by run, step_key order by coalesce(submitted_at, started_at, ended_at), n), '') as before
    from given_tries
), chained as (
    select *,
        case
            when attempt is not null then row_number() over (partition by run, step_key, attempt order by place)
            else 1 + count(*) filter (where attempt is null and place > 1 and before <> 'failure')
                over (partition by run, step_key order by place rows unbounded preceding)
        end as instance
    from ordered
), numbered as (
    select n, run, begins, step_key || case when instance > 1 then '#' || instance else '' end as step_key,
        coalesce(attempt, row_number() over (partition by run, step_key, instance order by place)) as attempt
    from chained
)
select n, step_key, attempt, lead(attempt) over following as next_attempt, lead(begins) over following as next_begins
from numbered window following as (partition by run, step_key order by attempt)
"""

_FINISHED = f"""
select g.* replace (
        u.step_key as step_key,
        u.attempt as attempt,
        coalesce(will_retry, next_attempt is not null) as will_retry,
        coalesce(retry_wait_s, {between("ended_at", "next_begins")}) as retry_wait_s,
        case when outcome = 'failure' then coalesce(failure_cause, 'unknown') end as failure_cause),
    next_attempt is null as last
from given_tries g join numbered_tries u using (n)
"""


def _runs(source: Source) -> str:
    made = {
        "run_id": source.run_id("run"),
        "source_id": literal(source.source_id),
        "attempt_count": "coalesce(attempt_count, attempts)",
        "retry_wait_s": "coalesce(retry_wait_s, waits)",
        "cost_usd": "coalesce(cost_usd, cost)",
        "trigger": f"coalesce(trigger, {literal(TRIGGER_UNKNOWN)})",
    }
    return f"""
        with summed as (
            select run, count(*) as attempts, sum(cost_usd) as cost,
                case when count(*) filter (where will_retry and retry_wait_s is null) = 0 then coalesce(sum(retry_wait_s), 0) end as waits
            from finished_tries group by run
        )
        select {_selected(Run, **made)} from own_runs left join summed using (run)"""


def _runs_of_attempts(have: Sequence[str]) -> str:
    """Runs put together from attempts: from the first try to the end of the last, and ended as their last attempts ended."""
    asked = "min(created_at)" if "created_at" in have else "NULL::timestamptz"
    judged = """
        case when bool_or(last and outcome is null) then null
            when bool_or(last and outcome = 'failure') then 'failure'
            when bool_or(last and outcome = 'canceled') then 'canceled'
            else 'success' end"""
    made: dict[str, str] = {
        "job_name": "min(job_name)",
        "partition_key": "case when min(partition_key) = max(partition_key) then min(partition_key) end",
        "outcome": judged,
        "created_at": f"coalesce({asked}, min(submitted_at), min(started_at), min(ended_at))",
        "started_at": "min(started_at)",
        "ended_at": f"case when {judged} is not null and bool_and(ended_at is not null or outcome = 'skipped') then max(ended_at) end",
    }
    made["run_time_s"] = between(made["started_at"], made["ended_at"])
    items = [f"{made.get(c.name, 'NULL')}::{c.sql_type} as {quoted(c.name)}" for c in columns(Run)]
    return f"select run, {', '.join(items)} from finished_tries group by run"


def _typed(record_type: type[Record], have: Sequence[str], made: Sequence[str]) -> str:
    """The columns of the record's table, of those that `have` lacks an unknown value; `GIVEN` and others pass as they are."""
    own = [
        f"{quoted(c.name) if c.name in have and c.name not in made else 'NULL'}::{c.sql_type} as {quoted(c.name)}"
        for c in columns(record_type)
    ]
    extra = [quoted(name) for name in have if name not in record_type.model_fields]
    missing = [f"NULL::timestamptz as {name}" for name in GIVEN[2:] if record_type is StepAttempt and name not in have]
    return ", ".join([*own, *extra, *missing])


def _selected(record_type: type[Record], **made: str) -> str:
    """The columns of the record's table in their order, some made otherwise, with the record's defaults, as the table has them."""
    return ", ".join(
        f"{value if c.default in (None, 'NULL') else f'coalesce({value}, {c.default})'} as {quoted(c.name)}"
        for c in columns(record_type)
        for value in [made.get(c.name, quoted(c.name))]
    )


def _columns_of(con: duckdb.DuckDBPyConnection, relation: str) -> list[str]:
    return [str(row[0]) for row in con.execute(f"describe {relation}").fetchall()]


def _span(con: duckdb.DuckDBPyConnection, source: Source, runs: pa.Table) -> tuple[datetime, datetime]:
    missing = runs.column("created_at").null_count
    if missing or not len(runs):
        raise source.refuse(
            f"{missing} of {len(runs)} runs have no time at all, and nothing says when they were." if missing else "has no runs.",
            "A run needs at least one instant: when it was asked for, or when one of its steps was submitted, began or ended.",
        )
    con.register("finished_runs", runs)
    first, last = first_row(con.execute("select min(created_at), max(created_at) from finished_runs"))
    con.unregister("finished_runs")
    return first.astimezone(UTC), last.astimezone(UTC)


def count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    """How many rows a relation has."""
    return int(first_row(con.execute(f"select count(*) from {relation}"))[0])


def unreadable(source: Source, error: Exception) -> WorkflowsError:
    """The error that DuckDB could not read the file."""
    return source.refuse(f"cannot be read: {bounded(str(error).split(chr(10))[0], 200)}")
