"""How far off is a straight line on the size, at sizes beyond those it rests on? As it was in the past of the steps themselves.

Errors at sizes within tell little of those beyond. What tells is how lines through the smaller sizes did at the larger ones: in order of
size, whatever came first, so that a history which has known its largest size from the start tells it, too.
"""

from __future__ import annotations

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
