"""What is a workflow? One validated, frozen value; every way in (YAML, JSON, Python) makes the same one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic_core import InitErrorDetails, PydanticCustomError

from workflows_pkg.errors import bounded, suggestion
from workflows_pkg.spec.cron import check_cron
from workflows_pkg.spec.deadlines import DeadlineText
from workflows_pkg.spec.durations import Duration, PositiveDuration
from workflows_pkg.spec.mistakes import UnfitError
from workflows_pkg.spec.rules import mistakes

NAME = r"^[a-z][a-z0-9_]{0,62}$"
ASSET_PATH = r"^[a-z0-9_]+(/[a-z0-9_]+)*$"
KIND_NAME = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$"
EXPRESSION = r"^\$\{\{[^{}]{1,500}\}\}$"
ERROR_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"

EXAMPLE: dict[str, Any] = {
    "workflow": "flights_daily",
    "description": "Daily departures, cleaned and checked.",
    "owner": "data-team",
    "partitions": {"daily": {"start": "2013-01-01", "end": "2014-01-01"}},
    "schedule": {"cron": "0 6 * * *", "timezone": "America/New_York"},
    "steps": {
        "departures": {"uses": "data.read_table", "with": {"source": "flights"}},
        "clean": {
            "uses": "data.sql",
            "needs": ["departures"],
            "with": {"query": "select * from departures where dep_time is not null"},
            "produces": "flights/clean",
            "checks": [{"rows": {"min": 100}}],
            "retry": {"attempts": 3, "delay": "1s", "backoff": "exponential"},
            "timeout": "5m",
        },
    },
}
"""A workflow for the JSON Schema and the reference."""

_PARTITIONS_SCHEMA: JsonDict = {
    "oneOf": [{"required": ["daily"]}, {"required": ["monthly"]}],
    "examples": [{"daily": {"start": "2013-01-01", "end": "2014-01-01"}}],
}
_CHECK_SCHEMA: JsonDict = {
    "oneOf": [{"required": [name]} for name in ("rows", "not_null", "unique", "between")],
    "examples": [{"rows": {"min": 100}}, {"not_null": ["carrier", "dest"], "severity": "warn"}],
}


@cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def _timezone(name: str) -> str:
    if name not in _timezones():
        fix = nearest_timezone(name)
        raise UnfitError(f"expected an IANA time zone, found '{bounded(name)}'.", fix)
    return name


def nearest_timezone(name: str) -> str:
    """'Did you mean …?' among the IANA names; a city alone is enough to be understood."""
    city = name.rsplit("/", 1)[-1].lower().replace(" ", "_")
    same_city = sorted(zone for zone in _timezones() if zone.rsplit("/", 1)[-1].lower() == city)
    return f"Did you mean '{same_city[0]}'?" if same_city else suggestion(name[:60], sorted(_timezones()))


def _below_data_folder(pattern: str) -> str:
    path = PurePosixPath(pattern)
    if not pattern or path.is_absolute() or ".." in path.parts or "\\" in pattern:
        raise UnfitError(f"expected a pattern below the data folder, found '{bounded(pattern)}'.", "Example: inbox/*.csv")
    return pattern


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    repeated = next((value for value, count in Counter(values).items() if count > 1), None)
    if repeated is not None:
        raise UnfitError(f"'{bounded(repeated)}' is given twice.", "Keep one of them.")
    return values


def _exactly_one(part: BaseModel, names: Iterable[str]) -> None:
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        raise UnfitError(f"expected exactly one of {', '.join(names)}, found {' and '.join(given) or 'none'}.")


def _bounds(part: RowCount | Between) -> None:
    if part.min is None and part.max is None:
        raise UnfitError("expected min, max or both, found none.")
    if part.min is not None and part.max is not None and part.min > part.max:
        raise UnfitError(f"min {part.min} is above max {part.max}.", "Exchange them.")


Name = Annotated[str, StringConstraints(pattern=NAME)]
AssetPath = Annotated[str, StringConstraints(pattern=ASSET_PATH, max_length=200)]
KindName = Annotated[str, StringConstraints(pattern=KIND_NAME, max_length=80)]
Expression = Annotated[str, StringConstraints(pattern=EXPRESSION)]
ErrorName = Annotated[str, StringConstraints(pattern=ERROR_NAME)]
Timezone = Annotated[str, AfterValidator(_timezone)]
Cron = Annotated[str, AfterValidator(check_cron)]
Pattern = Annotated[str, AfterValidator(_below_data_folder)]
Columns = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_once)]


class Part(BaseModel):
    """Common behaviour of every part of a spec: unknown fields refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Window(Part):
    """The time that partitions cover."""

    start: date = Field(description="First day, inclusive.")
    end: date | None = Field(None, description="Day after the last, exclusive; left out: up to now.")
    timezone: Timezone = Field("UTC", description="IANA time zone in which days and months begin.")

    @model_validator(mode="after")
    def _ends_after_start(self) -> Self:
        if self.end is not None and self.end <= self.start:
            raise UnfitError(
                f"the end {self.end} is not after the start {self.start}.", "The end is exclusive: the day after the last."
            )
        return self


