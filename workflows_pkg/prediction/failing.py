"""How likely does the attempt that is submitted now fail? Streaks, what looked like it, and what is known of it, weighed as outcomes come.

Failures come in streaks, and an exponentially weighted rate is hard to beat. What it misses: rates over several spans at once; how long
ago the newest outcome is, and how many attempts are still open; which of several strands of work the attempt continues, as figures that
change slowly (the size of a code base, of a team) show; and what else is known of it. A logistic regression weighs them, one per
workflow, its steps sharing the weights. It starts as a simple rule and learns the departure from it, one outcome at a time, by the
Newton step of an extended Kalman filter (West and Harrison, "Bayesian Forecasting and Dynamic Models", chapter 14). Its uncertainty
draws probabilities towards one half (MacKay, "The Evidence Framework applied to Classification Networks", 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workflows_pkg.prediction.predictor import Finished, Submitted

WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Weights of the newest outcome in exponentially weighted rates."""
SPANS, WIDTHS = (5.0, 20.0), (0.03, 0.1, 0.3)
"""Outcomes over which those of similar attempts fade, and the distances, in standard deviations, within which attempts are similar."""

_RULE = WEIGHTS.index(0.05)
_REMEMBERED = 1000
"""Outcomes per step among which similar ones are sought."""
_SLOW = 0.4
"""Largest ratio of mean squared change to twice the variance (von Neumann's) of a figure that changes slowly: correlation above 0.6."""
_SIMILAR_FROM = 8
_OWN = 0.5
"""Outcomes that the plain rate counts for beside those of similar attempts."""
_LEAST = 0.01
"""Probabilities are kept this far from 0 and 1 before their logarithms are taken."""
_VARIANCE = 0.03
"""Prior variance of a weight, for features of unit variance."""
_DRIFT = 3e-4
"""Share by which what is known of the weights returns to the prior with each outcome, so that they can follow a change."""
_MOST_APART = 4.0
"""Standard deviations to which features are cut."""
_DAY = 86400.0
_Z95 = 1.6449
"""Standard deviations between the middle and the 95 % quantile of a normal distribution."""


@dataclass
class _Rates:
    """Outcomes of a step: exponentially weighted rates, counts, newest ones and the run of equal ones."""

    rates: np.ndarray
    count: int = 0
    failures: int = 0
    newest: tuple[float, float, float] = (0.5, 0.5, 0.5)
    streak: int = 0
    at: float = -math.inf

    def add(self, failed: bool, at: float) -> None:
        if not self.count:
            self.rates = np.full(len(WEIGHTS), (failed + 1) / 3)
        else:
            self.rates = self.rates + np.array(WEIGHTS) * (failed - self.rates)
        same = self.count and self.newest[0] == failed
        self.streak = self.streak + 1 if same else 1
        self.newest = (float(failed), *self.newest[:2])
        self.count += 1
        self.failures += failed
        self.at = at


