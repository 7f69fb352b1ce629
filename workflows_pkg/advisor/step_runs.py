"""Which runs of every step, and of every job, are compared with each other, and what is recorded of them?

Runs of backfills are left out: the size of a partition is no change of the step. Each function but `series` gives SQL with every value
written in, as a relation with one row per run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from workflows_pkg.advisor.asking import literal, runs_before
from workflows_pkg.prediction.rows import Connection

Names = Sequence[tuple[str, str]]
"""Jobs and steps; '' for the whole run."""


@dataclass(frozen=True)
class Series:
    """One step's runs, or one job's where `step` is '', in order of time: seconds, and whether an attempt failed; nan: unknown."""

    job: str
    step: str
    values: np.ndarray
    failed: np.ndarray


def step_runs(now: datetime, only: Names | None = None) -> str:
    """SQL: one row per step and run that is no backfill's: when it began, the median of its successes, whether an attempt failed."""
    return f"""
        select a.job_name, a.step, a.run_id, min(a.started_at) as begun, median(a.run_time_s) filter (a.outcome = 'success') as seconds,
            max((a.outcome = 'failure')::int)::double as failed, max(a.attempt) as attempts, count(distinct a.step_key) as copies,
            mode(a.host order by a.host) as host, any_value(regexp_replace(a.step_key, '\\[.*\\]$', '')) as op,
            mode(a.error_class order by a.error_class) as error_class, any_value(r.version)::varchar as version,
            any_value(r.job_snapshot_id) as job_snapshot_id, any_value(r.partition_key) as partition_key
        from step_attempts a join {runs_before(now)} r using (run_id)
        where a.outcome in ('success', 'failure') and a.started_at is not null and r.trigger <> 'backfill'
            and {_named("(a.job_name, a.step)", only)}
        group by 1, 2, 3"""


def with_sizes(now: datetime, only: Names | None = None) -> str:
    """SQL: `step_runs` with what the step made and what the steps it needs had made in the same run."""
    made = """
        select run_id, regexp_replace(step_key, '\\[.*\\]$', '') as op, sum("rows")::double as n_rows, sum(bytes)::double as n_bytes,
            max(code_version) as code_version
        from materializations where step_key is not null group by 1, 2"""
    return f"""
        with tried as ({step_runs(now, only)}), made as ({made}), needed as (
            select job_snapshot_id, step as op, unnest(from_json(needs, '["varchar"]')) as need from job_steps
        ), taken as (
            select t.run_id, t.op, sum(m.n_rows) as rows_read, sum(m.n_bytes) as bytes_read
            from tried t join needed n using (job_snapshot_id, op) join made m on m.run_id = t.run_id and m.op = n.need group by 1, 2
        )
        select t.*, m.n_rows as rows_made, m.n_bytes as bytes_made, m.code_version, k.rows_read, k.bytes_read
        from tried t left join made m using (run_id, op) left join taken k using (run_id, op)"""


def whole_runs(now: datetime, only: Names | None = None) -> str:
    """SQL: one row per successful run that is no backfill's: the seconds from being asked for to its end, and their parts."""
    return f"""
        select r.job_name, '' as step, r.run_id, r.created_at as begun,
            coalesce(r.queue_time_s, 0) + coalesce(r.start_time_s, 0) + r.run_time_s as seconds, null::double as failed,
            r.queue_time_s, r.start_time_s, r.retry_wait_s, s.step_time_s, r.version::varchar as version, r.job_snapshot_id, r.partition_key
        from {runs_before(now)} r left join (
            select run_id, sum(run_time_s) as step_time_s from step_attempts where outcome in ('success', 'failure') group by 1
        ) s using (run_id)
        where r.outcome = 'success' and r.run_time_s is not null and r.trigger <> 'backfill'
            and {_named("(r.job_name, '')", only)}"""


def _named(columns: str, only: Names | None) -> str:
    """The condition that these are among the names; written where the rows are read, since DuckDB does not carry it there by itself."""
    return "true" if only is None else f"{columns} in ({', '.join(f'({literal(job)}, {literal(step)})' for job, step in only)})"


def series(con: Connection, sql: str, least: int, job: str | None, step: str | None) -> list[Series]:
    """The series of all steps, or jobs, of at least so many runs in `sql`, without what else is known of the runs."""
    conditions = [f"{name} = {literal(value)}" for name, value in (("job_name", job), ("step", step)) if value is not None]
    where = " where " + " and ".join(conditions) if conditions else ""
    table = con.execute(
        f"""select job_name, step, list(seconds order by begun, run_id) as seconds, list(failed order by begun, run_id) as failed
            from ({sql}){where} group by 1, 2 having count(*) >= {least} order by 1, 2"""
    ).to_arrow_table()
    names = zip(table["job_name"].to_pylist(), table["step"].to_pylist(), strict=True)
    found = zip(names, _arrays(table["seconds"]), _arrays(table["failed"]), strict=True)
    return [Series(job_name, step_name, seconds, failed) for (job_name, step_name), seconds, failed in found]


def _arrays(column: Any) -> Iterator[np.ndarray]:
    """The lists of an Arrow column; a missing figure is nan."""
    for chunk in column.chunks:
        figures = chunk.values.to_numpy(zero_copy_only=False).astype(float)
        ends = chunk.offsets.to_numpy()
        for low, high in pairwise(ends):
            yield figures[low:high]
