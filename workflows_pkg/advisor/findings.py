"""What in this history deserves a look? Findings: what was noticed, with its figures and the query that recomputes them.

Pure over history, and made for any job, with a spec of ours or without. A finding says what is the case, not what to do; the
advice is in `suggestions` and `jobs`. A history in which nothing is wrong gives none, and where chance could make a finding,
its rate of false alarms is stated beside its test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from workflows_pkg.advisor.asking import attempts_before, one, rows, runs_before
from workflows_pkg.advisor.change_text import say_seconds, sentence
from workflows_pkg.advisor.changes import FALSE_ALARMS, Change, Quantity, what_changed
from workflows_pkg.advisor.collisions import collisions
from workflows_pkg.advisor.forecasts_off import FALSE_ALARMS as FORECAST_FALSE_ALARMS
from workflows_pkg.advisor.forecasts_off import forecasts_off
from workflows_pkg.advisor.hangs import hung_runs
from workflows_pkg.prediction.rows import Connection

Severity = Literal["high", "medium", "low"]
Kind = Literal[
    "failures_cost",
    "retries_cost",
    "slower_step",
    "slower_runs",
    "fails_more",
    "forecasts_off",
    "failing_streak",
    "colliding_ticks",
    "long_queue",
    "hung_runs",
    "failing_partition",
    "missed_deadlines",
]

LEAST_FAILURES = 3
"""One or two failures are told by Dagster itself; from three on it is worth adding up what they cost."""

LEAST_SHARE = 0.01
"""Failures and retries that cost less than this share of the job's run time are no finding."""

LEAST_FAILED_SHARE = 0.02
"""Failures that end this share of the job's runs are one whatever they cost: somebody waits for what the run should have made."""

HIGH_SHARE, MEDIUM_SHARE = 0.10, 0.03
"""Share of the job's time, or runs, from which a cost is of high, or of medium, severity: a convention, not measured."""

LEAST_STREAK = 3
SURPRISING = 0.01
"""A streak is a finding where it was less likely than this by the share of failures before it."""

RECENT_DAYS = 7.0
"""A streak of a job that has not run for longer than this before the history's end is of low severity: it may be retired."""

LEAST_QUEUED = 10
LEAST_QUEUED_SHARE = 0.2
LEAST_QUEUE_S = 60.0
"""Runs that waited longer than they ran: so many of them, such a share of the job's runs, and so many seconds in all."""

LEAST_PARTITION_FAILURES = 3

LEAST_MISSED, LEAST_MISSED_SHARE = 3, 0.05
"""Deadlines missed, and their share: a deadline that one run in twenty misses is worth another look, a single miss was told of at once."""

CHANGED_DAYS = 90.0
"""A step that has been slower for longer than a quarter of a year is as slow as everybody knows it."""

CHANGES: Mapping[Quantity, Kind] = {"run_time_s": "slower_step", "whole_time_s": "slower_runs", "failed_share": "fails_more"}
"""Kinds of findings that tell what changed, by what it changed in."""

_ORDER: Mapping[Severity, int] = {"high": 0, "medium": 1, "low": 2}


@dataclass(frozen=True)
class Finding:
    """Something noticed, with evidence.

    job, step: what it is about; None and '' where it is about more than one. figures: by name, units by suffix. query: SQL
    over the history that gives the figures, or the rows they are made from, with every value written in.
    """

    kind: Kind
    job: str | None
    step: str
    severity: Severity
    sentence: str
    figures: Mapping[str, float | int | str | None]
    query: str


def findings(con: Connection, now: datetime, changes: Sequence[Change] | None = None) -> list[Finding]:
    """What is noticed in the history before `now`, the most severe and then the most costly first; trials are left out.

    changes: what `what_changed` says of the same history and moment, where the caller has asked already. The same history and moment give
    the same findings. Empty where there is nothing to notice.
    """
    streaks = list(_streaks(con, now))
    failing = {item.job for item in streaks}
    found = [
        *_failures(con, now),
        *_retries(con, now),
        *(item for item in _changed(con, now, changes) if item.kind != "fails_more" or item.job not in failing),
        *_forecasts(con, now),
        *streaks,
        *_colliding(con, now),
        *_queued(con, now),
        *_hung(con, now),
        *_partitions(con, now),
        *_late(con, now),
    ]
    return sorted(
        (replace(item, figures={name: _rounded(value) for name, value in item.figures.items()}) for item in found),
        key=lambda item: (_ORDER[item.severity], -float(item.figures.get("lost_s") or 0.0), item.kind, item.job or "", item.step),
    )


