"""What the tests beside it read of definitions and runs: everything a location shows, and what was measured."""

from __future__ import annotations

import re
import warnings
from typing import Any

import dagster as dg
from dagster._core.remote_representation.external_data import JobDataSnap, RepositorySnap
from dagster._serdes import serialize_value

from workflows_pkg.orchestration.metering import ATTEMPT


def shown(defs: dg.Definitions) -> dict[str, str]:
    """Everything the definitions show to Dagster: the location's snapshot, and each job's with its snapshot id."""
    repository = defs.get_repository_def()
    jobs = repository.get_all_jobs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Dagster's snapshot reads what Dagster calls deprecated
        said = {"location": serialize_value(RepositorySnap.from_def(repository))}
        said |= {f"job {job.name}": serialize_value(JobDataSnap.from_job_def(job, include_parent_snapshot=True)) for job in jobs}
        said |= {f"id {job.name}": job.get_job_snapshot_id() for job in jobs}
    return {name: re.sub(r"0x[0-9a-f]+", "0x", text) for name, text in said.items()}


def policies(defs: dg.Definitions) -> dict[str, dg.RetryPolicy | None]:
    """The retry policy that each step of each job would use; no snapshot shows it."""
    found: dict[str, dg.RetryPolicy | None] = {}
    for job in defs.get_repository_def().get_all_jobs():
        for handle in job.graph.iterate_node_handles():
            if isinstance(job.get_node(handle).definition, dg.OpDefinition):
                found[f"{job.name}/{handle!s}"] = job.get_retry_policy_for_handle(handle)
    return found


def run_tags(defs: dg.Definitions) -> dict[str, dict[str, str]]:
    return {job.name: dict(job.run_tags) for job in defs.get_repository_def().get_all_jobs()}


def used(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str | None, int, dict[str, Any]]]:
    """(step, attempt, what was measured) of each measurement of a run, in order."""
    found = []
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is not None and event.is_engine_event and ATTEMPT in event.engine_event_data.metadata:
            data = {name: value.value for name, value in event.engine_event_data.metadata.items()}
            found.append((event.step_key, data[ATTEMPT], data))
    return found


def attempts(instance: dg.DagsterInstance, run_id: str) -> list[tuple[str | None, int]]:
    return [(step, attempt) for step, attempt, _ in used(instance, run_id)]


def kinds(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """The types of a run's events, sorted."""
    return sorted(entry.dagster_event.event_type_value for entry in instance.all_logs(run_id) if entry.dagster_event)


def run(defs: dg.Definitions, job: str, instance: dg.DagsterInstance, **how: Any) -> str:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False, **how).run_id
