"""How likely does a run miss its deadline? Before it is asked for, while it waits, and while it runs.

To miss it is to be still waiting or running at that moment: a run that has failed before then is told of as failed, not as late.

Of a run that has not begun, the times in the queue, to start and to run are taken as independent; medians add, and so do the squares
of the distances of their 5 and 95 % quantiles. Of a running one, it is what `remaining` says is left. `benchmarks/deadlines.py` prints how
well the probabilities hold, and what a warning from `WARN_FROM` on is worth.
"""

from __future__ import annotations

import math

from workflows_pkg.prediction.lookup import JobForecast, Quantiles
from workflows_pkg.prediction.remaining import Remaining
from workflows_pkg.prediction.spread import Spread

WARN_FROM = 0.5
"""Probability from which a run is warned of: a miss is more likely than not."""

_BEFORE = ("queue_time_s", "start_time_s")


def miss_before_start(job: JobForecast, run_time: Quantiles, within_s: float, waited_s: float = 0.0) -> float:
    """Probability that a run that has not begun has not ended within `within_s` seconds from now.

    run_time: of this very run. waited_s: how long it has been in the queue.
    """
    if within_s <= 0:
        return 1.0
    parts = [(run_time.p05, run_time.p50, run_time.p95)]
    for name in _BEFORE:
        known = job.run(name)
        if known is not None and name == "queue_time_s" and waited_s > 0:
            low, middle, high = (Spread.of(known).left(waited_s, level) for level in (0.05, 0.5, 0.95))
            parts.append((low, middle, high))
        elif known is not None:
            parts.append((known.p05, known.p50, known.p95))
    middle = sum(part[1] for part in parts)
    low = middle - math.hypot(*(part[1] - part[0] for part in parts))
    high = middle + math.hypot(*(part[2] - part[1] for part in parts))
    return Spread.of(_quantiles(max(low, 0.0), middle, high)).survival(within_s)


def miss_while_running(left: Remaining, within_s: float) -> float:
    """Probability that a running run of which so much is left has not ended within `within_s` seconds from now."""
    if within_s <= 0:
        return 1.0
    return Spread.of(_quantiles(left.p05, left.p50, left.p95)).survival(within_s)


def miss_by_clock(run_time: Quantiles, elapsed_s: float, within_s: float) -> float:
    """The same of a run of which only is known how long it has run."""
    if within_s <= 0:
        return 1.0
    spread = Spread.of(run_time)
    return spread.survival(elapsed_s + within_s) / max(spread.survival(elapsed_s), 1e-12)


def _quantiles(low: float, middle: float, high: float) -> Quantiles:
    return Quantiles(low, middle, high, 0, "")
