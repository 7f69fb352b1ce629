"""What was forecast for a job, without training anything? Reads the one small published file with the standard library alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from workflows_pkg.errors import SetupError

FILE = "forecasts.json"
"""Name of the table in the folder that holds the instance's learned facts."""

FORMAT = 1
"""Version of the file's shape; a reader refuses any other."""


@dataclass(frozen=True)
class Quantiles:
    """One published forecast; `p05`, `p50`, `p95` in the quantity's unit, `sample_count` values behind it."""

    p05: float
    p50: float
    p95: float
    sample_count: int
    predictor: str


def expected(home: Path, job_name: str) -> Quantiles | None:
    """The forecast run time of a job's next run in seconds, from the table in `home`; None: unknown."""
    return forecasts_of(home / FILE, job_name).get(("", "run_time_s"))


def forecasts_of(path: Path, job_name: str) -> dict[tuple[str, str], Quantiles]:
    """The forecasts published for a job by (step, quantity); the step is empty for the whole run.

    Empty where nothing was published or the job has no history: unknown, never zero. Raises `SetupError` where the file
    cannot be understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        table = cast("dict[str, Any]", json.loads(text))
        if table["format"] != FORMAT:
            raise ValueError(f"format {table['format']!r}")
        job = cast("dict[str, dict[str, dict[str, Any]]]", table["jobs"].get(job_name, {}))
        return {
            (step, quantity): Quantiles(**entry) for step, by_quantity in job.items() for quantity, entry in by_quantity.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise SetupError(
            f"{path}: expected a table of forecasts in format {FORMAT}, found {type(problem).__name__}: {problem}.",
            fix="Delete the file; the next training writes it again.",
        ) from problem
