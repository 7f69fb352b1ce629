"""How do the rollups stay equal to what they sum up? In the transaction that changes runs or attempts, by what changed.

All rows of the changed runs are summed up before and after the change; the difference is added, as rows of its own. So it does not matter
why a run changed (it went on, ended, was derived again, its sealed rows were hidden), and sealing, which moves rows but changes none,
needs nothing. Sums are whole numbers, so that what is taken back leaves no crumbs.

`last_at` and `last_message` do not add up: where a failure went away, its group is summed up anew.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import date
from hashlib import blake2b

import duckdb

from workflows_pkg.history.bins import bin_of
from workflows_pkg.history.layout import Layout
from workflows_pkg.history.records import Record, Run, StepAttempt
from workflows_pkg.history.rollup_records import (
    ROLLUPS,
    FailureDay,
    QueueTimeBin,
    Rollup,
    RunDay,
    RunningMinute,
    StepDay,
    StepMonthBin,
    StepTimeBin,
)
from workflows_pkg.history.schema import BOOKKEEPING, LIVE, create_table, first_row, names, quoted
from workflows_pkg.history.sealed import sealed_rows, visible

LOOSE_ROWS, _LOOSE_SHARE = 20_000, 0.2
"""Rows that came after the last merge and are left as they are, and their share of the merged ones: a merge rewrites the table."""

_MINUTE_US, _HOUR_US, _DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000


def _begin(instant: str, length_us: int) -> str:
    """SQL: the begin of the UTC minute or hour. `date_trunc` asks the calendar, which for years of attempts takes most of the time."""
    return f"make_timestamptz((epoch_us({instant}) // {length_us}) * {length_us})"


def _day(instant: str) -> str:
    """SQL: the UTC day."""
    return f"(date '1970-01-01' + (epoch_us({instant}) // {_DAY_US})::integer)"


_WORKFLOW = "coalesce(workflow, job_name)"
_DAY = _day("coalesce(started_at, ended_at, make_timestamptz(0))")
_TRIAL = "trial_id is not null"


def _micro(seconds: str) -> str:
    return f"round({seconds} * 1e6)::bigint"


_MOST_USD = 1_000_000
"""What one run or attempt adds to a sum at most: none costs more, and one whose step told a mistaken figure must not make the sum larger
than a column holds, 9.2e9 USD, so that nothing lands any more."""


def _nano(usd: str) -> str:
    return f"round(case when {usd} > {_MOST_USD} then {_MOST_USD} else {usd} end * 1e9)::bigint"


def _minutes(relation: str, column: str, where: str) -> str:
    """By how much the running rows of `relation` change by minute; `where` says which count."""
    return " union all ".join(
        f"select {_begin(instant, _MINUTE_US)} as minute, {change}sign as {column}, "
        f"{change}sign * ({_MINUTE_US} - epoch_us({instant}) % {_MINUTE_US}) as {column}_us "
        f"from {relation} where {where} and started_at is not null and {instant} is not null"
        for instant, change in (("started_at", ""), ("ended_at", "-"))
    )


_RAN = "run_time_s is not null and outcome is distinct from 'skipped'"
_BEGAN_AND_ENDED = "outcome is not null and ended_at >= started_at"

_RETRIED = {
    "retries": "count(*)",
    "timed_retries": "count(run_time_s)",
    "wasted_us": f"sum({_micro('run_time_s')})",
    "waited_retries": "count(retry_wait_s)",
    "waited_us": f"sum({_micro('retry_wait_s')})",
    "priced_retries": "count(cost_usd)",
    "wasted_nusd": f"sum({_nano('cost_usd')})",
}
"""What is summed up over the attempts that were followed by another."""
_RETRIED_SUMS = ", ".join(f"sum(sign * {name}) as {name}" for name in _RETRIED)
_STEP_SUMS = ", ".join(f"sum({name}) as {name}" for name in StepDay.model_fields if name not in StepDay.key)

_SUMS: dict[type[Rollup], str] = {
    RunDay: f"""
        select {_day("created_at")} as asked_on, {_WORKFLOW} as workflow, coalesce(owner, '') as owner,
            coalesce(outcome, 'open') as outcome, {_TRIAL} as trial, sum(sign) as runs,
            sum(sign) filter (cost_usd is not null) as priced_runs,
            sum(sign * {_nano("cost_usd")}) as cost_nusd, sum(sign) filter (deadline_at is not null) as deadline_runs,
            sum(sign) filter (ended_at > deadline_at) as missed_runs,
            sum(sign * (epoch_us(ended_at) - epoch_us(deadline_at))) filter (ended_at > deadline_at) as late_us
        from changed_runs group by all""",
    QueueTimeBin: f"""
        select {_begin("created_at", _HOUR_US)} as hour, {_WORKFLOW} as workflow, {_TRIAL} as trial, {bin_of("queue_time_s")} as bin,
            sum(sign) as runs, sum(sign * {_micro("queue_time_s")}) as queue_us
        from changed_runs where queue_time_s is not null group by all""",
    StepDay: f"""
        select workflow, step, trial, begun_on, {_STEP_SUMS}
        from (
            select {_WORKFLOW} as workflow, step, {_TRIAL} as trial, {_DAY} as begun_on, sum(sign) as attempts,
                sum(sign * {_micro("run_time_s")}) as run_us
            from changed_attempts where {_RAN} group by all
            union all by name
            select workflow, step, trial, begun_on, sum(sign) filter (last_outcome = 'success') as rescued_runs,
                sum(sign) filter (last_outcome in ('failure', 'canceled')) as lost_runs, {_RETRIED_SUMS}
            from (
                select run_id, step_key, sign, {_WORKFLOW} as workflow, step, {_TRIAL} as trial, min({_DAY}) as begun_on,
                    arg_max(coalesce(outcome, 'open'), attempt) as last_outcome,
                    {", ".join(f"{sum_} filter (will_retry) as {name}" for name, sum_ in _RETRIED.items())}
                from changed_attempts group by all having count(*) filter (will_retry) > 0
            ) group by all
        ) group by all""",
    StepTimeBin: f"""
        select {_WORKFLOW} as workflow, step, {_TRIAL} as trial, {_DAY} as begun_on, {bin_of("run_time_s")} as bin, sum(sign) as attempts
        from changed_attempts where {_RAN} group by all""",
    StepMonthBin: f"""
        select {_WORKFLOW} as workflow, step, {_TRIAL} as trial, date_trunc('month', {_DAY})::date as month, {bin_of("run_time_s")} as bin,
            sum(sign) as attempts
        from changed_attempts where {_RAN} group by all""",
    FailureDay: f"""
        select * exclude newest, newest.t as last_at, nullif(newest.m, '') as last_message from (
            select {_DAY} as begun_on, {_WORKFLOW} as workflow, step, coalesce(failure_cause, 'unknown') as failure_cause,
                coalesce(error_class, '') as error_class, {_TRIAL} as trial, sum(sign) as failures,
                sum(sign) filter (not will_retry) as final,
                max(struct_pack(t := ended_at, m := coalesce(error_message, ''))) filter (sign > 0 and ended_at is not null) as newest
            from changed_attempts where outcome = 'failure' group by all)""",
    # An attempt whose end nobody wrote down runs as long as its run does. With this alternative in the condition of the join, it took
    # two minutes for a million attempts.
    RunningMinute: f"""
        select minute, sum(runs) as runs, sum(runs_us) as runs_us, sum(attempts) as attempts, sum(attempts_us) as attempts_us from (
            {_minutes("changed_runs", "runs", f"(outcome is null or {_BEGAN_AND_ENDED})")}
            union all by name
            ({_minutes("(from changed_attempts semi join changed_runs using (run_id, sign) where outcome is not null "
                       "or (run_id, sign) in (select (run_id, sign) from changed_runs where outcome is null))",
                       "attempts", f"(outcome is null or outcome <> 'skipped' and {_BEGAN_AND_ENDED})")})
        ) group by all""",
}  # fmt: skip
"""What each rollup sums up: over `changed_runs` and `changed_attempts`, all rows of some runs with `sign` 1 or -1."""

_KEPT: dict[type[Record], tuple[str, ...]] = {
    Run: (
        "run_id", "job_name", "workflow", "trial_id", "owner", "outcome", "created_at", "started_at", "ended_at", "deadline_at",
        "queue_time_s", "cost_usd",
    ),
    StepAttempt: (
        "run_id", "step_key", "attempt", "job_name", "workflow", "trial_id", "step", "outcome", "will_retry", "started_at", "ended_at",
        "run_time_s", "retry_wait_s", "cost_usd", "failure_cause", "error_class", "error_message",
    ),
}  # fmt: skip
"""Columns that the sums read."""

_RELATIONS: dict[type[Record], str] = {Run: "changed_runs", StepAttempt: "changed_attempts"}


@contextmanager
def kept(
    con: duckdb.DuckDBPyConnection, files: Layout, run_ids_sql: str, days: tuple[date, date] | None = None
) -> Generator[None]:
    """Keeps the rollups right while the block changes rows of the runs that `run_ids_sql` selects; inside a transaction.

    days: the first and the last day on which these runs were asked for; None: not known. Live and sealed rows may change, and which are
    hidden, of these runs only.
    """
    con.execute(f"create or replace temp table changed_ids as select distinct run_id from ({run_ids_sql})")
    for record_type, relation in _RELATIONS.items():
        con.execute(
            f"create or replace temp table {relation} as select {names(_KEPT[record_type])}, 1 as sign "
            f"from {LIVE}.{quoted(record_type.table)} limit 0"
        )
    sealed_days = _sealed_days(con, files, days)
    _collect(con, files, sealed_days, -1)
    yield
    _collect(con, files, sealed_days, 1)
    for rollup in ROLLUPS:
        con.execute(f"insert into {LIVE}.{quoted(rollup.table)} by name {_difference(rollup)}")
    _sum_up_lost_failures(con)
    for table in ("changed_ids", *_RELATIONS.values()):
        con.execute(f"drop table {table}")


def tidy(con: duckdb.DuckDBPyConnection, loose_rows: int = LOOSE_ROWS) -> None:
    """Adds up the rows of each rollup that has more than `loose_rows` since it was done last, and sorts them by key, so that few of them
    need be read for a question; inside a transaction.
    """
    for rollup in ROLLUPS:
        (rows,) = first_row(con.execute(f"select count(*) from {LIVE}.{quoted(rollup.table)}"))
        (merged,) = first_row(
            con.execute(f"select coalesce(max(merged_rows), 0) from {BOOKKEEPING}.rollups where table_name = ?", [rollup.table])
        )
        if rows - merged > max(loose_rows, _LOOSE_SHARE * merged if loose_rows else 0):
            _replace(con, rollup, _merged(rollup))


def are_current(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether the rollups were made by the sums of this version."""
    found = dict(con.execute(f"select table_name, definition from {BOOKKEEPING}.rollups").fetchall())
    return found == {rollup.table: _definition(rollup) for rollup in ROLLUPS}


