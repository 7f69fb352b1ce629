"""What is a step kind? A name, a model of its parameters, and one function from inputs to an output.

A plugin exposes a `StepKind` under the entry-point group `workflows_pkg.steps`:

    [project.entry-points."workflows_pkg.steps"]
    "demo.shout" = "my_package.steps:SHOUT"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict

from workflows_pkg.security.allow import Allow

JsonValue = None | bool | int | float | str | list[Any] | dict[str, Any]
StepValue = pd.DataFrame | JsonValue | bytes
"""What travels between steps: a table (kept as Parquet), a JSON value (kept as JSON) or bytes. Never a pickle."""

Params = TypeVar("Params", bound=BaseModel)


class Parameters(BaseModel):
    """Base of the parameter models: unknown parameters refused, values frozen, and no value repeated in an error text."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)


@dataclass(frozen=True)
class Literally:
    """Marks a parameter in which `${{ … }}` is refused, because its text is code.

    `query: Annotated[str, Literally("bind the value under params")]`
    """

    instead: str
    """What the author can do instead, such as 'bind values under params'."""


@dataclass(frozen=True)
class FromSecret:
    """Marks a parameter whose value is one expression `${{ secrets.name }}`, never written in the file."""

    secret_only: bool = True
    """What the loader of workflow files looks for; it does not import this package."""


@dataclass(frozen=True)
class TakesSecret:
    """Marks a parameter in which `${{ secrets.name }}` may stand; in any other the loader refuses it.

    `headers: Annotated[dict[str, str], TakesSecret()]`

    For what goes out and does not come back: what a step returns is kept in clear.
    """

    takes_secret: bool = True
    """What the loader looks for, as above."""


@dataclass(frozen=True)
class PartitionSlice:
    """The slice of one run: its Dagster key and the time it covers, start inclusive, end exclusive, zone-aware."""

    key: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class StepContext:
    """What a step kind is given besides its parameters.

    inputs: outputs of the needed steps, by step name; a needed step without an output is None.
    attempt: 1 for the first.
    timeout_s: seconds this attempt may take, None: no limit; kinds that can pass a limit on should.
    secret: value of a granted secret by name; raises SetupError or Refused. Never log what it returns.
    log: one line into the run's log; secrets in it are masked.
    used: adds to what the attempt is charged for: input_tokens, output_tokens, moved_bytes or calls, and how many (`spec.used`).
    on_stop: registers a function that is called when the attempt is stopped by its timeout (such as `connection.interrupt`).
    """

    workflow: str
    step: str
    run_id: str
    attempt: int
    partition: PartitionSlice | None
    inputs: Mapping[str, StepValue]
    allow: Allow
    secret: Callable[[str], str]
    log: Callable[[str], None]
    timeout_s: float | None = None
    on_stop: Callable[[Callable[[], None]], None] = field(default=lambda stop: None)
    used: Callable[[str, int], None] = field(default=lambda figure, count: None)


@dataclass(frozen=True)
class StepKind(Generic[Params]):
    """One way to perform a step.

    name: what workflow files write under `uses`.
    summary: one sentence for the reference.
    params: pydantic model of `with`; unknown fields should be forbidden. Every field has a description.
    run: does the work. Raises an error of `workflows_pkg.errors.StepError` for what it can foresee.
    example: a `with` mapping that validates, shown in the reference.
    extra: the optional extra it needs, None where the plain install suffices.
    """

    name: str
    summary: str
    params: type[Params]
    run: Callable[[StepContext, Params], StepValue]
    example: Mapping[str, Any]
    extra: str | None = None
