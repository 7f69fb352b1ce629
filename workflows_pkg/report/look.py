"""What does a first look at somebody's history show? The figures behind the page, the lines on the terminal and the JSON.

Everything is read from the history; what the history does not hold, and why, is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflows_pkg.advisor.collisions import Crowd, asked_runs, collisions
from workflows_pkg.advisor.findings import CHANGES, Finding, findings
from workflows_pkg.advisor.jobs import suggest_for_jobs
from workflows_pkg.history.records import Suggestion
from workflows_pkg.prediction.rows import Connection
from workflows_pkg.report.look_forecast import ForecastErrors, forecast_errors
from workflows_pkg.report.look_unseen import unseen
from workflows_pkg.report.reading import rows

MOST_SUGGESTIONS = 3
MOST_CHANGES = 3
"""Changes told at the top; all stand among the findings."""
MOST_STEPS = 50
"""Steps listed as slowest, and as most failing."""

_LOOKED_AT = {"runs": "trial_id is null", "step_attempts": "trial_id is null", "ticks": "true"}
"""Tables that are asked again and again, so that sealed days are read from their files once; and what of them is looked at."""


@dataclass(frozen=True)
class Told:
    """What the reader of an instance tells of it: one line without a password, and what it could not see."""

    description: str
    notes: tuple[str, ...] = ()
    log_lines: int = 0


@dataclass(frozen=True)
class JobTime:
    """Where the time of one job's ended runs went, seconds in all; a part that is unknown in every run is None."""

    job: str
    runs: int
    failed: int
    canceled: int
    queue_s: float | None
    start_s: float | None
    run_s: float | None
    retry_wait_s: float | None
    total_s: float
    cost_usd: float | None


@dataclass(frozen=True)
class SlowStep:
    """One step by the time it took in all; medians are of successful attempts."""

    job: str
    step: str
    attempts: int
    p50_s: float | None
    p95_s: float | None
    longest_s: float
    total_s: float
    share: float
    cost_usd: float | None


@dataclass(frozen=True)
class FailingStep:
    """One step by how often it failed. `lost_s`, `lost_usd`: what the runs that it ended took, and its retries in other ended runs.

    No run counts for more than it took, also where copies of a mapped step were retried side by side.
    """

    job: str
    step: str
    runs: int
    failures: int
    retried: int
    failure_share: float
    cause: str
    error_class: str | None
    last_message: str | None
    last_at: datetime | None
    lost_s: float
    lost_usd: float | None


@dataclass(frozen=True)
class Look:
    """All that the first look shows.

    own_runs: runs of the workbench itself, which are in no figure. asked: (hour, minute, runs asked for by schedules and sensors), UTC.
    """

    told: Told
    at: datetime
    since: datetime
    until: datetime
    runs: int
    open_runs: int
    own_runs: int
    outcomes: dict[str, int]
    events: int
    attempts: int
    ticks: int
    jobs: tuple[JobTime, ...]
    slowest: tuple[SlowStep, ...]
    failing: tuple[FailingStep, ...]
    crowds: tuple[Crowd, ...]
    asked: tuple[tuple[int, int, int], ...]
    forecast: ForecastErrors
    suggestions: tuple[Suggestion, ...]
    findings: tuple[Finding, ...]
    unseen: tuple[tuple[str, str], ...]

    @property
    def changes(self) -> tuple[Finding, ...]:
        """The findings that tell what became slower or fails more often, at most `MOST_CHANGES`."""
        return tuple(found for found in self.findings if found.kind in CHANGES.values())[:MOST_CHANGES]

    @property
    def others(self) -> tuple[Finding, ...]:
        """The findings but these."""
        return tuple(found for found in self.findings if found not in self.changes)

    @property
    def total_s(self) -> float:
        """Seconds of all ended runs, asked for to ended."""
        return sum(job.total_s for job in self.jobs)

    @property
    def cost_usd(self) -> float | None:
        """Cost of all runs by the rate card; None where it is unknown for every job."""
        known = [job.cost_usd for job in self.jobs if job.cost_usd is not None]
        return sum(known) if known else None

    def part_s(self, part: str) -> float | None:
        """Seconds of one part (queue_s, start_s, run_s, retry_wait_s) over all jobs of which it is known; None where it is of none."""
        known = [seconds for job in self.jobs if (seconds := getattr(job, part)) is not None]
        return sum(known) if known else None

    def part_share(self, *parts: str) -> float | None:
        """What these parts are of all time, 0 to 1; None where none of them is known."""
        known = [seconds for part in parts if (seconds := self.part_s(part)) is not None]
        return sum(known) / self.total_s if known and self.total_s else None


