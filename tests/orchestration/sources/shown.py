"""What does Dagster show of assets, partitions, checks and runs, by the queries of its own pages and by its own Python?"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS, DagsterEventType
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceRequestContext
from dagster_graphql.schema import create_schema

from tests.orchestration.sources import archived_assets

DEFINITIONS = Path(archived_assets.__file__)
_SCHEMA = create_schema()

_EVENT = """
  runId message timestamp level stepKey eventType partition tags { key value }
  metadataEntries { label description ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
    ... on TextMetadataEntry { text } }
  runOrError { __typename ... on Run { id status } }
"""
_STATUS = """
  status timestamp runId stepKey
  evaluation { timestamp success severity metadataEntries { label } targetMaterialization { runId timestamp } }
"""

ASSETS = """
query Assets($keys: [AssetKeyInput!]!) {
  assetsOrError { ... on AssetConnection { nodes { key { path } latestEventSortKey
    latestMaterializationTimestamp latestObservationTimestamp latestFailedToMaterializeTimestamp freshnessStatusChangedTimestamp
    assetHealth { assetHealth materializationStatus assetChecksStatus freshnessStatus }
    assetMaterializations { EVENT } assetObservations { EVENT }
    assetEventHistory(limit: 100, eventTypeSelectors: [MATERIALIZATION, FAILED_TO_MATERIALIZE, OBSERVATION]) {
      cursor results { ... on MaterializationEvent { EVENT } ... on ObservationEvent { EVENT }
        ... on FailedToMaterializeEvent { runId timestamp partition } } }
  } } }
  assetRecordsOrError { ... on AssetRecordConnection { assets { id key { path } } } }
  assetsLatestInfo(assetKeys: $keys) { id latestMaterialization { EVENT } unstartedRunIds inProgressRunIds latestRun { id status endTime } }
  assetNodes(assetKeys: $keys) { id assetMaterializations { EVENT } assetObservations { EVENT }
    dataVersion staleStatus staleCauses { reason category } freshnessStatusInfo { freshnessStatus }
    assetMaterializationUsedData(timestampMillis: "9999999999999") { __typename }
    currentAutoMaterializeEvaluationId
    assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { STATUS }
      partitionStatuses { __typename } } } } }
  runsFeedOrError(limit: 100, view: RUNS) { ... on RunsFeedConnection {
    results { id runStatus creationTime startTime endTime tags { key value } } } }
}
""".replace("EVENT", _EVENT).replace("STATUS", _STATUS)

PARTITIONS = """
query Partitions($keys: [AssetKeyInput!]!) {
  assetNodes(assetKeys: $keys) { id partitionStats { numMaterialized numPartitions numFailed numMaterializing }
    partitionKeys latestMaterializationByPartition { EVENT } dataVersionByPartition staleStatusByPartition
    assetPartitionStatuses {
      ... on TimePartitionStatuses { ranges { startKey endKey status } }
      ... on DefaultPartitionStatuses { materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions }
    } }
}
""".replace("EVENT", _EVENT)

LATEST_RUN = """
query LatestRun($key: AssetKeyInput!, $partition: String!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { latestRunForPartition(partition: $partition) { id status } } }
}
"""

CHECKS = """
query Checks($key: AssetKeyInput!, $name: String!) {
  assetCheckExecutions(assetKey: $key, checkName: $name, limit: 100) { STATUS }
}
""".replace("STATUS", _STATUS)

RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) { ... on Run { id status startTime endTime tags { key value } canTerminate
    stats { ... on RunStatsSnapshot {
      stepsSucceeded stepsFailed materializations expectations enqueuedTime launchTime startTime endTime } }
    stepStats { stepKey status startTime endTime attempts { startTime endTime } materializations { EVENT } }
    assets { key { path } } assetMaterializations { EVENT } assetChecks { name }
    executionPlan { steps { key } } } }
}
""".replace("EVENT", _EVENT)

LOG = """
query Log($id: ID!) { logsForRun(runId: $id, limit: 1000) { __typename ... on EventConnection { hasMore events { __typename
  ... on MessageEvent { message timestamp stepKey } ... on LogsCapturedEvent { fileKey } } } } }
"""


@contextmanager
def pages(instance: dg.DagsterInstance) -> Iterator[WorkspaceRequestContext]:
    origin = LoadableTargetOrigin(executable_path=sys.executable, python_file=str(DEFINITIONS), attribute="defs")
    with in_process_test_workspace(instance, origin) as context:
        yield context


def asked(context: WorkspaceRequestContext, query: str, **variables: Any) -> Any:
    context.loaders.clear()
    result = asyncio.run(_SCHEMA.execute_async(query, context_value=context, variable_values=variables))
    assert not result.errors, result.errors
    return result.data


