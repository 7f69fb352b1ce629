"""What happens in one attempt of one step? `if`, parameters, the step kind in its time, checks; then what Dagster is told."""

# No `from __future__ import annotations`: Dagster compares the annotation of an op's context with classes, not with text.
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
from pydantic import BaseModel, ValidationError

from workflows_pkg.errors import CodeProblem, DataProblem, bounded, suggestion
from workflows_pkg.orchestration.budget import stop_where_spent
from workflows_pkg.orchestration.checks import CheckOutcome, as_results, evaluate
from workflows_pkg.orchestration.limits import Stops, limited
from workflows_pkg.orchestration.masking import masked
from workflows_pkg.orchestration.metering import begin, report
from workflows_pkg.orchestration.partitions import partition_slice
from workflows_pkg.orchestration.retries import for_dagster, is_retried
from workflows_pkg.orchestration.scope import run_scope, step_fields
from workflows_pkg.orchestration.version_tags import DIGEST_TAG, VERSION_TAG, WORKFLOW_TAG
from workflows_pkg.security.allow import Allow
from workflows_pkg.security.secrets import Secrets
from workflows_pkg.spec.expressions import resolve
from workflows_pkg.spec.model import Step
from workflows_pkg.spec.used import EXPECTED, FIGURES, added, figure
from workflows_pkg.steps.contract import PartitionSlice, StepContext, StepKind, StepValue
from workflows_pkg.steps.values import step_value

VALUE = "value"
"""Name of the op output that carries what the step gives."""
DECIDED = "decided"
"""Name of the op output of a conditional step that says only that its `if` was answered."""


@dataclass(frozen=True)
class StepPlan:
    """All that the body of one step knows before it runs. `asset`: key of what it produces; `secrets`: the granted ones."""

    workflow: str
    name: str
    step: Step
    kind: StepKind[Any]
    allow: Allow
    secrets: Secrets
    partitions: dg.TimeWindowPartitionsDefinition | None
    asset: dg.AssetKey | None
    version: int
    digest: str


@dataclass(frozen=True)
class _Attempt:
    """How an attempt ended. `ran` is False where `if` said no."""

    ran: bool = True
    value: StepValue = None
    outcomes: tuple[CheckOutcome, ...] = ()
    error: Exception | None = None


def step_function(plan: StepPlan) -> Callable[..., Iterator[object]]:
    """The function of the step's op: yields check results and the output, or raises what makes Dagster retry or fail."""

    def body(context: dg.OpExecutionContext, inputs: Mapping[str, Any]) -> Iterator[object]:
        stop_where_spent(context)
        attempt = _metered_attempt(plan, context, {name.removeprefix("from_"): value for name, value in inputs.items()})
        if plan.asset is not None:
            yield from as_results(attempt.outcomes, plan.asset)
        if attempt.error is not None:
            raise attempt.error
        if plan.step.if_ is not None:
            yield dg.Output(None, DECIDED)
        if attempt.ran:
            yield dg.Output(attempt.value, VALUE)

    return body


def parameters(kind: StepKind[Any], with_: Mapping[str, Any], scope: Mapping[str, Any], where: str) -> BaseModel:
    """The step kind's parameters with every expression resolved. Raises CodeProblem that names the field, never its value."""
    values = resolve(dict(with_), scope)
    try:
        return kind.params.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, ("with", *first["loc"])))
        raise CodeProblem(f"{where}: {field}: {first['msg']}.", fix=f"See the parameters of '{kind.name}'.") from None


def _metered_attempt(plan: StepPlan, context: dg.OpExecutionContext, inputs: Mapping[str, StepValue]) -> _Attempt:
    _record_version(plan, context)
    mark = begin()
    number = context.retry_number + 1
    used: dict[str, int] = {}
    ended = _attempt(plan, context, inputs, number, used)
    report(context, mark, number, failed=ended.error is not None, used=used)
    return ended


