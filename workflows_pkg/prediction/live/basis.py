"""What does a forecast rest on, and what moved it from what is usual? Facts of the key's own past, kept beside the forecast as JSON.

They are computed from outcomes known by then, not from a predictor's inside, so that they can be looked up in the history: what is usual is
the median of the newest outcomes; something has moved a forecast where outcomes alike in it are off the usual on the same side.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

USUAL_OF = 50
"""Newest outcomes whose median is called usual."""
_RECENT, _FROM = 10, 3
_MOVED = 0.05
"""Differences below 5 % are not told: forecasts differ from medians by as much for no reason."""


def text(basis: Mapping[str, Any]) -> str:
    """The basis as JSON, figures to six places; None where one is not finite."""
    return json.dumps(_rounded(basis), allow_nan=False)


def moved(
    expected: float,
    values: Sequence[float],
    at: Sequence[datetime],
    tags: Sequence[str | None],
    ahead: str | None,
    moment: datetime,
) -> dict[str, Any]:
    """What is usual for a key, and by what factors it was off where outcomes were like the next one; the values oldest first.

    Keys: `usual`, `outcomes`, `ratio` (expected over usual), and `moved`: a list of [what, ratio, outcomes] with the strongest first, what
    being partition, weekday or newest. Empty without outcomes above zero.
    """
    newest = np.asarray(values[-USUAL_OF:], float)
    if not len(newest) or not float(np.median(newest)) > 0:
        return {}
    usual = float(np.median(newest))
    ratio = expected / usual
    alike = {
        "partition": [value for value, tag in zip(values, tags, strict=True) if ahead is not None and tag == ahead],
        "weekday": [
            value for value, when in zip(values[-USUAL_OF:], at[-USUAL_OF:], strict=True) if when.weekday() == moment.weekday()
        ],
        "newest": list(newest[-_RECENT:]) if len(newest) >= 2 * _RECENT else [],
    }
    found: list[tuple[str, float, int]] = []
    if ratio > 0 and abs(math.log(ratio)) > _MOVED:
        for what, like in alike.items():
            if len(like) < (1 if what == "partition" else _FROM):
                continue
            own = float(np.median(like)) / usual
            # on the same side, and as far as half of the way: less does not account for it
            if own > 0 and math.log(own) * math.log(ratio) > 0.5 * math.log(ratio) ** 2:
                found.append((what, own, len(like)))
    found.sort(key=lambda one: abs(math.log(one[1]) - math.log(ratio)))
    return {"usual": usual, "outcomes": len(newest), "ratio": ratio, "moved": [list(one) for one in found]}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
