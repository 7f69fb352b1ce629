"""What else changed when a step did, and does it account for the change? Words and figures of the runs around a split, judged.

Nothing here proves a cause: a history is no experiment. Two things are told apart. A thing *coincides* with the change where it changed
at the same runs, and would rarely have done so by chance. It *accounts for* the change where runs that are alike in it, before and after,
are alike in the step too; where they differ as much as all runs do, it is ruled out, whenever it changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from workflows_pkg.advisor.change_points import Split, ranks, time_split

Kind = Literal["version", "input", "machine", "queue", "start", "retries", "partitions", "step"]

LEAST_KNOWN = 0.8
"""Share of the runs on either side of which a thing must be recorded to be judged."""

MOST_CHANCE = 0.1
"""Where something changes so often that one of its changes would be as near by chance more often than this, it is not named."""

LEAST_MOVED = 0.3
"""Share of the runs that must have moved to another version, machine or partition."""

LEAST_RATIO = 1.1
"""A size that changed by less than a tenth is called the same."""

SURPRISING = 0.001
"""Chance of a change of what is mixed, or of a size, above which it is called the same."""

ACCOUNTS, RULED_OUT = 0.6, 0.4
"""Share of the change that is gone between like and like: from the first on it accounts for it, below the second it is ruled out."""

LEAST_ALIKE = 3
"""Runs on either side that make a comparison of like with like."""

NEXT_TO = 1
"""A change of a thing one run beside the interval of the step's is at the same runs: the interval is not that exact."""


@dataclass(frozen=True)
class Coincidence:
    """One thing that changed with the step.

    kind: what sort of thing; name: of which it is said, such as 'code version'. before, after: what it mostly was, as text. accounted: the
    share of the change that is gone between runs that are alike in it; None where no runs are alike, so that the two cannot be told
    apart. chance: that one of its changes is as near by chance.
    """

    kind: Kind
    name: str
    before: str
    after: str
    accounted: float | None
    chance: float

    @property
    def accounts(self) -> bool:
        """Whether like runs are alike in the step."""
        return self.accounted is not None and self.accounted >= ACCOUNTS


Verdict = Literal["coincides", "too often", "ruled out", "unchanged", "unrecorded"]


@dataclass(frozen=True)
class Judged:
    """What is to be said of one thing around a split.

    coincides: with what; too often: it changed there, and so often elsewhere that this says nothing; ruled out: it changed, but runs that
    are alike in it changed as much; unchanged; unrecorded: of too many of the runs.
    """

    verdict: Verdict
    coincidence: Coincidence | None = None


def judge_words(
    kind: Kind, name: str, words: Sequence[str | None], values: np.ndarray, split: Split, *, recurring: bool = False
) -> Judged:
    """Whether what the runs were of (version, machine) changed with `values`, whose level differs from `split.at` on.

    words, values: one for each run from the change before to the change after, in order of time; None and nan: unknown. recurring: only
    words that come again say anything, such as partitions.
    """
    known = np.array([word is not None for word in words])
    if not _recorded(known, split.at):
        return Judged("unrecorded")
    codes, names = _coded(words)
    distinct = len(names)
    if recurring and distinct > known.sum() / 3:
        return Judged("unrecorded")
    before, after = _counts(codes[: split.at], distinct), _counts(codes[split.at :], distinct)
    shares_before, shares_after = before / before.sum(), after / after.sum()
    moved = float(np.abs(shares_after - shares_before).sum()) / 2
    if moved < LEAST_MOVED:
        return Judged("unchanged")
    newer = (shares_after > shares_before)[codes].astype(float)
    newer[codes < 0] = np.nan
    chance = _chance_of_words(codes, newer, split)
    accounted = _of_words(codes, values, split)
    if accounted is not None and accounted < RULED_OUT:
        return Judged("ruled out")
    if chance > MOST_CHANCE:
        return Judged("too often" if chance < 1 else "unchanged")
    was, became = (_mostly(names, _counts(codes[side], distinct)) for side in _sides(split, len(codes)))
    return Judged("coincides", Coincidence(kind, name, was, became, accounted, chance))


def judge_figures(kind: Kind, name: str, figures: np.ndarray, values: np.ndarray, split: Split, say: Any = None) -> Judged:
    """The same for figures, such as the size of the input; `say` writes one for a person."""
    known = np.isfinite(figures)
    if not _recorded(known, split.at):
        return Judged("unrecorded")
    own = time_split(np.where(known, figures, np.nanmedian(figures)))
    before, after = float(np.nanmedian(figures[: split.at])), float(np.nanmedian(figures[split.at :]))
    least, most = min(before, after), max(before, after)
    if own is None or own.p_value > SURPRISING or most < LEAST_RATIO * least or not _near(own.at, split):
        return Judged("unchanged")
    chance = _by_chance(1, own.at, split, len(values))
    accounted = _of_figures(figures, values, split)
    if accounted is not None and accounted < RULED_OUT:
        return Judged("ruled out")
    if chance > MOST_CHANCE:
        return Judged("too often")
    write = say or (lambda value: f"{value:,.4g}")
    return Judged("coincides", Coincidence(kind, name, write(before), write(after), accounted, chance))


