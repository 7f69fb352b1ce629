"""Do the parameters of a step fit its step kind? Known before a run, but for what its expressions will yield."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from workflows_pkg.errors import bounded, listing
from workflows_pkg.spec.expressions import ExpressionError, Reference, embedded, parse, walk
from workflows_pkg.spec.mistakes import MOST_MISTAKES, Mistake, Path, dotted, nearest
from workflows_pkg.spec.wording import mistakes_of, value_at

_SECRET = re.compile(r"\$\{\{\s*secrets\.[a-z][a-z0-9_]*\s*\}\}")
"""What a parameter that must be a secret looks like in the file; the marker is known by its attribute `secret_only`."""


def parameter_mistakes(workflow: object, kinds: Mapping[str, type[BaseModel]]) -> Iterator[Mistake]:
    """Mistakes in `uses` and `with` of the plain value of a workflow, `MOST_MISTAKES` at most.

    Wrong shapes of the workflow itself are passed over: its own model tells of them.
    """
    return islice(_parameter_mistakes(workflow, kinds), MOST_MISTAKES)


def _parameter_mistakes(workflow: object, kinds: Mapping[str, type[BaseModel]]) -> Iterator[Mistake]:
    workflow = workflow if isinstance(workflow, Mapping) else {}
    steps = workflow.get("steps")
    for name, step in (steps if isinstance(steps, Mapping) else {}).items():
        yield from _step_mistakes(("steps", str(name)), step, kinds)
    yield from _step_mistakes(("on_failure",), workflow.get("on_failure"), kinds)


def _step_mistakes(path: Path, step: object, kinds: Mapping[str, type[BaseModel]]) -> Iterator[Mistake]:
    if not isinstance(step, Mapping) or not isinstance(step.get("uses"), str):
        return
    uses = step["uses"]
    model = kinds.get(uses)
    if model is None:
        fix = nearest(uses.lower(), kinds) or listing("step kind", sorted(kinds))
        yield Mistake((*path, "uses"), f"{dotted(path)}: there is no step kind '{bounded(uses)}'.", fix)
        return
    parameters = step.get("with", {})
    if not isinstance(parameters, Mapping):
        return
    at = (*path, "with")
    refused: list[Path] = []
    for inner, advice in _literal_texts((), parameters, model):
        refused.append((*at, *inner))
        offset = str(value_at(parameters, inner)).find("${{")
        message = f"{dotted((*at, *inner))}: an expression is refused here, because this text is code."
        yield Mistake((*at, *inner), message, f"Instead: {advice}.", offset=offset)
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key in parameters and any(getattr(marker, "secret_only", False) for marker in field.metadata):
            written = parameters[key]
            if not isinstance(written, str) or not _SECRET.fullmatch(written):
                refused.append((*at, key))
                message = f"{dotted((*at, key))}: expected one secret, found a text that stands in the file."
                yield Mistake((*at, key), message, f"Write {key}: ${{{{ secrets.NAME }}}} and give the secret to the instance.")
    for inner, offset in _stray_secrets((), parameters, model):
        if (*at, *inner) not in refused:
            if inner[0] in _keys(model):  # else what is told of the key stays
                refused.append((*at, *inner))
            message = f"{dotted((*at, *inner))}: a secret is refused here, because what a step makes is kept in clear."
            yield Mistake((*at, *inner), message, _takers(uses, model), offset=offset)
    try:
        model.model_validate(dict(parameters))
    except ValidationError as error:
        for mistake in mistakes_of(error, parameters, model, at, "parameter"):
            if mistake.path not in refused and not _deferred(parameters, mistake, at):
                yield mistake


def _deferred(parameters: Mapping[str, Any], mistake: Mistake, at: Path) -> bool:
    """Whether a mistake may go away once expressions have values: there is one at its place or, for a whole, below it.

    A missing or unknown key stays wrong whatever the values are.
    """
    if mistake.at_key:
        return False
    return _has_expression(value_at(parameters, mistake.path[len(at) :]))


def _has_expression(value: object) -> bool:
    if isinstance(value, str):
        return "${{" in value
    if isinstance(value, Mapping):
        return any(_has_expression(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_expression(item) for item in value)


def _literal_texts(path: Path, value: object, model: type[BaseModel]) -> Iterator[tuple[Path, str]]:
    """Texts with `${{` in fields that are marked as code, each with what to do instead."""
    if not isinstance(value, Mapping):
        return
    for name, field in model.model_fields.items():
        for key in {field.alias or name, name}:
            if key not in value:
                continue
            advice = _advice(field.metadata) or _advice_in(field.annotation)
            if advice:
                yield from ((inner, advice) for inner in _expression_texts((*path, key), value[key]))
            elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from _literal_texts((*path, key), value[key], field.annotation)


def _advice(metadata: object) -> str:
    """What the marker among a field's metadata says to do instead; the marker is known by its attribute `instead`."""
    items = metadata if isinstance(metadata, list | tuple) else ()
    return next((str(item.instead) for item in items if isinstance(getattr(item, "instead", None), str)), "")


