"""Where in a series did the level change? Splits of run times, and of failures, that chance makes at a stated rate.

Run times are compared by rank, so that no assumption is made about their distribution and one extreme run counts like any other
large one. The statistic is the largest standardised rank sum over all places of a split (maximally selected rank statistics: Lausen
and Schumacher, Biometrics 48, 1992), its chance that of Miller and Siegmund ("Maximally selected chi square statistics", Biometrics
38, 1982), which is on the safe side for whole numbers of runs. Runs that resemble their neighbours hold less evidence than their
number says: the statistic is divided by the root of (1 + r) / (1 - r), the variance inflation of a first-order autoregression, with r
from the ranks within the two parts, corrected for its bias (Kendall, Biometrika 41, 1954) and one standard error to the safe side.

Failures are few, so their chance is exact: the hypergeometric tail of those that begin after the split given all that begin, times the
number of places tried. It holds for failures that come alone and for bursts that end by chance (a Markov chain).

Several changes are found by splitting again what lies between them (binary segmentation: Vostrikova, Soviet Mathematics Doklady 24, 1981),
and in halves and quarters of it, since a level that rises and falls again hides in the whole (seeded intervals: Kovacs, Buehlmann, Li and
Munk, Biometrika 110, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.special import gammaln, ndtr

LEAST_SIDE = 6
"""Runs on either side of a split, at least. A rank sum of fewer cannot be surprising at the levels that are used."""

LEAST_PIECE = 24
"""Runs of the smallest piece in which a split is looked for by itself."""

LONGEST_MEMORY = 0.98
"""Likeness of neighbours above which none is assumed: such a series has no level that could change."""

WITHIN = 2 * math.log(2 / 0.05)
"""A split belongs to the 95 % interval where its squared statistic is no further than this below the best: the excess of a random walk
with drift on two sides (Siegmund, "Confidence sets in change-point problems", International Statistical Review 56, 1988)."""


@dataclass(frozen=True)
class Split:
    """The level differs from run `at` on (0 is the oldest); `first` to `last` hold the true place in 95 of 100 cases.

    p_value: chance of such a split, or a clearer one, at any place of a series in which nothing changes.
    """

    at: int
    first: int
    last: int
    p_value: float

    def moved(self, by: int) -> Split:
        """The same split in a series that has `by` more runs before."""
        return replace(self, at=self.at + by, first=self.first + by, last=self.last + by)


Find = Callable[[np.ndarray, float], Split | None]
Worth = Callable[[np.ndarray, np.ndarray], bool]


def time_splits(values: np.ndarray, level: float, worth: Worth) -> list[Split]:
    """All changes of level of figures in order of time, such as seconds, less likely by chance than `level`, where `worth` says so.

    worth: whether the figures before and after differ by enough. What differs less is joined again, the most doubtful split first, so that
    many small steps in one direction count together.
    """
    return _splits(values, ranks(values), level, _split_of_scores, worth)


def failure_splits(failed: np.ndarray, level: float, worth: Worth) -> list[Split]:
    """The same for zeros and ones: how often failures begin.

    Only runs that follow one without a failure are compared. Failures come in bursts, and one burst is no change of their rate; so a step
    that fails in nearly every run is seen late, and one that fails in each is a streak, no change of a rate.
    """
    return _splits(failed, failed, level, _split_of_failures, worth)


def time_split(values: np.ndarray) -> Split | None:
    """The clearest single split of figures in order of time, however likely by chance; None where they are too few or all alike."""
    return _split_of_scores(ranks(values), 1.0)


def _split_of_scores(scores: np.ndarray, level: float) -> Split | None:
    """The clearest split of ranks, also of ones that were given among more figures than these; None where chance is above `level`."""
    total = len(scores)
    if total < 2 * LEAST_SIDE:
        return None
    sums = np.cumsum(scores)
    mean = sums[-1] / total
    squared = (float(scores @ scores) - total * mean**2) / (total - 1)
    if squared <= 1e-9 * mean**2:
        return None
    places = np.arange(LEAST_SIDE, total - LEAST_SIDE + 1)
    deviation = sums[LEAST_SIDE - 1 : total - LEAST_SIDE] - mean * places
    statistic = deviation**2 * total / (places * (total - places) * squared)
    best = int(statistic.argmax())
    if _chance(math.sqrt(float(statistic[best])), LEAST_SIDE / total) > level:
        return None  # nor would it be less likely if the runs resemble their neighbours
    statistic = statistic / inflation(scores, int(places[best]))
    near = places[statistic >= statistic[best] - WITHIN]
    chance = _chance(math.sqrt(float(statistic[best])), LEAST_SIDE / total)
    return Split(int(places[best]), int(near[0]), int(near[-1]), chance) if chance <= level else None


def _split_of_failures(failed: np.ndarray, level: float) -> Split | None:
    places = np.flatnonzero(np.concatenate([[True], failed[:-1] == 0]))
    begins = failed[places]
    total, ones = len(begins), int(begins.sum())
    if total < 2 * LEAST_SIDE or not 0 < ones < total:
        return None
    exponent, at = _clearest_rise(begins)
    falls, begin = _clearest_rise(begins[::-1])  # a fall is a rise seen backwards
    rises = exponent <= falls
    if not rises:
        exponent, at = falls, total - begin
    chance = min(1.0, 2 * ones * math.exp(exponent))
    if exponent >= 0 or chance > level:
        return None
    likely = _log_likelihood(begins)
    near = np.flatnonzero(likely >= likely[at - 1] - WITHIN / 2) + 1
    first, last = min(int(near[0]), at), max(int(near[-1]), at)
    since = int(places[at] if rises else places[at - 1] + 1)
    return Split(since, int(places[first - 1]) + 1, int(places[last]), chance)


def _splits(values: np.ndarray, scores: np.ndarray, level: float, find: Find, worth: Worth) -> list[Split]:
    found = sorted(_recursive(scores, level, find), key=lambda split: split.at)
    while found:
        ends = [0, *(split.at for split in found), len(values)]
        parts = [values[low:high] for low, high in pairwise(ends)]
        trifles = [place for place in range(len(found)) if not worth(parts[place], parts[place + 1])]
        if not trifles:
            break
        del found[max(trifles, key=lambda place: found[place].p_value)]
    return [_placed(scores, found, place, find) for place in range(len(found))]


def inflation(scores: np.ndarray, at: int) -> float:
    """How many times more a mean of these scatters than one of as many unrelated figures, if the level differs from `at` on.

    The larger of two answers: that of a first-order autoregression, and, where the likeness of neighbours is no chance, that of one under
    noise, whose likeness fades more slowly than it begins: by the ratio of likenesses two and three runs apart to those one and two apart.
    """
    total = len(scores)
    rest = np.concatenate([scores[:at] - scores[:at].mean(), scores[at:] - scores[at:].mean()])
    squares = float((rest**2).sum())
    if squares <= 0:
        return 1.0
    alike = float((rest[1:] * rest[:-1]).sum()) / squares
    upper = alike + (1 + 4 * alike) / total
    upper += math.sqrt(max(1 - upper**2, 0.0) / total)
    upper = min(max(upper, 0.0), LONGEST_MEMORY)
    inflated = (1 + upper) / (1 - upper)
    first, second, third = (float((rest[lag:] * rest[:-lag]).sum()) / squares + 1.5 / total for lag in (1, 2, 3))
    if first < 2 / math.sqrt(total):
        return inflated
    fading = min(max((second + third) / (first + second), 0.0), LONGEST_MEMORY)
    return max(inflated, 1 + 2 * first / (1 - fading))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def rank_sum(larger_ones: Sequence[float], others: Sequence[float]) -> float:
    """Chance that `larger_ones` are as much larger than `others` if both are alike: one-sided, with ties.

    Mann and Whitney, "On a Test of Whether one of Two Random Variables is Stochastically Larger than the Other", 1947.

    >>> rank_sum([5, 6, 7, 8, 9, 10], [1, 2, 3, 4, 1, 2]) < 0.01, rank_sum([1, 2], [1, 2]) > 0.3
    (True, True)
    """
    few, many = len(larger_ones), len(others)
    if not few or not many:
        return 1.0
    ranked = ranks(np.concatenate([np.asarray(others, float), np.asarray(larger_ones, float)]))
    total = few + many
    spread = few * many / total * float(((ranked - ranked.mean()) ** 2).sum()) / (total - 1)
    if spread <= 0:
        return 1.0
    excess = float(ranked[many:].sum()) - few * (total + 1) / 2
    return float(ndtr(-(excess - 0.5) / math.sqrt(spread)))


def _recursive(scores: np.ndarray, level: float, find: Find) -> list[Split]:
    found: list[Split] = []
    open_parts = [(0, len(scores))]
    while open_parts:
        low, high = open_parts.pop()
        split = _clearest(scores[low:high], level, find)
        if split is not None:
            found.append(split.moved(low))
            open_parts += [(low, low + split.at), (low + split.at, high)]
    return found


def _clearest(scores: np.ndarray, level: float, find: Find) -> Split | None:
    """The clearest split below `level`: half of it for the whole, the other half for all pieces of it together."""
    whole = find(scores, level / 2)
    if whole is not None:
        return whole
    pieces = list(_pieces(len(scores)))
    found = [split.moved(low) for low, high in pieces if (split := find(scores[low:high], level / 2 / len(pieces))) is not None]
    return min(found, key=lambda split: split.p_value, default=None)


def _pieces(total: int) -> Iterator[tuple[int, int]]:
    """Halves and quarters, each overlapping the next by half. In one of them a level that rose and fell again only rises."""
    for parts in (2, 4):
        length = total // parts
        if length >= LEAST_PIECE:
            yield from ((begin, begin + length) for begin in range(0, total - length + 1, length // 2))


def _placed(scores: np.ndarray, found: Sequence[Split], place: int, find: Find) -> Split:
    """One split, its interval from the runs between its neighbours; where it was found there was more around it."""
    low = found[place - 1].at if place else 0
    high = found[place + 1].at if place + 1 < len(found) else len(scores)
    again = find(scores[low:high], 1.0)
    return found[place] if again is None else replace(again.moved(low), p_value=found[place].p_value)


def _chance(bound: float, least_share: float) -> float:
    """Chance that the largest standardised rank sum over all splits, but the `least_share` at either end, is above `bound`."""
    if bound <= 1:
        return 1.0
    density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
    places = 2 * math.log((1 - least_share) / least_share)
    return min(1.0, density * ((bound - 1 / bound) * places + 4 / bound))


def _clearest_rise(failed: np.ndarray) -> tuple[float, int]:
    """Logarithm of the smallest chance, over all runs that failed, of as many failures from it on; and that run.

    The tail is bounded by its first term and the ratio of the next one to it, from above.
    """
    total, ones = len(failed), int(failed.sum())
    begins = np.flatnonzero(failed)
    after = np.arange(ones, 0, -1)
    fits = (begins >= LEAST_SIDE) & (after >= 2)
    begins, after = begins[fits], after[fits]
    if not len(begins):
        return 0.0, LEAST_SIDE
    runs = total - begins
    first = _log_choose(ones, after) + _log_choose(total - ones, runs - after) - _log_choose(total, runs)
    ratio = (ones - after) * (runs - after) / ((after + 1) * np.maximum(total - ones - runs + after + 1, 1))
    tail = np.where(ratio < 1, first - np.log1p(-np.minimum(ratio, 0.999999)), 0.0)
    best = int(tail.argmin())
    return min(float(tail[best]), 0.0), int(begins[best])


def _log_choose(of: int, some: np.ndarray) -> np.ndarray:
    return gammaln(of + 1) - gammaln(some + 1) - gammaln(of - some + 1)


def _log_likelihood(failed: np.ndarray) -> np.ndarray:
    """Of two constant shares of failures, for a split at 1, 2, ..., the number of runs less one."""
    total = len(failed)
    places = np.arange(1, total)
    before = np.cumsum(failed)[:-1].astype(float)
    return _binomial(before, places) + _binomial(failed.sum() - before, total - places)


def _binomial(ones: np.ndarray, of: np.ndarray) -> np.ndarray:
    share = ones / of
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ones > 0, ones * np.log(share), 0.0) + np.where(ones < of, (of - ones) * np.log1p(-share), 0.0)