def rebuild(con: duckdb.DuckDBPyConnection) -> None:
    """Sums up the whole history anew; inside a transaction, after the views were made."""
    for record_type, relation in _RELATIONS.items():
        con.execute(
            f"create or replace temp view {relation} as select {names(_KEPT[record_type])}, 1 as sign from main.{quoted(record_type.table)}"
        )
    con.execute(f"delete from {BOOKKEEPING}.rollups")
    for rollup in ROLLUPS:
        _replace(con, rollup, f"select {names(rollup.model_fields)} from ({_difference(rollup)}) order by {names(rollup.key)}")
    for relation in _RELATIONS.values():
        con.execute(f"drop view {relation}")


def _sealed_days(con: duckdb.DuckDBPyConnection, files: Layout, days: tuple[date, date] | None) -> tuple[date, date] | None:
    """Days of the sealed rows of the changed runs; None where nothing of them is sealed."""
    if days is None:
        known, first, last = first_row(
            con.execute(
                f"select count(*) = (select count(*) from changed_ids), min(created_at)::date, max(created_at)::date "
                f"from {LIVE}.{quoted(Run.table)} semi join changed_ids using (run_id)"
            )
        )
        days = (first, last) if known and first is not None else None
    sealed = sealed_rows(con, files, Run, days=days)
    if sealed is None:
        return None
    first, last = first_row(
        con.execute(f"select min(created_at)::date, max(created_at)::date from ({sealed}) s semi join changed_ids using (run_id)")
    )
    return None if first is None else (first, last)


