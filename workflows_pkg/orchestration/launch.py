"""How is a workflow run: in this process, or through code server, run coordinator and daemon?"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import dagster as dg

# No public name creates a run of a job that another process serves; tests/orchestration/test_launch.py fails when one of
# these moves. What is done with them is what `dagster job launch` does, with a partition added.
from dagster._core.definitions.selector import JobSubsetSelector
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from workflows_pkg.errors import NotFound, SetupError, WorkflowsError, bounded
from workflows_pkg.orchestration.compiled import CompiledWorkflow, definitions
from workflows_pkg.orchestration.partitions import PARTITION_TAG, check_partition

_LOOK_EVERY_S = 0.1


def run_in_process(
    compiled: CompiledWorkflow,
    instance: dg.DagsterInstance,
    partition_key: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Runs the workflow in this process and returns the run's id; whether it succeeded stands in the instance.

    Raises SetupError where the partition is missing, unknown or not wanted.
    """
    job = definitions([compiled]).resolve_job_def(compiled.name)
    keys = None if job.partitions_def is None else job.partitions_def.get_partition_keys()
    check_partition(compiled.name, keys, partition_key)
    result = job.execute_in_process(instance=instance, partition_key=partition_key, tags=dict(tags or {}), raise_on_error=False)
    return result.run_id


def submit(
    instance: dg.DagsterInstance,
    workspace_file: Path,
    job: str,
    *,
    partition: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Puts a run of a job into the queue and returns its id. `workspace_file` names the code server, as `Services` writes it.

    Raises NotFound for an unknown job, SetupError where the code server does not answer or the partition does not fit.
    """
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Error loading repository location")  # raised below, in a sentence
            target = WorkspaceFileTarget(paths=[str(workspace_file)])
            workspace = stack.enter_context(WorkspaceProcessContext(instance, target)).create_request_context()
        entry = next(iter(workspace.get_code_location_entries().values()))
        location = entry.code_location
        if location is None:
            reason = entry.load_error.message if entry.load_error else "no reason given"
            raise SetupError(f"The code server of {workspace_file} does not serve: {bounded(reason, 300)}", fix="Is it running?")
        repository = next(iter(location.get_repositories().values()))
        known = [each.name for each in repository.get_all_jobs() if not each.name.startswith("__")]
        if job not in known:
            raise NotFound("job", job, known)
        remote = location.get_job(JobSubsetSelector(location.name, repository.name, job, None))
        slices = next((each for each in repository.get_partition_sets() if each.job_name == job), None)
        check_partition(job, None if slices is None else slices.get_partition_names(instance), partition)
        plan = location.get_execution_plan(remote, {}, step_keys_to_execute=None, known_state=None, instance=instance)
        run = instance.create_run(
            job_name=job,
            run_id=None,
            run_config={},
            status=None,
            tags={**remote.tags, **({PARTITION_TAG: partition} if partition else {}), **(tags or {})},
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=plan.execution_plan_snapshot.step_keys_to_execute,
            execution_plan_snapshot=plan.execution_plan_snapshot,
            job_snapshot=remote.job_snapshot,
            parent_job_snapshot=remote.parent_job_snapshot,
            asset_selection=None,
            asset_check_selection=None,
            resolved_op_selection=remote.resolved_op_selection,
            op_selection=None,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
            asset_graph=repository.asset_graph,
        )
        instance.submit_run(run.run_id, workspace)
        return run.run_id


def wait_until_ended(instance: dg.DagsterInstance, run_id: str, within_s: float) -> bool:
    """Whether the run succeeded, once it has ended. Raises WorkflowsError where it has not ended within that time."""
    deadline = time.monotonic() + within_s
    while True:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.is_finished:
            return run.is_success
        if time.monotonic() > deadline:
            state = "unknown" if run is None else run.status.value
            raise WorkflowsError(f"The run {run_id} has not ended within {within_s:g} s; it is {state}.")
        time.sleep(_LOOK_EVERY_S)
