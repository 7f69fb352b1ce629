"""Which code location stands in a project, and how is one of its jobs run in this process?

Loading goes through Dagster's own discovery, so that every shape of code location works. That discovery is private to
Dagster; this module is the only one that names it, and `tests/cli/test_commands.py` fails when it moves.
"""

from __future__ import annotations

import sys
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import repository_def_from_target_def
from dagster._core.workspace.autodiscovery import loadable_targets_from_python_module

from workflows_pkg.errors import NotFound, SetupError, WorkflowsError, bounded
from workflows_pkg.orchestration.compiled import PROBLEMS
from workflows_pkg.orchestration.partitions import check_partition


@dataclass(frozen=True)
class Location:
    """A loaded code location: its module and what it defines."""

    module: str
    repository: dg.RepositoryDefinition

    def job_names(self) -> tuple[str, ...]:
        """Names of the jobs, sorted, Dagster's implicit ones left out."""
        return tuple(sorted(name for name in self.repository.job_names if not name.startswith("__")))

    def problems(self) -> tuple[str, ...]:
        """Problems of workflow files that were left out, one line each, as `workbench.folder` keeps them."""
        kept = (self.repository.metadata or {}).get(PROBLEMS)
        return () if kept is None else tuple(str(kept.value).splitlines())

    def job(self, name: str) -> dg.JobDefinition:
        """The job of that name; raises NotFound with the nearest one."""
        if name not in self.job_names():
            raise NotFound("workflow or job", name, self.job_names())
        return self.repository.get_job(name)


def location_module(root: Path) -> str:
    """The module that `pyproject.toml` of `root` names as code location; raises SetupError where it names none."""
    file = root / "pyproject.toml"
    if not file.is_file():
        raise SetupError(
            f"There is no pyproject.toml in {root}, so the code location is unknown.",
            fix="Change to the project's folder, or name the module with --module.",
        )
    try:
        project = tomllib.loads(file.read_text()).get("tool", {}).get("dg", {}).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{file}: {error}.", fix="Mend the file.") from error
    module = project.get("code_location_target_module") or project.get("root_module")
    if not isinstance(module, str):
        raise SetupError(
            f"{file} names no code location.",
            fix='Add [tool.dg.project] with code_location_target_module = "your.module", or use --module.',
        )
    return module


def load_location(root: Path, module: str | None = None) -> Location:
    """The code location of the project in `root`, loaded in this process.

    Raises SetupError where the module cannot be imported or defines nothing Dagster can load.
    """
    name = module or location_module(root)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a user's project may use what Dagster calls preview or deprecated
            targets = loadable_targets_from_python_module(name, str(root))
            if len(targets) != 1:
                raise SetupError(f"Module '{name}' defines {len(targets)} code locations.", fix="Leave one Definitions in it.")
            repository = repository_def_from_target_def(targets[0].target_definition)
    except WorkflowsError:
        raise
    except Exception as error:
        cause = _innermost(error)
        raise SetupError(
            f"The code location '{name}' does not load: {type(cause).__name__}: {bounded(cause, 300)}.",
            fix="Run 'dagster definitions validate' for the whole trace.",
        ) from error
    if repository is None:
        raise SetupError(f"Module '{name}' defines no Definitions.", fix="Add defs = dagster.Definitions(...) to it.")
    return Location(name, repository)


def execute(
    location: Location, job: str, instance: dg.DagsterInstance, run_id: str, partition: str | None, tags: Mapping[str, str]
) -> bool:
    """Runs a job in this process under the given run id; whether it succeeded. Raises SetupError for a wrong partition."""
    definition = location.job(job)
    known = definition.partitions_def
    keys = None if known is None else known.get_partition_keys(dynamic_partitions_store=instance)
    check_partition(job, keys, partition)
    try:
        result = definition.execute_in_process(
            instance=instance,
            run_id=run_id,
            run_config=without_console(definition),
            partition_key=partition,
            tags=dict(tags),
            raise_on_error=False,
        )
    except dg.DagsterInvalidConfigError as error:
        raise SetupError(
            f"'{job}' needs run config, which this command cannot give: {bounded(error, 300)}.",
            fix=f"Give the config defaults, or run it with: dagster job launch -j {job} -c CONFIG",
        ) from error
    return result.success


def without_console(job: dg.JobDefinition) -> dict[str, Any]:
    """Run config that keeps Dagster's console logger to itself: whoever runs in process tells the story in own words."""
    if dict(job.loggers).keys() - {"console"}:
        return {}  # the job has loggers of its own, which may want configuration we do not know
    return {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
