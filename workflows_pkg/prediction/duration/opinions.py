"""What does each simple expert say about the next value of a step? Logarithms of values; an expert without a basis says nothing.

Rules look at the step's own history, lines and neighbours at sizes, groups at attempts with the same tag, figures, weekday or run name.
Nothing here chooses between them; `mixing` does.
"""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Hashable
from datetime import date

import numpy as np

from workflows_pkg.prediction.duration.window import MOST, Line, Mean, Window, middle
from workflows_pkg.prediction.predictor import Submitted

NAN = math.nan
BEYOND = 0.7
"""How far, in logarithms, an answer may leave what the step has shown: a factor of two, and where the size is beyond all seen, no more
than in proportion besides. An unguarded line can be off by any factor."""
_NEIGHBOURS = 5
_NEAR = 0.4
"""A size further from all seen, in logarithms a half more or a third less, has no neighbours."""
_RECENT = 40
"""The second of this many from either side is their 5 % and 95 % quantile, but for a share of one."""
_MOST_SIZES = 500
_MOST_OF_GROUP = 60
_MOST_GROUPS = 300
_PARTS = re.compile(r"[^A-Za-z0-9]+")
_MOST_PARTS = 6

EXPERTS = (
    "last", "mean_of_2", "median", "median_of_10", "median_of_30", "smoothed", "line", "log_line", "stiff_log_line", "nearest_sizes",
    "proportional", "same_figures", "same_size", "same_tag", "related_tags", "same_weekday", "run_name", "tag_effect", "twins", "ridge",
    "figures_line", "forest", "gaussian_process",
)  # fmt: skip
"""Every expert by name. The last comes from `settings`, the two before it from `fitted`, the three before those from `effects`, which knows
other steps too."""
OWN = 17
"""How many of them rest on the step's own history."""
PRECEDENTS = 3
"""Kinds of precedent: none, an attempt with the same size or tag, one with all the same figures."""
_SAME_FIGURES, _SAME_SIZE, _SAME_TAG = (EXPERTS.index(name) for name in ("same_figures", "same_size", "same_tag"))


def precedent(opinions: list[float]) -> int:
    """How close a precedent an attempt has in the history of its step, told by which experts have a basis; see `PRECEDENTS`."""
    if opinions[_SAME_FIGURES] == opinions[_SAME_FIGURES]:
        return 2
    same = opinions[_SAME_SIZE] == opinions[_SAME_SIZE] or opinions[_SAME_TAG] == opinions[_SAME_TAG]
    return 1 if same else 0


