"""How does a folder of workflow files become definitions? The good ones are compiled; each bad one is told of and left out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from workflows_pkg.errors import Problem, SpecError, WorkflowsError
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.compile import compile_workflow
from workflows_pkg.orchestration.compiled import PROBLEMS, CompiledWorkflow, clashes, definitions
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.security.allow import Allow
from workflows_pkg.spec.loader import load_folder
from workflows_pkg.spec.model import Workflow
from workflows_pkg.steps.discovery import StepKinds, discover

_log = logging.getLogger("workflows")


@dataclass(frozen=True)
class CompiledFolder:
    """The workflows of a folder that can be used, and every problem of the others."""

    workflows: tuple[CompiledWorkflow, ...]
    problems: tuple[Problem, ...]


def workflow_definitions(folder: Path, allow: Allow, home: Path | None = None, kinds: StepKinds | None = None) -> dg.Definitions:
    """The definitions of all usable workflows in `folder`; problems of the others are logged and kept as metadata.

    home: the instance's folder. Where it is given, the active version of each workflow is what is compiled, and an edited
    file becomes the next version; without it the files are compiled as they are. kinds: None: the built-in ones and plugins.

    Raises SpecError where the folder itself cannot be read.
    """
    compiled = compile_folder(folder, allow, home, kinds or discover())
    for problem in compiled.problems:
        _log.warning("%s", problem)
    metadata = {PROBLEMS: dg.MetadataValue.text("\n".join(map(str, compiled.problems)))} if compiled.problems else {}
    return dg.Definitions.merge(definitions(compiled.workflows), dg.Definitions(metadata=metadata))


def compile_folder(folder: Path, allow: Allow, home: Path | None, kinds: StepKinds) -> CompiledFolder:
    """What `workflow_definitions` makes definitions of, with the problems as values."""
    loaded = load_folder(folder, kinds.params())
    problems = list(loaded.problems)
    problems += [Problem(str(folder), 0, 0, str(plugin), "Mend or uninstall the plugin.") for plugin in kinds.broken]
    compiled: list[CompiledWorkflow] = []
    for path, written in loaded.workflows:
        try:
            workflow, version = _current(home, written)
            one = compile_workflow(workflow, kinds, allow, version=version, home=home, file=str(path))
        except SpecError as error:
            problems += error.problems
        except WorkflowsError as error:
            problems.append(Problem(str(path), 1, 1, error.message, error.fix))
        else:
            compiled.append(one)
    # The active version of one workflow may produce what the file of another has taken over since.
    taken = clashes(compiled)
    problems += [problem for _, problem in taken]
    left_out = {id(one) for one, _ in taken}
    return CompiledFolder(tuple(one for one in compiled if id(one) not in left_out), tuple(sorted(problems)))


def _current(home: Path | None, written: Workflow) -> tuple[Workflow, int]:
    if home is None:
        return written, 0
    return VersionStore(home).current(written, lambda workflow: _with_learned_numbers(workflow, home))


def _with_learned_numbers(workflow: Workflow, home: Path) -> Workflow:
    if all(step.timeout != "auto" for step in workflow.steps.values()):
        return workflow
    # Imported here: SciPy behind it takes a second that code locations without `timeout: auto` need not wait for.
    from workflows_pkg.advisor.suggestions import resolve_auto

    with open_history(home) as history:
        return resolve_auto(workflow, history)
