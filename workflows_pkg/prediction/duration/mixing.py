"""Whom to believe? Experts are weighed by their discounted losses on the step's own attempts, and on all steps where these are few.

Exponentially weighted averages of experts (Cesa-Bianchi and Lugosi, "Prediction, Learning, and Games", 2006, chapter 2), with experts
that may have nothing to say. The loss is absolute, since the sum of absolute errors over the sum of truths is what is to be small, in
units of the step's typical error.

An attempt that repeats one seen before is another question than one that is new: what was right about the fourth of five repeats is no
guide to the next setting. So losses are kept apart by how close a precedent the attempt has, its `precedent`; those at the others count
too, the less the more there are at its own.
"""

from __future__ import annotations

from array import array
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
_PRIOR_ALL = 100.0
"""Losses that `start` counts for against the experience of all steps."""
_ELSEWHERE = 2.0
"""Own losses from which those at other precedents count half: with 2 and 8 the figures on public traces are about the same, with 0 and 30
worse."""
_PRIOR = 12.0
"""Losses that the experience of all steps counts for against a step's own; chosen on public traces, as is the next."""
SHARPNESS = 60.0


@dataclass(slots=True)
class _Trust:
    """What attempts showed of the experts: discounted sums of relative losses, and of what they counted.

    Arrays, since a run of a thousand steps reads a thousand of them: numbers that lie apart in memory take several times as long.
    """

    loss: array[float]
    weight: array[float]
    size: float = 0.0
    size_weight: float = 0.0

    def add(self, relative: Sequence[float], share: float, keep: float) -> None:
        loss, weight = self.loss, self.weight
        for place, value in enumerate(relative):
            if value == value:
                loss[place] = loss[place] * keep + value * share
                weight[place] = weight[place] * keep + share


class Mixer:
    """Weighs experts; `start`: mean losses of each by number of values known (rows: `BINS`), before anything is seen.

    `precedents`: how many kinds of precedent are told apart, numbered from 0.
    """

    def __init__(
        self,
        start: Sequence[Sequence[float]],
        precedents: int = 1,
        *,
        sharpness: float = SHARPNESS,
        cap: float = CAP,
    ) -> None:
        self._sharpness = sharpness
        self._cap = cap
        self._nothing = array("d", [0.0]) * len(start[0])
        self._all = [
            [
                _Trust(array("d", [loss * _PRIOR_ALL for loss in row]), array("d", [_PRIOR_ALL]) * len(row))
                for _ in range(precedents)
            ]
            for row in start
        ]
        self._steps: dict[object, dict[int, _Trust]] = {}

    def weights(
        self, keys: Sequence[object], known: np.ndarray, opinions: np.ndarray, precedents: np.ndarray | None = None
    ) -> np.ndarray:
        """A row of weights per row of opinions, adding up to 1; 0 for who says nothing. `known`: values of the step, per row."""
        own = np.zeros(len(known), int) if precedents is None else precedents
        place = np.searchsorted(BINS, known, side="right")
        common_loss, common_weight = (
            np.array([[getattr(one, name) for one in row] for row in self._all]) for name in ("loss", "weight")
        )
        common = (common_loss / common_weight)[place, own]
        trusts = [self._trusted(key, kind) for key, kind in zip(keys, own.tolist(), strict=True)]
        loss, weight = (np.frombuffer(b"".join(one)).reshape(len(trusts), -1) for one in zip(*trusts, strict=True))
        mean = (loss + _PRIOR * common) / (weight + _PRIOR)
        certain = np.sqrt((weight.max(axis=1, keepdims=True) + _PRIOR) / _PRIOR)
        score = np.where(np.isnan(opinions), np.inf, mean)
        score -= score.min(axis=1, keepdims=True)
        found = np.exp(-self._sharpness * certain * score)
        return found / found.sum(axis=1, keepdims=True)

    def learn(self, key: object, known: int, losses: Sequence[float], share: float, precedent: int = 0) -> None:
        """The losses of the experts on one attempt, NaN for who said nothing; it counts `share` of a full one."""
        spoke = sorted(loss for loss in losses if loss == loss)
        if not spoke:
            return
        step = self._steps.setdefault(key, {})
        trust = step.get(precedent)
        if trust is None:
            trust = step[precedent] = _Trust(self._nothing[:], self._nothing[:])
        keep = 1 - (1 - _KEEP_STEP) * share
        trust.size = trust.size * keep + spoke[len(spoke) // 2] * share
        trust.size_weight = trust.size_weight * keep + share
        unit = 1.0 / max(trust.size / trust.size_weight, 1e-9)
        cap = self._cap
        mean = sum(min(loss * unit, cap) for loss in spoke) / len(spoke)
        relative = [min(loss * unit, cap) - mean if loss == loss else loss for loss in losses]
        trust.add(relative, share, keep)
        self._all[bisect_right(BINS, known)][precedent].add(relative, share, 1 - (1 - _KEEP_ALL) * share)

    def _trusted(self, key: object, precedent: int) -> tuple[array[float], array[float]]:
        """Sums of losses and of what they count for one attempt, those at other precedents included."""
        step = self._steps.get(key)
        if step is None:
            return self._nothing, self._nothing
        own = step.get(precedent)
        if own is not None and len(step) == 1:
            return own.loss, own.weight
        loss, weight = (own.loss, own.weight) if own is not None else (self._nothing, self._nothing)
        share = _ELSEWHERE / (_ELSEWHERE + max(weight))
        for kind, other in step.items():
            if kind != precedent:
                loss = array("d", [mine + share * theirs for mine, theirs in zip(loss, other.loss, strict=True)])
                weight = array("d", [mine + share * theirs for mine, theirs in zip(weight, other.weight, strict=True)])
        return loss, weight
