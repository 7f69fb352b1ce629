"""What do simple rules request of memory? Largest seen, percentiles, least squares with a margin, nearest sizes, per step."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workflows_pkg.prediction.baselines.duration import Line
from workflows_pkg.prediction.predictor import Finished, Submitted
from workflows_pkg.prediction.rules import quantile

BASELINES = (
    "max_seen", "max_seen_x1.1", "p95", "p99_x1.05", "last_x1.2", "regression_plus_sd", "regression_plus_largest_residual",
    "max_of_5_nearest_x1.1",
)  # fmt: skip
MAX_SEEN = "max_seen"
_NEIGHBOURS = 5


@dataclass
class _Key:
    ordered: list[float] = field(default_factory=list[float])
    last: float = math.nan
    line: Line = field(default_factory=Line)
    by_size: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    residuals: float = 0.0
    largest: float = 0.0
    count: int = 0


class MemoryBaselines:
    """Every simple rule's request in bytes, from the peaks of successful attempts of the step; NaN for a step without history.

    Residuals of the regressions are those at submission order of finishing: of each new peak from the line before it. Rules that need a
    size take the largest peak seen where none is known.
    """

    columns = BASELINES

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], _Key] = {}

    def observe(self, finished: Sequence[Finished]) -> None:
        """Adds the peaks of successful attempts; a killed one's says only how much was not enough."""
        for one in finished:
            peak, size = one.peak_memory_bytes, one.submitted.size
            if math.isnan(peak) or one.failed is not False:
                continue
            key = self._keys.setdefault(one.submitted.key, _Key())
            if not math.isnan(size):
                expected = key.line.at(size)
                if not math.isnan(expected):
                    key.residuals += (peak - expected) ** 2
                    key.largest = max(key.largest, peak - expected)
                    key.count += 1
                key.line.add(size, peak)
                insort(key.by_size, (size, peak))
            insort(key.ordered, peak)
            key.last = peak

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """Each rule's request."""
        answers = np.full((len(submitted), len(BASELINES)), np.nan)
        for row, one in enumerate(submitted):
            key = self._keys.get(one.key)
            if key is None:
                continue
            most = key.ordered[-1]
            line = key.line.at(one.size) if not math.isnan(one.size) else math.nan
            spread = math.sqrt(key.residuals / key.count) if key.count else 0.0
            answers[row] = (
                most,
                1.1 * most,
                quantile(key.ordered, 0.95),
                1.05 * quantile(key.ordered, 0.99),
                1.2 * key.last,
                most if math.isnan(line) else max(line + spread, key.ordered[0]),
                most if math.isnan(line) else max(line + key.largest, key.ordered[0]),
                1.1 * (most if math.isnan(one.size) or not key.by_size else _nearest(key.by_size, one.size)),
            )
        return answers

    def card(self) -> dict[str, Any]:
        """The rules by name."""
        return {"rules": list(BASELINES)}


def _nearest(by_size: list[tuple[float, float]], size: float) -> float:
    """The largest peak of the attempts with the nearest sizes."""
    place = bisect_left(by_size, (size, -math.inf))
    around = by_size[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS]
    return max(peak for _, peak in sorted(around, key=lambda pair: abs(pair[0] - size))[:_NEIGHBOURS])
