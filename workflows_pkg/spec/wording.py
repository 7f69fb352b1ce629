"""What does a pydantic error mean to somebody who does not write Python? Mistakes in plain words: expected, found, what to do."""

from __future__ import annotations

import re
import types
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from workflows_pkg.errors import bounded, listing
from workflows_pkg.spec.mistakes import MOST_MISTAKES, Mistake, Path, UnfitError, dotted, found, nearest
from workflows_pkg.spec.model import ASSET_PATH, ERROR_NAME, EXPRESSION, KIND_NAME, NAME

_PATTERNS: Mapping[str, str] = {
    NAME: "a name: lower-case letters, digits and _, a letter first, at most 63 characters",
    KIND_NAME: "a step kind such as data.sql",
    ASSET_PATH: "an asset key: lower-case letters, digits and _ in parts joined by /, such as flights/clean",
    EXPRESSION: "one expression such as ${{ steps.score.late_share > 0.3 }}",
    ERROR_NAME: "the name of an error class such as TimeoutError",
}
_EXPECTED: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 64 bits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "date_type": "a date such as 2013-01-31",
    "date_parsing": "a date such as 2013-01-31",
    "date_from_datetime_parsing": "a date such as 2013-01-31",
    "date_from_datetime_inexact": "a date such as 2013-01-31",
    "datetime_type": "a time such as 2013-01-31T06:00:00Z",
    "datetime_parsing": "a time such as 2013-01-31T06:00:00Z",
    "datetime_from_date_parsing": "a time such as 2013-01-31T06:00:00Z",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
}
"""Pydantic's error type -> what an author is to write. Others keep pydantic's sentence."""
_BOUNDS: Mapping[str, tuple[str, str, str]] = {
    "greater_than_equal": ("at least", "ge", ""),
    "less_than_equal": ("at most", "le", ""),
    "greater_than": ("more than", "gt", ""),
    "less_than": ("less than", "lt", ""),
    "too_short": ("at least", "min_length", " items"),
    "too_long": ("at most", "max_length", " items"),
    "string_too_short": ("at least", "min_length", " characters"),
    "string_too_long": ("at most", "max_length", " characters"),
}
"""Pydantic's error type -> words, the name of the limit in its context, what is counted."""
_LISTS = ("list_type", "tuple_type", "set_type")


def mistakes_of(
    error: ValidationError, value: object, model: type[BaseModel], at: Path = (), what: str = "field"
) -> list[Mistake]:
    """The mistakes that `error` tells of, `MOST_MISTAKES` at most.

    `error` arose while `model` read `value`, which stands at `at` in the workflow.
    Errors of the branches of a union become one mistake at the value itself. `what` names a key of this model: field, parameter.
    """
    grouped: dict[tuple[Path, bool], list[ErrorDetails]] = {}
    made: list[Mistake] = []
    for details in error.errors(include_url=False):
        if details["type"] == "mistake":
            made.append(details.get("ctx", {})["mistake"])
            continue
        path, at_key = _walked(details, value)
        grouped.setdefault((path, at_key), []).append(details)
    for (path, at_key), several in islice(grouped.items(), MOST_MISTAKES):
        made.extend(_worded(path, at_key, several, value, model, at, what))
    return made


def value_at(value: object, path: Path) -> object:
    """The part of `value` at `path`; None where there is no such part."""
    for name in path:
        if not _has(value, name):
            return None
        value = value[name]  # pyright: ignore[reportIndexIssue] - _has looked
    return value


