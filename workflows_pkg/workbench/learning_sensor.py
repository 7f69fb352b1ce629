"""When is it time to learn again? A running sensor that asks for the learning run where there is news, and says why not where not.

It keeps nothing: what the last training had seen is on the predictors' card, and how the last learning run went is in the instance. So
a training from the command line counts as well, and a learning run that failed is made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.orchestration.own import LEARNING_JOB
from workflows_pkg.workbench.assets import IN_MEMORY, home_of
from workflows_pkg.workbench.news import Trained, ended_runs, last_training

EVERY_S = 30
"""Seconds between looks: one small query on the history, some 50 ms."""

ENOUGH_NEWS = 50
"""New runs after which to learn at once: a backfill, or a busy hour, whose watcher wants forecasts from it before the hour is over."""

AT_LEAST_EVERY = timedelta(hours=1)
"""With any news at all, learn this often: a forecast older than that misses what somebody has changed since. Also the time until a
learning run that came to nothing is made again.
"""

REST = 9
"""After a training wait this many times what the last one took: on an instance with thousands of runs an hour, which always has news
enough, learning takes at most a tenth of the time of one process.
"""

LOST_AFTER = timedelta(hours=1)
"""A learning run that says for so long that it runs has lost its process; Dagster may never notice. One in the queue is waited for."""

_QUEUED = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
_OPEN = (*_QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


@dataclass(frozen=True)
class LastRun:
    """The newest learning run that was asked for. `changed`: when its status last did; `took`: from start to end, where both are known."""

    run_id: str
    status: dg.DagsterRunStatus
    asked: datetime
    changed: datetime
    took: timedelta | None = None


def why_not(ended: int, trained: Trained, last: LastRun | None, now: datetime) -> str | None:
    """Why not to learn now, in a sentence; None: it is time. `ended`: runs that have ended and landed, the learning's own left out.

    >>> moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    >>> why_not(12, Trained(10, moment), None, moment + timedelta(minutes=5))
    '2 new runs since the training of 2026-01-01 12:00 UTC; the next is at 50 new ones, or at 13:00 UTC.'
    >>> why_not(60, Trained(10, moment), None, moment + timedelta(minutes=5)) is None
    True
    """
    if last is not None and last.status in _OPEN and (last.status in _QUEUED or now - last.changed < LOST_AFTER):
        return f"The learning run {last.run_id[:8]} is {'waiting' if last.status in _QUEUED else 'in progress'}."
    if ended == 0:
        return "No run has ended and landed yet; there is nothing to learn from."
    news = abs(ended - trained.ended_runs)  # fewer than before: the history was begun anew
    if trained.at is not None and news == 0:
        return f"Nothing new since the training of {_at(trained.at)}."
    if last is not None and last.status not in _OPEN and (trained.at is None or trained.at < last.asked):
        again = last.changed + AT_LEAST_EVERY
        return None if now >= again else f"{_came_to_nothing(last)} The next try is at {again:%H:%M} UTC."
    if trained.at is None:
        return None
    due = trained.at + AT_LEAST_EVERY
    said = f"{news} new run{'' if news == 1 else 's'} since the training of {_at(trained.at)}"
    if now >= due or ended < trained.ended_runs:
        return None
    if news < ENOUGH_NEWS:
        return f"{said}; the next is at {ENOUGH_NEWS} new ones, or at {due:%H:%M} UTC."
    rested = last.changed + REST * last.took if last is not None and last.took is not None else now
    if now < rested:
        return f"{said}; learning rests until {rested:%H:%M:%S} UTC, {REST} times as long as it took."
    return None


def learning_sensor(
    instance_home: Path | None = None, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> dg.SensorDefinition:
    """The sensor, running from the start. One state of training and runs asks for one run, whoever evaluates it and however often."""

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason | dg.RunRequest:
        home = instance_home or home_of(context.instance)
        if home is None:
            return dg.SkipReason(IN_MEMORY)
        trained, last = last_training(home), last_run(context.instance)
        try:
            reason = why_not(ended_runs(home), trained, last, clock())
        except WorkflowsError as error:
            return dg.SkipReason(str(error))
        if reason is not None:
            return dg.SkipReason(reason)
        state = f"{trained.at.isoformat() if trained.at else 'never'}, run {last.run_id if last else 'none'}"
        return dg.RunRequest(run_key=f"after training {state}")

    return dg.SensorDefinition(
        name=LEARNING_JOB,
        evaluation_fn=evaluate,
        job_name=LEARNING_JOB,
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Learns from the history: at {ENOUGH_NEWS} new runs, and with any news at least every hour.",
    )


def last_run(instance: dg.DagsterInstance) -> LastRun | None:
    """The newest learning run of the instance, None before the first."""
    for record in instance.get_run_records(dg.RunsFilter(job_name=LEARNING_JOB), limit=1):
        known = record.start_time is not None and record.end_time is not None
        took = timedelta(seconds=(record.end_time or 0) - (record.start_time or 0)) if known else None
        run = record.dagster_run
        return LastRun(run.run_id, run.status, _utc(record.create_timestamp), _utc(record.update_timestamp), took)
    return None


def _came_to_nothing(last: LastRun) -> str:
    if last.status == dg.DagsterRunStatus.SUCCESS:
        return (
            f"The learning run {last.run_id[:8]} succeeded, but left no predictors where this sensor looks: runs and code server need one "
            "and the same DAGSTER_HOME folder."
        )
    return f"The learning run {last.run_id[:8]} {'was canceled' if last.status == dg.DagsterRunStatus.CANCELED else 'failed'}."


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
