"""What does a WfFormat document say? One run of a workflow, as WfCommons describes recorded executions; schema 1.3 to 1.6.

Schema: github.com/wfcommons/WfFormat. Up to 1.4 a task has everything in one place, 1.3 with other names and memory in kB
(1,000 bytes, as WfCommons' own migration has it); from 1.5 on `specification` says what was to be done and `execution` what happened.
A task has no instants, and nothing says how a task or the run ended: a document is written of one that was carried out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from workflows_pkg.errors import bounded
from workflows_pkg.history.imports.reading import Reading, Source, finished, try_table
from workflows_pkg.history.imports.units import MIB, OTHER_DATES, instant

_COUNTER = re.compile(r"[._-](ID)?\d+$")
"""A task's own number at the end of its name, as WfCommons' recorders add it: `blastall_ID000002`, `chain_00000001`."""

_REMARK = (
    "WfFormat does not say how a run ended, and has no task times: its runs count as successful, their tasks' times as unknown"
)


def read(con: duckdb.DuckDBPyConnection, source: Source) -> Reading:
    """The run in a WfFormat document. Raises WorkflowsError with the place in it where it is not one."""
    try:
        document = json.loads(source.file.read_bytes())
    except ValueError as error:
        raise source.refuse(f"is no JSON: {bounded(error, 120)}.") from error
    workflow = _mapping(source, document, "the document").get("workflow")
    workflow = _mapping(source, workflow, "workflow")
    in_two_parts = "specification" in workflow or "execution" in workflow
    if in_two_parts:
        run, tasks = _of_two_parts(source, workflow)
    else:
        run, tasks = workflow, _listed(source, workflow.get("tasks"), "workflow.tasks")
    job = source.name or str(document.get("name") or source.stem)
    began = _began(source, run.get("executedAt"))
    makespan = _figure(source, run, "makespanInSeconds", "makespan")
    ended = began + timedelta(seconds=makespan) if makespan is not None else None
    rows = [
        {"run": source.digest, "n": n, "submitted_at": None, "job_name": job, "outcome": "success"}
        | _task(source, n, task, "id" if in_two_parts else "name")
        for n, task in enumerate(tasks)
    ]
    _refuse_unknown_parents(source, tasks)
    con.register("tries", try_table(rows))
    con.execute(
        "create temp table document as select ? as run, ? as job_name, 'success' as outcome, ?::timestamptz as created_at, "
        "?::timestamptz as started_at, ?::timestamptz as ended_at, ?::double as run_time_s",
        [source.digest, job, began, began, ended, makespan],
    )
    return finished(con, source, "tries", "document", [_REMARK])


def _of_two_parts(source: Source, workflow: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """The execution, and the tasks with what both parts say of them."""
    if "execution" not in workflow:
        raise source.refuse("describes a workflow that was not carried out: it has no workflow.execution.")
    execution = _mapping(source, workflow["execution"], "workflow.execution")
    specification = _mapping(source, workflow.get("specification"), "workflow.specification")
    specified = {task.get("id"): task for task in _listed(source, specification.get("tasks"), "workflow.specification.tasks")}
    tasks: list[Mapping[str, Any]] = []
    for task in _listed(source, execution.get("tasks"), "workflow.execution.tasks"):
        if task.get("id") not in specified:
            raise source.refuse(
                f"workflow.execution.tasks has '{bounded(task.get('id'))}', which workflow.specification.tasks has not."
            )
        tasks.append({**specified[task["id"]], **task})
    return execution, tasks


def _task(source: Source, n: int, task: Mapping[str, Any], unique: str) -> dict[str, Any]:
    """`unique`: what tells the tasks of the document apart. Up to 1.4 it is the name; from 1.5 on the name may be the kind of task."""
    name = task.get("name") or task.get("id")
    if not isinstance(name, str):
        raise source.refuse(f"task {n} has no name.")
    seconds = _figure(source, task, "runtimeInSeconds", "runtime")
    share = _figure(source, task, "avgCPU")
    memory = _figure(source, task, "memoryInBytes")
    kilobytes = _figure(source, task, "memory")
    machines = task.get("machines") or [task.get("machine")]
    return {
        "step": str(task.get("category") or _COUNTER.sub("", name)),
        "step_key": str(task.get(unique) or name),
        "attempt": 1,
        "run_time_s": seconds,
        "cpu_s": share / 100 * seconds if share is not None and seconds is not None else None,
        "peak_memory_mib": memory * MIB["bytes"] if memory else kilobytes * MIB["kb"] if kilobytes else None,
        "host": machines[0] if len(machines) == 1 and isinstance(machines[0], str) else None,
    }


def _began(source: Source, text: object) -> datetime:
    if not isinstance(text, str):
        raise source.refuse("has no 'executedAt': nothing says when the run was.")
    found = instant(text, source.zone)
    for form in OTHER_DATES:
        if found is None:
            try:
                found = datetime.strptime(text, form)  # noqa: DTZ007  the next line gives it its zone
            except ValueError:
                continue
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    if found is None:
        raise source.refuse(f"executedAt is '{bounded(text)}'; expected a time such as 2020-12-27T18:23:37+00:00.")
    return found


def _refuse_unknown_parents(source: Source, tasks: list[Mapping[str, Any]]) -> None:
    """A document whose tasks name parents that are not there is cut or broken, and so would its figures be."""
    known = {task.get(key) for task in tasks for key in ("name", "id")}
    for task in tasks:
        missing = [parent for parent in task.get("parents") or [] if parent not in known]
        if missing:
            raise source.refuse(
                f"task '{bounded(task.get('name'))}' has the parent '{bounded(missing[0])}', which is no task of it."
            )


def _figure(source: Source, of: Mapping[str, Any], *keys: str) -> float | None:
    for key in keys:
        value = of.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise source.refuse(f"{key} is '{bounded(value)}'; expected a number.")
        return float(value)
    return None


def _mapping(source: Source, value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise source.refuse(f"is no WfFormat document: {what} is {'missing' if value is None else f'a {type(value).__name__}'}.")
    return value


def _listed(source: Source, value: object, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise source.refuse(f"is no WfFormat document: expected a list of tasks in {what}.")
    return value