def field_names(model: type[BaseModel]) -> list[str]:
    """The keys an author may write for `model`."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _has(value: object, name: str | int) -> bool:
    """Whether `name` is a key of the mapping, or an index of the list, that `value` is."""
    if isinstance(value, Mapping):
        return name in value
    return isinstance(value, list | tuple) and isinstance(name, int) and name < len(value)


def _walked(details: ErrorDetails, value: object) -> tuple[Path, bool]:
    """The path as far as it leads through `value`, and whether the error is about the last key instead of its value.

    Pydantic's location may go on with names of union branches and validators, which mean nothing to an author.
    """
    path: Path = ()
    for name in details["loc"]:
        if _has(value, name):
            value = value[name]  # pyright: ignore[reportIndexIssue] - _has looked
        elif name == "[key]":
            return path, True
        elif details["type"] == "missing":
            return (*path, name), True
        else:
            break
        path = (*path, name)
    return path, details["type"] == "extra_forbidden"


def _worded(
    path: Path, at_key: bool, several: list[ErrorDetails], value: object, model: type[BaseModel], at: Path, what: str
) -> Iterator[Mistake]:
    kinds = {details["type"] for details in several}
    full = (*at, *path)
    holder = model_at(model, path[:-1]) if path else None
    if kinds == {"missing"}:
        where = dotted(full[:-1]) or "the workflow"
        field = (
            next((field for name, field in holder.model_fields.items() if (field.alias or name) == path[-1]), None)
            if holder
            else None
        )
        fix = f"{path[-1]}: {field.description}" if field is not None and field.description else ""
        yield Mistake(full, f"{where}: the {what} '{path[-1]}' is missing.", fix, at_key=True)
        return
    if kinds == {"extra_forbidden"}:
        yield _unknown_key(full, holder, what)
        return
    subject = path[-1] if at_key and path else value_at(value, path)
    expectations = list(dict.fromkeys(filter(None, (_expectation(details) for details in several))))
    unfit = next((unfit for details in several if (unfit := _unfit(details)) is not None), None)
    label = dotted(full) or "the workflow"
    if unfit is not None and isinstance(unfit, UnfitError):
        yield Mistake(full, f"{label}: {unfit}", unfit.fix, at_key)
    elif expectations:
        expected = ", or ".join(expectations)
        yield Mistake(full, f"{label}: expected {expected}, found {found(subject)}.", _fix(several, subject), at_key)
    else:
        said = re.sub(r"^(Value error|Assertion failed), ", "", several[0]["msg"])
        yield Mistake(full, f"{label}: {bounded(said[:1].lower() + said[1:], 160).rstrip('.')}.", "", at_key)


def _unknown_key(full: Path, holder: type[BaseModel] | None, what: str) -> Mistake:
    known = field_names(holder) if holder else []
    name = str(full[-1])
    owner = dotted(full[:-1]) or "the workflow"
    fix = (
        nearest(name, known)
        or nearest(name.lower().replace("-", "_"), known)
        or (listing(what, sorted(known), 12) if known else "")
    )
    return Mistake(full, f"{owner}: there is no {what} '{bounded(name)}'.", fix, at_key=True)


def _unfit(details: ErrorDetails) -> ValueError | None:
    cause = details.get("ctx", {}).get("error")
    return cause if isinstance(cause, ValueError) else None


def _expectation(details: ErrorDetails) -> str:
    """What was expected, without the word; empty where pydantic's own sentence is to be kept."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(str(context["pattern"]), f"text that matches {bounded(context['pattern'])}")
    if kind == "value_error":
        said = str(context.get("error", ""))
        return said.removeprefix("expected ") if said.startswith("expected ") else ""
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        words = {
            "greater_than_equal": "at least",
            "less_than_equal": "at most",
            "greater_than": "more than",
            "less_than": "less than",
        }
        return f"{words[kind]} {next(iter(context.values()))}"
    if kind in ("too_short", "string_too_short"):
        return f"at least {context.get('min_length')} {'characters' if kind.startswith('string') else 'items'}".replace(
            "1 items", "one item"
        )
    if kind in ("too_long", "string_too_long"):
        return f"at most {context.get('max_length')} {'characters' if kind.startswith('string') else 'items'}"
    return _EXPECTED.get(kind, "")


def _fix(several: list[ErrorDetails], subject: object) -> str:
    """What to do, where more can be said than what was expected."""
    for details in several:
        kind, context = details["type"], details.get("ctx", {})
        if kind == "literal_error" and isinstance(subject, str):
            near = nearest(subject, re.findall(r"'([^']*)'", str(context["expected"])))
            if near:
                return near
        if kind == "string_pattern_mismatch" and isinstance(subject, str):
            return _nearest_match(subject, str(context["pattern"]))
        if kind == "string_type" and isinstance(subject, bool | int | float):
            text = str(subject).lower() if isinstance(subject, bool) else str(subject)
            return f'Put it in quotes: "{text}".'
        if kind in _LISTS and isinstance(subject, str | int | float):
            return f"Write [{bounded(subject, 30)}]."
    return ""


def _nearest_match(subject: str, pattern: str) -> str:
    if "${{" not in subject and pattern == EXPRESSION:
        return f'Write "${{{{ {bounded(subject)} }}}}".' if subject.strip() else ""
    foreign = next((letter for letter in subject if ord(letter) > 127), None)
    if foreign is not None:
        shown = f"'{foreign}'" if foreign.isprintable() else "one character"
        return f"{shown} is {unicodedata.name(foreign, 'not a letter').lower()} (U+{ord(foreign):04X})."
    near = re.sub(r"[^a-z0-9_/.]+", "_", subject.lower()).strip("_")
    fits = near != subject and re.fullmatch(pattern, near) is not None and pattern in (NAME, KIND_NAME, ASSET_PATH)
    return f"Did you mean '{bounded(near)}'?" if fits else ""


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model that describes the value at `path` below `model`; None where no single model does."""
    annotation: Any = model
    for name in path:
        annotation = _bare(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            fields = annotation.model_fields.items()
            annotation = next((field.annotation for key, field in fields if name in (field.alias or key, key)), None)
        else:
            arguments = [argument for argument in get_args(annotation) if argument is not Ellipsis]
            annotation = arguments[-1] if arguments else None
        if annotation is None:
            return None
    annotation = _bare(annotation)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _bare(annotation: Any) -> Any:
    """`annotation` without Annotated, and without the other branches of a union that has one model or container."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            branches = [branch for branch in get_args(annotation) if branch is not type(None)]
            annotation = next((branch for branch in branches if _is_structure(branch)), branches[0])
        else:
            return annotation


def _is_structure(annotation: Any) -> bool:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return (isinstance(bare, type) and issubclass(bare, BaseModel)) or bool(get_args(bare))
