"""Is a run stamped whatever asks for it? Real code server, daemon and webserver; each way to launch that Dagster has.

`dagster job execute` and `execute_in_process` run in the caller's own process and pass no run coordinator.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest

from workflows_pkg.orchestration.instance import create_instance, open_instance
from workflows_pkg.orchestration.launch import submit, wait_until_ended
from workflows_pkg.orchestration.run_tags import EXPECTED_TAG, SAID
from workflows_pkg.orchestration.services import Services
from workflows_pkg.prediction.picks import pick_name

PROJECT = Path(__file__).parent / "project"
LOCATION = "launched_location"
ASSETS, IMPLICIT = ("picked", "filled"), "__ASSET_JOB"
JOBS = ("by_hand", "by_sensor", "by_schedule", "by_backfill")


@dataclass
class Running:
    services: Services
    instance: dg.DagsterInstance
    flag: Path

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer of the webserver to what its pages send."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        asked = urllib.request.Request(f"{self.services.url}/graphql", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found = json.loads(answer.read())
        assert "errors" not in found, found
        (value,) = found["data"].values()
        return value

    def selector(self, job: str) -> dict[str, str]:
        return {"repositoryLocationName": LOCATION, "repositoryName": "__repository__", "pipelineName": job}

    def first(self, job: str, chosen: Callable[[dg.DagsterRun], bool], within_s: float) -> dg.DagsterRun:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for run in self.instance.get_runs(dg.RunsFilter(job_name=job)):
                if chosen(run) and run.status != dg.DagsterRunStatus.NOT_STARTED:
                    return run
            time.sleep(0.2)
        raise AssertionError(f"no such run of {job} within {within_s} s")

    def check(self, run_id: str) -> dg.DagsterRun:
        """That the run was stamped once, before it was queued."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        events = [entry.dagster_event for entry in self.instance.all_logs(run_id) if entry.dagster_event]
        kinds = [event.event_type_value for event in events]
        ours = [
            place for place, event in enumerate(events) if SAID in (getattr(event.event_specific_data, "metadata", None) or {})
        ]
        assert len(ours) == 1
        assert ours[0] < kinds.index("PIPELINE_ENQUEUED")
        assert run.tags[EXPECTED_TAG] == "30 s (24–42 s)"
        return run


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, beside: ModuleType) -> Iterator[Running]:
    before = os.environ.get("DAGSTER_HOME")
    home, flag = tmp_path_factory.mktemp("launched") / "home", tmp_path_factory.mktemp("flag") / "flag"
    create_instance(home)  # with the settings this project starts with
    picks = [pick_name(IMPLICIT, [asset]) for asset in ASSETS]
    whole = [beside.forecast(job, "", "run_time_s", 24.0, 30.0, 42.0) for job in (*JOBS, *picks)]
    steps = [beside.forecast(IMPLICIT, asset, "run_time_s", 20.0, 25.0, 30.0) for asset in ASSETS]
    beside.publish(home, [*whole, *steps])
    with Services(home, PROJECT, module=LOCATION, port=0, env={"LAUNCH_FLAG": str(flag)}) as services:
        with open_instance(home) as instance:
            yield Running(services, instance, flag)
    if before is None:
        os.environ.pop("DAGSTER_HOME", None)
    else:
        os.environ["DAGSTER_HOME"] = before