def _advice_in(annotation: Any) -> str:
    """The same for a marker further inside, as in `Annotated[str, Literally(…)] | None`."""
    if get_origin(annotation) is Annotated and (advice := _advice(get_args(annotation)[1:])):
        return advice
    return next((advice for part in get_args(annotation) if (advice := _advice_in(part))), "")


def _stray_secrets(path: Path, value: Mapping[Any, Any], model: type[BaseModel]) -> Iterator[tuple[Path, int]]:
    """Texts that read a secret outside the fields marked for it, each with the offset of the first such reference."""
    fields = _keys(model)
    for key, item in value.items():
        field = fields.get(key)
        if field is not None and _takes_secret(field):
            continue
        inner = (*path, str(key))
        if field is not None and _is_model(field.annotation) and isinstance(item, Mapping):
            yield from _stray_secrets(inner, item, field.annotation)
            continue
        for place in _expression_texts(inner, item):
            offset = _secret_offset(str(value_at(item, place[len(inner) :])))
            if offset is not None:
                yield place, offset


def _secret_offset(text: str) -> int | None:
    """Where `text` first reads a secret, None where it does not; expressions that cannot be read are told of elsewhere."""
    try:
        parts = embedded(text)
    except ExpressionError:
        return None
    for part in parts:
        try:
            nodes = list(walk(parse(text[part.start : part.end])))
        except ExpressionError:
            continue
        for node in nodes:
            if isinstance(node, Reference) and node.root == "secrets":
                return part.start + node.offset
    return None


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of `model` by every key that stands for them."""
    return {key: field for name, field in model.model_fields.items() for key in (field.alias or name, name)}


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _takes_secret(field: FieldInfo) -> bool:
    """Whether a secret may stand in `field`; the markers are known by their attributes `takes_secret` and `secret_only`."""

    def marked(metadata: Iterable[object]) -> bool:
        return any(getattr(item, "takes_secret", False) or getattr(item, "secret_only", False) for item in metadata)

    def within(annotation: Any) -> bool:
        origin, parts = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return marked(parts[1:]) or within(parts[0])
        return origin in (Union, types.UnionType) and any(within(part) for part in parts)

    return marked(field.metadata) or within(field.annotation)


def _takers(uses: str, model: type[BaseModel]) -> str:
    takers = sorted(field.alias or name for name, field in model.model_fields.items() if _takes_secret(field))
    return (
        f"Parameters of {bounded(uses)} that take one: {', '.join(takers)}."
        if takers
        else f"No parameter of {bounded(uses)} takes one."
    )


def _expression_texts(path: Path, value: object) -> Iterator[Path]:
    if isinstance(value, str) and "${{" in value:
        yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _expression_texts((*path, str(key)), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _expression_texts((*path, index), item)
