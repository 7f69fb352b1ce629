"""When does the clock start a workflow, and which slice does it ask for?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import dagster as dg

from workflows_pkg.orchestration.partitions import PARTITION_TAG
from workflows_pkg.spec.model import Workflow

LATEST_FAILURES = 1000
"""Failed runs that are looked at when partitions are put in order; older failures no longer count."""

_OPEN = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
_FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def schedule(workflow: Workflow, job: object, partitions: dg.TimeWindowPartitionsDefinition | None) -> dg.ScheduleDefinition:
    """The workflow's schedule, on from the start: the file that asks for it is the switch."""
    asked = workflow.schedule
    assert asked is not None, "the caller asks only for workflows with a schedule"  # noqa: S101
    name = workflow.workflow

    def evaluate(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if partitions is None:
            return dg.RunRequest()
        keys = partitions.get_partition_keys(current_time=context.scheduled_execution_time)
        if asked.run == "latest_partition":
            return dg.RunRequest(partition_key=keys[-1]) if keys else dg.SkipReason("No partition has ended yet.")
        missing = next_missing(context.instance, name, keys)
        return (
            dg.RunRequest(partition_key=missing) if missing else dg.SkipReason(f"None of the {len(keys)} partitions is missing.")
        )

    return dg.ScheduleDefinition(
        name=f"{name}__schedule",
        cron_schedule=asked.cron,
        execution_timezone=asked.timezone,
        job=job,  # pyright: ignore[reportArgumentType]  an unresolved asset job, whose class is private
        execution_fn=evaluate,
        description=f"Runs {name} at '{asked.cron}' ({asked.timezone}).",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def next_missing(instance: dg.DagsterInstance, workflow: str, keys: Sequence[str]) -> str | None:
    """The partition to run next: missing, without an open run, with the fewest failures, and then the earliest; None: none.

    A partition is missing until the whole workflow has succeeded for it, which is when its own asset is materialized.
    """
    done = instance.get_materialized_partitions(dg.AssetKey(["workflow", workflow]))
    missing = [key for key in keys if key not in done]
    if not missing:
        return None
    open_now = _partitions_of(instance, workflow, _OPEN)
    failures = _partitions_of(instance, workflow, _FAILED)
    free = [key for key in missing if not open_now[key]]
    return min(free, key=lambda key: failures[key], default=None)  # of equals the first, which is the earliest


def _partitions_of(instance: dg.DagsterInstance, job: str, statuses: Sequence[dg.DagsterRunStatus]) -> Counter[str]:
    runs = instance.get_runs(dg.RunsFilter(job_name=job, statuses=list(statuses)), limit=LATEST_FAILURES)
    return Counter(run.tags[PARTITION_TAG] for run in runs if PARTITION_TAG in run.tags)