class Partitions(Part):
    """The slices a workflow is run for, one run each. Exactly one of the fields is given."""

    model_config = ConfigDict(json_schema_extra=_PARTITIONS_SCHEMA)

    daily: Window | None = Field(None, description="One partition a day, keyed YYYY-MM-DD.")
    monthly: Window | None = Field(None, description="One partition a month, keyed by its first day, YYYY-MM-01.")

    @model_validator(mode="after")
    def _has_one_kind(self) -> Self:
        _exactly_one(self, ("daily", "monthly"))
        return self


class Schedule(Part):
    """When the workflow is run by the clock."""

    cron: Cron = Field(
        description="Five cron fields: minute, hour, day of month, month, day of week.",
        examples=["0 6 * * *", "*/5 * * * mon-fri"],
    )
    timezone: Timezone = Field("UTC", description="IANA time zone in which the cron fields are read.")
    run: Literal["next_missing_partition", "latest_partition"] = Field(
        "next_missing_partition",
        description="Which partition a tick asks for; without partitions every tick asks for one run.",
    )


class FileArrival(Part):
    """A run for every new or changed file that matches a pattern."""

    path: Pattern = Field(description="Pattern below the instance's data folder, such as inbox/*.csv.", max_length=300)
    every: PositiveDuration = Field(timedelta(seconds=30), description="Time between two looks.")


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
    on: Annotated[tuple[ErrorName, ...], AfterValidator(_once)] = Field(
        (), description="Names of error classes (or their parents) that are retried; empty: every error."
    )


class RowCount(Part):
    """Bounds on a table's number of rows."""

    min: int | None = Field(None, ge=0, description="Fewest rows allowed.")
    max: int | None = Field(None, ge=0, description="Most rows allowed.")

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        _bounds(self)
        return self


class Between(Part):
    """Bounds on the values of one column; missing values are not looked at."""

    column: str = Field(description="Column name.")
    min: float | None = Field(None, description="Smallest value allowed.")
    max: float | None = Field(None, description="Largest value allowed.")

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        _bounds(self)
        return self


class Check(Part):
    """A test on the table a step produces. Exactly one of rows, not_null, unique, between is given."""

    model_config = ConfigDict(json_schema_extra=_CHECK_SCHEMA)

    rows: RowCount | None = Field(None, description="Bounds on the number of rows.")
    not_null: Columns | None = Field(None, description="Columns without missing values.")
    unique: Columns | None = Field(None, description="Columns that together identify a row.")
    between: Between | None = Field(None, description="Bounds on the values of a column.")
    severity: Literal["error", "warn"] = Field(
        "error", description="error: a failed check stops what comes after; warn: it is recorded only."
    )

    @model_validator(mode="after")
    def _has_one_kind(self) -> Self:
        _exactly_one(self, ("rows", "not_null", "unique", "between"))
        return self


class Step(Part):
    """One unit of work: a step kind with its parameters."""

    uses: KindName = Field(description="The step kind.", examples=["data.sql", "python"])
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="The step kind's parameters.")
    needs: tuple[Name, ...] = Field((), description="Steps whose outputs this step takes; it runs after them.")
    if_: Expression | None = Field(
        None, alias="if", description="Run only where this is true.", examples=["${{ steps.score.late_share > 0.3 }}"]
    )
    produces: AssetPath | None = Field(None, description="Asset key under which the output is kept.", examples=["flights/clean"])
    checks: tuple[Check, ...] = Field((), description="Tests on the output; needs produces.")
    retry: Retry | None = Field(None, description="Further attempts after a failure.")
    timeout: PositiveDuration | Literal["auto"] | None = Field(
        None, description="Longest time of one attempt; auto: learned from history when a version is published."
    )


class OnFailure(Part):
    """What is done when a step has failed for good."""

    uses: KindName = Field(description="The step kind.")
    with_: dict[str, Any] = Field(default_factory=dict, alias="with", description="The step kind's parameters.")


class Budget(Part):
    """What may be spent."""

    usd_per_run: float = Field(gt=0, le=1e9, allow_inf_nan=False, description="USD for one run, by the rate card.")


class Workflow(Part):
    """A named graph of steps with its automation and limits. Building one checks everything that needs no step kinds."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    workflow: Name = Field(description="Name of the workflow, unique in the code location.")
    description: str = Field("", max_length=2000, description="What it is for, in a sentence.")
    owner: str | None = Field(None, max_length=100, description="Team or person who answers for it.")
    partitions: Partitions | None = Field(None, description="The slices it is run for.")
    schedule: Schedule | None = Field(None, description="When it is run by the clock.")
    sensor: Sensor | None = Field(None, description="What it is run upon seeing.")
    deadline: DeadlineText | None = Field(
        None,
        description="By when a run should have ended: so long after it was asked for (30m), or a time of day with its zone "
        "(07:00 Europe/Berlin). Runs say how likely they miss it, before they start and while they run; missing it stops nothing.",
    )
    budget: Budget | None = Field(
        None,
        description="What a run may cost. It is refused where it is sure to cost more, and stopped between steps before it has.",
    )
    steps: dict[Name, Step] = Field(
        min_length=1, description="The steps by name.", json_schema_extra={"additionalProperties": False}
    )
    on_failure: OnFailure | None = Field(None, description="What is done when a step has failed for good.")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        errors = [
            InitErrorDetails(
                type=PydanticCustomError("mistake", "{message}", {"message": mistake.message, "mistake": mistake}),
                loc=mistake.path,
                input=None,
            )
            for mistake in mistakes(self.model_dump(by_alias=True))
        ]
        if errors:
            raise ValidationError.from_exception_data("Workflow", errors)
        return self
