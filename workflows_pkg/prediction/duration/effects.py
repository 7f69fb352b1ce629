"""What do other steps say? A tag whose other steps were slow, a run that is slow so far, a step that always takes twice as long as another.

Effects are differences of logarithms from each step's own median. A ridge regression, one for all steps and from it one per step, learns
how far each effect carries over.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from operator import mul

import numpy as np

from workflows_pkg.prediction.duration.opinions import BEYOND, NAN, Facts, StepHistory
from workflows_pkg.prediction.duration.window import Line, Mean
from workflows_pkg.prediction.predictor import Submitted

EFFECTS = (
    "size",
    "related_tags",
    "tag_elsewhere",
    "run",
    "recent",
    "smoothed",
    "last",
    "figures",
    "run_name",
    "same_run",
    "twins",
)
_START = (0.0, 0.5, 0.2, 0.0, 0.0, 0.2, 0.0, 0.0, 0.3, 0.0, 0.4)
"""Weights before anything is learned: where a tag or a twin step tells something, about half of it carries over."""
_LARGEST = 3.0
_STIFF_ALL, _STIFF_STEP = 20.0, 4.0
"""Strength of the pull to the weights above and, per step, to those of all steps, in squared units of the effects."""
_MOST_TWINS = 40
_MOST_GROUPS = 50_000
_MOST_RUNS = 50
"""Runs whose attempts of one step are told apart; more are hardly ever open at once."""


class Ridge:
    """Ridge regression learned one row at a time (recursive least squares); large errors count less, as in Huber's estimator."""

    __slots__ = ("covariance", "listed", "weights")

    def __init__(self, weights: np.ndarray, stiffness: float) -> None:
        self.weights = weights.copy()
        self.listed = array("d", self.weights)  # a dozen products are quicker without NumPy's
        self.covariance = np.eye(len(weights)) / stiffness

    def at(self, x: list[float]) -> float:
        """What it expects."""
        return sum(map(mul, self.listed, x))

    def add(self, x: np.ndarray, y: float, share: float) -> None:
        """One more row, counting `share` of a full one."""
        turned = self.covariance @ x
        gain = turned / (1.0 / share + x @ turned)
        self.weights += gain * (y - self.weights @ x)
        self.covariance -= gain[:, None] * turned
        self.listed = array("d", self.weights)


@dataclass(slots=True)
class _Step:
    ridge: Ridge | None = None
    sizes: Mean = field(default_factory=Mean)
    spread: float = 0.3
    twins: dict[str, Line] = field(default_factory=dict[str, Line])
    by_run: dict[str, Mean] = field(default_factory=dict[str, Mean])


@dataclass(slots=True)
class Seen:
    """Effects as they were seen for one attempt: their values, the median they start from, what was said, other steps' values."""

    effects: list[float]
    median: float
    ridge: float
    others: dict[str, float] | None


