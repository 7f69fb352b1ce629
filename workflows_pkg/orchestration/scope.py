"""What can the expressions of a workflow see while it runs? The values behind their roots, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from workflows_pkg.errors import SetupError
from workflows_pkg.steps.contract import PartitionSlice, StepValue
from workflows_pkg.steps.values import plain_json

SENSOR_FILE_TAG = "workflows/sensor_file"
"""Run tag with the file that a file sensor saw, relative to the data folder."""


class _Asked(Mapping[str, Any]):
    """A root whose values are made when an expression asks for them, so that an unused secret is never read."""

    def __init__(self, value: Callable[[str], Any], names: tuple[str, ...] = ()) -> None:
        self._value = value
        self._names = names

    def __getitem__(self, name: str) -> Any:
        return self._value(name)

    def __contains__(self, name: object) -> bool:
        return not self._names or name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def run_scope(
    run_id: str, tags: Mapping[str, str], partition: PartitionSlice | None, secret: Callable[[str], str]
) -> dict[str, Any]:
    """The roots that every step of a run sees. `partition` is there only in a run of a partition."""
    scope: dict[str, Any] = {
        "run": {"id": run_id},
        "secrets": _Asked(secret),
        "sensor": _Asked(lambda _: _sensor_file(tags), ("file",)),
    }
    if partition is not None:
        scope["partition"] = {
            "key": partition.key,
            "start": partition.start.isoformat(),
            "end": partition.end.isoformat(),
            "date": partition.start.date().isoformat(),
        }
    return scope


def step_fields(value: StepValue) -> Any:
    """What `steps.<name>` is in an expression.

    A JSON value is itself. A table has `rows` and `columns`, and, where it has exactly one row, its columns by their names.
    Bytes have `bytes`, their number.
    """
    if isinstance(value, pd.DataFrame):
        fields: dict[str, Any] = {}
        if len(value) == 1:
            fields.update({str(name): plain_json(item, "the table") for name, item in value.iloc[0].items()})
        return {**fields, "rows": len(value), "columns": [str(name) for name in value.columns]}
    return {"bytes": len(value)} if isinstance(value, bytes) else value


def _sensor_file(tags: Mapping[str, str]) -> str:
    if SENSOR_FILE_TAG not in tags:
        raise SetupError(
            "The expression sensor.file needs the file that started the run, and this run was not started by the file sensor.",
            fix=f"Launch it with the tag {SENSOR_FILE_TAG}=<path below the data folder>.",
        )
    return tags[SENSOR_FILE_TAG]
