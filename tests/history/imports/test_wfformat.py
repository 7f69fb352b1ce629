"""WfFormat: one run told in four versions of the schema gives the same rows."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.history.imports import import_files

TASKS = [
    {"name": "split_ID000001", "parents": [], "seconds": 2.5, "cpu": 80.0, "kb": 512_000, "machine": "node1"},
    {
        "name": "search_ID000002",
        "parents": ["split_ID000001"],
        "seconds": 900.0,
        "cpu": 99.0,
        "kb": 2_097_152,
        "machine": "node2",
    },
    {"name": "search_ID000003", "parents": ["split_ID000001"], "seconds": 850.0, "cpu": None, "kb": None, "machine": "node1"},
]


def of_1_3() -> dict[str, Any]:
    tasks = [
        {"name": t["name"], "id": t["name"][-8:], "category": t["name"][:-9], "type": "compute", "runtime": t["seconds"],
         "avgCPU": t["cpu"], "memory": t["kb"], "parents": t["parents"], "children": [], "files": [], "cores": 1, "machine": t["machine"]}
        for t in TASKS
    ]  # fmt: skip
    return _document("1.3", {"makespan": 1000, "executedAt": "2020-12-27T18:00:00+00:00", "tasks": tasks, "machines": MACHINES})


def of_1_4() -> dict[str, Any]:
    tasks = [
        {"name": t["name"], "id": t["name"][-8:], "type": "compute", "runtimeInSeconds": t["seconds"], "avgCPU": t["cpu"],
         "memoryInBytes": t["kb"] and t["kb"] * 1000, "parents": t["parents"], "children": [], "files": [], "machine": t["machine"]}
        for t in TASKS
    ]  # fmt: skip
    return _document(
        "1.4", {"makespanInSeconds": 1000, "executedAt": "20201227T180000+0000", "tasks": tasks, "machines": MACHINES}
    )


def of_1_5(version: str = "1.5") -> dict[str, Any]:
    specified = [
        {"name": t["name"], "id": t["name"], "parents": t["parents"], "children": [], "inputFiles": ["f"], "outputFiles": []} for t in TASKS
    ]  # fmt: skip
    executed = [
        {"id": t["name"], "runtimeInSeconds": t["seconds"], "command": {"program": "x"}, "avgCPU": t["cpu"],
         "memoryInBytes": t["kb"] and t["kb"] * 1000, "machines": [t["machine"]]}
        for t in TASKS
    ]  # fmt: skip
    execution = {"makespanInSeconds": 1000.0, "executedAt": "12-27-20T18:00:00Z", "tasks": executed, "machines": MACHINES}
    return _document(version, {"specification": {"tasks": specified, "files": []}, "execution": execution})


MACHINES = [{"nodeName": "node1", "system": "linux"}, {"nodeName": "node2", "system": "linux"}]


def _document(version: str, workflow: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "search-small",
        "description": "…",
        "createdAt": "2021-01-01T00:00:00",
        "schemaVersion": version,
        "workflow": workflow,
    }


VERSIONS = {"1.3": of_1_3(), "1.4": of_1_4(), "1.5": of_1_5(), "1.6": of_1_5("1.6")}


def put(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("document", VERSIONS.values(), ids=VERSIONS.keys())
def test_each_version_of_the_schema_says_the_same(home, ask, tmp_path, document) -> None:
    (told,) = import_files(home, [put(tmp_path / "doc.json", document)])
    assert (told.format, told.name, told.jobs, told.runs, told.attempts) == ("wfformat", "doc", ("search-small",), 1, 3)
    assert "does not say how a run ended" in told.remarks[0]
    mib = 1000 / 2**20
    assert ask(
        "select step, step_key, attempt, outcome, run_time_s, cpu_s, peak_memory_mib, host, started_at, ended_at from step_attempts "
        "order by step_key"
    ) == [
        ("search", "search_ID000002", 1, "success", 900.0, 891.0, pytest.approx(2_097_152 * mib), "node2", None, None),
        ("search", "search_ID000003", 1, "success", 850.0, None, None, "node1", None, None),
        ("split", "split_ID000001", 1, "success", 2.5, 2.0, pytest.approx(512_000 * mib), "node1", None, None),
    ]
    begin = datetime(2020, 12, 27, 18, tzinfo=UTC)
    assert ask("select outcome, created_at, started_at, epoch(ended_at - started_at), run_time_s, attempt_count from runs") == [
        ("success", begin, begin, 1000.0, 1000.0, 3)
    ]


def test_tasks_of_one_kind_are_told_apart_by_their_ids(home, ask, tmp_path) -> None:
    """As the Nextflow instances of WfCommons are written: the name is the process, only the id is unique."""
    document = of_1_5()
    for part in ("specification", "execution"):
        for n, task in enumerate(document["workflow"][part]["tasks"]):
            task["id"] = f"RNASEQ.FASTQC_{n}"
    for task in document["workflow"]["specification"]["tasks"]:
        task["name"], task["parents"] = "RNASEQ.FASTQC", []
        del task["inputFiles"]
    import_files(home, [put(tmp_path / "doc.json", document)], name="rnaseq")
    assert ask("select step, step_key, job_name from step_attempts order by 2") == [
        ("RNASEQ.FASTQC", f"RNASEQ.FASTQC_{n}", "rnaseq") for n in range(3)
    ]


def _broken(change: str) -> object:
    document = deepcopy(of_1_5())
    workflow = document["workflow"]
    match change:
        case "not carried out":
            del workflow["execution"]
        case "no tasks":
            workflow["execution"]["tasks"] = []
        case "unknown task":
            workflow["execution"]["tasks"][0]["id"] = "other"
        case "unknown parent":
            workflow["specification"]["tasks"][1]["parents"] = ["nobody"]
        case "a number":
            workflow["execution"]["tasks"][0]["runtimeInSeconds"] = "long"
        case "a time":
            workflow["execution"]["executedAt"] = "last winter"
        case "no time":
            del workflow["execution"]["executedAt"]
        case "no workflow":
            document["workflow"] = "none"
    return document


WRONG = {
    "not carried out": "describes a workflow that was not carried out",
    "no tasks": "expected a list of tasks in workflow.execution.tasks",
    "unknown task": "workflow.execution.tasks has 'other', which workflow.specification.tasks has not",
    "unknown parent": "task 'search_ID000002' has the parent 'nobody', which is no task of it",
    "a number": "runtimeInSeconds is 'long'; expected a number",
    "a time": "executedAt is 'last winter'; expected a time such as",
    "no time": "has no 'executedAt'",
    "no workflow": "workflow is a str",
}


@pytest.mark.parametrize(("change", "said"), WRONG.items(), ids=WRONG.keys())
def test_what_is_wrong_is_said_in_one_line(home, tmp_path, change, said) -> None:
    with pytest.raises(WorkflowsError, match=said) as raised:
        import_files(home, [put(tmp_path / "doc.json", _broken(change))])
    assert "\n" not in str(raised.value)


def test_text_that_is_no_json(home, tmp_path) -> None:
    path = tmp_path / "doc.json"
    path.write_text('{"workflow": {')
    with pytest.raises(WorkflowsError, match=r"doc\.json: is no JSON"):
        import_files(home, [path])