def look(con: Connection, told: Told, now: datetime, step: Callable[[str], None] | None = None) -> Look | None:
    """The look at the history behind `con`, None where nothing ever ran. `step` hears what is done next, for a progress line.

    Runs of the workbench itself are left out: trials, and what `con` hides of the history's tables.
    """
    say = step or (lambda text: None)
    say("adding up where the time goes")
    own_runs = _set_apart(con)
    span = rows(
        con,
        """select min(created_at) as since, max(coalesce(ended_at, created_at)) as until, count(*) as runs,
               count(*) filter (outcome is null) as open_runs from runs""",
    )[0]
    if not span["runs"]:
        return None
    outcomes = rows(con, "select coalesce(outcome, 'open') as outcome, count(*) as runs from runs group by 1 order by 2 desc, 1")
    counts = rows(
        con,
        """select (select count(*) from events) as events, (select count(*) from step_attempts) as attempts,
               (select count(*) from ticks) as ticks""",
    )[0]
    jobs = tuple(JobTime(**row) for row in rows(con, _JOBS))
    slowest = tuple(SlowStep(**row) for row in rows(con, f"{_SLOWEST} limit {MOST_STEPS}"))
    failing = tuple(FailingStep(**row) for row in rows(con, f"{_FAILING} limit {MOST_STEPS}"))
    say("looking for what stands out")
    noticed = tuple(findings(con, now))
    crowds = tuple(collisions(con, now))
    minutes: dict[tuple[int, int], int] = {}
    for run in asked_runs(con, now):
        minutes[run.minute.hour, run.minute.minute] = minutes.get((run.minute.hour, run.minute.minute), 0) + 1
    suggestions = tuple(suggest_for_jobs(con, now, MOST_SUGGESTIONS))
    say("replaying forecasts")
    errors = forecast_errors(con)
    return Look(
        told=told, at=now, since=span["since"], until=span["until"], runs=span["runs"], open_runs=span["open_runs"],
        own_runs=own_runs,
        outcomes={row["outcome"]: row["runs"] for row in outcomes}, **counts, jobs=jobs, slowest=slowest, failing=failing, crowds=crowds,
        asked=tuple((hour, minute, number) for (hour, minute), number in sorted(minutes.items())), forecast=errors,
        suggestions=suggestions, findings=noticed,
        unseen=tuple(unseen(con, now, told.notes, told.log_lines, errors, len(crowds), own_runs)),
    )  # fmt: skip


def _set_apart(con: Connection) -> int:
    """Has `con` show copies of the tables without trials; returns how many runs of the history are not among them."""
    for table, where in _LOOKED_AT.items():
        con.execute(f'create temp table "{table} looked at" as select * from "{table}" where {where}')
        con.execute(f'create or replace temp view "{table}" as select * from "{table} looked at"')
    (database,) = con.execute("select current_database()").fetchone()
    ((left_out,),) = con.execute(f'select (select count(*) from "{database}".main.runs) - (select count(*) from runs)').fetchall()
    return left_out


