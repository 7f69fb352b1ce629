"""Whom to believe? Experts are weighed by their discounted losses on the step's own attempts, and on all steps where these are few.

Exponentially weighted averages of experts (Cesa-Bianchi and Lugosi, "Prediction, Learning, and Games", 2006, chapter 2), with experts
that may have nothing to say. The loss is absolute, since the sum of absolute errors over the sum of truths is what is to be small, in
units of the step's typical error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = (2, 5, 20)
"""Numbers of values known from which the experience of all steps is kept apart: lines are poor guides at two points and good ones at
twenty."""

CAP = 3.0
"""Losses above this, in units of the step's typical error, count as this: one stray value must not choose the expert."""
_KEEP_STEP, _KEEP_ALL = 0.98, 0.998
"""Weight of a loss after each further one: about the newest 50 of a step and 500 of all decide."""
_PRIOR = 8.0
"""Losses that the experience of all steps counts for against a step's own."""
_PRIOR_ALL = 100.0
"""Losses that `start` counts for against the experience of all steps."""
SHARPNESS = 20.0


@dataclass(slots=True)
class Trust:
    """What one step's attempts showed of the experts."""

    loss: np.ndarray
    weight: np.ndarray
    size: float = 0.0
    size_weight: float = 0.0


class Mixer:
    """Weighs experts; `start`: mean losses of each by number of values known (rows: `BINS`), before anything is seen."""

    def __init__(self, start: np.ndarray, sharpness: float = SHARPNESS, cap: float = CAP) -> None:
        self._sharpness = sharpness
        self._cap = cap
        self._count = start.shape[1]
        self._loss = start * _PRIOR_ALL
        self._weight = np.full(start.shape, _PRIOR_ALL)
        self._steps: dict[object, Trust] = {}

    def weights(self, keys: Sequence[object], known: np.ndarray, opinions: np.ndarray) -> np.ndarray:
        """A row of weights per row of opinions, adding up to 1; 0 for who says nothing. `known`: values of the step, per row."""
        place = np.searchsorted(BINS, known, side="right")
        common = (self._loss / self._weight)[place]
        trusts = [self._steps.get(key) for key in keys]
        nothing = np.zeros(self._count)
        loss = np.array([nothing if trust is None else trust.loss for trust in trusts])
        weight = np.array([nothing if trust is None else trust.weight for trust in trusts])
        mean = (loss + _PRIOR * common) / (weight + _PRIOR)
        certain = np.sqrt((weight.max(axis=1, keepdims=True) + _PRIOR) / _PRIOR)
        score = np.where(np.isnan(opinions), np.inf, mean)
        score -= score.min(axis=1, keepdims=True)
        found = np.exp(-self._sharpness * certain * score)
        return found / found.sum(axis=1, keepdims=True)

    def learn(self, key: object, known: int, losses: np.ndarray, share: float) -> None:
        """The losses of the experts on one attempt, NaN for who said nothing; it counts `share` of a full one."""
        trust = self._steps.get(key)
        if trust is None:
            trust = self._steps[key] = Trust(np.zeros(self._count), np.zeros(self._count))
        spoke = ~np.isnan(losses)
        if not spoke.any():
            return
        ordered = np.sort(losses[spoke])
        keep = 1 - (1 - _KEEP_STEP) * share
        trust.size = trust.size * keep + float(ordered[len(ordered) // 2]) * share
        trust.size_weight = trust.size_weight * keep + share
        usual = max(trust.size / trust.size_weight, 1e-9)
        relative = np.minimum(losses / usual, self._cap)
        relative -= relative[spoke].mean()
        relative = np.where(spoke, relative, 0.0)
        counted = np.where(spoke, share, 0.0)
        forget = np.where(spoke, keep, 1.0)
        trust.loss = trust.loss * forget + relative * counted
        trust.weight = trust.weight * forget + counted
        place = int(np.searchsorted(BINS, known, side="right"))
        forget = np.where(spoke, 1 - (1 - _KEEP_ALL) * share, 1.0)
        self._loss[place] = self._loss[place] * forget + relative * counted
        self._weight[place] = self._weight[place] * forget + counted

    def best(self, weights: np.ndarray) -> int:
        """The position of the expert that counts most."""
        return int(np.argmax(weights))
