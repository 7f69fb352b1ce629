"""How far off is a straight line on the size, at sizes beyond those it rests on? As it was in the past of the steps themselves.

Errors at sizes within tell little of those beyond. What tells is how lines through the smaller sizes did at the larger ones: in order of
size, whatever came first, so that a history which has known its largest size from the start tells it, too.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

FROM = 1.05
"""A size is beyond those seen from this many times the largest on: nearer ones are as good as seen."""
TRIED_AT = frozenset(range(4, 17)) | frozenset(2**power for power in range(5, 31))
"""Numbers of sizes known at which a step's lines are tried beyond them: each time until there are some, then at every doubling."""
_GROWTH = 2.0
"""How many times beyond its sizes a line is tried, where the step has such a size; the next one elsewhere."""
_POINTS = 3
_MOST = 256
"""Lines tried of a step: those through the most sizes."""
_POOLED = 512
"""Errors kept of all steps together; where there are more, as many of their quantiles."""
_STALE = 0.1
"""Share of errors that are new from which those of all steps are joined again."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Lines beyond their sizes, one row each: what they said there, what came, the largest and smallest value and the size they rested on,
    over which the size there is `growth` times as large."""

    said: np.ndarray
    came: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    growth: np.ndarray


def tried(sizes: np.ndarray, values: np.ndarray) -> Tried:
    """Least squares through the first `n` sizes, for every `n`, asked about a size beyond these. `sizes`: ascending."""
    count = np.arange(1, len(sizes) + 1)
    x, y, xx, xy = (np.cumsum(one) for one in (sizes, values, sizes * sizes, sizes * values))
    apart = count * xx - x * x
    slope = np.divide(count * xy - x * y, apart, out=np.zeros(len(sizes)), where=apart > 1e-9 * count * xx)
    further = np.minimum(np.searchsorted(sizes, _GROWTH * sizes), len(sizes) - 1)
    asked = np.flatnonzero((count >= _POINTS) & (sizes > 0) & (sizes[further] > FROM * sizes))[-_MOST:]
    further = further[asked]
    return Tried(
        (y - slope * x)[asked] / count[asked] + slope[asked] * sizes[further], values[further],
        np.maximum.accumulate(values)[asked], np.minimum.accumulate(values)[asked], sizes[further] / sizes[asked],
    )  # fmt: skip


class Pool:
    """Errors of the lines of all steps, sorted; those of thousands of steps as quantiles.

    They are joined again once a tenth of them is new: to join them whenever a step was tried took a time that grew with the square of the
    number of steps, and to weigh them all took longer than the rest of a forecast.
    """

    def __init__(self) -> None:
        self.errors = np.zeros(0)
        self._of: dict[Hashable, np.ndarray] = {}
        self._joined = self._new = 0

    def put(self, step: Hashable, errors: np.ndarray) -> bool:
        """Takes `errors` in the place of those that the step had; whether `errors` of all steps are others now."""
        self._of[step] = errors
        self._new += len(errors)
        if self._new <= _STALE * self._joined:
            return False
        self.errors = np.sort(np.concatenate(list(self._of.values())))
        self._joined, self._new = len(self.errors), 0
        if self._joined > _POOLED:
            self.errors = self.errors[((np.arange(_POOLED) + 0.5) * self._joined / _POOLED).astype(int)]
        return True
