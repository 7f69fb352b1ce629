"""Which sums of the history are kept ready, so that questions about years of it are answered at once?

Each is kept by `rollups` in the transaction that changes the rows it sums up. A key may have several rows, some of them below zero:
what is taken back is written as its opposite. Only sums over rows mean something. `workflow` is the job where none was compiled.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import ClassVar

from pydantic import Field

from workflows_pkg.history.records import RECORDS, Record

_WORKFLOW = "The workflow, or the job where it was not compiled from one."
_TRIAL = "Whether a trial made the runs."
_DAY_OF_ATTEMPT = "UTC day on which the attempt began, or where that is unknown ended; 1970-01-01 where both are."
_BIN = "Number of the bin of seconds: 0 up to 1 ms, then each 2.02 % wider, see workflows_pkg/history/bins.py."


class Rollup(Record):
    """Sums by `key`, in whose order rows are kept. Columns in `latest` are of the newest row instead of summed up."""

    latest: ClassVar[tuple[str, ...]] = ()


class RunDay(Rollup):
    """Sums over runs by day, workflow, owner and outcome; add rows up, a key may have several."""

    table: ClassVar[str] = "run_days"
    key: ClassVar[tuple[str, ...]] = ("asked_on", "workflow", "owner", "outcome", "trial")

    asked_on: date = Field(description="UTC day on which the runs were asked for.")
    workflow: str = Field(description=_WORKFLOW)
    owner: str = Field(description="Who answers for it; empty: unknown.")
    outcome: str = Field(description="success, failure, canceled or open.")
    trial: bool = Field(description=_TRIAL)
    runs: int = Field(description="How many.")
    priced_runs: int = Field(description="Those whose cost is known.")
    cost_nusd: int = Field(description="What they cost, in billionths of a USD.")
    deadline_runs: int = Field(description="Those that had a deadline.")
    missed_runs: int = Field(description="Those that ended after it.")
    late_us: int = Field(description="By how much, in microseconds.")


class QueueTimeBin(Rollup):
    """Runs by how long they were queued, by hour and workflow; add rows up, a key may have several."""

    table: ClassVar[str] = "queue_time_bins"
    key: ClassVar[tuple[str, ...]] = ("hour", "workflow", "trial", "bin")

    hour: datetime = Field(description="Begin of the UTC hour in which the runs were asked for.")
    workflow: str = Field(description=_WORKFLOW)
    trial: bool = Field(description=_TRIAL)
    bin: int = Field(description=_BIN)
    runs: int = Field(description="How many; those whose queue time is unknown are left out.")
    queue_us: int = Field(description="Their queue time, in microseconds.")


class StepDay(Rollup):
    """Sums over the attempts of a step by day; add rows up, a key may have several."""

    table: ClassVar[str] = "step_days"
    key: ClassVar[tuple[str, ...]] = ("workflow", "step", "trial", "begun_on")

    workflow: str = Field(description=_WORKFLOW)
    step: str = Field(description="The step.")
    trial: bool = Field(description=_TRIAL)
    begun_on: date = Field(description=f"{_DAY_OF_ATTEMPT} What is said of retries is filed under the first attempt.")
    attempts: int = Field(description="Attempts that were not skipped and whose run time is known.")
    run_us: int = Field(description="Their run time, in microseconds.")
    retries: int = Field(description="Attempts that were followed by another.")
    rescued_runs: int = Field(description="Retried steps of runs that succeeded after all, mapped copies each for itself.")
    lost_runs: int = Field(description="Retried steps of runs that failed or were canceled in the end.")
    timed_retries: int = Field(description="Retries whose run time is known.")
    wasted_us: int = Field(description="Their run time, in microseconds.")
    waited_retries: int = Field(description="Retries of which is known how long they were waited for.")
    waited_us: int = Field(description="How long, in microseconds.")
    priced_retries: int = Field(description="Retries whose cost is known.")
    wasted_nusd: int = Field(description="Their cost, in billionths of a USD.")


class StepTimeBin(Rollup):
    """Attempts of a step by how long they ran, by day; add rows up, a key may have several."""

    table: ClassVar[str] = "step_time_bins"
    key: ClassVar[tuple[str, ...]] = ("workflow", "step", "trial", "begun_on", "bin")

    workflow: str = Field(description=_WORKFLOW)
    step: str = Field(description="The step.")
    trial: bool = Field(description=_TRIAL)
    begun_on: date = Field(description=_DAY_OF_ATTEMPT)
    bin: int = Field(description=_BIN)
    attempts: int = Field(description="Attempts that were not skipped and whose run time is known.")


class StepMonthBin(Rollup):
    """Attempts of a step by how long they ran, by month: `step_time_bins` for long times; add rows up, a key may have several."""

    table: ClassVar[str] = "step_month_bins"
    key: ClassVar[tuple[str, ...]] = ("workflow", "step", "trial", "month", "bin")

    workflow: str = Field(description=_WORKFLOW)
    step: str = Field(description="The step.")
    trial: bool = Field(description=_TRIAL)
    month: date = Field(description=f"First day of the month. {_DAY_OF_ATTEMPT}")
    bin: int = Field(description=_BIN)
    attempts: int = Field(description="Attempts that were not skipped and whose run time is known.")


class FailureDay(Rollup):
    """Failed attempts by day, step, cause and error class; add rows up, a key may have several."""

    table: ClassVar[str] = "failure_days"
    key: ClassVar[tuple[str, ...]] = ("begun_on", "workflow", "step", "failure_cause", "error_class", "trial")
    latest: ClassVar[tuple[str, ...]] = ("last_at", "last_message")

    begun_on: date = Field(description=_DAY_OF_ATTEMPT)
    workflow: str = Field(description=_WORKFLOW)
    step: str = Field(description="The step.")
    failure_cause: str = Field(description="code, data, timeout, memory, dependency, infrastructure or unknown.")
    error_class: str = Field(description="Innermost error class; empty: unknown.")
    trial: bool = Field(description=_TRIAL)
    failures: int = Field(description="How many.")
    final: int = Field(description="Those without a further attempt.")
    last_at: datetime | None = Field(None, description="When the newest of them ended.")
    last_message: str | None = Field(None, description="Its message, cut.")


class RunningMinute(Rollup):
    """By how much the number of running runs and attempts changed in a minute; add rows up, a key may have several."""

    table: ClassVar[str] = "running_minutes"
    key: ClassVar[tuple[str, ...]] = ("minute",)

    minute: datetime = Field(description="Begin of the minute, UTC.")
    runs: int = Field(
        description="Runs that started minus runs that ended; all before add up to what runs at the end of the minute."
    )
    runs_us: int = Field(
        description="What these changes add to the microseconds that runs ran in this minute, beside a minute for each that ran before."
    )
    attempts: int = Field(description="The same of attempts, skipped ones left out.")
    attempts_us: int = Field(description="The same of attempts.")


ROLLUPS: tuple[type[Rollup], ...] = (
    RunDay,
    QueueTimeBin,
    StepDay,
    StepTimeBin,
    StepMonthBin,
    FailureDay,
    RunningMinute,
)
"""Every rollup."""

TABLES: tuple[type[Record], ...] = (*RECORDS, *ROLLUPS)
"""Every table of the history, in the order of the data dictionary."""