def _rounded(value: float | str | None) -> float | int | str | None:
    """A figure to nine digits: DuckDB adds in several threads, in another order each time."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _usd(value: float | None) -> str:
    if value is None:
        return "at an unknown cost"
    return f"${value:,.2f}" if value >= 0.01 else "less than a cent"


def _severity(share: float) -> Severity:
    return "high" if share >= HIGH_SHARE else "medium" if share >= MEDIUM_SHARE else "low"


def _failures(con: Connection, now: datetime) -> Iterator[Finding]:
    sql = f"""
        with broken as (
            select run_id, step, failure_cause, error_class from {attempts_before(now)}
            where outcome = 'failure' and not will_retry
            qualify row_number() over (partition by run_id order by ended_at, step_key) = 1
        ), per_job as (
            select job_name, count(*) filter (outcome is not null) as runs, sum(run_time_s) as job_s from {runs_before(now)} group by 1
        )
        select job_name, step, count(*) as failed_runs, any_value(runs) as runs, sum(run_time_s) as lost_s,
            sum(cost_usd) as lost_usd, any_value(job_s) as job_s, mode(error_class order by error_class) as error_class,
            mode(coalesce(failure_cause, 'unknown') order by failure_cause) as cause
        from {runs_before(now)} r join broken using (run_id) join per_job using (job_name)
        where r.outcome = 'failure' group by job_name, step"""
    for row in rows(con, sql):
        share = (row["lost_s"] or 0.0) / row["job_s"] if row["job_s"] else 0.0
        failed_share = row["failed_runs"] / row["runs"]
        if row["failed_runs"] < LEAST_FAILURES or (share < LEAST_SHARE and failed_share < LEAST_FAILED_SHARE):
            continue
        figures = {**row, "lost_share": share, "failed_share": failed_share}
        yield Finding(
            "failures_cost", row["job_name"], row["step"], _severity(max(share, failed_share)),
            f"Step '{row['step']}' ended {row['failed_runs']:,} of {row['runs']:,} runs of '{row['job_name']}', mostly by "
            f"{row['error_class'] or 'an unknown error'}; they had run for {say_seconds(row['lost_s'])}, {_usd(row['lost_usd'])}.",
            figures, one(sql, job_name=row["job_name"], step=row["step"]),
        )  # fmt: skip


def _retries(con: Connection, now: datetime) -> Iterator[Finding]:
    sql = f"""
        with per_job as (select job_name, sum(run_time_s) as job_s from {runs_before(now)} group by 1)
        select job_name, step, count(*) filter (will_retry) as retries, count(distinct run_id) filter (will_retry) as retried_runs,
            count(distinct run_id) as runs,
            coalesce(sum(run_time_s) filter (will_retry), 0) + coalesce(sum(retry_wait_s) filter (will_retry), 0) as lost_s,
            sum(retry_wait_s) filter (will_retry) as waited_s, sum(cost_usd) filter (will_retry) as lost_usd,
            any_value(job_s) as job_s
        from {attempts_before(now)} join per_job using (job_name) group by job_name, step"""
    for row in rows(con, sql):
        share = row["lost_s"] / row["job_s"] if row["job_s"] else 0.0
        if row["retries"] < LEAST_FAILURES or share < LEAST_SHARE:
            continue
        yield Finding(
            "retries_cost", row["job_name"], row["step"], _severity(share),
            f"Step '{row['step']}' of '{row['job_name']}' was tried again {row['retries']:,} times in {row['retried_runs']:,} of "
            f"{row['runs']:,} runs; that took {say_seconds(row['lost_s'])}, {say_seconds(row['waited_s'] or 0.0)} of it waiting, "
            f"{_usd(row['lost_usd'])}.",
            {**row, "lost_share": share}, one(sql, job_name=row["job_name"], step=row["step"]),
        )  # fmt: skip


def _changed(con: Connection, now: datetime, changes: Sequence[Change] | None) -> Iterator[Finding]:
    """Changes for the worse that last, of the newest `CHANGED_DAYS` days."""
    for change in lasting(what_changed(con, now) if changes is None else changes, con, now):
        lost_s = None if change.quantity == "failed_share" else (change.after - change.before) * change.runs_after
        grave = change.after - change.before >= 0.2 if lost_s is None else change.ratio >= 1.5
        first = change.coincides[0] if change.coincides else None
        yield Finding(
            CHANGES[change.quantity], change.job, change.step, "high" if grave else "medium", sentence(change),
            {
                "before": change.before, "after": change.after, "since": change.since.isoformat(), "between_runs": change.between,
                "runs_after": change.runs_after, "runs_before": change.runs_before, "p_value": change.p_value,
                "false_alarm_share": FALSE_ALARMS, "tests": change.tests, "lost_s": lost_s,
                "coincides_with": None if first is None else first.kind,
                "accounted_share": None if first is None else first.accounted,
                "runs_just_before": ", ".join(change.run_ids_before), "runs_just_after": ", ".join(change.run_ids_after),
            },
            change.query,
        )  # fmt: skip


def _forecasts(con: Connection, now: datetime) -> Iterator[Finding]:
    for off in forecasts_off(con, now):
        yield Finding(
            "forecasts_off", off.job, "", "medium",
            f"Forecasts of '{off.job}' have stopped being right: {off.outside:,} of its {off.runs:,} good runs since "
            f"{off.since:%Y-%m-%d %H:%M} ended outside the interval that should hold 9 of 10, {off.above:,} of them later. "
            f"The newest that was in force is of {off.as_of:%Y-%m-%d %H:%M}; trained again, they follow a change within about ten runs.",
            {
                "runs": off.runs, "outside": off.outside, "above": off.above, "since": off.since.isoformat(),
                "forecast_as_of": off.as_of.isoformat(), "false_alarm_share": FORECAST_FALSE_ALARMS, "tests": off.tests,
            },
            off.query,
        )  # fmt: skip


def lasting(changes: Sequence[Change], con: Connection, now: datetime) -> list[Change]:
    """The changes for the worse that no later one has followed, of the last `CHANGED_DAYS` days before the history's end."""
    ((end,),) = con.execute(f"select max(created_at) from {runs_before(now)}").fetchall()
    return [
        change
        for change in changes
        if change.worse and change.until is None and end - change.since < timedelta(days=CHANGED_DAYS)
    ]