@dataclass
class _Step:
    first: _Rates = field(default_factory=lambda: _Rates(np.full(len(WEIGHTS), 0.5)))
    again: _Rates = field(default_factory=lambda: _Rates(np.full(len(WEIGHTS), 0.5)))
    tags: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    figures: np.ndarray | None = None
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(_REMEMBERED))
    known: int = 0
    open: int = 0
    before: float = math.nan

    def remember(self, figures: np.ndarray, failed: bool) -> None:
        if self.figures is None or self.figures.shape[1] != len(figures):
            self.figures, self.known = np.zeros((_REMEMBERED, len(figures))), 0
        place = self.known % _REMEMBERED
        self.figures[place], self.outcomes[place] = figures, failed
        self.known += 1

    def similar(self, figures: np.ndarray, rate: float) -> list[float]:
        """Failure rates among the newest outcomes, for each of `SPANS` and `WIDTHS`, of attempts whose slow figures were about these."""
        found = [rate] * (len(SPANS) * len(WIDTHS))
        if self.figures is None or self.figures.shape[1] != len(figures) or self.known < _SIMILAR_FROM:
            return found
        count = min(self.known, _REMEMBERED)
        order = np.arange(self.known - count, self.known) % _REMEMBERED
        seen, outcomes = self.figures[order], self.outcomes[order]
        variance = seen.var(axis=0)
        slow = (variance > 0) & (np.mean(np.diff(seen, axis=0) ** 2, axis=0) < 2 * _SLOW * variance)
        # where nothing changes slowly all are as similar
        away = (np.abs(seen[:, slow] - figures[slow]) / np.sqrt(variance[slow])).mean(axis=1) if slow.any() else np.zeros(count)
        age = np.arange(count)[::-1]
        place = 0
        for span in SPANS:
            fading = np.exp(-age / span)
            plain = float(fading @ outcomes / fading.sum())
            if not slow.any():
                found[place : place + len(WIDTHS)] = [plain] * len(WIDTHS)
                place += len(WIDTHS)
                continue
            for width in WIDTHS:
                mass = fading * np.exp(-away / width)
                found[place] = float((mass @ outcomes + _OWN * plain) / (mass.sum() + _OWN))
                place += 1
        return found


class _Regression:
    """Weights of features, learnt one outcome at a time; the first feature is constant."""

    def __init__(self, size: int) -> None:
        self.weights = np.zeros(size)
        self.prior = np.full(size, _VARIANCE)
        self.prior[0] = 1.0
        self.covariance = np.diag(self.prior)
        self.count, self.means, self.squares = 0, np.zeros(size), np.zeros(size)

    def scaled(self, features: np.ndarray) -> np.ndarray:
        if self.count < 2:
            return np.where(np.arange(len(features)) == 0, 1.0, 0.0)
        spread = np.sqrt(self.squares / self.count)
        found = np.where(spread > 1e-9, (features - self.means) / np.maximum(spread, 1e-9), 0.0)
        found = np.clip(found, -_MOST_APART, _MOST_APART)
        found[0] = 1.0
        return found

    def chances(self, features: np.ndarray, offset: float) -> tuple[float, float, float]:
        """The probability, and the 5 and 95 % quantile of the one that better known weights would give."""
        scaled = self.scaled(features)
        variance = float(scaled @ self.covariance @ scaled)
        odds, width = offset + float(self.weights @ scaled), _Z95 * math.sqrt(max(variance, 0.0))
        middle = _chance(odds / math.sqrt(1 + math.pi * variance / 8))
        return middle, min(_chance(odds - width), middle), max(_chance(odds + width), middle)

    def learn(self, features: np.ndarray, offset: float, failed: bool) -> None:
        self.count += 1
        off = features - self.means
        self.means = self.means + off / self.count
        self.squares = self.squares + off * (features - self.means)
        scaled = self.scaled(features)
        chance = _chance(offset + float(self.weights @ scaled))
        steep = max(chance * (1 - chance), 1e-4)
        ahead = self.covariance @ scaled
        shrunk = 1 + steep * float(scaled @ ahead)
        self.weights = self.weights + ahead * ((failed - chance) / shrunk)
        self.covariance = self.covariance - np.outer(ahead, ahead) * (steep / shrunk)
        self.covariance = (1 - _DRIFT) * self.covariance
        self.covariance.flat[:: len(self.prior) + 1] += _DRIFT * self.prior