class Effects:
    """Learns effects over all steps."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], _Step] = {}
        self._all = Ridge(np.array(_START), _STIFF_ALL)
        self._tags: dict[tuple[str, str], Mean] = {}
        self._runs: dict[str, Mean] = {}
        self._recent: dict[str, Mean] = {}
        self._by_tag: dict[tuple[str, str], dict[str, float]] = {}
        self._by_run: dict[tuple[str, str | None], dict[str, float]] = {}
        # how steps of a pair go together when nothing is known of the pair: pooled slope and error
        self._slope = [0.5, 1.0]
        self._error = [0.1, 1.0]

    def opinions(self, one: Submitted, facts: Facts, own: list[float], history: StepHistory) -> tuple[list[float], Seen]:
        """What `tag_effect`, `twins` and `ridge` say, and what they rest on. `own`: the opinions of the step's own experts."""
        step = self._steps.get(one.key)
        if step is None:
            step = self._steps[one.key] = _Step()
        median = own[2]
        x = [0.0] * len(EFFECTS)
        if facts.x == facts.x and step.sizes.count > 1:
            x[0] = facts.x - step.sizes.mean
        related = own[14]
        tagged = NAN
        if related == related:
            x[1] = related - median
        elsewhere, known = 0.0, False
        for part in facts.tag_parts:
            group = self._tags.get((one.workflow, part))
            if group is not None:
                elsewhere = (group.count * group.mean + 2 * elsewhere) / (group.count + 2)
                known = True
        if known:
            x[2] = elsewhere
            tagged = (related if related == related else median) + 0.5 * elsewhere
        for place, group in ((3, self._runs.get(one.run_id)), (4, self._recent.get(one.workflow))):
            if group is not None:
                x[place] = group.mean * group.count / (group.count + 2)
        x[5], x[6] = own[5] - median, own[0] - median
        if own[11] == own[11]:
            x[7] = own[11] - median
        if own[16] == own[16]:
            x[8] = own[16] - median
        same_run = step.by_run.get(one.run_id)
        if same_run is not None:
            x[9] = (same_run.mean - median) * same_run.count / (same_run.count + 1)
        others = self._others(one)
        twin = self._twins(step, others, median) if others else NAN
        if twin == twin:
            x[10] = twin - median
        effects = [value if -_LARGEST <= value <= _LARGEST else math.copysign(_LARGEST, value) for value in x]
        low, high = history.limits(facts.x, BEYOND)
        ridge = median + (step.ridge or self._all).at(effects)
        ridge = min(max(ridge, low), high)
        return [tagged, twin, ridge], Seen(effects, median, ridge, others)

    def add(self, one: Submitted, log: float, facts: Facts, seen: Seen | None, history: StepHistory) -> None:
        """Learns from a finished attempt; `history` holds it already."""
        step = self._steps.get(one.key)
        if step is None:
            step = self._steps[one.key] = _Step()
        if seen is not None:
            self._learn(step, one, log, seen)
        deviation = min(max(log - history.values.quantile(0.5), -2.0), 2.0)
        for part in facts.tag_parts if history.count > 2 else ():
            _add(self._tags, (one.workflow, part), deviation, 0.05)
        if facts.x == facts.x:
            step.sizes.add(facts.x)
        _add(step.by_run, one.run_id, log, 0.2, _MOST_RUNS)
        if one.tag is not None:
            _remember(self._by_tag, (one.workflow, one.tag), one.step, log)
        _remember(self._by_run, (one.run_id, one.tag), one.step, log)

    def _learn(self, step: _Step, one: Submitted, log: float, seen: Seen) -> None:
        error = log - seen.ridge
        _add(self._runs, one.run_id, min(max(error, -1.5), 1.5), 0.1)
        _add(self._recent, one.workflow, min(max(error, -1.5), 1.5), 0.1)
        away, usual = log - seen.median, 1.5 * step.spread
        if step.ridge is None:
            step.ridge = Ridge(self._all.weights, _STIFF_STEP)
        row = np.array(seen.effects)
        for ridge in (self._all, step.ridge):
            off = abs(away - ridge.at(seen.effects))
            ridge.add(row, away, min(1.0, usual / max(off, 1e-9)))
        step.spread = max(0.02, step.spread + 0.1 * (min(abs(error), 1.5) - step.spread))
        for other, value in (seen.others or {}).items():
            pair = step.twins.get(other)
            if pair is None:
                if len(step.twins) >= _MOST_TWINS:
                    continue
                pair = step.twins[other] = Line()
            if pair.count:
                dx, dy = value - pair.x, log - pair.y
                off = min(abs(dy - self._pair_slope(pair) * dx), 1.5)
                self._slope = [0.9995 * self._slope[0] + dx * dy, 0.9995 * self._slope[1] + dx * dx]
                self._error = [0.9995 * self._error[0] + off * off, 0.9995 * self._error[1] + 1.0]
            pair.add(value, log)

    def _others(self, one: Submitted) -> dict[str, float] | None:
        """The newest values of other steps with this tag, those of this run first."""
        before = self._by_tag.get((one.workflow, one.tag)) if one.tag is not None else None
        here = self._by_run.get((one.run_id, one.tag))
        if not before and not here:
            return None
        found = {**(before or {}), **(here or {})}
        found.pop(one.step, None)
        return found or None

    def _twins(self, step: _Step, others: dict[str, float], median: float) -> float:
        """The mean of what other steps' values say by the lines of their pairs, each weighed by how well it went before."""
        above = below = 0.0
        usual = self._error[0] / self._error[1]
        for other, value in others.items():
            pair = step.twins.get(other)
            if pair is None:
                continue
            slope = self._pair_slope(pair)
            left = max(pair.yy - 2 * slope * pair.xy + slope * slope * pair.xx, 0.0)
            error = (left + 3 * usual) / (pair.count + 2)
            weight = 1.0 / (error + 1e-4) ** 2
            above += weight * (pair.y + slope * (value - pair.x))
            below += weight
        return above / below if below else NAN

    def _pair_slope(self, pair: Line) -> float:
        return (pair.xy + 0.3 * self._slope[0] / self._slope[1]) / (pair.xx + 0.3)


def _add(groups: dict, key: object, value: float, least: float, most: int = _MOST_GROUPS) -> None:
    found = groups.get(key)
    if found is None:
        if len(groups) >= most:
            del groups[next(iter(groups))]  # the oldest
        found = groups[key] = Mean(least)
    found.add(value)


def _remember(groups: dict, key: object, step: str, log: float) -> None:
    found = groups.get(key)
    if found is None:
        if len(groups) >= _MOST_GROUPS:
            del groups[next(iter(groups))]
        found = groups[key] = {}
    if len(found) < _MOST_TWINS or step in found:
        found[step] = log
