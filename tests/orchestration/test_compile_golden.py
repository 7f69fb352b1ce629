"""Everything the sample code location defines, as text: a changed asset key is a one-line difference.

After a change that is meant, write it again with

    WRITE_GOLDEN=1 python -m pytest tests/orchestration/test_compile_golden.py

and look at the difference before committing it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from workflows_pkg.security.allow import Allow
from workflows_pkg.workbench.folder import workflow_definitions

HERE = Path(__file__).parent
GOLDEN = HERE / "project.golden.txt"


def _lines(defs: dg.Definitions) -> Iterator[str]:
    repository = defs.get_repository_def()
    repository.load_all_definitions()
    for key in sorted(repository.asset_graph.get_all_asset_keys()):
        node = repository.asset_graph.get(key)
        parents = ", ".join(sorted(parent.to_user_string() for parent in node.parent_keys))
        partitions = type(node.partitions_def).__name__ if node.partitions_def else "none"
        yield f"asset {key.to_user_string()} | group {node.group_name} | needs {parents or 'nothing'} | partitions {partitions}"
    for key in sorted(repository.asset_graph.asset_check_keys):
        check = repository.asset_graph.get(key)
        stops = "error" if check.blocking else "warn"
        yield f"check {key.name} of {key.asset_key.to_user_string()} | {stops} | {check.description}"
    for name in sorted(name for name in repository.job_names if not name.startswith("__")):
        yield from _job(repository.get_job(name))
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        zone, status = schedule.execution_timezone, schedule.default_status.value
        yield f"schedule {schedule.name} | {schedule.cron_schedule} | {zone} | job {schedule.job_name} | {status}"
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        every, status = sensor.minimum_interval_seconds, sensor.default_status.value
        yield f"sensor {sensor.name} | every {every} s | job {sensor.job_name} | {status}"


def _job(job: dg.JobDefinition) -> Iterator[str]:
    tags = " ".join(f"{name}={value}" for name, value in sorted(job.tags.items()) if "digest" not in name)
    yield f"job {job.name} | executor {job.executor_def.name} | {tags}"
    (graph,) = job.graph.nodes
    for node in sorted(graph.definition.nodes, key=lambda node: node.name):
        structure = graph.definition.dependency_structure
        needs = {
            handle.node_name for inputs in structure.input_to_upstream_outputs_for_node(node.name).values() for handle in inputs
        }
        retry = node.definition.retry_policy
        yield (
            f"  step {graph.name}.{node.name} | op {node.definition.name} | needs {', '.join(sorted(needs)) or 'nothing'}"
            f" | {_retry(retry)} | tags {' '.join(f'{name}={value}' for name, value in sorted(node.definition.tags.items()))}"
        )


def _retry(policy: dg.RetryPolicy | None) -> str:
    if policy is None:
        return "no retry"
    backoff = policy.backoff.value if policy.backoff else "CONSTANT"
    jitter = policy.jitter.value if policy.jitter else "NONE"
    return f"{policy.max_retries} retries after {policy.delay} s {backoff} {jitter}"


def test_the_sample_code_location_defines_what_the_golden_text_says(project: Path) -> None:
    defs = workflow_definitions(project / "workflows", Allow(modules=("sample_steps",)))
    found = "\n".join(_lines(defs)) + "\n"
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text(), (
        "written anew by: WRITE_GOLDEN=1 python -m pytest tests/orchestration/test_compile_golden.py"
    )


def test_the_control_a_changed_key_is_a_difference(project: Path, tmp_path: Path) -> None:
    for file in (project / "workflows").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text().replace("produces: sales/sold", "produces: sales/moved"))
    found = "\n".join(_lines(workflow_definitions(tmp_path, Allow(modules=("sample_steps",))))) + "\n"
    changed: Any = set(found.splitlines()) ^ set(GOLDEN.read_text().splitlines())
    assert {line.split(" | ")[0] for line in changed} >= {"asset sales/moved", "asset sales/sold"}
