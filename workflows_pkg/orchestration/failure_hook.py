"""What is done when a step has failed for good? The step kind of `on_failure` runs; whatever it does changes no outcome."""

from __future__ import annotations

from typing import Any

import dagster as dg

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.orchestration.masking import masked
from workflows_pkg.orchestration.partitions import PARTITION_TAG, partition_slice
from workflows_pkg.orchestration.retries import causes
from workflows_pkg.orchestration.scope import run_scope
from workflows_pkg.orchestration.step_body import parameters
from workflows_pkg.security.allow import Allow
from workflows_pkg.security.secrets import Secrets
from workflows_pkg.spec.model import Workflow
from workflows_pkg.steps.contract import StepContext, StepKind

_LONGEST_TEXT = 1000


def failure_hook(
    name: str,
    workflow: Workflow,
    kind: StepKind[Any],
    allow: Allow,
    secrets: Secrets,
    partitions: dg.TimeWindowPartitionsDefinition | None,
) -> dg.HookDefinition:
    """A hook that Dagster calls after the last attempt of a failed step. An error in it is logged as HOOK_ERRORED, no more.

    It is not called where the step's process vanished: Dagster then has nobody left to call it.
    """
    with_ = {} if workflow.on_failure is None else workflow.on_failure.with_

    @dg.failure_hook(name=f"{name}__on_failure")
    def on_failure(context: dg.HookContext) -> None:
        try:
            run = context.instance.get_run_by_id(context.run_id)
            tags = {} if run is None else dict(run.tags)
            partition = partition_slice(partitions, tags.get(PARTITION_TAG))
            step = context.step_key.rsplit(".", 1)[-1]
            scope = run_scope(context.run_id, tags, partition, secrets.value)
            scope["failure"] = {"step": step, "error": _reason(context.op_exception, secrets), "run": context.run_id}
            params = parameters(kind, with_, scope, "on_failure")
            step_context = StepContext(
                workflow=workflow.workflow,
                step=step,
                run_id=context.run_id,
                attempt=1,
                partition=partition,
                inputs={},
                allow=allow,
                secret=secrets.value,
                log=lambda line: context.log.info(secrets.mask(line)),
            )
            kind.run(step_context, params)
        except Exception as error:  # noqa: BLE001 - plugin code; what leaves here is masked and logged by Dagster
            shown = masked(error, secrets.mask)
        else:
            return
        raise shown

    return on_failure


def _reason(error: BaseException | None, secrets: Secrets) -> str:
    """The first sentence in the chain that was raised on purpose, else the innermost error with its class; cut and masked."""
    if error is None:
        return "unknown"
    chain = [link for link in causes(error) if not isinstance(link, dg.Failure | dg.RetryRequested)] or [error]
    own = next((link for link in chain if isinstance(link, WorkflowsError)), None)
    text = str(own) if own is not None else f"{type(chain[-1]).__name__}: {chain[-1]}"
    return secrets.mask(text)[:_LONGEST_TEXT]
