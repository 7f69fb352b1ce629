"""What does the page of a workflow's asset say of its definition? The version, the file, and its steps as a table."""

from __future__ import annotations

import dagster as dg

from workflows_pkg.spec.durations import format_duration
from workflows_pkg.spec.model import Retry, Step, Workflow


def workflow_metadata(workflow: Workflow, version: int, file: str | None) -> dict[str, dg.MetadataValue]:
    """Metadata of the workflow's own asset. `version` 0: the file as it is, without a version."""
    said: dict[str, dg.MetadataValue] = {"workflows/steps": dg.MetadataValue.md(_steps(workflow))}
    if version:
        said["workflows/version"] = dg.MetadataValue.int(version)
    if file:
        said["workflows/file"] = dg.MetadataValue.path(file)
    return said


def _steps(workflow: Workflow) -> str:
    lines = ["| step | uses | needs | produces | tried | stopped after |", "|---|---|---|---|---|---|"]
    lines += [
        "| " + " | ".join(_cell(text) for text in (name, step.uses, ", ".join(step.needs), step.produces, *_limits(step))) + " |"
        for name, step in workflow.steps.items()
    ]
    return "\n".join(lines)


def _limits(step: Step) -> tuple[str, str]:
    limit = step.timeout
    return _tried(step.retry), "" if limit is None else limit if isinstance(limit, str) else format_duration(limit)


def _tried(retry: Retry | None) -> str:
    if retry is None or retry.attempts == 1:
        return "once"
    return f"{retry.attempts} times, {format_duration(retry.delay)} {retry.backoff}"


def _cell(text: str | None) -> str:
    return (text or "-").replace("|", "\\|")