def look_value(seen: Look) -> dict[str, Any]:
    """The figures for a program: the same keys whatever was found, seconds and USD by suffix, unknown as None."""
    return {
        "instance": {
            "description": seen.told.description, "since": seen.since, "until": seen.until, "runs": seen.runs,
            "open_runs": seen.open_runs, "outcomes": seen.outcomes, "events": seen.events, "step_attempts": seen.attempts,
            "ticks": seen.ticks, "jobs": len(seen.jobs),
        },
        "time": [vars(job) for job in seen.jobs],
        "slowest_steps": [vars(step) for step in seen.slowest],
        "failing_steps": [vars(step) for step in seen.failing],
        "same_minute": [
            {
                "names": list(crowd.names), "times": crowd.times, "runs": crowd.runs, "queue_time_s": crowd.mean_s,
                "alone_queue_time_s": crowd.alone_s if crowd.alone_runs else None, "alone_runs": crowd.alone_runs,
                "lost_s": crowd.lost_s if crowd.alone_runs else None, "costs": crowd.costs,
            }
            for crowd in seen.crowds
        ],
        "forecast": {
            "runs_replayed": seen.forecast.runs_replayed, "attempts_replayed": seen.forecast.attempts_replayed,
            "of_runs": None if seen.forecast.of_runs is None else vars(seen.forecast.of_runs),
            "of_steps": None if seen.forecast.of_steps is None else vars(seen.forecast.of_steps),
            "jobs": [vars(row) for row in seen.forecast.jobs], "steps": [vars(row) for row in seen.forecast.steps],
        },
        "suggestions": [suggestion.model_dump() for suggestion in seen.suggestions],
        "findings": [{**vars(finding), "figures": dict(finding.figures)} for finding in seen.findings],
        "unseen": [{"what": what, "why": why} for what, why in seen.unseen],
    }  # fmt: skip


_JOBS = """
    select job_name as job, count(*) as runs, count(*) filter (outcome = 'failure') as failed,
        count(*) filter (outcome = 'canceled') as canceled, sum(queue_time_s) as queue_s, sum(start_time_s) as start_s,
        sum(greatest(run_time_s - coalesce(retry_wait_s, 0), 0)) as run_s,
        sum(case when retry_wait_s is not null then least(retry_wait_s, run_time_s) end) as retry_wait_s,
        sum(coalesce(queue_time_s, 0) + coalesce(start_time_s, 0) + coalesce(run_time_s, 0)) as total_s, sum(cost_usd) as cost_usd
    from runs where outcome is not null group by 1 order by total_s desc, job"""

_SLOWEST = """
    select job_name as job, step, count(*) as attempts, quantile_cont(run_time_s, 0.5) filter (outcome = 'success') as p50_s,
        quantile_cont(run_time_s, 0.95) filter (outcome = 'success') as p95_s, max(run_time_s) as longest_s,
        sum(run_time_s) as total_s, coalesce(sum(run_time_s) / nullif(sum(sum(run_time_s)) over (), 0), 0) as share,
        sum(cost_usd) as cost_usd
    from step_attempts where run_time_s is not null and outcome is distinct from 'skipped'
    group by 1, 2 order by total_s desc, job, step"""

_FAILING = """
    with ended as (
        select a.run_id, a.step from step_attempts a join runs r using (run_id)
        where a.outcome = 'failure' and not a.will_retry and r.outcome = 'failure'
        qualify row_number() over (partition by a.run_id order by a.ended_at, a.step_key) = 1
    ), retries as (
        select run_id, step, sum(coalesce(run_time_s, 0) + coalesce(retry_wait_s, 0)) as seconds, sum(cost_usd) as usd
        from step_attempts where will_retry group by 1, 2
    ), lost as (
        select job_name, step, sum(seconds) as seconds, sum(usd) as usd from (
            select r.job_name, e.step, r.run_time_s as seconds, r.cost_usd as usd from ended e join runs r using (run_id)
            union all
            select r.job_name, t.step, least(t.seconds, r.run_time_s), t.usd from retries t join runs r using (run_id)
            anti join ended using (run_id, step) where r.outcome is not null
        ) group by 1, 2
    ), tried as (
        select job_name, step, count(distinct run_id) as runs, count(*) filter (outcome = 'failure') as failures,
            count(*) filter (will_retry) as retried,
            count(distinct run_id) filter (outcome = 'failure' and not will_retry) / count(distinct run_id) as failure_share,
            mode(coalesce(failure_cause, 'unknown') order by failure_cause) filter (outcome = 'failure') as cause,
            mode(error_class order by error_class) filter (outcome = 'failure') as error_class,
            arg_max(error_message, ended_at) filter (outcome = 'failure') as last_message,
            max(ended_at) filter (outcome = 'failure') as last_at
        from step_attempts group by 1, 2 having count(*) filter (outcome = 'failure') > 0
    )
    select t.job_name as job, t.step, t.runs, t.failures, t.retried, t.failure_share, t.cause, t.error_class, t.last_message, t.last_at,
        coalesce(l.seconds, 0) as lost_s, l.usd as lost_usd
    from tried t left join lost l using (job_name, step) order by t.failures desc, lost_s desc, job, t.step"""
