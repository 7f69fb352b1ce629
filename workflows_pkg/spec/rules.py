"""Do the parts of a workflow fit together? Needs, cycles, expressions, outputs: what no single field can tell.

The rules read plain values and pass over whatever has the wrong shape, so that a file's mistakes of shape and of meaning
can be told at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from workflows_pkg.errors import bounded, listing
from workflows_pkg.spec.expressions import ExpressionError, Reference, embedded, parse, static_type, walk
from workflows_pkg.spec.mistakes import MANY, MOST_MISTAKES, Mistake, Path, dotted, nearest

RESERVED_STEPS = ("done",)
"""Step names that the compiled graph uses itself: `done` is the op behind the workflow's own asset."""
RESERVED_ASSETS = "workflow"
"""First part of the asset key of workflows themselves."""
_SHOWN = 12
"""Steps of a cycle that a message spells out."""


def mistakes(workflow: Mapping[str, Any]) -> Iterator[Mistake]:
    """Mistakes of meaning in the plain value of a workflow (aliases as keys), `MOST_MISTAKES` at most."""
    return islice(_mistakes(workflow), MOST_MISTAKES)


def _mistakes(workflow: Mapping[str, Any]) -> Iterator[Mistake]:
    steps = {name: _mapping(step) for name, step in _mapping(workflow.get("steps")).items()}
    yield from _reserved_names(steps)
    yield from _needs(steps)
    yield from _cycles(steps)
    yield from _outputs(steps)
    yield from _expressions(workflow, steps)


def _mapping(value: object) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _known_steps(name: str, steps: Mapping[str, Any], own: str | None = None) -> str:
    known = [step for step in steps if step != own]
    return nearest(name, known) or (listing("other step", sorted(known)) if len(known) <= MANY else "")


def _reserved_names(steps: Mapping[str, dict[str, Any]]) -> Iterator[Mistake]:
    for name in RESERVED_STEPS:
        if name in steps:
            yield Mistake(("steps", name), f"the step name '{name}' is reserved.", "Choose another name.", at_key=True)


def _needs(steps: Mapping[str, dict[str, Any]]) -> Iterator[Mistake]:
    for name, step in steps.items():
        seen: set[str] = set()
        for index, need in enumerate(_items(step.get("needs"))):
            path = ("steps", name, "needs", index)
            if not isinstance(need, str):
                continue
            if need in seen:
                yield Mistake(path, f"step '{bounded(name)}' needs '{bounded(need)}' twice.", "Keep one of them.")
            elif need == name:
                yield Mistake(path, f"step '{bounded(name)}' needs itself.", "Name the steps whose outputs it takes.")
            elif need not in steps:
                fix = _known_steps(need, steps, own=name)
                yield Mistake(path, f"step '{bounded(name)}' needs '{bounded(need)}', which is not a step here.", fix)
            seen.add(need)


def _cycles(steps: Mapping[str, dict[str, Any]]) -> Iterator[Mistake]:
    """One mistake for each cycle found by going from need to need among the steps that can never start."""
    needs = {
        name: [
            need for need in dict.fromkeys(_items(step.get("needs"))) if isinstance(need, str) and need in steps and need != name
        ]
        for name, step in steps.items()
    }
    for start, path in cycles(needs):
        shown = [*path, start] if len(path) <= _SHOWN else [*path[: _SHOWN - 1], "…", path[-1], start]
        index = _items(steps[start].get("needs")).index(path[1])
        count = f" ({len(path)} steps)" if len(path) > _SHOWN else ""
        yield Mistake(
            ("steps", start, "needs", index),
            f"steps need each other in a circle: {' -> '.join(shown)}{count}.",
            "Take one of these needs away.",
        )


