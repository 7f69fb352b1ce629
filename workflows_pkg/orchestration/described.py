"""What does the page of a workflow's asset say of its definition? The version, the file, and its steps in words."""

from __future__ import annotations

import warnings
from pathlib import Path

import dagster as dg

from workflows_pkg.orchestration.graph import in_order
from workflows_pkg.spec.durations import format_duration
from workflows_pkg.spec.model import Step, Workflow


def workflow_metadata(workflow: Workflow, version: int, file: str | None) -> dict[str, dg.MetadataValue]:
    """Metadata of the workflow's own asset. `version` 0: the file as it is, without a version."""
    order = in_order({name: step.needs for name, step in workflow.steps.items()})
    lines = [f"- **{name}**: {_step(workflow.steps[name])}" for name in order]
    said: dict[str, dg.MetadataValue] = {"steps": dg.MetadataValue.md("\n".join(lines))}
    if version:
        said["version"] = dg.MetadataValue.int(version)
    if file:
        # "Open daily.yaml in editor" on the page; as a path it would be longer than its column is wide
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            reference = dg.LocalFileCodeReference(file_path=str(Path(file).resolve()), line_number=1, label=Path(file).name)
            said["dagster/code_references"] = dg.CodeReferencesMetadataValue(code_references=[reference])
    return said


def _step(step: Step) -> str:
    """A step in a line, such as `http` after **clean**, up to 4 times, at most 20s each."""
    parts = [f"`{step.uses}`" + (f" after {', '.join(step.needs)}" if step.needs else "")]
    if step.retry is not None and step.retry.attempts > 1:
        parts.append(f"up to {step.retry.attempts} times")
    if step.timeout is not None:
        parts.append("at most a learned time each" if step.timeout == "auto" else f"at most {format_duration(step.timeout)} each")
    if step.produces:
        parts.append(f"gives {step.produces}")
    return ", ".join(parts)
