"""Did a step become slower, or do its times only scatter? A test of the newest runs against those before.

Two conditions, both free of an assumption about the times' distribution. The rank-sum test (Mann and Whitney, "On a Test of Whether
one of Two Random Variables is Stochastically Larger than the Other", 1947) compares the newest runs with all before, at a level
divided by the number of tests, so that in a history in which nothing changed at most `FALSE_ALARMS` of all looks notice anything. It
takes runs to be alike but for chance; runs of one week are more alike than that, so the newest must also be slower than every earlier
window of the same length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

FALSE_ALARMS = 0.01
"""Share of histories without any change in which a look at all steps together notices a slower one, at most."""

WINDOWS = (12, 25, 50, 100, 200, 400, 800)
"""Lengths of "newest" that are tried, in runs: a change of yesterday and one of last month."""

EARLIER_WINDOWS = 3
"""Windows of the same length that must lie before."""

LEAST_RATIO = 1.2
LEAST_S = 1.0
"""Slower by less than a fifth or a second is not worth anybody's attention."""

NEWEST = 4000
"""Runs looked at."""


@dataclass(frozen=True)
class Slowdown:
    """Median seconds of the newest `recent` runs and of the `earlier` ones, and the chance of such a rank sum without a change."""

    before_s: float
    after_s: float
    recent: int
    earlier: int
    p_value: float


def slowdown(seconds: Sequence[float], tests: int) -> Slowdown | None:
    """The clearest slowdown in run times in order of time; None where there is none. `tests`: windows tested in all, of all steps."""
    values = np.asarray(seconds, float)[-NEWEST:]
    ranks = _ranks(values)
    found: list[Slowdown] = []
    for window in WINDOWS[: windows_tested(len(values))]:
        recent, before = values[-window:], values[:-window]
        after_s, before_s = float(np.median(recent)), float(np.median(before))
        if after_s < LEAST_RATIO * before_s or after_s - before_s < LEAST_S:
            continue
        p_value = larger(ranks, window)
        whole = before[len(before) % window :].reshape(-1, window)
        if p_value <= FALSE_ALARMS / max(tests, 1) and after_s > float(np.median(whole, axis=1).max()):
            found.append(Slowdown(before_s, after_s, window, len(before), p_value))
    return min(found, key=lambda item: (item.p_value, -item.recent), default=None)


def windows_tested(count: int) -> int:
    """How many windows fit into so many runs."""
    return sum(min(count, NEWEST) >= window * (EARLIER_WINDOWS + 1) for window in WINDOWS)


def larger(ranks: np.ndarray, newest: int) -> float:
    """Chance that the last `newest` of the ranked values are as large if they are like the others: one-sided, with ties."""
    others = len(ranks) - newest
    total = len(ranks)
    if not others or not newest:
        return 1.0
    _, ties = np.unique(ranks, return_counts=True)
    statistic = float(ranks[-newest:].sum()) - newest * (newest + 1) / 2
    spread = newest * others / 12 * (total + 1 - float((ties**3 - ties).sum()) / (total * (total - 1)))
    if spread <= 0:
        return 1.0
    return float(ndtr(-(statistic - newest * others / 2 - 0.5) / math.sqrt(spread)))


def rank_sum(larger_ones: Sequence[float], others: Sequence[float]) -> float:
    """Chance that `larger_ones` are as much larger than `others` if both are alike.

    >>> rank_sum([5, 6, 7, 8, 9, 10], [1, 2, 3, 4, 1, 2]) < 0.01, rank_sum([1, 2], [1, 2]) > 0.3
    (True, True)
    """
    return larger(_ranks(np.concatenate([np.asarray(others, float), np.asarray(larger_ones, float)])), len(larger_ones))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]
