"""What was forecast for a job, without training anything? Reads one line of the published file with the standard library alone.

The file is one JSON document, laid out so that a job is found without reading the others: the first line holds format, moment and an
index, each further one a job, in the order of their names; the index names the first job of each block of lines, and where it begins. So
a lookup reads two pieces, also of a file that was replaced a moment ago, and nothing is kept in memory between lookups.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from workflows_pkg.errors import SetupError, bounded

FILE = "forecasts.json"
"""Name of the table in the folder that holds the instance's learned facts."""

FORMAT = 3
"""Version of the file's shape; a reader refuses any other."""

BLOCK = 64 * 1024
"""Bytes from which a block of lines is full: one read from a disk, and some tens of names to look at."""

LONGEST_LINE = 256 * 1024
"""Bytes of a job's line; about a thousand steps. With it, and the next, a lookup reads a few megabytes at most, whatever is in the file."""

LONGEST_HEAD = 4 * 1024 * 1024
"""Bytes of the first line: the index of a million jobs."""

_DECODER = json.JSONDecoder()
_MAPPING_KEY = re.compile(r"\[.*\]$")


@dataclass(frozen=True)
class Quantiles:
    """One published forecast; `p05`, `p50`, `p95` in the quantity's unit, `sample_count` values behind it.

    `basis`: what is usual and what moved the forecast from there, as `Forecast.basis` has it; published for run times of whole runs.
    """

    p05: float
    p50: float
    p95: float
    sample_count: int
    predictor: str
    basis: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class JobForecast:
    """Everything published for a job as of a moment, by step and quantity; the step is empty for the whole run."""

    job_name: str
    as_of: datetime
    by_key: Mapping[tuple[str, str], Quantiles]

    def run(self, quantity: str) -> Quantiles | None:
        """The forecast of one quantity of the whole run, None: unknown."""
        return self.by_key.get(("", quantity))

    def steps(self, quantity: str) -> dict[str, Quantiles]:
        """The forecasts of one quantity by step."""
        return {step: found for (step, name), found in self.by_key.items() if step and name == quantity}

    def step_of(self, step_key: str) -> str | None:
        """The step that a step key of a run means, mapped or inside a graph; None where nothing is known of it."""
        without_mapping_key = _MAPPING_KEY.sub("", step_key)
        for name in (without_mapping_key, without_mapping_key.rpartition(".")[2]):
            if any(step == name for step, _ in self.by_key):
                return name
        return None


def expected(home: Path, job_name: str) -> Quantiles | None:
    """The forecast run time of a job's next run in seconds, from the table in `home`; None: unknown."""
    return forecasts_of(home / FILE, job_name).get(("", "run_time_s"))


def forecasts_of(path: Path, job_name: str) -> dict[tuple[str, str], Quantiles]:
    """The forecasts published for a job by (step, quantity); the step is empty for the whole run.

    Empty where nothing was published or the job has no history: unknown, never zero. Raises `SetupError` where the file
    cannot be understood.
    """
    found = job_forecast(path, job_name)
    return {} if found is None else dict(found.by_key)


def is_published(path: Path) -> bool:
    """Whether there is a table of forecasts that this version can read."""
    try:
        job_forecast(path, "")
    except SetupError:
        return False
    return path.is_file()


def job_forecast(path: Path, job_name: str) -> JobForecast | None:
    """What was published for a job; None where nothing was, or the job has no history.

    Raises `SetupError` where the file cannot be read or understood.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("not a regular file")
            as_of, blocks = _head(file)
            values = _find(file, blocks, job_name)
        return None if values is None else JobForecast(job_name, as_of, _quantiles(values))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise SetupError(
            f"{path}: expected a table of forecasts in format {FORMAT}, found {type(problem).__name__}: {bounded(problem, 200)}.",
            fix="Delete the file; the next training writes it again.",
        ) from problem


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; a pipe somebody put in its place must not make a launch wait."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _head(file: IO[bytes]) -> tuple[datetime, list[tuple[str, int]]]:
    """The moment of the forecasts, and the first job and place of each block, from the first line on."""
    line = file.readline(LONGEST_HEAD)
    try:
        head: Any = json.loads(line.rstrip() + b"}}")
    except ValueError:
        # a file of another format, or none at all: say which where it says so itself
        head = json.loads(line + file.read(LONGEST_LINE))
    if head["format"] != FORMAT:
        raise ValueError(f"format {bounded(head['format'])}")
    at = head["as_of"]
    moment = datetime.fromisoformat(at) if at is not None else datetime.fromtimestamp(0, UTC)
    return moment, [(str(name), len(line) + int(place)) for name, place in head["index"]]


def _find(file: IO[bytes], blocks: list[tuple[str, int]], job_name: str) -> dict[str, dict[str, Any]] | None:
    """The value of the line that begins with the job's name, None where there is no such line."""
    number = bisect_right(blocks, job_name, key=lambda block: block[0]) - 1
    if number < 0:
        return None
    file.seek(blocks[number][1])
    lines = file.read(BLOCK + LONGEST_LINE).split(b"\n")
    for place, line in enumerate(lines):
        if line.startswith(b"}") or not line:
            break
        text = line.decode()
        name, end = _DECODER.raw_decode(text)
        if place == 0 and name != blocks[number][0]:
            raise ValueError(f"another job than '{bounded(blocks[number][0])}' where the index has it")
        if name == job_name:
            return cast("dict[str, dict[str, Any]]", _DECODER.raw_decode(text, end + len(": "))[0])
        if name > job_name:
            break
    return None


def _quantiles(values: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Quantiles]:
    found: dict[tuple[str, str], Quantiles] = {}
    for step, by_quantity in values.items():
        for quantity, (p05, p50, p95, count, predictor, *basis) in by_quantity.items():
            ends = float(p05), float(p50), float(p95)
            if not all(math.isfinite(end) for end in ends) or not ends[0] <= ends[1] <= ends[2]:
                raise ValueError(f"{quantity} of {bounded(step or 'the run')} from {p05} over {p50} to {p95}")
            found[step, quantity] = Quantiles(*ends, int(count), str(predictor), dict(basis[0]) if basis else None)
    return found
