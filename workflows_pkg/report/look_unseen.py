"""What could a first look not see, and why? Told beside what it saw, so that nobody takes a gap for a zero."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from workflows_pkg.advisor.collisions import LEAST_TIMES
from workflows_pkg.report.look_forecast import ForecastErrors
from workflows_pkg.report.reading import Connection, rows
from workflows_pkg.report.tables import count, instant
from workflows_pkg.spec.rates import DEFAULT

_MOST_REASONS = 5


def unseen(
    con: Connection, now: datetime, notes: Sequence[str], log_lines: int, errors: ForecastErrors, crowds: int, own_runs: int
) -> list[tuple[str, str]]:
    """Pairs of what and why. `notes` and `log_lines` are what the reader of the instance tells; `crowds`: how many were found."""
    facts = rows(
        con,
        """select (select count(*) from step_attempts where outcome is distinct from 'skipped') as attempts,
               (select count(*) from step_attempts where cpu_s is null and outcome is distinct from 'skipped') as unmetered,
               (select count(*) from step_attempts where outcome = 'failure' and coalesce(failure_cause, 'unknown') = 'unknown')
                   as unknown_causes,
               (select count(*) from step_attempts where outcome = 'failure') as failures,
               count(*) as runs, count(*) filter (attempt_count is null
                   and run_id not in (select run_id from quarantine where event_id = 0)) as without_events,
               count(*) filter (queue_time_s is null and outcome is not null and attempt_count is not null) as without_queue,
               count(*) filter (outcome is null) as open_runs, count(*) filter (outcome_conflict) as conflicts,
               count(*) filter (trigger in ('schedule', 'sensor')) as by_clock,
               count(*) filter (created_at >= ?) as ahead, max(created_at) as newest
           from runs""",
        [now],
    )[0]
    found = [("Something in the instance itself", note) for note in notes]
    if own_runs:
        found.append((
            f"{_things(own_runs, 'run', 'runs')} of the workbench itself {'is' if own_runs == 1 else 'are'} left out",
            "Its learning job and its trials are in no figure: they are no work of yours.",
        ))  # fmt: skip
    found += [
        (f"{_things(row['number'], row['thing'], row['things'])} could not be read", row["reason"])
        for row in rows(con, _QUARANTINED)
    ]
    if facts["without_events"]:
        found.append((
            f"The steps of {_things(facts['without_events'], 'run', 'runs')} out of {count(facts['runs'])}",
            "They have no events: they never started, their log was deleted, or it is not where the instance says.",
        ))  # fmt: skip
    if facts["ahead"]:
        found.append((
            f"What stands out in {_things(facts['ahead'], 'run', 'runs')} of the future",
            f"They were asked for later than now by the clock of this machine, the last at {instant(facts['newest'])} UTC. They are in the "
            "figures; what stands out and the suggestions rest on the others.",
        ))  # fmt: skip
    if facts["without_queue"]:
        found.append((
            f"The queue time of {_things(facts['without_queue'], 'run', 'runs')}",
            "No event says when they were taken from the queue; runs made without a queue, such as in a process of their own, have none.",
        ))  # fmt: skip
    if facts["unmetered"]:
        found.append((
            f"Processor time and memory of {count(facts['unmetered'])} of {count(facts['attempts'])} step attempts",
            "Dagster does not record them. Metering, one line in the code location, does from then on.",
        ))  # fmt: skip
    found.append((
        "What things really cost",
        f"Costs are run time times an assumed {100 * (DEFAULT.rates[0].run_hour or 0):.1f} US cents an hour for each step that runs "
        "(1 vCPU with 2 GiB on AWS Fargate); the machine and its real price are not in the event log.",
    ))  # fmt: skip
    if facts["unknown_causes"]:
        found.append((
            f"Why {count(facts['unknown_causes'])} of {count(facts['failures'])} failed attempts failed",
            "Their error class is not among those whose cause is known, so no retry is suggested on their account.",
        ))  # fmt: skip
    if facts["open_runs"]:
        found.append((
            f"How {_things(facts['open_runs'], 'run', 'runs')} will end", "Open runs are counted; their time is not, until they end."
        ))  # fmt: skip
    if facts["conflicts"]:
        found.append((
            f"How {_things(facts['conflicts'], 'run', 'runs')} really ended",
            "Their events and their status contradict each other; the first terminal event was believed.",
        ))  # fmt: skip
    if not facts["by_clock"]:
        found.append(("Which schedules and sensors meet", "No run here was asked for by a schedule or a sensor."))
    elif not crowds:
        found.append((
            "What meeting in one minute costs", f"No two schedules or sensors asked for runs within the same minute {LEAST_TIMES} times."
        ))  # fmt: skip
    if errors.runs_replayed < errors.runs or errors.attempts_replayed < errors.attempts:
        found.append((
            "Forecasts of the older history",
            f"The newest {count(errors.runs_replayed)} of {count(errors.runs)} runs and {count(errors.attempts_replayed)} of "
            f"{count(errors.attempts)} step attempts were replayed, to be done within a minute.",
        ))  # fmt: skip
    lines = f", nor the {count(log_lines)} lines that its code logged" if log_lines else ""
    found.append((
        "What the runs worked on",
        f"Run configuration, inputs, outputs and the code were not read{lines}: only states, times, errors, tags and tick outcomes.",
    ))  # fmt: skip
    return found


_QUARANTINED = f"""
    with told as (
        select *, case event_id when 0 then 'run log' when -1 then 'run' else 'event' end as thing,
            replace(reason, run_id, '*') as alike
        from quarantine
    ), every as (
        select thing, thing || 's' as things, count(*) as number, if(count(*) = 1, any_value(reason), alike) as reason
        from told group by thing, alike
    )
    select thing, things, number, reason from every order by number desc, thing, reason limit {_MOST_REASONS}"""
"""Rows of quarantine by reason, the run in it left open: many broken logs of one kind are one fact, however their files are called."""


def _things(number: int, one: str, many: str) -> str:
    return f"{count(number)} {one if number == 1 else many}"
