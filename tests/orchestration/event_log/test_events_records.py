"""Observations, versions, places of logs and backfills land as Dagster has them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemotePartitionSetOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.error import SerializableErrorInfo

from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Backfill, Materialization, Observation, Run, StepLog
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.instance import create_instance


@dg.asset(code_version="v7", partitions_def=dg.StaticPartitionsDefinition(["p"]))
def made(context):
    context.log_event(dg.AssetObservation("seen", partition="p", metadata={"n": 3}, tags={"dagster/data_version": "x"}))
    return 1


@dg.asset
def plain() -> int:
    return 1


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create_instance(tmp_path)
    return tmp_path


def test_observations_versions_and_places_of_logs_land(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = dg.materialize([made], instance=instance, partition_key="p").dagster_run
        dg.materialize([plain], instance=instance)
        instance.report_runless_asset_event(dg.AssetObservation("outside", metadata={"k": 1}))
        sync_events(home, home)
        of_dagster = instance.fetch_observations(dg.AssetKey("seen"), limit=1).records[0].event_log_entry
        materialized = instance.fetch_materializations(dg.AssetKey("made"), limit=1).records[0].asset_materialization
        logs = instance.compute_log_manager
        with open_history(home) as con:
            observed = {row.asset_key: row for row in read(con, Observation)}
            made_of = {row.asset_key: row for row in read(con, Materialization)}
            (landed,) = read(con, Run, "run_id = ?", [run.run_id])
            (log,) = read(con, StepLog, "run_id = ?", [run.run_id])
        assert set(observed) == {"seen", "outside"}
        seen = observed["seen"]
        assert (seen.run_id, seen.partition_key, seen.step_key, seen.data_version) == (run.run_id, "p", "made", "x")
        assert seen.at.timestamp() == pytest.approx(of_dagster.timestamp, abs=1e-5)
        assert json.loads(seen.data or "{}") == {"n": 3, "dagster/data_version": "x"}
        assert observed["outside"].run_id == ""
        assert made_of["made"].code_version == "v7"
        assert made_of["made"].data_version == materialized.tags["dagster/data_version"]
        assert made_of["plain"].data_version is not None
        assert landed.job_snapshot_id == run.job_snapshot_id
        assert json.loads(log.step_keys or "[]") == ["made"]
        data = logs.get_log_data(logs.build_log_key_for_run(run.run_id, log.log_key))
        assert data.stdout is not None or Path(home, "storage", run.run_id, "compute_logs", f"{log.log_key}.out").exists()


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as found:
        yield found


def backfills(home: Path) -> dict[str, Backfill]:
    with open_history(home) as con:
        return {row.backfill_id: row for row in read(con, Backfill)}


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01"))
def daily() -> None: ...


def of_assets(instance: dg.DagsterInstance, name: str, partitions: list[str] | None) -> PartitionBackfill:
    """As the daemon and the UI store it; all partitions of both assets where none are named."""
    graph = dg.Definitions([made, daily]).resolve_asset_graph()
    picked = [dg.AssetKey("daily")] if partitions else [dg.AssetKey("daily"), dg.AssetKey("made")]
    return PartitionBackfill.from_asset_partitions(
        name, graph, partitions, picked, time.time(), {"user": "ada"}, instance, not partitions, "January", None, None
    )


def of_job(name: str) -> PartitionBackfill:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(executable_path=None, module_name="m"), location_name="here")
    origin = RemotePartitionSetOrigin(
        repository_origin=RemoteRepositoryOrigin(location, "repo"), partition_set_name="nightly_partition_set"
    )
    return PartitionBackfill(
        name,
        BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={},
        backfill_timestamp=time.time(),
        partition_set_origin=origin,
        partition_names=["a", "b"],
    )


@pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`:DeprecationWarning")  # Dagster's own call
def test_backfills_land_and_change_with_their_outcome(home: Path, instance: dg.DagsterInstance) -> None:
    asked, every, job = (
        of_assets(instance, "asked", ["2024-01-02", "2024-01-09"]),
        of_assets(instance, "every", None),
        of_job("job"),
    )
    for backfill in (asked, every, job):
        instance.add_backfill(backfill)
    assert sync_events(home, home).backfills == 3
    found = backfills(home)
    assert {name: (row.status, row.job_name, row.assets, row.partition_count) for name, row in found.items()} == {
        "asked": ("requested", None, '["daily"]', 2),
        "every": ("requested", None, '["daily", "made"]', 32),
        "job": ("requested", "nightly", None, 2),
    }
    assert (found["asked"].title, found["asked"].launched_by, found["job"].launched_by) == ("January", "ada", None)
    assert found["asked"].asked_at.timestamp() == pytest.approx(asked.backfill_timestamp, abs=1e-5)
    assert sync_events(home, home).backfills == 0  # still going on, and nothing new of them

    instance.update_backfill(job.with_status(BulkActionStatus.COMPLETED_SUCCESS).with_end_timestamp(job.backfill_timestamp + 7))
    error = SerializableErrorInfo("the code server\nis gone", [], None)
    instance.update_backfill(every.with_status(BulkActionStatus.FAILED).with_error(error))
    assert sync_events(home, home).backfills == 2
    found = backfills(home)
    assert (found["job"].status, found["every"].status) == ("completed_success", "failed")
    assert found["job"].ended_at is not None
    assert (found["job"].ended_at - found["job"].asked_at).total_seconds() == pytest.approx(7, abs=1e-5)
    assert "the code server" in (found["every"].error or "")

    instance.update_backfill(every.with_status(BulkActionStatus.REQUESTED))  # resumed by hand in the UI
    assert (sync_events(home, home).backfills, backfills(home)["every"].status) == (1, "requested")


def test_a_resumed_backfill_is_not_over_until_it_ends_again(home: Path, instance: dg.DagsterInstance) -> None:
    job = of_job("resumed")

    def seen(backfill: PartitionBackfill) -> tuple[str, float | None]:
        instance.update_backfill(backfill)
        sync_events(home, home)
        found = backfills(home)["resumed"]
        return found.status, found.ended_at and found.ended_at.timestamp() - job.backfill_timestamp

    instance.add_backfill(job)
    failed = job.with_status(BulkActionStatus.COMPLETED_FAILED).with_end_timestamp(job.backfill_timestamp + 7)
    assert seen(failed) == ("completed_failed", pytest.approx(7, abs=1e-5))
    resumed = failed.with_status(BulkActionStatus.REQUESTED)
    assert resumed.backfill_end_timestamp is not None  # Dagster leaves the earlier end where it was
    assert seen(resumed) == ("requested", None)
    again = resumed.with_status(BulkActionStatus.COMPLETED_SUCCESS).with_end_timestamp(job.backfill_timestamp + 60)
    assert seen(again) == ("completed_success", pytest.approx(60, abs=1e-5))


def test_a_backfill_that_cannot_be_read_hides_no_other(home: Path, instance: dg.DagsterInstance) -> None:
    for name in ("good", "torn", "odd", "nowhen"):
        instance.add_backfill(of_job(name))
    storage: Any = instance.run_storage
    with storage.connect() as connection:  # as a crash of a disk, or a newer Dagster, would leave them
        connection.exec_driver_sql("update bulk_actions set body = substr(body, 1, 40) where key = 'torn'")
        connection.exec_driver_sql("update bulk_actions set body = '[1]' where key = 'odd'")
        connection.exec_driver_sql("update bulk_actions set timestamp = 'soon', body = '' where key = 'nowhen'")
    assert sync_events(home, home).backfills == 3
    found = backfills(home)
    assert {name: row.job_name for name, row in found.items()} == {"good": "nightly", "torn": None, "odd": None}
    assert {row.error for name, row in found.items() if name != "good"} == {"What Dagster stored of it could not be read."}
    assert sync_events(home, home).backfills == 0

    with storage.connect() as connection:  # what was known of it stays
        connection.exec_driver_sql("update bulk_actions set body = '{', status = 'CANCELED' where key = 'good'")
    assert sync_events(home, home).backfills == 1
    good = backfills(home)["good"]
    assert (good.status, good.job_name, good.partition_count, good.error) == ("canceled", "nightly", 2, None)
