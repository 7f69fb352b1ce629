"""What is a figure of an evaluation? One measure of ours beside the same of every baseline, on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.predictor import Predictor
from workflows_pkg.prediction.rows import Frame


@dataclass(frozen=True)
class Measure:
    """One figure of one trace. `better`: whether the smaller or the larger one is, empty where neither is; `ours` None: no answer."""

    trace: str
    question: str
    metric: str
    unit: str
    better: str
    ours: float | None
    baselines: Mapping[str, float]
    rows: int

    def best(self) -> tuple[str, float] | None:
        """Name and figure of the best baseline; None where there is none to compare with."""
        known = {name: value for name, value in self.baselines.items() if value == value}
        if not known or not self.better:
            return None
        chosen = (min if self.better == "low" else max)(known, key=lambda name: known[name])
        return chosen, known[chosen]

    def gain(self) -> float | None:
        """By which share ours is better than the best baseline, negative where it is worse; None where that is undefined."""
        best = self.best()
        if best is None or self.ours is None or self.ours != self.ours or best[1] == 0:
            return None
        return (1 - self.ours / best[1]) if self.better == "low" else (self.ours / best[1] - 1)


@dataclass(frozen=True)
class Question:
    """What is asked about attempts, and how the answers are judged.

    `asks`: whether a trace tells enough to judge. `ours`: a fresh predictor; None while only the baselines answer. `headline`: the
    metrics that a table shows; all are in the measures.
    """

    name: str
    asks: Callable[[Trace], bool]
    ours: Callable[[], Predictor] | None
    baselines: Callable[[], Predictor]
    measures: Callable[[Trace, Frame | None, Frame], Iterator[Measure]]
    headline: tuple[str, ...]


def macro(measures: Iterable[Measure]) -> list[Measure]:
    """The mean over traces of every metric that has one in ours and all its baselines; `rows` is the sum."""
    grouped: dict[tuple[str, str, str, str], list[Measure]] = {}
    for one in measures:
        grouped.setdefault((one.question, one.metric, one.unit, one.better), []).append(one)
    found: list[Measure] = []
    for (question, metric, unit, better), group in grouped.items():
        names = [name for name in group[0].baselines if all(name in one.baselines for one in group)]
        ours = [one.ours for one in group if one.ours is not None and one.ours == one.ours]
        found.append(
            Measure(
                f"mean of {len(group)} traces",
                question,
                metric,
                unit,
                better,
                float(np.mean(ours)) if len(ours) == len(group) else None,
                {name: _mean([one.baselines[name] for one in group]) for name in names},
                sum(one.rows for one in group),
            )
        )
    return found


def by_step(keys: Sequence[object], values: np.ndarray, weights: np.ndarray) -> float:
    """The mean over steps of sum of `values` over sum of `weights`: a step with many attempts counts once."""
    frame: Frame = pd.DataFrame({"key": list(keys), "value": values, "weight": weights}).groupby("key").sum()
    return float((frame["value"] / frame["weight"]).mean())


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