def _record_version(plan: StepPlan, context: dg.OpExecutionContext) -> None:
    """Has the run say which version runs, where it does not.

    Another one became active after it was asked for, or it was asked for by its assets ("Materialize") and not by the job. A run
    of several workflows keeps what the first one said.
    """
    tags = context.run.tags
    if tags.get(WORKFLOW_TAG, plan.workflow) == plan.workflow and tags.get(DIGEST_TAG) != plan.digest:
        said = {WORKFLOW_TAG: plan.workflow, VERSION_TAG: str(plan.version), DIGEST_TAG: plan.digest}
        context.instance.add_run_tags(context.run_id, said)


def _attempt(
    plan: StepPlan, context: dg.OpExecutionContext, inputs: Mapping[str, StepValue], number: int, used: dict[str, int]
) -> _Attempt:
    outcomes: list[CheckOutcome] = []
    try:
        partition = partition_slice(plan.partitions, context.partition_key if context.has_partition_key else None)
        scope = run_scope(context.run_id, context.run.tags, partition, plan.secrets.value)
        scope["steps"] = {name: step_fields(value) for name, value in inputs.items()}
        if plan.step.if_ is not None and not _holds(plan.step.if_, scope, plan.name):
            context.log.info(f"Not run: {plan.step.if_} is false.")
            return _Attempt(ran=False)
        value = step_value(_run(plan, context, inputs, number, partition, scope, used), f"Step '{plan.name}'")
        outcomes.extend(evaluate(plan.step.checks, value, plan.name))
        broken = [outcome for outcome in outcomes if not outcome.passed and outcome.severity == "error"]
        if broken:
            raise DataProblem(f"Check '{broken[0].name}' of step '{plan.name}' did not pass: {broken[0].finding}")
        return _Attempt(value=value, outcomes=tuple(outcomes))
    except Exception as error:  # noqa: BLE001 - a step kind is plugin code and may raise anything; Dagster is told below
        retry = plan.step.retry
        shown = masked(error, plan.secrets.mask)
        told = for_dagster(error, retry is not None and is_retried(error, retry), retry, number, shown)
        return _Attempt(outcomes=tuple(outcomes), error=told)


def _run(
    plan: StepPlan,
    context: dg.OpExecutionContext,
    inputs: Mapping[str, StepValue],
    number: int,
    partition: PartitionSlice | None,
    scope: Mapping[str, Any],
    used: dict[str, int],
) -> StepValue:
    params = parameters(plan.kind, plan.step.with_, scope, f"Step '{plan.name}'")
    timeout = plan.step.timeout if isinstance(plan.step.timeout, timedelta) else None
    stops = Stops()
    step_context = StepContext(
        workflow=plan.workflow,
        step=plan.name,
        run_id=context.run_id,
        attempt=number,
        partition=partition,
        inputs=inputs,
        allow=plan.allow,
        secret=plan.secrets.value,
        log=lambda line: context.log.info(plan.secrets.mask(line)),
        timeout_s=None if timeout is None else timeout.total_seconds(),
        on_stop=stops.register,
        used=_counter(used, plan.name, context),
    )
    return limited(lambda: plan.kind.run(step_context, params), timeout, stops, plan.name)


def _counter(used: dict[str, int], step: str, context: dg.OpExecutionContext) -> Callable[[str, int], None]:
    def count(name: str, number: int) -> None:
        if name not in FIGURES:
            fix = suggestion(bounded(name), FIGURES) or f"There are: {', '.join(FIGURES)}."
            raise CodeProblem(f"Step '{step}' says that it used '{bounded(name)}', which is nothing that is counted.", fix=fix)
        if figure(number) is None:
            context.log.warning(f"Step '{step}': {name} is not counted: expected {EXPECTED}.")
        else:
            added(used, {name: int(number)})

    return count


def _holds(condition: str, scope: Mapping[str, Any], step: str) -> bool:
    answer = resolve(condition, scope)
    if not isinstance(answer, bool):
        found = bounded(type(answer).__name__)  # the type only: the value may be a secret
        raise CodeProblem(
            f"Step '{step}': 'if' gave a value of type {found}, not true or false.", fix="Compare it with something."
        )
    return answer