class StepHistory:
    """What one step has shown: its values and sizes, and groups of its attempts. `whole`: the share of values that were whole numbers.

    `sizes`: logarithms of sizes, ascending; `at_sizes`: those of the values there.
    """

    __slots__ = (
        "at_sizes", "beyond", "by_figures", "by_run_name", "by_tag", "by_tag_part", "by_weekday", "line", "log_line",
        "outer", "ratios", "said", "sizes", "smooth", "values", "whole", "x_high", "x_low",
    )  # fmt: skip

    def __init__(self) -> None:
        self.values = Window()
        self.whole = Mean(1.0 / MOST)
        self.smooth = Mean(0.3)
        self.line = Line()
        self.log_line = Line()
        self.sizes: array[float] = array("d")
        self.at_sizes: array[float] = array("d")
        self.beyond = np.zeros(0)
        self.ratios = Window(_MOST_SIZES)
        self.x_low, self.x_high = math.inf, -math.inf
        self.by_figures: dict[Hashable, Window] = {}
        self.by_tag: dict[str, Window] = {}
        self.by_tag_part: dict[str, Mean] = {}
        self.by_weekday: dict[int, Window] = {}
        self.by_run_name: dict[str, Mean] = {}
        self.said: list[float] | None = None
        self.outer: tuple[float, float, float, float] | None = None

    @property
    def count(self) -> int:
        """Values known, at most those kept."""
        return len(self.values.ordered)

    def add(self, one: Submitted, value: float, log: float, facts: Facts) -> None:
        """One more value and its logarithm."""
        self.values.add(log)
        self.smooth.add(log)
        self.said = self.outer = None
        if facts.figures is not None:
            _group(self.by_figures, facts.figures, log)
        if one.tag is not None:
            _group(self.by_tag, one.tag, log)
            for part in facts.tag_parts:
                _mean(self.by_tag_part, part, log, 0.0)
        if facts.weekday is not None:
            _group(self.by_weekday, facts.weekday, log)
        for part in facts.run_parts:
            _mean(self.by_run_name, part, log, 0.05)
        x = facts.x
        if x == x:
            self.line.add(one.size, value)
            self.log_line.add(x, log)
            place = bisect_right(self.sizes, x)
            self.sizes.insert(place, x)
            self.at_sizes.insert(place, log)
            if len(self.sizes) > _MOST_SIZES:
                place = hash(log) % _MOST_SIZES  # any: the sizes stay spread as they come
                del self.sizes[place], self.at_sizes[place]
            self.ratios.add(log - x)
            self.x_low, self.x_high = min(self.x_low, x), max(self.x_high, x)

    def opinions(self, one: Submitted, facts: Facts) -> list[float]:
        """What the step's own experts say; NaN for those without a basis."""
        said = self.rules().copy()
        median = said[2]
        x = facts.x
        low, high = self.limits(x, BEYOND)
        if x == x and self.line.count >= 2:
            straight = math.log(max(self.line.at(one.size), math.exp(low)))
            said += [
                min(straight, high),
                min(max(self.log_line.at(x), low), high),
                min(max(self.log_line.at(x, 1.0), low), high),
                self._nearest(x) if self.x_low - _NEAR <= x <= self.x_high + _NEAR else NAN,
                min(max(self.ratios.quantile(0.5) + x, low), high),
            ]
        else:
            said += [NAN] * 5
        same = self.by_figures.get(facts.figures) if facts.figures is not None else None
        said.append(same.quantile(0.5) if same else NAN)
        said.append(self._same_size(x) if x == x else NAN)
        same = self.by_tag.get(one.tag) if one.tag is not None else None
        said.append(same.quantile(0.5) if same else NAN)
        related = _shrunk(self.by_tag_part, facts.tag_parts, median)
        said.append(related)
        same = self.by_weekday.get(facts.weekday) if facts.weekday is not None else None
        said.append(same.quantile(0.5) if same else NAN)
        said.append(_shrunk(self.by_run_name, facts.run_parts, median))
        return said

    def rules(self) -> list[float]:
        """What the experts say that look at the newest values alone; worked out once for every state of the history."""
        if self.said is None:
            values = self.values
            newest = values.newest
            count, last, median = len(newest), newest[-1], values.quantile(0.5)
            self.said = [
                last,
                math.log(0.5 * (math.exp(last) + math.exp(newest[-2]))) if count > 1 else last,
                median,
                middle(values.recent(10)) if count > 10 else median,
                middle(values.recent(30)) if count > 30 else median,
                self.smooth.mean,
            ]
        return self.said

    def limits(self, x: float, beyond: float) -> tuple[float, float]:
        """Between which logarithms an answer stays: `beyond` what was shown, and above as much further as a size is above those seen.

        Not below: whatever the size, a step has to start.
        """
        ordered = self.values.ordered
        low, high = ordered[0] - beyond, ordered[-1] + beyond
        if x > self.x_high > -math.inf:
            high += x - self.x_high
        return low, high

    def ends(self) -> tuple[float, float, float, float]:
        """The 5 % quantile of all values and of the newest, and the 95 % quantiles; of the newest missing where they are all."""
        if self.outer is None:
            values = self.values
            recent = sorted(values.recent(_RECENT)) if len(values.ordered) > _RECENT else [NAN] * 4
            self.outer = values.quantile(0.05), recent[1], values.quantile(0.95), recent[-2]
        return self.outer

    def _same_size(self, x: float) -> float:
        low, high = bisect_left(self.sizes, x), bisect_right(self.sizes, x)
        return middle(list(self.at_sizes[low:high])) if low < high else NAN

    def _nearest(self, x: float) -> float:
        sizes, at_sizes = self.sizes, self.at_sizes
        high = bisect_left(sizes, x)
        low = high - 1
        found: list[float] = []
        while len(found) < _NEIGHBOURS and (low >= 0 or high < len(sizes)):
            if high >= len(sizes) or (low >= 0 and x - sizes[low] <= sizes[high] - x):
                found.append(at_sizes[low])
                low -= 1
            else:
                found.append(at_sizes[high])
                high += 1
        return middle(found)


