"""What is a workflow? One validated, frozen value; every way in (YAML, JSON, Python) makes the same one."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from workflows_pkg.spec.durations import Duration

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
AssetPath = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*$", max_length=200)]
KindName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=80)]
Expression = Annotated[str, StringConstraints(pattern=r"^\$\{\{[^{}]{1,500}\}\}$")]


class Part(BaseModel):
    """Common behaviour of every part of a spec: unknown fields refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Window(Part):
    """The time that partitions cover."""

    start: date = Field(description="First day, inclusive.")
    end: date | None = Field(None, description="Day after the last, exclusive; left out: up to now.")
    timezone: str = Field("UTC", description="IANA time zone in which days and months begin.")


class Partitions(Part):
    """The slices a workflow is run for, one run each. Exactly one of the fields is given."""

    daily: Window | None = Field(None, description="One partition a day, keyed YYYY-MM-DD.")
    monthly: Window | None = Field(None, description="One partition a month, keyed by its first day, YYYY-MM-01.")


class Schedule(Part):
    """When the workflow is run by the clock."""

    cron: str = Field(description="Five cron fields: minute, hour, day of month, month, day of week.")
    timezone: str = Field("UTC", description="IANA time zone in which the cron fields are read.")
    run: Literal["next_missing_partition", "latest_partition"] = Field(
        "next_missing_partition",
        description="Which partition a tick asks for; without partitions every tick asks for one run.",
    )


class FileArrival(Part):
    """A run for every new or changed file that matches a pattern."""

    path: str = Field(description="Pattern below the instance's data folder, such as inbox/*.csv.", max_length=300)
    every: Duration = Field(timedelta(seconds=30), description="Time between two looks.")


class Sensor(Part):
    """What the workflow is run upon seeing."""

    file_arrival: FileArrival = Field(description="A file that appears or changes.")


class Retry(Part):
    """Whether and when a failed attempt is followed by another in the same run."""

    attempts: int = Field(description="Attempts in all, the first included.", ge=1, le=20)
    delay: Duration = Field(timedelta(seconds=1), description="Wait before the second attempt.")
    backoff: Literal["constant", "linear", "exponential"] = Field(
        "constant", description="How the wait grows from attempt to attempt."
    )
    jitter: Literal["none", "full", "plus_minus"] = Field(
        "none", description="full: uniform between zero and the wait; plus_minus: up to the wait more or less."
    )
    on: tuple[str, ...] = Field(
        (), description="Names of error classes (or their parents) that are retried; empty: every error."
    )


class RowCount(Part):
    """Bounds on a table's number of rows."""

    min: int | None = Field(None, ge=0, description="Fewest rows allowed.")
    max: int | None = Field(None, ge=0, description="Most rows allowed.")


class Between(Part):
    """Bounds on the values of one column; missing values are not looked at."""

    column: str = Field(description="Column name.")
    min: float | None = Field(None, description="Smallest value allowed.")
    max: float | None = Field(None, description="Largest value allowed.")


class Check(Part):
    """A test on the table a step produces. Exactly one of rows, not_null, unique, between is given."""

    rows: RowCount | None = Field(None, description="Bounds on the number of rows.")
    not_null: tuple[str, ...] | None = Field(None, description="Columns without missing values.")
    unique: tuple[str, ...] | None = Field(None, description="Columns that together identify a row.")
    between: Between | None = Field(None, description="Bounds on the values of a column.")
    severity: Literal["error", "warn"] = Field(
        "error", description="error: a failed check stops what comes after; warn: it is recorded only."
    )


class Step(Part):
    """One unit of work: a step kind with its parameters."""

    uses: KindName = Field(description="The step kind, such as data.sql.")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="The step kind's parameters.")
    needs: tuple[Name, ...] = Field((), description="Steps whose outputs this step takes; it runs after them.")
    if_: Expression | None = Field(None, alias="if", description="Run only where this is true.")
    produces: AssetPath | None = Field(None, description="Asset key under which the output is kept.")
    checks: tuple[Check, ...] = Field((), description="Tests on the output; needs produces.")
    retry: Retry | None = Field(None, description="Further attempts after a failure.")
    timeout: Duration | Literal["auto"] | None = Field(
        None, description="Longest time of one attempt; auto: learned from history when a version is published."
    )


class OnFailure(Part):
    """What is done when a step has failed for good."""

    uses: KindName = Field(description="The step kind.")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="The step kind's parameters.")


class Workflow(Part):
    """A named graph of steps with its automation and limits."""

    workflow: Name = Field(description="Name of the workflow, unique in the code location.")
    description: str = Field("", max_length=2000, description="What it is for, in a sentence.")
    owner: str | None = Field(None, max_length=100, description="Team or person who answers for it.")
    partitions: Partitions | None = Field(None, description="The slices it is run for.")
    schedule: Schedule | None = Field(None, description="When it is run by the clock.")
    sensor: Sensor | None = Field(None, description="What it is run upon seeing.")
    steps: dict[Name, Step] = Field(min_length=1, description="The steps by name.")
    on_failure: OnFailure | None = Field(None, description="What is done when a step has failed for good.")
