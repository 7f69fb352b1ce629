"""Between which values will it lie in 90 of 100 cases? Candidates for either end are weighed by their quantile loss, then calibrated.

The 5 % and the 95 % quantile are forecast apart; ten times the sum of their losses is the interval score, so what is made small is what
is judged. A factor on the distance from the middle follows the share of misses online (Gibbs and Candès, "Adaptive Conformal Inference
Under Distribution Shift", NeurIPS 2021).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from workflows_pkg.prediction.duration.mixing import BINS, Mixer
from workflows_pkg.prediction.duration.opinions import NAN, Facts, StepHistory
from workflows_pkg.prediction.duration.window import Window
from workflows_pkg.prediction.predictor import Submitted

TAIL = 0.05
CANDIDATES = ("history", "recent_history", "group", "own_errors", "errors_of_all")
_FROM = 5
"""Values from which quantiles of a history or a group say something."""
_FROM_ERRORS = 8
_MOST_ERRORS = 200
_USUAL = 0.3
"""Mean absolute log error assumed before any outcome: a third more or less."""
_PACE_STEP, _PACE_ALL = 0.03, 0.02
"""How far one outcome moves the logarithm of the factor."""
REACH = 0.4
"""An end lies within a factor of one and a half of what the step has shown: a guess from other steps must not answer days for seconds."""
_FACTOR = 0.35
_EQUAL = 1e-9
_SHARPNESS, _CAP = 6.0, 20.0
"""Softer and with larger losses than for the middle: what an interval costs is decided by rare misses."""
_START = ((0.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 0.0), (-0.2, 0.0, 0.0, 0.0, -0.1)) + ((-0.6, -0.1, 0.0, 0.0, 0.0),) * 2
"""Mean losses before anything is seen, by number of values known: the quantiles of a long history are hard to beat."""


@dataclass(slots=True)
class _Errors:
    own: Window = field(default_factory=lambda: Window(_MOST_ERRORS))
    size: float = _USUAL
    stretch: list[float] = field(default_factory=lambda: [0.0, 0.0])


class Intervals:
    """Learns both ends of the interval."""

    def __init__(self) -> None:
        start = _START
        self._ends = (Mixer(start, sharpness=_SHARPNESS, cap=_CAP), Mixer(start, sharpness=_SHARPNESS, cap=_CAP))
        self._steps: dict[tuple[str, str], _Errors] = {}
        self._scaled = [Window(500) for _ in range(len(BINS) + 1)]
        self._stretch = [[0.0, 0.0] for _ in range(len(BINS) + 1)]
        self._size = _USUAL

    def candidates(self, one: Submitted, facts: Facts, history: StepHistory, middle: float) -> tuple[list[float], list[float]]:
        """What each candidate says of the lower and of the upper end, in logarithms."""
        errors = self._steps.get(one.key)
        lows, highs = [NAN] * len(CANDIDATES), [NAN] * len(CANDIDATES)
        values = history.values
        count = len(values.ordered)
        if count >= _FROM:
            lows[0], lows[1], highs[0], highs[1] = history.ends()
        group = history.by_tag.get(one.tag) if one.tag is not None else None
        if group is None or len(group.ordered) < _FROM:
            group = history.by_figures.get(facts.figures) if facts.figures is not None else None
        if group is not None and len(group.ordered) >= _FROM:
            lows[2], highs[2] = group.quantile(TAIL), group.quantile(1 - TAIL)
        size = self._size
        if errors is not None:
            ordered = errors.own.ordered
            known = len(ordered)
            size = errors.size
            if known >= _FROM_ERRORS:
                # the (n + 1) correction makes the quantile of n exchangeable errors cover the next one
                lows[3] = middle + ordered[max(0, math.floor(TAIL * (known + 1)) - 1)]
                highs[3] = middle + ordered[min(known - 1, math.ceil((1 - TAIL) * (known + 1)) - 1)]
        scaled = self._scaled[_bin(count)]
        if len(scaled.ordered) >= 40:
            lows[4], highs[4] = middle + size * scaled.quantile(TAIL), middle + size * scaled.quantile(1 - TAIL)
        else:
            lows[4], highs[4] = middle - 2.5 * size, middle + 2.5 * size
        return lows, highs

    def ends(
        self,
        keys: Sequence[tuple[str, str]],
        known: np.ndarray,
        middle: np.ndarray,
        lows: np.ndarray,
        highs: np.ndarray,
        shown: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The calibrated ends of every row, in logarithms."""
        found: list[np.ndarray] = []
        stretches = np.array([self._stretches(key, count) for key, count in zip(keys, known.tolist(), strict=True)])
        for side, said in enumerate((lows, highs)):
            weights = self._ends[side].weights(keys, known, said)
            end = (weights * np.where(np.isnan(said), 0.0, said)).sum(axis=1)
            found.append(middle + (end - middle) * np.exp(stretches[:, side]))
        low = np.maximum(found[0], np.minimum(shown[:, 0], middle - REACH))
        high = np.minimum(found[1], np.maximum(shown[:, 1], middle + REACH))
        return np.minimum(low, middle) - _EQUAL, np.maximum(high, middle) + _EQUAL

    def learn(
        self, key: tuple[str, str], known: int, log: float, middle: float, lows: Sequence[float], highs: Sequence[float],
        low: float, high: float, share: float,
    ) -> None:  # fmt: skip
        """What came of one attempt: its logarithm beside what was said when it was submitted."""
        errors = self._steps.get(key)
        if errors is None:
            errors = self._steps[key] = _Errors(size=self._size)
        value = math.exp(log)
        for side, (said, level) in enumerate(((lows, TAIL), (highs, 1 - TAIL))):
            short = [value - math.exp(end) for end in said]
            losses = [level * one if one > 0 else (level - 1) * one if one <= 0 else one for one in short]
            self._ends[side].learn(key, known, losses, share)
        place = _bin(known)
        for side, missed in enumerate((log < low, log > high)):
            self._stretch[place][side] = _moved(self._stretch[place][side], missed, _PACE_ALL * share)
            errors.stretch[side] = _moved(errors.stretch[side], missed, _PACE_STEP * share)
        error = log - middle
        self._scaled[place].add(min(max(error / max(errors.size, 1e-3), -20.0), 20.0))
        errors.own.add(error)
        bounded = min(abs(error), 2.0)
        errors.size += max(0.05, 1.0 / (len(errors.own.ordered) + 2)) * (bounded - errors.size)
        self._size += 0.01 * (bounded - self._size)

    def _stretches(self, key: tuple[str, str], known: int) -> tuple[float, float]:
        """Logarithms of the factors on either side."""
        errors = self._steps.get(key)
        low, high = self._stretch[_bin(known)]
        if errors is None:
            return low, high
        own = len(errors.own.ordered)
        share = own / (own + 40.0)
        return share * errors.stretch[0] + (1 - share) * low, share * errors.stretch[1] + (1 - share) * high


def _bin(known: int) -> int:
    return bisect_right(BINS, known)


def _moved(stretch: float, missed: bool, pace: float) -> float:
    return min(_FACTOR, max(-_FACTOR, stretch + pace * ((1 - TAIL) if missed else -TAIL)))
