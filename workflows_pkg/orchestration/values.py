"""Where do the values between steps live? Tables as Parquet, JSON values as JSON, bytes as they are; never a pickle.

Below the instance's storage folder: `assets/<key>/<partition>.<suffix>` for outputs that are assets, and
`values/<run id>/<step>.<suffix>` for the others. The suffix tells the type, so that any process reads back what was written;
a file with any other suffix is not looked at. A file appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from workflows_pkg.errors import DataProblem, bounded
from workflows_pkg.steps.contract import StepValue
from workflows_pkg.steps.values import step_value

RESOURCE_KEY = "workflow_values"
"""The resource under which the steps of workflows find their IO manager; no other definition uses it."""

_SUFFIXES = (".parquet", ".json", ".bin")
_PART = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9_.=-]{0,199}")


class StepValueIOManager(dg.IOManager):
    """Keeps the outputs of steps below `base`, each in the format of its type."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Writes the value and adds `size_bytes`, and for a table `dagster/row_count`, to the output's metadata."""
        value = step_value(obj, f"step '{_step(context)}'")
        partition = context.partition_key if context.has_partition_key else None
        size = write_value(value_stem(self.base, context, partition), value, f"step '{_step(context)}'")
        metadata: dict[str, int] = {"size_bytes": size}
        if isinstance(value, pd.DataFrame):
            metadata["dagster/row_count"] = len(value)
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> StepValue:
        """The value as it was written; raises DataProblem where none of the known formats is there."""
        written = context.upstream_output
        if written is None:
            raise DataProblem(f"The input '{context.name}' comes from no step.")
        partition = context.partition_key if context.has_partition_key else None
        source = f"asset '{written.asset_key.to_user_string()}'" if written.has_asset_key else f"step '{_step(written)}'"
        return read_value(value_stem(self.base, written, partition), source)


@dg.io_manager(description="Values between the steps of workflows: Parquet, JSON or bytes below the instance's storage.")
def step_values(init_context: dg.InitResourceContext) -> StepValueIOManager:
    """The IO manager of all compiled workflows, below the storage folder of the instance that runs them."""
    instance = init_context.instance
    if instance is None:
        raise DataProblem("Step values need a Dagster instance to be kept in.")
    return StepValueIOManager(Path(instance.storage_directory()))


def value_stem(base: Path, context: dg.OutputContext, partition: str | None) -> Path:
    """The path, without its suffix, of the value that a step wrote in a run of that partition."""
    if context.has_asset_key:
        parts = ["assets", *context.asset_key.path]
        if partition is not None:
            parts.append(partition)
    else:
        parts = ["values", context.run_id, _step(context)]
    for part in parts:
        if not _PART.fullmatch(part):
            raise DataProblem(f"'{bounded(part)}' cannot be part of a file name for a step's value.")
    return base.joinpath(*parts)


def write_value(stem: Path, value: StepValue, source: str) -> int:
    """Writes `value` beside `stem` with the suffix of its type, in place of an earlier one; its size in bytes.

    Raises DataProblem naming `source` where a table holds what Parquet cannot, such as one column with numbers and texts.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    suffix = _suffix(value)
    target = stem.with_name(stem.name + suffix)
    handle, name = tempfile.mkstemp(prefix=f".{stem.name}-", suffix=suffix, dir=stem.parent)
    os.close(handle)
    whole = Path(name)
    try:
        _write(whole, value, source)
        size = whole.stat().st_size
        whole.replace(target)
    finally:
        whole.unlink(missing_ok=True)
    for other in _SUFFIXES:
        if other != suffix:
            stem.with_name(stem.name + other).unlink(missing_ok=True)
    return size


def read_value(stem: Path, source: str) -> StepValue:
    """The value kept beside `stem`; the newest where a write was cut off between two types.

    Raises DataProblem where none is there.
    """
    found = [path for path in (stem.with_name(stem.name + suffix) for suffix in _SUFFIXES) if path.is_file()]
    if not found:
        raise DataProblem(f"The output of {source} is not in {stem.parent}.", fix="Run the workflow again from that step.")
    path = max(found, key=lambda candidate: candidate.stat().st_mtime_ns)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else path.read_bytes()


def _suffix(value: StepValue) -> str:
    if isinstance(value, pd.DataFrame):
        return ".parquet"
    return ".bin" if isinstance(value, bytes) else ".json"


def _write(path: Path, value: StepValue, source: str) -> None:
    if isinstance(value, pd.DataFrame):
        try:
            value.to_parquet(path)
        except (ValueError, TypeError, OverflowError) as error:  # what pyarrow and pandas raise for columns of mixed types
            raise DataProblem(
                f"The table of {source} cannot be kept as Parquet: {bounded(error, 300)}.", fix="Give each column one type."
            ) from error
    elif isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _step(context: dg.OutputContext) -> str:
    return context.step_key.rsplit(".", 1)[-1]
