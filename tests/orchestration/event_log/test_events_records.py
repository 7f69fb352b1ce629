"""Observations, versions, places of logs and backfills land as Dagster has them."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Materialization, Observation, Run, StepLog
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
