"""How does a file, a text or a Python value become a workflow? Every mistake in it is told at once, with its place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from workflows_pkg.errors import Problem, SpecError, bounded
from workflows_pkg.spec.durations import format_duration
from workflows_pkg.spec.mistakes import Mistake, Path, dotted, found
from workflows_pkg.spec.model import Workflow
from workflows_pkg.spec.parameters import parameter_mistakes
from workflows_pkg.spec.rules import mistakes as rule_mistakes
from workflows_pkg.spec.source import DEPTH_LIMIT, Document, Mark, forbidden_character, parse_document, read_text
from workflows_pkg.spec.wording import mistakes_of

MOST_PROBLEMS = 50
"""Mistakes told of one file; nobody mends more at a time."""
SUFFIXES = (".yaml", ".yml", ".json")

Kinds = Mapping[str, type[BaseModel]]
"""Step kinds by name, each with the model of its parameters."""


@dataclass(frozen=True)
class Loaded:
    """What a folder holds: the workflows that can be used, and every problem of the others."""

    workflows: tuple[tuple[FilePath, Workflow], ...]
    problems: tuple[Problem, ...]


def load(path: FilePath, kinds: Kinds) -> Workflow:
    """The workflow in a YAML or `.json` file; raises SpecError with all problems of the file."""
    return load_text(read_text(path), file=str(path), kinds=kinds)


def load_text(text: str, *, file: str, kinds: Kinds) -> Workflow:
    """The workflow that `text` states, as JSON where `file` ends in .json; raises SpecError with all its problems.

    `file` is the name that problems carry; nothing is read from it.
    """
    return _document_workflow(parse_document(text, file), kinds)


def load_value(value: Mapping[str, Any], *, file: str = "<python>", kinds: Kinds) -> Workflow:
    """The workflow that a plain mapping states (aliases as keys); dates and timedeltas are taken as well as their text.

    Raises SpecError with all its problems; their line and column are 0, the path of the value is in the message.
    """
    plain = _plain(value, file)
    return _workflow(plain, kinds, file, lambda _: Mark(0, 0), ())


def load_folder(folder: FilePath, kinds: Kinds) -> Loaded:
    """Every workflow file directly in `folder`, sorted by name; files that begin with a dot are passed over.

    A file that cannot be used, or that has a workflow name or an asset of an earlier file, adds to the problems and
    leaves the others alone. Raises SpecError where the folder itself cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    except OSError as error:
        reason = f"this folder cannot be read: {error.strerror}."
        raise SpecError([Problem(str(folder), 0, 0, reason, "Look at the path.")]) from error
    workflows: list[tuple[FilePath, Workflow]] = []
    problems: list[Problem] = []
    names: dict[str, FilePath] = {}
    assets: dict[str, FilePath] = {}
    for path in paths:
        try:
            document = parse_document(read_text(path), str(path))
            workflow = _document_workflow(document, kinds)
        except SpecError as error:
            problems.extend(error.problems)
            continue
        clashes = list(_clashes(workflow, document, names, assets))
        problems.extend(clashes)
        if clashes:
            continue
        workflows.append((path, workflow))
        names[workflow.workflow] = path
        assets.update({step.produces: path for step in workflow.steps.values() if step.produces})
    return Loaded(tuple(workflows), tuple(problems))


def _document_workflow(document: Document, kinds: Kinds) -> Workflow:
    def mark(mistake: Mistake) -> Mark:
        if mistake.offset is not None:
            return document.inside(mistake.path, mistake.offset)
        return document.mark(mistake.path, key=mistake.at_key)

    return _workflow(document.root.value, kinds, document.file, mark, document.problems)


def _clashes(
    workflow: Workflow, document: Document, names: Mapping[str, FilePath], assets: Mapping[str, FilePath]
) -> Iterable[Problem]:
    """Names and assets of `workflow` that an earlier file has taken."""
    if workflow.workflow in names:
        mark = document.mark(("workflow",))
        message = f"the workflow name '{workflow.workflow}' is taken by {names[workflow.workflow].name}."
        yield Problem(document.file, mark.line, mark.column, message, "Choose another name.")
    for name, step in workflow.steps.items():
        if step.produces is not None and step.produces in assets:
            mark = document.mark(("steps", name, "produces"))
            message = f"the asset '{step.produces}' is produced by {assets[step.produces].name} already."
            yield Problem(document.file, mark.line, mark.column, message, "An asset has one producer.")


def _workflow(value: object, kinds: Kinds, file: str, mark: Callable[[Mistake], Mark], problems: Iterable[Problem]) -> Workflow:
    """The workflow of a plain value; raises SpecError with `problems` and every mistake of the value."""
    workflow, mistakes = _checked(value, kinds)
    told = set(problems)
    for mistake in mistakes:
        place = mark(mistake)
        told.add(Problem(file, place.line, place.column, mistake.message, mistake.fix))
    if workflow is None or told:
        raise SpecError(_most(sorted(told)))
    return workflow


def _checked(value: object, kinds: Kinds) -> tuple[Workflow | None, list[Mistake]]:
    """The workflow, or None, with every mistake of the value: of shape, of parameters, of meaning."""
    if not isinstance(value, dict):
        message = f"expected a workflow (workflow: and steps:), found {found(value)}."
        return None, [Mistake((), message, "Begin with: workflow: my_workflow")]
    parameters = list(parameter_mistakes(value, kinds))
    taken = {mistake.path for mistake in parameters}
    workflow = None
    try:
        # by_name=False: `with_` and `if_` are Python's spellings, not an author's
        workflow = Workflow.model_validate_json(json.dumps(value), strict=True, by_alias=True, by_name=False)
        others: list[Mistake] = []
    except ValidationError as error:
        others = [*mistakes_of(error, value, Workflow), *rule_mistakes(value)]
    return workflow, [*parameters, *(mistake for mistake in others if mistake.path not in taken)]


def _most(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MOST_PROBLEMS:
        return problems
    first = problems[MOST_PROBLEMS]
    more = Problem(first.file, first.line, first.column, "and more mistakes from here on.", "Mend those above first.")
    return [*problems[:MOST_PROBLEMS], more]


def _plain(value: object, file: str, path: Path = ()) -> Any:
    """`value` as JSON has it, refused where it has no such form; the depth is bounded, so a value inside itself ends."""

    def refuse(message: str) -> SpecError:
        where = f"{dotted(path)}: " if path else ""
        return SpecError([Problem(file, 0, 0, f"{where}{message}")])

    if len(path) > DEPTH_LIMIT:
        raise SpecError([Problem(file, 0, 0, f"more than {DEPTH_LIMIT} mappings and lists stand inside each other.")])
    match value:
        case str():
            character = forbidden_character(value)
            if character is not None:
                raise refuse(f"character U+{ord(character):04X} is refused: it cannot be seen.")
            return str(value)
        case None | bool():
            return value
        case int() if -(2**63) <= value < 2**63:
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case timedelta():
            return format_duration(value)
        case date() if not isinstance(value, datetime):
            return value.isoformat()
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise refuse(f"expected text as a key, found {found(key)}.")
                _plain(key, file, path)
            return {key: _plain(item, file, (*path, key)) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, file, (*path, index)) for index, item in enumerate(value)]
        case _:
            raise refuse(f"{found(value)} ({bounded(value, 30)}) has no form in a workflow file.")
