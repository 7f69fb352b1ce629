"""How does a workflow become Dagster definitions? One graph-backed multi-asset, its job, and what starts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from workflows_pkg.errors import NotFound, SpecError, WorkflowsError
from workflows_pkg.errors import Problem as SpecProblem
from workflows_pkg.orchestration.compiled import CompiledWorkflow
from workflows_pkg.orchestration.crashes import telling_of_crashes
from workflows_pkg.orchestration.described import workflow_metadata
from workflows_pkg.orchestration.failure_hook import failure_hook
from workflows_pkg.orchestration.file_sensor import file_sensor
from workflows_pkg.orchestration.graph import StepGraph, step_graph
from workflows_pkg.orchestration.partitions import partitions_definition
from workflows_pkg.orchestration.schedules import schedule
from workflows_pkg.orchestration.step_body import StepPlan
from workflows_pkg.orchestration.version_tags import BUDGET_TAG, DEADLINE_TAG, DIGEST_TAG, OWNER_TAG, VERSION_TAG, WORKFLOW_TAG
from workflows_pkg.security.allow import Allow
from workflows_pkg.security.secrets import Secrets
from workflows_pkg.spec.canonical import digest as digest_of
from workflows_pkg.spec.deadlines import format_deadline
from workflows_pkg.spec.model import Workflow
from workflows_pkg.steps.contract import StepKind
from workflows_pkg.steps.discovery import StepKinds

STEP_PROCESSES = telling_of_crashes(
    dg.multiprocess_executor.configured({"start_method": {"forkserver": {}}}, name="step_processes")
)
"""One process per step, forked from one that has imported the code location: about 2 s less for each step than a fresh one."""


def compile_workflow(
    workflow: Workflow,
    kinds: StepKinds,
    allow: Allow,
    *,
    version: int = 0,
    digest: str | None = None,
    prefix: str = "",
    home: Path | None = None,
    extra_tags: Mapping[str, str] | None = None,
    file: str | None = None,
) -> CompiledWorkflow:
    """The Dagster definitions of one workflow. Nothing outside of Dagster is touched; what `allow` grants is asked at run time.

    version, digest: of the spec, for the tags of its runs; 0 means that it has no version yet.
    prefix: put before the job's name and every asset key, so that a second version can run beside the first; such a copy has
    neither schedule nor sensor.
    home: where the instance keeps its secrets.
    file: where the workflow was written, for messages.

    Raises SpecError where the workflow cannot become Dagster definitions.
    """
    name = f"{prefix}__{workflow.workflow}" if prefix else workflow.workflow
    where = file or workflow.workflow
    digest = digest or digest_of(workflow)
    partitions = partitions_definition(workflow.partitions)
    if partitions is not None and workflow.sensor is not None:
        text = f"'{workflow.workflow}' has partitions and a file sensor, but a file does not say which partition it is of."
        raise SpecError([SpecProblem(where, 1, 1, text, "Leave one of them out.")])
    secrets = Secrets(allow.secrets, None if home is None else home / "secrets")
    plans = {
        step_name: StepPlan(
            workflow=workflow.workflow,
            name=step_name,
            step=step,
            kind=_kind(kinds, step.uses, where),
            allow=allow,
            secrets=secrets,
            partitions=partitions,
            asset=None if step.produces is None else _key(prefix, *step.produces.split("/")),
            version=version,
            digest=digest,
        )
        for step_name, step in workflow.steps.items()
    }
    try:
        dg.GraphDefinition(name=name)  # Dagster looks at a job's name only where all jobs are resolved, and fails for all then
        own_key = _key(prefix, "workflow", workflow.workflow)
        graph = step_graph(name, f"{name}__v{version}" if version else name, plans, own_key, digest)
        assets = _assets(workflow, graph, partitions, digest, {own_key: workflow_metadata(workflow, version, file)})
        if workflow.on_failure is not None:
            kind = _kind(kinds, workflow.on_failure.uses, where)
            assets = assets.with_hooks({failure_hook(name, workflow, kind, allow, secrets, partitions)})
        tags = {**_run_tags(workflow, version, digest), **(extra_tags or {})}
        job = dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*assets.keys),
            description=workflow.description or None,
            tags=tags,
            executor_def=STEP_PROCESSES,
        )
    except WorkflowsError:
        raise
    except Exception as error:
        # Names that Dagster reserves, and what else it refuses, come as any of a dozen classes, some of them private.
        raise SpecError([SpecProblem(where, 1, 1, f"Dagster refuses the workflow '{workflow.workflow}': {error}.")]) from error
    automatic = not prefix
    return CompiledWorkflow(
        name=name,
        workflow=workflow,
        version=version,
        digest=digest,
        file=where,
        assets=assets,
        job=job,
        schedules=(schedule(workflow, job, partitions),) if automatic and workflow.schedule else (),
        sensors=(file_sensor(workflow, job, allow),) if automatic and workflow.sensor else (),
    )


def _assets(
    workflow: Workflow,
    graph: StepGraph,
    partitions: dg.TimeWindowPartitionsDefinition | None,
    digest: str,
    metadata: Mapping[dg.AssetKey, Mapping[str, dg.MetadataValue]],
) -> dg.AssetsDefinition:
    descriptions: dict[str, str] = {}
    for output, key in graph.keys.items():
        step = output.removeprefix("step_")
        descriptions[output] = (
            f"Output of step '{step}' of workflow '{workflow.workflow}'."
            if step in workflow.steps
            else workflow.description or f"The workflow '{workflow.workflow}': {key.to_user_string()}."
        )
    owners = _owners(workflow.owner)
    return dg.AssetsDefinition.from_graph(
        graph.definition,
        keys_by_output_name=graph.keys,
        internal_asset_deps=graph.depends_on,
        partitions_def=partitions,
        group_name=workflow.workflow,
        descriptions_by_output_name=descriptions,
        tags_by_output_name={output: {"workflows/workflow": workflow.workflow} for output in graph.keys},
        owners_by_output_name=dict.fromkeys(graph.keys, owners) if owners else None,
        code_versions_by_output_name=dict.fromkeys(graph.keys, digest),
        metadata_by_output_name={output: metadata[key] for output, key in graph.keys.items() if key in metadata},
        check_specs=graph.checks,
    )


def _run_tags(workflow: Workflow, version: int, digest: str) -> dict[str, str]:
    tags = {WORKFLOW_TAG: workflow.workflow, VERSION_TAG: str(version), DIGEST_TAG: digest}
    if workflow.owner:
        tags[OWNER_TAG] = workflow.owner
    if workflow.budget is not None:
        tags[BUDGET_TAG] = repr(workflow.budget.usd_per_run)
    if workflow.deadline is not None:
        tags[DEADLINE_TAG] = format_deadline(workflow.deadline)
    return tags


def _owners(owner: str | None) -> list[str]:
    """The owner as Dagster writes it: an address as it is, anything else as a team."""
    if not owner:
        return []
    if re.fullmatch(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", owner):
        return [owner]
    return [f"team:{re.sub(r'[^A-Za-z0-9_-]+', '_', owner)}"]


def _kind(kinds: StepKinds, name: str, where: str) -> StepKind[Any]:
    kind = kinds.kinds.get(name)
    if kind is None:
        unknown = NotFound("step kind", name, kinds.kinds)
        raise SpecError([SpecProblem(where, 1, 1, unknown.message, unknown.fix)])
    return kind


def _key(prefix: str, *parts: str) -> dg.AssetKey:
    return dg.AssetKey([prefix, *parts] if prefix else list(parts))