class FailurePredictor:
    """The probability that an attempt fails; NaN for a step without outcome. First attempts and retries have outcomes of their own."""

    columns = ("failure_share", "p05", "p95")

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], _Step] = {}
        self._regressions: dict[str, _Regression] = {}
        self._figures: dict[str, tuple[str, ...]] = {}
        self._asked: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}

    def observe(self, finished: Sequence[Finished]) -> None:
        """Learns from outcomes that are success or failure, as the attempts looked when they were submitted."""
        for one in finished:
            submitted = one.submitted
            step = self._steps.setdefault(submitted.key, _Step())
            asked = self._asked.pop(submitted.id, None)
            if asked:
                step.open -= 1
            if one.failed is None:
                continue
            if asked:
                features, figures, offset = asked
                self._regression(submitted.workflow, len(features)).learn(features, offset, one.failed)
                step.remember(figures, one.failed)
            (step.again if submitted.retry else step.first).add(one.failed, one.at)
            if submitted.tag is not None:
                failures, count = step.tags.get(submitted.tag, (0, 0))
                step.tags[submitted.tag] = failures + one.failed, count + 1

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """The probability of each attempt, with the 90 % interval of what is known of it."""
        answers = np.full((len(submitted), len(self.columns)), np.nan)
        asked: list[tuple[Submitted, tuple[np.ndarray, np.ndarray, float]]] = []
        for row, one in enumerate(submitted):
            step = self._steps.setdefault(one.key, _Step())
            described = self._described(step, one)
            if step.first.count + step.again.count:
                features, _, offset = described
                answers[row] = self._regression(one.workflow, len(features)).chances(features, offset)
            if one.id >= 0:
                asked.append((one, described))
        for one, described in asked:
            step = self._steps[one.key]
            self._asked[one.id] = described
            step.open += 1
            step.before = one.at
        return answers

    def card(self) -> dict[str, Any]:
        """What it rests on and how it is set."""
        return {
            "steps": len(self._steps),
            "outcomes": {workflow: one.count for workflow, one in self._regressions.items()},
            "starts_as": f"mean, in log odds, of the rate and of that weighted by {WEIGHTS[_RULE]}",
            "prior_variance": _VARIANCE,
            "figures": {workflow: list(names) for workflow, names in self._figures.items()},
        }

    def _regression(self, workflow: str, size: int) -> _Regression:
        return self._regressions.setdefault(workflow, _Regression(size))

    def _described(self, step: _Step, one: Submitted) -> tuple[np.ndarray, np.ndarray, float]:
        """Features, figures and what the simple rule says, in log odds."""
        names = self._figures.setdefault(one.workflow, tuple(sorted(one.figures)))
        figures = np.array([one.size, one.memory_requested_bytes, *(one.figures.get(name, math.nan) for name in names)])
        figures = np.where(np.isnan(figures), 0.0, np.sign(figures) * np.log1p(np.abs(figures)))
        past = step.again if one.retry else step.first
        rate = _odds((past.failures + 1) / (past.count + 2))
        rates = [_odds(value) for value in past.rates]
        failures, count = step.tags.get(one.tag, (0, 0)) if one.tag is not None else (0, 0)
        prior = past.failures / past.count if past.count else 0.5
        age = math.log1p(max(one.at - past.at, 0.0) / 3600) if past.count else 0.0
        still_open = math.log1p(step.open)
        since = math.log1p(max(one.at - step.before, 0.0) / 60) if not math.isnan(step.before) else 0.0
        turn = 2 * math.pi * (one.at % _DAY) / _DAY
        streak = math.copysign(math.log1p(past.streak), past.newest[0] - 0.5)
        rule = rates[_RULE]
        features = [
            1.0, *rates, rate, *past.newest, streak, age, still_open, since, rule * age, past.newest[0] * age, rule * still_open,
            *(_odds(value) for value in step.similar(figures, float(past.rates[_RULE]))),
            _odds((failures + 2 * prior) / (count + 2)), float(one.retry > 0), math.sin(turn), math.cos(turn),
            float((one.at // _DAY) % 7 in (2, 3)), *figures,
        ]  # fmt: skip
        return np.array(features), figures, (rule + rate) / 2


def _odds(chance: float) -> float:
    kept = min(max(chance, _LEAST), 1 - _LEAST)
    return math.log(kept / (1 - kept))


def _chance(odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(odds, -30.0), 30.0)))
