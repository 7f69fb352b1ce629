"""Which values may travel between steps? Tables, JSON values and bytes; everything else is refused before it is kept."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, cast

import numpy as np
import pandas as pd

from workflows_pkg.errors import CodeProblem, DataProblem, bounded
from workflows_pkg.steps.contract import JsonValue, StepValue

DEEPEST = 60
"""Nesting beyond this is a value that contains itself, or one that no JSON reader downstream accepts."""


def step_value(value: object, source: str) -> StepValue:
    """`value` as it travels on: a table or bytes unchanged, anything else as plain JSON (see `plain_json`).

    `source` names where the value comes from, for the message of the CodeProblem that any other type raises.
    """
    if isinstance(value, pd.DataFrame):
        return _table(value, source)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return plain_json(value, source)


def plain_json(value: object, source: str) -> JsonValue:
    """`value` with numpy and pandas scalars, dates and decimals as JSON's own types.

    Missing values (NaN, NaT, NA) and infinities, which JSON cannot write, become null. Instants and dates become
    ISO 8601 text, decimals numbers, UUIDs text, tuples and arrays lists. Raises CodeProblem that names the place.
    """
    return _plain(value, source, "", 0)


def as_table(value: StepValue, step: str) -> pd.DataFrame:
    """The output of `step` as a table: a table as it is, a JSON list of records as rows. Raises DataProblem otherwise."""
    if isinstance(value, pd.DataFrame):
        return value
    if is_tabular(value):
        return pd.DataFrame.from_records(cast("list[dict[str, Any]]", value))
    raise DataProblem(
        f"Expected a table or a list of records from step '{step}', found {kind_of(value)}.",
        fix="Let that step give a table, or a list of objects with the same keys.",
    )


def is_tabular(value: StepValue) -> bool:
    """Whether `as_table` can read `value`."""
    return isinstance(value, pd.DataFrame) or (
        isinstance(value, list) and len(value) > 0 and all(isinstance(record, dict) for record in value)
    )


def kind_of(value: StepValue) -> str:
    """What `value` is, in words for a message."""
    if isinstance(value, pd.DataFrame):
        return f"a table of {len(value)} rows"
    names: dict[type, str] = {
        bytes: "bytes",
        str: "text",
        bool: "a truth value",
        list: "a list",
        dict: "a JSON object",
        type(None): "nothing",
    }
    return names.get(type(value), "a number")


def _table(table: pd.DataFrame, source: str) -> pd.DataFrame:
    unnamed = [column for column in table.columns if not isinstance(column, str)]
    if unnamed:
        raise CodeProblem(
            f"{source} gave a table with the column name {bounded(repr(unnamed[0]))}; column names are text.",
            fix="Rename the columns, or reset_index() first.",
        )
    doubled = sorted(set(table.columns[table.columns.duplicated()]))
    if doubled:
        raise CodeProblem(f"{source} gave a table with two columns named '{bounded(doubled[0])}'.", fix="Rename one of them.")
    return table


def _plain(value: object, source: str, place: str, depth: int) -> JsonValue:
    if depth > DEEPEST:
        raise CodeProblem(f"{source} gave a value nested deeper than {DEEPEST} levels, or one that contains itself.")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        value = value.value
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, bool | int):
        return value
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        plain = {_key(key, source, place): _plain(item, source, f"{place}.{key}", depth + 1) for key, item in mapping.items()}
        if len(plain) < len(mapping):
            raise CodeProblem(f"{source} gave an object with two keys that are the same as text, such as 1 and '1'.")
        return plain
    if isinstance(value, np.ndarray):
        value = cast("list[object]", value.tolist())
    if isinstance(value, list | tuple):
        items = cast("list[object] | tuple[object, ...]", value)
        return [_plain(item, source, f"{place}[{index}]", depth + 1) for index, item in enumerate(items)]
    where = f" at '{bounded(place.lstrip('.'))}'" if place else ""
    raise CodeProblem(
        f"{source} gave {_type_name(value)}{where}; a step gives a DataFrame, a JSON value or bytes.",
        fix="For a Series use to_frame() or to_list()." if isinstance(value, pd.Series) else "",
    )


def _key(key: object, source: str, place: str) -> str:
    if isinstance(key, str):
        return str(key)
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return str(int(key))
    if isinstance(key, dt.date):
        return key.isoformat()
    where = f" at '{bounded(place.lstrip('.'))}'" if place else ""
    raise CodeProblem(f"{source} gave an object with a key of type {_type_name(key)}{where}; keys are text.")


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