def _collect(con: duckdb.DuckDBPyConnection, files: Layout, sealed_days: tuple[date, date] | None, sign: int) -> None:
    """Adds the present rows of the changed runs to `changed_runs` and `changed_attempts`."""
    for record_type, relation in _RELATIONS.items():
        wanted = names(_KEPT[record_type])
        rows = f"select {wanted} from {LIVE}.{quoted(record_type.table)}"
        sealed = sealed_rows(con, files, record_type, days=sealed_days) if sealed_days is not None else None
        if sealed is not None:
            rows += f" union all select {wanted} from ({sealed}) s{visible(record_type)}"
        con.execute(f"insert into {relation} select {wanted}, {sign} from ({rows}) semi join changed_ids using (run_id)")


def _summed(rollup: type[Rollup]) -> list[str]:
    return [name for name in rollup.model_fields if name not in rollup.key and name not in rollup.latest]


def _difference(rollup: type[Rollup]) -> str:
    """The rows that the changed runs add to the rollup."""
    sums = _summed(rollup)
    columns = [*rollup.key, *(f"coalesce({name}, 0)::bigint as {name}" for name in sums), *rollup.latest]
    return f"select {', '.join(columns)} from ({_SUMS[rollup]}) where {' or '.join(f'coalesce({name}, 0) <> 0' for name in sums)}"


