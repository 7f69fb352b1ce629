"""Does a step kind keep the contract? What every kind is held to: the built-in ones in the tests, plugins at discovery."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from workflows_pkg.errors import CodeProblem, SetupError, StepError, bounded
from workflows_pkg.steps.contract import StepContext, StepKind
from workflows_pkg.steps.values import plain_json

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
LONGEST_NAME = 80
"""As in a workflow file's `uses`."""


def check_step_kind(kind: object) -> list[str]:
    """What `kind` breaks of the contract, a sentence each; empty where it keeps it. Nothing of the kind is run."""
    if not isinstance(kind, StepKind):
        return [f"Expected a StepKind, found {type(kind).__name__}."]
    return [*_check_words(kind), *_check_run(kind), *_check_params(kind)]


def check_run(kind: StepKind[Any], context: StepContext, given: Mapping[str, Any]) -> list[str]:
    """What one run of `kind` with the parameters `given` breaks of the contract.

    A run keeps it when it returns a table, a JSON value or bytes, or raises a StepError or SetupError with a message.
    """
    try:
        params = kind.params.model_validate(dict(given))
    except ValidationError:
        return []  # refused before it runs, in pydantic's words
    try:
        value = kind.run(context, params)
    except (StepError, SetupError) as error:
        return [] if str(error).strip() else [f"It raised {type(error).__name__} without a message."]
    except Exception as error:  # noqa: BLE001 - telling which exception escaped is the purpose
        return [f"It raised {type(error).__name__} ({bounded(error)}), which is not a StepError."]
    if isinstance(value, pd.DataFrame | bytes):
        return []
    try:
        same = plain_json(value, "it") == value
    except CodeProblem as error:
        return [f"Its output cannot be kept: {error}"]
    return [] if same else ["Its output holds values that JSON changes, such as NaN or dates; give them as JSON's own types."]


def _check_words(kind: StepKind[Any]) -> list[str]:
    found: list[str] = []
    # Read as objects: a plugin may not be what its annotations say.
    stated: dict[str, object] = vars(kind)
    name, summary, extra = stated["name"], stated["summary"], stated["extra"]
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        found.append(f"The name {bounded(repr(name))} is not lower-case words joined by dots, such as data.sql.")
    if not isinstance(summary, str) or not re.fullmatch(r"[A-Z].{8,198}\.", summary):
        found.append("The summary is not one sentence of 10 to 200 characters, from a capital letter to a full stop.")
    if extra is not None and not (isinstance(extra, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", extra)):
        found.append("extra is neither None nor the name of an optional extra.")
    return found


def _check_run(kind: StepKind[Any]) -> list[str]:
    if not callable(kind.run):
        return ["run is not a function."]
    if inspect.iscoroutinefunction(kind.run) or inspect.isgeneratorfunction(kind.run):
        return ["run is a coroutine or a generator; it returns its output."]
    try:
        inspect.signature(kind.run).bind(object(), object())
    except (TypeError, ValueError):
        return ["run cannot be called with the context and the parameters: run(context, params)."]
    return []


def _check_params(kind: StepKind[Any]) -> list[str]:
    stated: dict[str, object] = vars(kind)
    params = stated["params"]
    if not (isinstance(params, type) and issubclass(params, BaseModel)):
        return ["params is not a pydantic model."]
    found: list[str] = []
    if params.model_config.get("extra") != "forbid":
        found.append("params accepts unknown fields; set extra='forbid', or take contract.Parameters as base.")
    found += [
        f"The parameter '{field.alias or name}' has no description."
        for name, field in params.model_fields.items()
        if not (field.description or "").strip()
    ]
    try:
        params.model_json_schema(by_alias=True)
    except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
        found.append(f"params has no JSON Schema: {bounded(error)}")
    return found + _check_example(params, kind.example)


def _check_example(params: type[BaseModel], example: object) -> list[str]:
    if not isinstance(example, Mapping):
        return ["The example is not a mapping."]
    given = dict(example)
    try:
        json.dumps(given)
    except (TypeError, ValueError):
        return ["The example cannot be written as YAML or JSON."]
    try:
        params.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return [f"The example does not validate: {'.'.join(map(str, first['loc']))}: {first['msg']}."]
    return []