def sharpened(values: np.ndarray, split: Split, figures: np.ndarray, words: Sequence[str | None]) -> tuple[np.ndarray, Split]:
    """`values` without what the runs' sizes and partitions make of them, and the split found in these, where it is the same change.

    What the two parts have in common is taken away: the slope by the figures and the mean of each word, about the mean of their part. Less
    scatter is left, so the place is known better. The values and the split as they were where nothing of it is recorded.
    """
    rest = np.log(np.maximum(values, 1e-3))
    after = np.arange(len(rest)) >= split.at
    known = np.isfinite(figures) & (figures > 0)
    if known.all():
        size = _centred(np.log(figures), after)
        squares = float((size**2).sum())
        if squares > 0:
            rest = rest - np.log(figures) * float((size * _centred(rest, after)).sum()) / squares
    codes, names = _coded(words)
    if (codes >= 0).all() and 1 < len(names) <= len(words) / 10:
        centred = _centred(rest, after)
        rest = rest - np.array([centred[codes == code].mean() for code in range(len(names))])[codes]
    again = time_split(rest)
    if again is None or not _near(again.at, split) or again.last - again.first >= split.last - split.first:
        return values, split
    return rest, again


def _centred(values: np.ndarray, after: np.ndarray) -> np.ndarray:
    return values - np.where(after, values[after].mean(), values[~after].mean())


def _recorded(known: np.ndarray, at: int) -> bool:
    return bool(known[:at].mean() >= LEAST_KNOWN and known[at:].mean() >= LEAST_KNOWN)


def _coded(words: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
    names = sorted({word for word in words if word is not None})
    place = {name: number for number, name in enumerate(names)}
    return np.array([-1 if word is None else place[word] for word in words]), names


def _counts(codes: np.ndarray, distinct: int) -> np.ndarray:
    return np.bincount(codes[codes >= 0], minlength=distinct).astype(float)


def _mostly(names: Sequence[str], counts: np.ndarray) -> str:
    """The word that most runs were of, with its share where it is not all."""
    top = int(counts.argmax())
    share = float(counts[top] / max(counts.sum(), 1))
    return names[top] if share >= 0.995 else f"{names[top]} ({100 * share:.0f} %)"


def _near(at: int, split: Split) -> bool:
    return split.first - NEXT_TO <= at <= split.last + NEXT_TO


def _by_chance(changes: int, at: int, split: Split, total: int) -> float:
    """Chance that the nearest of so many changes, each anywhere among the runs, is as near to the split as `at` is."""
    width = min(1.0, (2 * abs(at - split.at) + 1) / total)
    return 1 - (1 - width) ** changes


def _chance_of_words(codes: np.ndarray, newer: np.ndarray, split: Split) -> float:
    """Chance that a change of these words is so near; 1 where none is at the same runs.

    Where a word begins there, by how many ever begin; else by the one place where the mix itself splits.
    """
    seen = codes[codes >= 0]
    begins = sorted({int(np.flatnonzero(codes == code)[0]) for code in np.unique(seen)})[1:]
    nearest = min(begins, key=lambda begin: abs(begin - split.at), default=None)
    if nearest is not None and _near(nearest, split):
        return _by_chance(len(begins), nearest, split, len(codes))
    known = np.isfinite(newer)
    own = time_split(newer[known])
    if own is None or own.p_value > SURPRISING:
        return 1.0
    at = int(np.flatnonzero(known)[own.at])
    return _by_chance(1, at, split, len(codes)) if _near(at, split) else 1.0


def _of_words(codes: np.ndarray, values: np.ndarray, split: Split) -> float | None:
    """Share of the change of the mean rank that is gone between runs of the same word; None where too few are alike."""
    place, (before, after) = ranks(values), _sides(split, len(codes))
    whole = float(place[after].mean() - place[before].mean())
    weights: list[float] = []
    within: list[float] = []
    for code in np.unique(codes[codes >= 0]):
        old, new = place[before & (codes == code)], place[after & (codes == code)]
        if min(len(old), len(new)) >= LEAST_ALIKE:
            weights.append(min(len(old), len(new)))
            within.append(float(new.mean() - old.mean()))
    if sum(weights) < 2 * LEAST_ALIKE or whole == 0:
        return None
    return 1 - float(np.average(within, weights=weights)) / whole


def _sides(split: Split, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Which runs are surely before and after: those in the interval may be of either side, and are of neither."""
    places = np.arange(total)
    return places < max(split.first, 1), places >= min(split.last, total - 1)


def _of_figures(figures: np.ndarray, values: np.ndarray, split: Split) -> float | None:
    """Share of the change that the figure's change makes by the slope within the two parts; None where the slope is too uncertain.

    Ratios, so both in logarithms where all are above zero: a line of least squares through the runs of each part about its own mean.
    """
    x, y = figures.astype(float), values.astype(float)
    known = np.isfinite(x) & np.isfinite(y)
    if (x[known] > 0).all() and (y[known] > 0).all():
        x, y = np.log(np.where(known, x, 1.0)), np.log(np.where(known, y, 1.0))
    sides = [np.flatnonzero(known & side) for side in _sides(split, len(x))]
    if min(len(side) for side in sides) < LEAST_ALIKE:
        return None
    shift_x, shift_y = (float(of[sides[1]].mean() - of[sides[0]].mean()) for of in (x, y))
    rest_x, rest_y = (np.concatenate([of[side] - of[side].mean() for side in sides]) for of in (x, y))
    squares = float((rest_x**2).sum())
    if squares <= 0 or shift_y == 0:
        return None
    slope = float((rest_x * rest_y).sum()) / squares
    error = math.sqrt(float(((rest_y - slope * rest_x) ** 2).sum()) / max(len(rest_x) - 3, 1) / squares)
    share, uncertain = slope * shift_x / shift_y, 2 * error * abs(shift_x / shift_y)
    if share - uncertain >= ACCOUNTS or share + uncertain < RULED_OUT or uncertain <= 0.25:
        return share
    return None