class Facts:
    """What the experts look at of a submission, worked out once."""

    __slots__ = ("figures", "run_parts", "tag_parts", "weekday", "x")

    def __init__(self, one: Submitted, parts: PartsOf) -> None:
        self.x = math.log1p(max(one.size, 0.0)) if one.size == one.size else NAN
        self.figures: Hashable = (*one.figures.values(), *one.words.values()) if one.figures or one.words else None
        self.tag_parts, self.weekday = parts.of_tag(one.tag) if one.tag is not None else ((), None)
        self.run_parts = parts.of_run(one.run_id)


class PartsOf:
    """Names taken apart where they are joined: `alpha_two_3` begins like `alpha_two_4`, and what begins alike behaves alike."""

    def __init__(self) -> None:
        self._tags: dict[str, tuple[tuple[str, ...], int | None]] = {}
        self._runs: dict[str, tuple[str, ...]] = {}

    def of_tag(self, tag: str) -> tuple[tuple[str, ...], int | None]:
        """Beginnings of a tag, the shortest first, the whole last; and the weekday of the day it names, None where it names none."""
        found = self._tags.get(tag)
        if found is None:
            if len(self._tags) > 100_000:
                self._tags.clear()
            found = self._tags[tag] = ((*_beginnings(tag), f"={tag}"), _weekday(tag))
        return found

    def of_run(self, run_id: str) -> tuple[str, ...]:
        """Beginnings of a run's name, the shortest first, without the whole: no run comes twice."""
        found = self._runs.get(run_id)
        if found is None:
            if len(self._runs) > 100_000:
                self._runs.clear()
            found = self._runs[run_id] = _beginnings(run_id)
        return found


def _beginnings(name: str) -> tuple[str, ...]:
    parts = _PARTS.split(name)
    return tuple("_".join(parts[:count]) for count in range(1, min(len(parts), _MOST_PARTS)))


def _weekday(tag: str) -> int | None:
    """The weekday of the day a partition is named for; None where its key is no date. Several keys (`a|b`) are not dates."""
    if len(tag) < 10 or not tag[:4].isdigit():
        return None
    try:
        return date.fromisoformat(tag[:10]).weekday()
    except ValueError:
        return None


def _group(groups: dict, key: Hashable, log: float) -> None:
    found = groups.pop(key, None)
    if found is None:
        found = Window(_MOST_OF_GROUP)
        if len(groups) >= _MOST_GROUPS:
            del groups[next(iter(groups))]  # the one that was not met for the longest time
    groups[key] = found
    found.add(log)


def _mean(groups: dict[str, Mean], key: str, log: float, least: float) -> None:
    found = groups.pop(key, None)
    if found is None:
        found = Mean(least)
        if len(groups) >= _MOST_GROUPS:
            del groups[next(iter(groups))]
    groups[key] = found
    found.add(log)


def _shrunk(groups: dict[str, Mean], parts: tuple[str, ...], start: float) -> float:
    """The mean of the closest group, each pulled to the wider one as if that were one more value of it; NaN without any group."""
    said, known = start, False
    for part in parts:
        group = groups.get(part)
        if group is not None:
            said = (group.count * group.mean + said) / (group.count + 1)
            known = True
    return said if known else NAN
