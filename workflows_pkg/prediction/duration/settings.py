"""What will a setting take that was not tried before? A Gaussian process over the settings tried so far, per step.

A setting is everything known of a submission: size, figures and words. Jobs that are tuned or swept through settings repeat each a few
times, so that what counts is how the next one differs from those before. The process (Rasmussen and Williams, "Gaussian Processes for
Machine Learning", 2006, chapters 2 and 5) has one length for each figure, a straight line besides, both in logarithms, and noise.
scikit-learn fits the lengths, again and again as settings pile up; in between, new settings only join those it interpolates, which takes
a product and a division of matrices, far less than scikit-learn's checks of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.linalg import LinAlgError

from workflows_pkg.prediction.duration.opinions import NAN
from workflows_pkg.prediction.duration.window import Mean
from workflows_pkg.prediction.predictor import Submitted

_FROM = 8
"""Settings from which the process is asked."""
_MOST = 128
"""Newest settings it rests on: time grows with the third power, and this many take about a millisecond."""
_GROWN = 1.5
"""Growth of the settings, ever seen, from one fit of the lengths to the next."""
_STALE = 0.03
"""Share of the settings that may be new or changed before they join."""
_STEPS = 15
"""Steps of a fit; lengths go on from those of the fit before."""
_MOST_WORDS = 8
"""Different words of a column from which it is left out: each is a figure of its own, 0 or 1."""
_LENGTH, _LENGTHS = 2.0, (0.3, 100.0)
_JITTER = 1e-6
"""Added to the diagonal, in units of the values' spread squared, so that near settings do not make it singular."""
_FAR = 8.0
"""Spreads from the middle at which figures are cut: a first value far from all others says no more than that."""
_SCALES, _NOISE = (1e-2, 1e2), (1e-4, 1.0)
"""Bounds in units of each figure's and of the values' spread. The start is a smooth guess, the upper ends mean 'does not matter'."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What was fitted: how settings become numbers, and how values at two settings go together.

    `words`: column and word of each figure that is 0 or 1. `used`: the columns that vary; `middle` and `spread`, of all. `theta`: the
    kernel's parameters as scikit-learn has them, logarithms of smooth part, one length per figure, straight part, and noise.
    """

    words: tuple[tuple[int, str], ...]
    used: np.ndarray
    middle: np.ndarray
    spread: np.ndarray
    theta: np.ndarray

    def scaled(self, rows: np.ndarray) -> np.ndarray:
        return np.clip((rows - self.middle) / self.spread, -_FAR, _FAR)[:, self.used]

    def together(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        smooth, straight, lengths = math.exp(self.theta[0]), math.exp(self.theta[-2]), np.exp(self.theta[1:-2])
        one, other = rows / lengths, others / lengths
        apart = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :] - 2 * one @ other.T
        return smooth * np.exp(-0.5 * np.maximum(apart, 0.0)) + straight * (1.0 + rows @ others.T)


@dataclass(frozen=True, slots=True)
class _Surface:
    """Values over the settings tried: what `_Shape` makes of them."""

    rows: np.ndarray
    weights: np.ndarray
    middle: float
    size: float


