"""Whom to believe? Experts are weighed by their discounted losses on the step's own attempts, and on all steps where these are few.

Exponentially weighted averages of experts (Cesa-Bianchi and Lugosi, "Prediction, Learning, and Games", 2006, chapter 2), with experts
that may have nothing to say. The loss is absolute, since the sum of absolute errors over the sum of truths is what is to be small, in
units of the step's typical error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = (2, 5, 20, 60)
"""Numbers of values known from which the experience of all steps is kept apart: lines are poor guides at two points and good ones at
twenty."""

CAP = 3.0
"""Losses above this, in units of the step's typical error, count as this: one stray value must not choose the expert."""
_KEEP_STEP, _KEEP_ALL = 0.98, 0.998
"""Weight of a loss after each further one: about the newest 50 of a step and 500 of all decide."""
_PRIOR = 16.0
"""Losses that the experience of all steps counts for against a step's own."""
_PRIOR_ALL = 100.0
"""Losses that `start` counts for against the experience of all steps."""
SHARPNESS = 60.0
"""Chosen among 30, 60 and 100 on public traces: seven of eight selections that leave out a family of traces choose it; one, 30."""


@dataclass(slots=True)
class _Trust:
    """What attempts showed of the experts: discounted sums of relative losses, and of what they counted."""

    loss: list[float]
    weight: list[float]
    size: float = 0.0
    size_weight: float = 0.0

    def add(self, relative: Sequence[float], share: float, keep: float) -> None:
        loss, weight = self.loss, self.weight
        for place, value in enumerate(relative):
            if value == value:
                loss[place] = loss[place] * keep + value * share
                weight[place] = weight[place] * keep + share


class Mixer:
    """Weighs experts; `start`: mean losses of each by number of values known (rows: `BINS`), before anything is seen."""

    def __init__(self, start: Sequence[Sequence[float]], sharpness: float = SHARPNESS, cap: float = CAP) -> None:
        self._sharpness = sharpness
        self._cap = cap
        self._nothing = [0.0] * len(start[0])
        self._all = [_Trust([loss * _PRIOR_ALL for loss in row], [_PRIOR_ALL] * len(row)) for row in start]
        self._steps: dict[object, _Trust] = {}

    def weights(self, keys: Sequence[object], known: np.ndarray, opinions: np.ndarray) -> np.ndarray:
        """A row of weights per row of opinions, adding up to 1; 0 for who says nothing. `known`: values of the step, per row."""
        place = np.searchsorted(BINS, known, side="right")
        common = (np.array([one.loss for one in self._all]) / np.array([one.weight for one in self._all]))[place]
        trusts = [self._steps.get(key) for key in keys]
        loss = np.array([self._nothing if trust is None else trust.loss for trust in trusts])
        weight = np.array([self._nothing if trust is None else trust.weight for trust in trusts])
        mean = (loss + _PRIOR * common) / (weight + _PRIOR)
        certain = np.sqrt((weight.max(axis=1, keepdims=True) + _PRIOR) / _PRIOR)
        score = np.where(np.isnan(opinions), np.inf, mean)
        score -= score.min(axis=1, keepdims=True)
        found = np.exp(-self._sharpness * certain * score)
        return found / found.sum(axis=1, keepdims=True)

    def learn(self, key: object, known: int, losses: Sequence[float], share: float) -> None:
        """The losses of the experts on one attempt, NaN for who said nothing; it counts `share` of a full one."""
        trust = self._steps.get(key)
        if trust is None:
            trust = self._steps[key] = _Trust(self._nothing.copy(), self._nothing.copy())
        spoke = sorted(loss for loss in losses if loss == loss)
        if not spoke:
            return
        keep = 1 - (1 - _KEEP_STEP) * share
        trust.size = trust.size * keep + spoke[len(spoke) // 2] * share
        trust.size_weight = trust.size_weight * keep + share
        unit = 1.0 / max(trust.size / trust.size_weight, 1e-9)
        cap = self._cap
        mean = sum(min(loss * unit, cap) for loss in spoke) / len(spoke)
        relative = [min(loss * unit, cap) - mean if loss == loss else loss for loss in losses]
        trust.add(relative, share, keep)
        self._all[bisect_right(BINS, known)].add(relative, share, 1 - (1 - _KEEP_ALL) * share)
