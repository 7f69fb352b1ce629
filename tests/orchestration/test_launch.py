"""Is a workflow run in this process, and by Dagster's executors in processes of their own, with the same result?"""

from __future__ import annotations

import json
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository

from workflows_pkg.errors import SetupError, WorkflowsError
from workflows_pkg.orchestration.launch import run_in_process, wait_until_ended

MONTHLY = {"monthly": {"start": "2024-01-01", "end": "2024-03-01"}}


@pytest.mark.parametrize(
    ("partitions", "partition", "message"),
    [
        (MONTHLY, None, "'bench' is run one partition at a time. Give one, such as 2024-02-01."),
        (MONTHLY, "2024-03-01", "'bench' has no partition '2024-03-01'. They go from 2024-01-01 to 2024-02-01."),
        (None, "2024-01-01", "'bench' has no partitions, so '2024-01-01' cannot be run. Leave the partition out."),
    ],
)
def test_a_partition_that_does_not_fit_is_one_sentence(bench: Any, partitions: Any, partition: Any, message: str) -> None:
    spec = {"steps": {"a": {}}, **({"partitions": partitions} if partitions else {})}
    with pytest.raises(SetupError) as caught:
        run_in_process(bench.compile(spec), bench.instance, partition)
    assert str(caught.value) == message
    assert bench.instance.get_runs() == []


def test_a_failed_run_is_returned_like_a_good_one(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: 1 / 0}
    run_id = run_in_process(bench.compile({"steps": {"a": {}}}), bench.instance, tags={"asked/by": "me"})
    run = bench.outcome(run_id)
    assert not run.success
    assert run.run.tags["asked/by"] == "me"
    assert not wait_until_ended(bench.instance, run_id, 0)


def test_waiting_for_a_run_ends_with_what_it_is_doing(bench: Any) -> None:
    with pytest.raises(WorkflowsError, match=r"nothing has not ended within 0\.2 s; it is unknown"):
        wait_until_ended(bench.instance, "nothing", 0.2)


def test_a_re_execution_from_failure_reads_what_the_first_run_wrote_in_other_processes(
    bench: Any, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    monkeypatch.setenv("WORKFLOWS_SECRET_GO", str(go))
    monkeypatch.setenv("PYTHONPATH", str(project))
    forkserver._forkserver._stop()  # one that an earlier test of this process has started has that test's environment
    repository = ReconstructableRepository.for_module("sample_location", "defs", working_directory=str(project))
    job = repository.get_reconstructable_job("resumed")
    first = dg.execute_job(job, instance=bench.instance)
    assert not first.success
    go.write_text("12345")
    options = dg.ReexecutionOptions.from_failure(first.run_id, bench.instance)
    second = dg.execute_job(job, instance=bench.instance, reexecution_options=options)
    assert second.success
    outcome = bench.outcome(second.run_id)
    assert outcome.steps("STEP_START") == ["second", "done"]
    values = Path(bench.instance.storage_directory()) / "values"
    one, two = ((values / run / name).read_text() for run, name in ((first.run_id, "first.json"), (second.run_id, "second.json")))
    assert json.loads(two) == {**json.loads(one), "size": 5}
    assert {event.pid for event in outcome.events("STEP_SUCCESS")} != {json.loads(one)["process"]}