class Settings:
    """The settings of one step."""

    __slots__ = ("_changed", "_names", "_seen", "_seen_at_fit", "_shape", "_surface", "_tried")

    def __init__(self, one: Submitted) -> None:
        self._names = tuple(sorted(one.figures)), tuple(sorted(one.words))
        self._tried: dict[Hashable, Mean] = {}
        self._seen = self._seen_at_fit = self._changed = 0
        self._shape: _Shape | None = None
        self._surface: _Surface | None = None

    def add(self, one: Submitted, log: float) -> None:
        """One more value."""
        key = self._key(one)
        tried = self._tried.get(key)
        if tried is None:
            self._seen += 1
            tried = self._tried[key] = Mean()
            if len(self._tried) > _MOST:
                del self._tried[next(iter(self._tried))]
        tried.add(log)
        self._changed += 1

    def opinion(self, one: Submitted) -> float:
        """The logarithm expected of a setting not tried yet; NaN for one that was, or with too few before it."""
        key = self._key(one)
        if len(self._tried) < _FROM or key in self._tried:
            return NAN
        if self._surface is None or self._changed > _STALE * len(self._tried):
            self._learn()
        shape, surface = self._shape, self._surface
        if shape is None or surface is None:
            return NAN
        row = shape.scaled(_numbers([key], shape.words))
        return surface.middle + surface.size * float((shape.together(row, surface.rows) @ surface.weights)[0])

    def _key(self, one: Submitted) -> Hashable:
        figures, words = self._names
        known = (one.size, *(one.figures.get(name, NAN) for name in figures))
        return known, tuple(str(one.words.get(name, "")) for name in words)

    def _learn(self) -> None:
        keys = list(self._tried)
        logs = np.array([tried.mean for tried in self._tried.values()])
        middle, size = float(logs.mean()), max(float(logs.std()), 1e-3)
        values = (logs - middle) / size
        self._changed = 0
        try:
            if self._seen >= _GROWN * self._seen_at_fit or (self._shape is not None and _varies_anew(keys, self._shape)):
                self._shape, self._seen_at_fit = _fitted(keys, values, self._shape), self._seen
            shape = self._shape
            if shape is None:
                return
            rows = shape.scaled(_numbers(keys, shape.words))
            known = shape.together(rows, rows)
            known.flat[:: len(rows) + 1] += math.exp(shape.theta[-1]) + _JITTER
            self._surface = _Surface(rows, np.linalg.solve(known, values), middle, size)
        except LinAlgError:  # settings as good as equal, with values that are not
            self._surface = None


def _numbers(keys: list[Any], words: tuple[tuple[int, str], ...]) -> np.ndarray:
    figures = np.array([key[0] for key in keys], dtype=float)
    figures = np.where(np.isnan(figures), 0.0, np.sign(figures) * np.log1p(np.abs(figures)))
    if not words:
        return figures
    return np.hstack([figures, np.array([[float(key[1][place] == word) for place, word in words] for key in keys])])


def _varies_anew(keys: list[Any], shape: _Shape) -> bool:
    """Whether a figure varies that did not when lengths were fitted."""
    return bool(((np.ptp(_numbers(keys, shape.words), axis=0) > 0) & ~shape.used).any())


def _fitted(keys: list[Any], values: np.ndarray, before: _Shape | None) -> _Shape | None:
    """The shape under which the values are the most likely; None where the settings do not differ in what can be told apart."""
    from sklearn.gaussian_process import GaussianProcessRegressor  # takes a second, and only histories with figures need it
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    words: list[tuple[int, str]] = []
    for place in range(len(keys[0][1])):
        found = sorted({key[1][place] for key in keys})
        words += [(place, word) for word in found] if len(found) <= _MOST_WORDS else []
    rows = _numbers(keys, tuple(words))
    spread = rows.std(axis=0)
    used = spread > 0
    if not used.any():
        return None
    shape = _Shape(tuple(words), used, rows.mean(axis=0), np.where(used, spread, 1.0), np.empty(0))
    lengths: Any = np.full(int(used.sum()), _LENGTH)
    kernel = (
        ConstantKernel(1.0, _SCALES) * RBF(lengths, _LENGTHS)
        + ConstantKernel(1.0, _SCALES) * DotProduct(1.0, "fixed")
        + WhiteKernel(0.01, _NOISE)
    )
    if before is not None and before.words == shape.words and bool((before.used == used).all()):
        kernel = kernel.clone_with_theta(before.theta)
    optimizer: Any = _few_steps
    fit: Any = GaussianProcessRegressor(kernel, optimizer=optimizer, alpha=_JITTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound says that the figure does not matter
        theta = fit.fit(shape.scaled(rows), values).kernel_.theta
    return replace(shape, theta=np.array(theta))


def _few_steps(loss: Callable[..., Any], start: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, float]:
    from scipy.optimize import minimize

    found = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": _STEPS})
    return found.x, float(found.fun)