def _streaks(con: Connection, now: datetime) -> Iterator[Finding]:
    sql = f"""
        with ended as (
            select *, max(created_at) filter (outcome = 'success') over (partition by job_name) as last_success_at
            from {runs_before(now)} where outcome in ('success', 'failure')
        )
        select job_name, count(*) as runs, max(created_at) as last_at, any_value(last_success_at) as last_success_at,
            count(*) filter (last_success_at is null or created_at > last_success_at) as streak,
            min(created_at) filter (last_success_at is null or created_at > last_success_at) as since,
            count(*) filter (outcome = 'failure' and created_at < last_success_at) as failed_before,
            count(*) filter (created_at <= last_success_at) as before,
            sum(run_time_s) filter (last_success_at is null or created_at > last_success_at) as lost_s,
            sum(cost_usd) filter (last_success_at is null or created_at > last_success_at) as lost_usd,
            epoch((select max(created_at) from {runs_before(now)})) - epoch(max(created_at)) as quiet_s
        from ended group by job_name"""
    for row in rows(con, sql):
        usual = (row["failed_before"] or 0) / row["before"] if row["before"] else 0.0
        if row["streak"] < LEAST_STREAK or (row["before"] and usual ** row["streak"] >= SURPRISING):
            continue
        never = not row["before"]
        retired = row["quiet_s"] > RECENT_DAYS * 86_400
        what = f"has failed in each of its {row['streak']:,} runs" if never else f"failed in its last {row['streak']:,} runs"
        yield Finding(
            "failing_streak", row["job_name"], "", "low" if retired else "high",
            f"'{row['job_name']}' {what}, since {row['since']:%Y-%m-%d %H:%M}"
            + ("." if never else f"; before, {100 * (1 - usual):.0f} % of its runs succeeded.")
            + (" It has not run lately." if retired else ""),
            {
                "streak": row["streak"], "runs_before": row["before"], "failure_share_before": None if never else usual,
                "since": row["since"].isoformat(), "lost_s": row["lost_s"], "lost_usd": row["lost_usd"],
            },
            one(sql, job_name=row["job_name"]),
        )  # fmt: skip


def _colliding(con: Connection, now: datetime) -> Iterator[Finding]:
    for crowd in collisions(con, now):
        if not crowd.costs:
            continue
        names = [f"'{name}'" for name in crowd.names]
        listed = ", ".join(names[:-1]) + f" and {names[-1]}"
        yield Finding(
            "colliding_ticks", None, "", "high" if crowd.mean_s - crowd.alone_s >= 60 else "medium",
            f"{listed} asked for runs within the same minute {crowd.times:,} times; these runs waited {say_seconds(crowd.mean_s)} in the "
            f"queue, those asked for alone {say_seconds(crowd.alone_s)} (means): {say_seconds(crowd.lost_s)} in all.",
            {
                "names": ", ".join(crowd.names), "times": crowd.times, "runs": crowd.runs, "queue_time_s": crowd.mean_s,
                "alone_queue_time_s": crowd.alone_s, "alone_runs": crowd.alone_runs, "lost_s": crowd.lost_s, "p_value": crowd.p_value,
            },
            crowd.query,
        )  # fmt: skip