def _merged(rollup: type[Rollup]) -> str:
    """The rollup with one row per key that has anything, sorted."""
    sums = [f"sum({name})::bigint as {name}" for name in _summed(rollup)]
    some = " or ".join(f"sum({name}) <> 0" for name in _summed(rollup))
    newest, latest = "", ""
    if rollup.latest:
        packed = ", ".join(f"{name} := {name}" for name in rollup.latest)
        newest = f", max(struct_pack({packed})) filter ({rollup.latest[0]} is not null) as newest"
        latest = "".join(f", newest.{name} as {name}" for name in rollup.latest)
    keys = names(rollup.key)
    inner = f"select {keys}, {', '.join(sums)}{newest} from {LIVE}.{quoted(rollup.table)} group by {keys} having {some}"
    return f"select * exclude newest{latest} from ({inner}) order by {keys}" if rollup.latest else f"{inner} order by {keys}"


def _replace(con: duckdb.DuckDBPyConnection, rollup: type[Rollup], select: str) -> None:
    """Puts the rows of `select` in place of the rollup's. A new table, since one emptied by DELETE keeps its blocks for a while."""
    con.execute(f"create or replace temp table rollup_rows as {select}")
    con.execute(f"drop table if exists {LIVE}.{quoted(rollup.table)}")
    con.execute(create_table(rollup))
    con.execute(f"insert into {LIVE}.{quoted(rollup.table)} by name select * from rollup_rows")
    con.execute(f"delete from {BOOKKEEPING}.rollups where table_name = ?", [rollup.table])
    con.execute(f"insert into {BOOKKEEPING}.rollups select ?, ?, count(*) from rollup_rows", [rollup.table, _definition(rollup)])
    con.execute("drop table rollup_rows")


def _sum_up_lost_failures(con: duckdb.DuckDBPyConnection) -> None:
    """Sums up anew the groups of `failure_days` of which a failure went away: what is the newest now, only the rows tell."""
    key = names(FailureDay.key)
    table = f"{LIVE}.{quoted(FailureDay.table)}"
    each = f"""select {_DAY} as begun_on, {_WORKFLOW} as workflow, step, coalesce(failure_cause, 'unknown') as failure_cause,
        coalesce(error_class, '') as error_class, {_TRIAL} as trial, ended_at, error_message
        from changed_attempts where outcome = 'failure'"""
    con.execute(
        f"create or replace temp table lost_groups as select distinct {key} from ("
        f"{each} and sign < 0 except all {each} and sign > 0)"
    )
    first, last = first_row(con.execute("select min(begun_on), max(begun_on) from lost_groups"))
    if first is not None:
        in_group = " and ".join(f"t.{name} = l.{name}" for name in FailureDay.key)
        con.execute(f"delete from {table} t using lost_groups l where {in_group}")
        con.execute(
            f"create or replace temp table changed_attempts as select {names(_KEPT[StepAttempt])}, 1 as sign "
            f"from main.{quoted(StepAttempt.table)} where outcome = 'failure' and {_DAY} between $first and $last "
            "and (started_at is null or started_at >= $first and started_at < $last + interval 1 day)",  # this part prunes files
            {"first": first, "last": last},
        )
        con.execute(f"insert into {table} by name from ({_difference(FailureDay)}) semi join lost_groups using ({key})")
    con.execute("drop table lost_groups")


def _definition(rollup: type[Rollup]) -> str:
    return blake2b(f"{_SUMS[rollup]} {rollup.key}".encode(), digest_size=8).hexdigest()
