"""How much longer does a step take on another machine than on the one at hand? From benchmarks of the same steps on a small input.

The ratio of a step's two times carries over to larger inputs (Bader et al., "Lotaru: Locally Predicting Workflow Task Runtimes for
Resource Management on Heterogeneous Infrastructures", 2023). One small measurement is noisy, so it is drawn towards what the machine
shows over all its steps; how far its steps lie apart says how wrong the ratio may be.

A table of benchmarks is a Parquet or CSV file with one row per step and machine: columns `step` or `task`, `workflow` where there are
several, `realtime` with or without a number, and `machine`; without that, the one other column of text names the machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from workflows_pkg.prediction.rows import Frame, numbers

_TIME = re.compile(r"realtime\d*")
_SHRUNK = 1 / 3
"""Share of the machine's median ratio in that of a step. On the one public set of benchmarks the error is the same from 0 to 3/4."""
_MOST = math.log(1000.0)
"""Logarithm of the largest ratio that is believed: no machine is a thousand times another; a figure in another unit is."""
_FROM = 3
"""Steps from which the distance between their ratios says something."""


@dataclass(frozen=True)
class Benchmarks:
    """Logarithms of a step's time on a machine over that on the machine at hand, by machine and (workflow, step); all in lower case."""

    at_hand: str
    ratios: Mapping[str, Mapping[tuple[str, str], float]]

    def factor(self, workflow: str, step: str, machine: str) -> tuple[float, float]:
        """How many times as long as on the machine at hand, and the standard deviation of that factor's logarithm.

        1 and 0 for the machine at hand. Of a machine without benchmarks, 1, and how far the known machines lie apart.
        """
        name = machine.casefold()
        if name == self.at_hand:
            return 1.0, 0.0
        known = self.ratios.get(name)
        if not known:
            usual = [float(np.median(list(one.values()))) for one in self.ratios.values()]
            return 1.0, float(np.sqrt(np.mean(np.square(usual)))) if usual else 0.0
        values = np.array(list(known.values()))
        middle = float(np.median(values))
        own = known.get((workflow.casefold(), step.casefold()), middle)
        spread = float(values.std(ddof=1)) if len(values) >= _FROM else 0.0
        return math.exp((1 - _SHRUNK) * own + _SHRUNK * middle), spread


def beside(path: Path, at_hand: str) -> Benchmarks | None:
    """What the tables of benchmarks in a trace's folder say; None where there are none, or none of the machine at hand."""
    return benchmarks(_tables(sorted(path.parent.iterdir())), at_hand)


def benchmarks(tables: Iterable[Frame], at_hand: str) -> Benchmarks | None:
    """Ratios from tables with the columns `workflow`, `step`, `machine` and `seconds`; None where the machine at hand is in none.

    Of several times of a step on a machine the median counts; what is no time, and a ratio beyond a thousand, counts for nothing.

    >>> table = pd.DataFrame({"workflow": "w", "step": "sort", "machine": ["here", "there"], "seconds": [10.0, 20.0]})
    >>> [round(figure, 3) for figure in benchmarks([table], "here").factor("w", "sort", "there")]
    [2.0, 0.0]
    """
    times: dict[tuple[str, str, str], list[float]] = {}
    for table in tables:
        for workflow, step, machine, took in table[["workflow", "step", "machine", "seconds"]].itertuples(index=False):
            if 0 < took < math.inf:
                times.setdefault((str(machine).casefold(), str(workflow).casefold(), str(step).casefold()), []).append(
                    float(took)
                )
    seconds: dict[str, dict[tuple[str, str], float]] = {}
    for (machine, workflow, step), found in times.items():
        seconds.setdefault(machine, {})[workflow, step] = median(found)
    reference = seconds.pop(at_hand.casefold(), None)
    if reference is None or not seconds:
        return None
    ratios = {
        machine: {
            key: ratio
            for key, took in found.items()
            if key in reference and abs(ratio := math.log(took) - math.log(reference[key])) <= _MOST
        }
        for machine, found in seconds.items()
    }
    return Benchmarks(at_hand.casefold(), {machine: found for machine, found in ratios.items() if found})


def _tables(paths: Sequence[Path]) -> Iterable[Frame]:
    for path in paths:
        if path.suffix not in (".csv", ".parquet"):
            continue
        try:
            if path.suffix == ".csv":
                if _columns(pd.read_csv(path, nrows=0).columns) is None:
                    continue
                table = pd.read_csv(path)
            else:
                from pyarrow.parquet import read_schema

                if _columns(read_schema(path).names) is None:
                    continue
                table = pd.read_parquet(path)
        except (OSError, ValueError):
            continue  # whatever it is, it is no table of benchmarks
        found = _columns(table.columns)
        if found is not None and (read := _benchmark(table, *found)) is not None:
            yield read


def _columns(names: Iterable[object]) -> tuple[str, str | None, list[str]] | None:
    """The columns of steps, of workflows and of times; None where the table is none of benchmarks."""
    by_name = {str(name).casefold(): str(name) for name in names}
    step = by_name.get("step") or by_name.get("task")
    times = [name for lower, name in by_name.items() if _TIME.fullmatch(lower)]
    return (step, by_name.get("workflow"), times) if step and times else None


def _benchmark(table: Frame, step: str, workflow: str | None, times: list[str]) -> Frame | None:
    by_name = {str(name).casefold(): str(name) for name in table.columns}
    texts = [
        name
        for name in map(str, table.columns)
        if name not in (step, workflow) and not pd.api.types.is_numeric_dtype(table[name])
    ]
    machine = by_name.get("machine") or (texts[0] if len(texts) == 1 else None)
    if machine is None:
        return None
    seconds = pd.DataFrame({name: numbers(table[name]) for name in times}).median(axis=1)
    return pd.DataFrame(
        {
            "workflow": table[workflow].astype(str) if workflow else "",
            "step": table[step].astype(str),
            "machine": table[machine].astype(str),
            "seconds": seconds,
        }
    )
