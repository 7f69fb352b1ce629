"""What do simple rules expect of a run time? Last, means, medians and least squares on the size, per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workflows_pkg.prediction.predictor import Finished, Submitted
from workflows_pkg.prediction.rules import INTERVAL_FROM, RULES, Past, interval

BASELINES = (*RULES, "regression", "log_regression")
ENDS = ("rule_p05", "rule_p95")
_MEDIAN = list(RULES).index("median")
_FLOOR = 1e-3
"""Seconds from which logarithms are taken."""


@dataclass
class Line:
    """Least squares of y on x from sums alone."""

    count: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        """One more point, by running means."""
        self.count += 1
        dx, dy = x - self.x, y - self.y
        self.x += dx / self.count
        self.y += dy / self.count
        self.xx += dx * (x - self.x)
        self.xy += dx * (y - self.y)

    def at(self, x: float) -> float:
        """The line at x; NaN below two points or where all have the same x."""
        if self.count < 2 or self.xx <= 1e-12 * max(1.0, self.x * self.x) * self.count:
            return math.nan
        return self.y + self.xy / self.xx * (x - self.x)


@dataclass
class _Key:
    past: Past = field(default_factory=Past)
    line: Line = field(default_factory=Line)
    log_line: Line = field(default_factory=Line)


class DurationBaselines:
    """Every simple rule, and the 5 % and 95 % quantile of the step's history from five values on.

    The regression rules answer with the median where they have no line: no size known, or always the same. Neither is bounded
    otherwise, but for never being negative.
    """

    columns = (*BASELINES, *ENDS)

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], _Key] = {}

    def observe(self, finished: Sequence[Finished]) -> None:
        """Adds the values of successful attempts."""
        for one in finished:
            if math.isnan(one.value):
                continue
            key = self._keys.setdefault(one.submitted.key, _Key())
            key.past.add(one.value, one.submitted.tag)
            size = one.submitted.size
            if not math.isnan(size):
                key.line.add(size, one.value)
                key.log_line.add(math.log1p(max(size, 0.0)), math.log(max(one.value, _FLOOR)))

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """Each rule's answer; NaN for steps without history."""
        answers = np.full((len(submitted), len(self.columns)), np.nan)
        for row, one in enumerate(submitted):
            key = self._keys.get(one.key)
            if key is None:
                continue
            past = key.past
            said = [rule(past, one.tag) for rule in RULES.values()]
            middle = said[_MEDIAN]
            line = log_line = math.nan
            if not math.isnan(one.size):
                line, log_line = key.line.at(one.size), key.log_line.at(math.log1p(max(one.size, 0.0)))
            said.append(middle if math.isnan(line) else max(line, 0.0))
            said.append(middle if math.isnan(log_line) else math.exp(min(log_line, 700.0)))
            answers[row, : len(BASELINES)] = said
            ends = interval(past)
            if ends is not None:
                answers[row, len(BASELINES) :] = ends
        return answers

    def card(self) -> dict[str, Any]:
        """The rules by name."""
        return {
            "rules": list(BASELINES),
            "interval": f"5 % and 95 % quantile of the step's history, from {INTERVAL_FROM} values on",
        }