LAUNCH = """mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
AGAIN = """mutation Again($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
BACKFILL = """mutation Backfill($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""


def test_from_the_ui_and_again_from_its_page(running: Running) -> None:
    answer = running.ask(LAUNCH, params={"selector": running.selector("by_hand"), "runConfigData": {}, "mode": "default"})
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run_id = answer["run"]["runId"]
    running.check(run_id)
    assert wait_until_ended(running.instance, run_id, 120), "the stamped run really runs"
    again = running.ask(AGAIN, params={"parentRunId": run_id, "strategy": "ALL_STEPS"})
    assert again["__typename"] == "LaunchRunSuccess", again
    assert running.check(again["run"]["runId"]).parent_run_id == run_id


def test_by_materializing_an_asset(running: Running) -> None:
    selector = running.selector(IMPLICIT) | {"assetSelection": [{"path": ["picked"]}], "assetCheckSelection": []}
    answer = running.ask(LAUNCH, params={"selector": selector, "runConfigData": {}, "mode": "default"})
    assert answer["__typename"] == "LaunchRunSuccess", answer
    running.check(answer["run"]["runId"])
    both = selector | {"assetSelection": [{"path": [asset]} for asset in ("picked", "never_made")]}
    unknown = running.ask(LAUNCH, params={"selector": both, "runConfigData": {}, "mode": "default"})
    found = running.instance.get_run_by_id(unknown["run"]["runId"])
    assert found is not None
    assert EXPECTED_TAG not in found.tags, "control: an asset that nothing is known of"


def test_by_a_backfill_of_an_asset(running: Running) -> None:
    wanted = {"assetSelection": [{"path": ["filled"]}], "partitionNames": ["a", "b"], "fromFailure": False}
    answer = running.ask(BACKFILL, params=wanted)
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    for partition in ("a", "b"):
        found = running.first(IMPLICIT, lambda run, wanted=partition: run.tags.get("dagster/partition") == wanted, 90)
        assert running.check(found.run_id).tags["dagster/backfill"] == answer["backfillId"]


def test_by_a_sensor(running: Running) -> None:
    running.flag.touch()
    found = running.first("by_sensor", lambda run: "dagster/sensor_name" in run.tags, 60)
    running.check(found.run_id)


def test_by_this_projects_own_submission_and_control_a_job_without_a_forecast(running: Running) -> None:
    running.check(submit(running.instance, running.services.workspace_file, "by_hand"))
    unknown = submit(running.instance, running.services.workspace_file, "never_run")
    with pytest.raises(AssertionError):
        running.check(unknown)
    assert running.instance.get_run_by_id(unknown).tags.get(EXPECTED_TAG) is None  # type: ignore[union-attr]


def test_no_more_runs_than_the_settings_allow_go_on_at_once(running: Running) -> None:
    queue = running.instance.get_concurrency_config().run_queue_config
    assert queue is not None
    assert queue.max_concurrent_runs == 2


@pytest.mark.long
def test_by_the_command_line(running: Running, tmp_path: Path) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(running.services.home), "LAUNCH_FLAG": str(running.flag)}
    known = {run.run_id for run in running.instance.get_runs(dg.RunsFilter(job_name="by_hand"))}
    command = [sys.executable, "-m", "dagster", "job", "launch", "-w", str(running.services.workspace_file), "-j", "by_hand"]
    command += ["-l", LOCATION]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, timeout=120)
    running.check(running.first("by_hand", lambda run: run.run_id not in known, 10).run_id)


@pytest.mark.long
def test_by_a_schedule(running: Running) -> None:
    found = running.first("by_schedule", lambda run: "dagster/schedule_name" in run.tags, 120)
    running.check(found.run_id)


@pytest.mark.long
def test_by_a_backfill_of_partitions(running: Running) -> None:
    selector = {
        "partitionSetName": "by_backfill_partition_set",
        "repositorySelector": {"repositoryLocationName": LOCATION, "repositoryName": "__repository__"},
    }
    answer = running.ask(BACKFILL, params={"selector": selector, "partitionNames": ["a", "b"]})
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    for partition in ("a", "b"):
        found = running.first("by_backfill", lambda run, wanted=partition: run.tags.get("dagster/partition") == wanted, 90)
        assert running.check(found.run_id).tags["dagster/backfill"] == answer["backfillId"]


@pytest.mark.long
def test_what_runs_in_the_callers_own_process_passes_no_coordinator(running: Running) -> None:
    environment = {**os.environ, "DAGSTER_HOME": str(running.services.home), "LAUNCH_FLAG": str(running.flag)}
    known = {run.run_id for run in running.instance.get_runs(dg.RunsFilter(job_name="by_hand"))}
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", LOCATION, "-d", str(PROJECT), "-j", "by_hand"]
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, timeout=120)
    (run,) = [run for run in running.instance.get_runs(dg.RunsFilter(job_name="by_hand")) if run.run_id not in known]
    assert EXPECTED_TAG not in run.tags
