"""What does one workflow give to a code location, and how do several become one set of definitions?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

from workflows_pkg.errors import Problem, SpecError
from workflows_pkg.orchestration.values import RESOURCE_KEY, step_values
from workflows_pkg.spec.model import Workflow

PROBLEMS = "workflows/problems"
"""Metadata of the definitions: one line for each problem of a file that was left out."""


@dataclass(frozen=True)
class CompiledWorkflow:
    """The Dagster definitions of one workflow. `name` is its job's name; `file` says where it was written."""

    name: str
    workflow: Workflow
    version: int
    digest: str
    file: str
    assets: dg.AssetsDefinition
    job: dg.JobDefinition | object
    schedules: tuple[dg.ScheduleDefinition, ...]
    sensors: tuple[dg.SensorDefinition, ...]

    @property
    def keys(self) -> frozenset[dg.AssetKey]:
        """Every asset it produces, its own one included."""
        return frozenset(self.assets.keys)


def clashes(compiled: Iterable[CompiledWorkflow]) -> tuple[tuple[CompiledWorkflow, Problem], ...]:
    """Each workflow that claims a job name or an asset which an earlier one has, with the problem that names both files."""
    found: list[tuple[CompiledWorkflow, Problem]] = []
    jobs: dict[str, str] = {}
    assets: dict[dg.AssetKey, str] = {}
    for one in compiled:
        doubled = sorted(one.keys & assets.keys())
        if one.name in jobs:
            text = f"the workflow '{one.name}' is already defined in {jobs[one.name]}."
            found.append((one, Problem(one.file, 1, 1, text, "Give one of them another name.")))
        elif doubled:
            text = f"the asset '{doubled[0].to_user_string()}' is already produced by {assets[doubled[0]]}."
            found.append((one, Problem(one.file, 1, 1, text, "Give one of them another 'produces'.")))
        else:
            jobs[one.name] = one.file
            assets.update(dict.fromkeys(one.keys, one.file))
    return tuple(found)


def definitions(compiled: Sequence[CompiledWorkflow]) -> dg.Definitions:
    """All workflows as one set of definitions. Raises SpecError naming both files where two claim one asset or one name."""
    problems = clashes(compiled)
    if problems:
        raise SpecError(problem for _, problem in problems)
    return dg.Definitions(
        assets=[one.assets for one in compiled],
        jobs=[one.job for one in compiled],  # pyright: ignore[reportArgumentType]  an unresolved asset job, whose class is private
        schedules=[schedule for one in compiled for schedule in one.schedules],
        sensors=[sensor for one in compiled for sensor in one.sensors],
        resources={RESOURCE_KEY: step_values},
    )