def cycles(needs: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """Cycles of the graph as (first step, path of steps); every part that cannot start holds at least one of them.

    First takes away, again and again, the steps whose needs are all met (Kahn 1962); every step that stays has a need
    that stays, so following first needs runs into a cycle. Time grows with steps and needs only.
    """
    open_needs = {name: len(items) for name, items in needs.items()}
    dependents: dict[str, list[str]] = {name: [] for name in needs}
    for name, items in needs.items():
        for need in items:
            dependents[need].append(name)
    ready = [name for name, count in open_needs.items() if count == 0]
    while ready:
        for name in dependents[ready.pop()]:
            open_needs[name] -= 1
            if open_needs[name] == 0:
                ready.append(name)
    stuck = [name for name, count in open_needs.items() if count > 0]
    visited: set[str] = set()
    for name in stuck:
        path: dict[str, None] = {}
        current = name
        while current not in visited:
            visited.add(current)
            path[current] = None
            current = next(need for need in needs[current] if open_needs[need] > 0)
        if current in path:
            walked = list(path)
            yield current, walked[walked.index(current) :]


def _outputs(steps: Mapping[str, dict[str, Any]]) -> Iterator[Mistake]:
    produced: dict[str, str] = {}
    for name, step in steps.items():
        checks = _items(step.get("checks"))
        asset = step.get("produces")
        if checks and asset is None:
            message = f"step '{bounded(name)}' has checks but produces nothing to check."
            yield Mistake(("steps", name, "checks"), message, "Add produces, such as: produces: flights/clean", at_key=True)
        seen: dict[str, int] = {}
        for index, check in enumerate(checks):
            first = seen.setdefault(json.dumps(check, sort_keys=True, default=str), index + 1)
            if first != index + 1:
                message = f"check {index + 1} of step '{bounded(name)}' is the same as check {first}."
                yield Mistake(("steps", name, "checks", index), message, "Keep one of them.")
        if not isinstance(asset, str):
            continue
        path = ("steps", name, "produces")
        if asset.split("/")[0] == RESERVED_ASSETS:
            yield Mistake(path, f"asset keys under '{RESERVED_ASSETS}/' are reserved for workflows.", "Choose another key.")
        elif asset in produced:
            message = f"steps '{bounded(produced[asset])}' and '{bounded(name)}' both produce '{bounded(asset)}'."
            yield Mistake(path, message, "An asset has one producer.")
        produced.setdefault(asset, name)


@dataclass(frozen=True)
class _Place:
    """A text that may hold expressions: what is known there depends on the workflow and on whose text it is.

    step: None in on_failure. condition: the text is an `if`.
    """

    workflow: Mapping[str, Any]
    steps: Mapping[str, dict[str, Any]]
    step: str | None
    condition: bool = False


def _expressions(workflow: Mapping[str, Any], steps: Mapping[str, dict[str, Any]]) -> Iterator[Mistake]:
    for name, step in steps.items():
        condition = step.get("if")
        if isinstance(condition, str) and condition.startswith("${{") and condition.endswith("}}"):
            yield from _text(("steps", name, "if"), condition, _Place(workflow, steps, name, condition=True))
        yield from _texts(("steps", name, "with"), step.get("with"), _Place(workflow, steps, name))
    on_failure = _mapping(workflow.get("on_failure"))
    yield from _texts(("on_failure", "with"), on_failure.get("with"), _Place(workflow, steps, None))


def _texts(path: Path, value: object, place: _Place) -> Iterator[Mistake]:
    """The mistakes of every text in a nested value of bounded depth."""
    if isinstance(value, str):
        if "${{" in value:
            yield from _text(path, value, place)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if "${{" in str(key):
                message = f"{dotted(path)}: an expression cannot be a key."
                yield Mistake((*path, str(key)), message, "Put it into the value.", at_key=True)
            yield from _texts((*path, str(key)), item, place)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts((*path, index), item, place)


def _text(path: Path, text: str, place: _Place) -> Iterator[Mistake]:
    try:
        parts = embedded(text)
    except ExpressionError as error:
        yield Mistake(path, f"{dotted(path)}: {error.message}", error.fix, offset=error.offset)
        return
    for part in parts:
        try:
            tree = parse(text[part.start : part.end])
            kind = static_type(tree)
        except ExpressionError as error:
            yield Mistake(path, f"{dotted(path)}: {error.message}", error.fix, offset=part.start + error.offset)
            continue
        if place.condition and kind not in ("boolean", "unknown"):
            message = f"{dotted(path)}: expected true or false, found {kind}."
            yield Mistake(path, message, "Compare it, such as x == 'text'.", offset=part.start + tree.offset)
        for node in walk(tree):
            problem = _reference(node, place) if isinstance(node, Reference) else None
            if problem is not None:
                yield Mistake(path, problem[0], problem[1], offset=part.start + node.offset)


def _reference(reference: Reference, place: _Place) -> tuple[str, str] | None:
    """What is wrong with a reference at its place, and what to do; None where it can be looked up in a run."""
    match reference.root:
        case "steps":
            return _step_reference(reference, place)
        case "partition" if place.workflow.get("partitions") is None:
            fix = "Add partitions, such as: partitions: {daily: {start: 2013-01-01}}"
            return f"'{reference}' is read, but the workflow has no partitions.", fix
        case "sensor" if place.workflow.get("sensor") is None:
            fix = "Add a sensor, such as: sensor: {file_arrival: {path: inbox/*.csv}}"
            return f"'{reference}' is read, but the workflow has no sensor.", fix
        case "secrets" if place.condition:
            return f"'{reference}' is read in a condition, and which steps ran is kept in clear.", "Compare something else."
        case "failure" if place.step is not None:
            return f"'{reference}' is read in a step.", "It is known in on_failure only."
        case _:
            return None


def _step_reference(reference: Reference, place: _Place) -> tuple[str, str] | None:
    name, step = bounded(reference.name), place.step
    if step is None:
        fix = "Known: failure.step, failure.error, failure.run."
        return f"'{reference}' is read in on_failure, where outputs of steps are not known.", fix
    if reference.name == step:
        return f"step '{name}' reads its own output, '{reference}'.", "It can read outputs of the steps it needs."
    if reference.name not in place.steps:
        fix = _known_steps(reference.name, place.steps, own=step)
        return f"'{reference}' is read, but there is no step '{name}'.", fix
    if reference.name not in _items(place.steps[step].get("needs")):
        return f"step '{bounded(step)}' reads '{reference}' but does not need '{name}'.", f"Add '{name}' to its needs."
    return None