def shown(instance: dg.DagsterInstance) -> dict[str, Any]:
    """All that Dagster says of every asset, partition, check and run; two calls without an event between them are equal."""
    keys = sorted(archived_assets.defs.resolve_all_asset_keys(), key=str)
    inputs = [{"path": list(key.path)} for key in keys]
    with pages(instance) as context:
        found: dict[str, Any] = {"assets": asked(context, ASSETS, keys=inputs)}
        some = [{"path": [name]} for name in ("orders", "totals", "paint")]
        found["partitions"] = asked(context, PARTITIONS, keys=some)
        for name in ("orders", "totals"):
            for day in archived_assets.days.get_partition_keys():
                latest = asked(context, LATEST_RUN, key={"path": [name]}, partition=day)
                found[f"latest run of {name} {day}"] = latest
        for asset, name in (("orders", "full"), ("model", "sane")):
            found[f"check {name}"] = asked(context, CHECKS, key={"path": [asset]}, name=name)
        for run in instance.get_runs():
            found[f"run {run.run_id}"] = asked(context, RUN, id=run.run_id)
    found["python"] = _told(instance, keys)
    found["automation"] = _automation(instance)
    return found


def run_page(instance: dg.DagsterInstance, run_id: str) -> list[dict[str, Any]]:
    """The log on a run's page."""
    with pages(instance) as context:
        log = asked(context, LOG, id=run_id)["logsForRun"]
    assert log["__typename"] == "EventConnection"
    assert not log["hasMore"]
    return log["events"]


def _told(instance: dg.DagsterInstance, keys: list[dg.AssetKey]) -> dict[str, Any]:
    """What Dagster's own Python says, which its daemons, sensors and user code ask."""
    storage = instance.event_log_storage
    found: dict[str, Any] = {
        "records": {str(record.asset_entry.asset_key): record for record in instance.get_asset_records(keys)},
        "colours": instance.get_dynamic_partitions("colours"),
        "highest": storage.get_maximum_record_id() if not storage.is_run_sharded else None,
        "checks": storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(dg.AssetKey("orders"), "full"), dg.AssetCheckKey(dg.AssetKey("model"), "sane")]
        ),
        "freshness": storage.get_freshness_state_records(keys),
    }
    for key in keys:
        found[f"{key}"] = [
            instance.get_latest_materialization_event(key),
            instance.fetch_materializations(key, limit=1000).records,
            instance.fetch_observations(key, limit=1000).records,
            storage.get_event_records(dg.EventRecordsFilter(DagsterEventType.ASSET_MATERIALIZATION_PLANNED, asset_key=key)),
            instance.get_materialized_partitions(key),
            storage.get_latest_storage_id_by_partition(key, DagsterEventType.ASSET_MATERIALIZATION),
            storage.get_latest_storage_id_by_partition(key, DagsterEventType.ASSET_MATERIALIZATION_PLANNED),
            storage.get_latest_tags_by_partition(key, DagsterEventType.ASSET_MATERIALIZATION, ["dagster/data_version"]),
            instance.get_event_tags_for_asset(key),
            instance.get_latest_planned_materialization_info(key),
            instance.get_latest_data_version_record(key),
        ]
    for kind in EVENT_TYPE_TO_PIPELINE_RUN_STATUS:
        found[kind.value] = instance.fetch_run_status_changes(kind, limit=1000).records
    for run in instance.get_runs():
        found[f"resume {run.run_id}"] = _known_steps(instance, run)
    return found


def _known_steps(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Any:
    """What a re-execution from failure finds out about the run it repeats."""
    from dagster._core.execution.plan.state import KnownExecutionState

    return KnownExecutionState.build_resume_retry_reexecution(instance, run) if run.status.value == "FAILURE" else None


def _automation(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What declarative automation would ask for now, with a cursor of its own and with none."""
    chosen = dg.AssetSelection.assets("orders", "totals", "paint", "model", "never")
    first = dg.evaluate_automation_conditions(archived_assets.defs, instance, chosen)
    again = dg.evaluate_automation_conditions(archived_assets.defs, instance, chosen, cursor=first.cursor)

    def asked_for(results: Any) -> list[Any]:
        return sorted((str(r.key), r.true_subset.size, sorted(map(str, _partitions(r.true_subset)))) for r in results)

    return {"first": asked_for(first.results), "again": asked_for(again.results), "requested": first.total_requested}


def _partitions(subset: Any) -> set[str]:
    return subset.expensively_compute_partition_keys() if subset.is_partitioned else set()
