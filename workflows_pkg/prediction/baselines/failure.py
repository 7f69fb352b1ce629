"""How likely is a failure by simple rules? Running rate, last outcome, rate after the last outcome, exponentially weighted rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workflows_pkg.prediction.predictor import Finished, Submitted

BASELINES = ("running_rate", "last_outcome", "markov", "ewma_0.2")
EWMA_WEIGHT = 0.2
_LAST = (0.1, 0.9)
"""What the last outcome alone says after a success and after a failure; a convention of the protocol."""


@dataclass
class _Key:
    count: int = 0
    failures: int = 0
    last: bool = False
    after: dict[bool, list[int]] = field(default_factory=lambda: {False: [0, 0], True: [0, 0]})
    ewma: float = 0.0


class FailureBaselines:
    """Every simple rule's probability, from the outcomes of the step; NaN for a step without any.

    Counts start at one failure and one success (Laplace), so that no rule says never.
    """

    columns = BASELINES

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], _Key] = {}

    def observe(self, finished: Sequence[Finished]) -> None:
        """Adds outcomes that are success or failure."""
        for one in finished:
            if one.failed is None:
                continue
            key = self._keys.setdefault(one.submitted.key, _Key())
            if key.count:
                after = key.after[key.last]
                after[0] += one.failed
                after[1] += 1
                key.ewma += EWMA_WEIGHT * (one.failed - key.ewma)
            else:
                key.ewma = (one.failed + 1) / 3
            key.count += 1
            key.failures += one.failed
            key.last = one.failed

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """Each rule's probability."""
        answers = np.full((len(submitted), len(BASELINES)), np.nan)
        for row, one in enumerate(submitted):
            key = self._keys.get(one.key)
            if key is not None:
                failures, count = key.after[key.last]
                answers[row] = (
                    (key.failures + 1) / (key.count + 2),
                    _LAST[key.last],
                    (failures + 1) / (count + 2),
                    key.ewma,
                )
        return answers

    def card(self) -> dict[str, Any]:
        """The rules by name."""
        return {"rules": list(BASELINES)}
