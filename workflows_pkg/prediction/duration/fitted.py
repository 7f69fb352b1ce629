"""What do all the figures and words of a submission say together? A straight line in logarithms, and a random forest, per step.

Only for steps whose submissions tell more than a size, and where at least two of these vary. The line learns with every value; the
forest is fitted again whenever a step has half as many values again as at the last fit, so that all fits together cost a few times the
last one. A word counts as the mean of what was seen with it before (the ordered target statistics of Prokhorenkova et al., "CatBoost:
unbiased boosting with categorical features", 2018), so that no value explains itself.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from workflows_pkg.prediction.duration.effects import Ridge
from workflows_pkg.prediction.duration.opinions import NAN
from workflows_pkg.prediction.duration.window import Mean
from workflows_pkg.prediction.predictor import Submitted

FITTED = ("figures_line", "forest")
_FROM = 8
"""Values from which a line is believed."""
_FOREST_FROM = 50
"""Values from which a forest is fitted: earlier, fits would take several milliseconds per value."""
_GROWN = 1.5
"""Growth of a history from one fit to the next."""
_MOST_ROWS = 3000
"""Newest values a forest is fitted to; a fit takes about 0.2 s then."""
_TREES = 40
_STIFFNESS = 1.0
_USUAL = 0.3
"""Error of the line, in logarithms, above which a value counts less."""
_WORD_PRIOR = 1.0
"""Values that the step's mean counts for beside those seen with a word."""
_MOST_WORDS = 1000


class Fitted:
    """Both experts of one step."""

    __slots__ = (
        "_at",
        "_fitted",
        "_forest",
        "_line",
        "_logs",
        "_mean",
        "_means",
        "_names",
        "_rows",
        "_varies",
        "_words",
        "count",
    )

    def __init__(self, one: Submitted) -> None:
        self._names = tuple(sorted(one.figures)), tuple(sorted(one.words))
        size = 1 + len(self._names[0]) + len(self._names[1])
        self._words: dict[tuple[str, str], Mean] = {}
        self._rows: deque[np.ndarray] = deque(maxlen=_MOST_ROWS)
        self._logs: deque[float] = deque(maxlen=_MOST_ROWS)
        self._mean = Mean()
        self._means = np.zeros(size)
        self._varies = np.zeros(size, bool)
        self._line = Ridge(np.zeros(size), _STIFFNESS)
        self._forest: Forest | None = None
        self._fitted = 0
        self.count = 0

    def described(self, one: Submitted) -> np.ndarray:
        """Size, figures and words as numbers; what is unknown is zero."""
        figures, words = self._names
        found = [_log(one.size), *(_log(one.figures.get(name, NAN)) for name in figures)]
        for name in words:
            seen = self._words.get((name, one.words.get(name, "")))
            found.append(
                self._mean.mean
                if seen is None
                else (seen.count * seen.mean + _WORD_PRIOR * self._mean.mean) / (seen.count + _WORD_PRIOR)
            )
        return np.array(found)

    def opinions(self, described: np.ndarray) -> list[float]:
        """What the line and the forest say; NaN where they have no basis."""
        if self.count < _FROM or self._varies.sum() < 2:
            return [NAN, NAN]
        line = self._mean.mean + self._line.at((described - self._means).tolist())
        if self.count < _FOREST_FROM:
            return [line, NAN]
        if self._forest is None or self.count >= _GROWN * self._fitted:
            self._forest = Forest(np.array(self._rows), np.array(self._logs))
            self._fitted = self.count
        return [line, self._forest.at(described)]

    def add(self, one: Submitted, described: np.ndarray, log: float) -> None:
        """One more value, and what was known of it when it was submitted."""
        if self.count:
            self._varies |= described != self._rows[-1]
            away = described - self._means
            off = log - self._mean.mean
            error = abs(off - self._line.at(away.tolist()))
            self._line.add(away, off, min(1.0, _USUAL / max(error, 1e-9)))
        self.count += 1
        self._means += (described - self._means) / self.count
        self._rows.append(described)
        self._logs.append(log)
        self._mean.add(log)
        for name in self._names[1]:
            key = name, one.words.get(name, "")
            seen = self._words.get(key)
            if seen is None:
                if len(self._words) >= _MOST_WORDS:
                    continue
                seen = self._words[key] = Mean()
            seen.add(log)


class Forest:
    """A random forest whose trees lie one after the other in arrays, so that one row is answered without scikit-learn's checks."""

    def __init__(self, rows: np.ndarray, logs: np.ndarray) -> None:
        from sklearn.ensemble import RandomForestRegressor  # takes a second, and only histories with figures need it

        forest = RandomForestRegressor(_TREES, max_features=0.6, random_state=0).fit(rows, logs)
        trees = [one.tree_ for one in forest.estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in trees)])
        self._roots = starts[:-1]
        self._feature = np.concatenate([tree.feature for tree in trees])
        self._threshold = np.concatenate([tree.threshold for tree in trees])
        # a leaf leads to itself
        own = np.arange(starts[-1])
        leaf = self._feature < 0
        self._feature = np.where(leaf, 0, self._feature)
        self._left = np.where(
            leaf, own, np.concatenate([tree.children_left + start for tree, start in zip(trees, starts, strict=False)])
        )
        self._right = np.where(
            leaf, own, np.concatenate([tree.children_right + start for tree, start in zip(trees, starts, strict=False)])
        )
        self._value = np.concatenate([tree.value[:, 0, 0] for tree in trees])
        self._depth = max(tree.max_depth for tree in trees)

    def at(self, row: np.ndarray) -> float:
        """The mean of the trees."""
        row = row.astype(np.float32)  # as the thresholds were chosen
        place = self._roots
        for _ in range(self._depth):
            place = np.where(row[self._feature[place]] <= self._threshold[place], self._left[place], self._right[place])
        return float(self._value[place].mean())


def _log(figure: float) -> float:
    return 0.0 if figure != figure else math.copysign(math.log1p(abs(figure)), figure)