def _queued(con: Connection, now: datetime) -> Iterator[Finding]:
    sql = f"""
        select job_name, count(*) as runs, count(*) filter (queue_time_s > run_time_s) as waited_longer,
            sum(queue_time_s - run_time_s) filter (queue_time_s > run_time_s) as longer_s,
            sum(queue_time_s) filter (queue_time_s > run_time_s) as lost_s, median(queue_time_s) as queue_time_s,
            median(run_time_s) as run_time_s
        from {runs_before(now)} where queue_time_s is not null and run_time_s is not null and outcome = 'success' group by job_name"""
    for row in rows(con, sql):
        share = row["waited_longer"] / row["runs"]
        if row["waited_longer"] < LEAST_QUEUED or share < LEAST_QUEUED_SHARE or row["lost_s"] < LEAST_QUEUE_S:
            continue
        yield Finding(
            "long_queue", row["job_name"], "", "high" if share >= 0.5 else "medium",
            f"{row['waited_longer']:,} of {row['runs']:,} good runs of '{row['job_name']}' waited in the queue longer than they ran: "
            f"{say_seconds(row['lost_s'])} in all.",
            {**row, "waited_longer_share": share}, one(sql, job_name=row["job_name"]),
        )  # fmt: skip


def _hung(con: Connection, now: datetime) -> Iterator[Finding]:
    for job, hung in hung_runs(con, now).items():
        newest = hung.run_ids[-1]
        yield Finding(
            "hung_runs", job, "", "high" if hung.lost_s >= 3600 else "medium",
            f"{len(hung.run_ids):,} run{'s' if len(hung.run_ids) > 1 else ''} of '{job}' ran for more than {say_seconds(hung.limit_s)} "
            f"and did not succeed, where none of {hung.successes:,} good ones came near; {say_seconds(hung.lost_s)} beyond that in all.",
            {
                "hung_runs": len(hung.run_ids), "limit_s": hung.limit_s, "successes": hung.successes, "longest_success_s": hung.longest_s,
                "lost_s": hung.lost_s, "lost_usd": hung.lost_usd, "newest_run_id": newest,
            },
            hung.query,
        )  # fmt: skip


def _partitions(con: Connection, now: datetime) -> Iterator[Finding]:
    sql = f"""
        select job_name, partition_key, count(*) filter (outcome = 'failure') as failures, max(created_at) as last_at,
            sum(run_time_s) filter (outcome = 'failure') as lost_s, sum(cost_usd) filter (outcome = 'failure') as lost_usd
        from {runs_before(now)} where partition_key is not null and outcome in ('success', 'failure')
        group by job_name, partition_key
        having count(*) filter (outcome = 'failure') >= {LEAST_PARTITION_FAILURES} and arg_max(outcome, created_at) = 'failure'"""
    by_job: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows(con, sql), key=lambda row: (-row["failures"], row["partition_key"])):
        by_job.setdefault(row["job_name"], []).append(row)
    for job, found in by_job.items():
        worst = found[0]
        several = f" and {len(found) - 1} other partition{'s' if len(found) > 2 else ''}" if len(found) > 1 else ""
        yield Finding(
            "failing_partition", job, "", "high" if len(found) > 1 else "medium",
            f"Partition '{worst['partition_key']}'{several} of '{job}' failed again and again, {worst['failures']:,} times, "
            "and has not succeeded since.",
            {
                "partitions": len(found), "partition_key": worst["partition_key"], "failures": worst["failures"],
                "lost_s": sum(row["lost_s"] or 0.0 for row in found), "lost_usd": sum(row["lost_usd"] or 0.0 for row in found),
            },
            one(sql, job_name=job),
        )  # fmt: skip


def _late(con: Connection, now: datetime) -> Iterator[Finding]:
    sql = f"""
        select job_name, count(*) as runs, count(*) filter (ended_at > deadline_at) as missed,
            sum(epoch(ended_at) - epoch(deadline_at)) filter (ended_at > deadline_at) as lost_s,
            median(epoch(ended_at) - epoch(deadline_at)) filter (ended_at > deadline_at) as late_s,
            max(created_at) filter (ended_at > deadline_at) as last_at
        from {runs_before(now)} where deadline_at is not null and outcome is not null group by job_name"""
    for row in rows(con, sql):
        share = row["missed"] / row["runs"]
        if row["missed"] < LEAST_MISSED or share < LEAST_MISSED_SHARE:
            continue
        yield Finding(
            "missed_deadlines", row["job_name"], "", "high" if share >= 0.5 else "medium",
            f"{row['missed']:,} of {row['runs']:,} runs of '{row['job_name']}' missed their deadline, by {say_seconds(row['late_s'])} "
            f"in the middle; the last one was asked for {row['last_at']:%Y-%m-%d %H:%M}.",
            {
                "missed_runs": row["missed"], "runs": row["runs"], "missed_share": share, "late_s": row["late_s"],
                "lost_s": row["lost_s"],
            },
            one(sql, job_name=row["job_name"]),
        )  # fmt: skip
