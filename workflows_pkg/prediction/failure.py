"""How likely does the next run or step fail for good? The outcomes so far, the older the fainter where the recent ones tell more.

The risk is the posterior of a Bernoulli rate under Jeffreys' prior, Beta(1/2, 1/2) (Jeffreys, "An Invariant Form for the Prior
Probability in Estimation Problems", 1946; Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion", 2001, for its
intervals). Failures come in streaks in some jobs and by chance in others, so an outcome's weight shrinks by a factor with each newer
one (discounted counts, as in West and Harrison, "Bayesian Forecasting and Dynamic Models"), and each key takes the factor under which
its own past was the least surprising.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workflows_pkg.prediction.predictor import Finished, Submitted

FAILURE = "failure_share"
"""The quantity: the risk that a run, or a step with all its retries, fails."""

KEEP = (1.0, 0.98, 0.95, 0.9, 0.8)
"""Factors by which weights may shrink: never, or so that about the newest 50, 20, 10 or 5 outcomes decide. The last is the one that
did best on public records of continuous integration, where failures come in streaks."""

_PRIOR = 0.5
_LEVELS = np.array([0.05, 0.5, 0.95])
_MARGIN = 3.0
"""Natural log units by which the past must be less surprising under forgetting than under equal weights: odds of 20 to 1."""


@dataclass(frozen=True)
class Risk:
    """The share of runs that fail for good, 0 to 1, with its 90 % interval, from `sample_count` outcomes; `predictor` says how."""

    p05: float
    p50: float
    p95: float
    sample_count: int
    predictor: str


@dataclass
class _Outcomes:
    """The outcomes of a key under each factor of `KEEP`: discounted failures and successes, log loss of forecasts one step ahead."""

    count: int = 0
    failures: list[float] = field(default_factory=lambda: [0.0] * len(KEEP))
    successes: list[float] = field(default_factory=lambda: [0.0] * len(KEEP))
    losses: list[float] = field(default_factory=lambda: [0.0] * len(KEEP))

    def add(self, failed: bool) -> None:
        self.count += 1
        for place, keep in enumerate(KEEP):
            failures, successes = self.failures[place], self.successes[place]
            chance = (failures + _PRIOR) / (failures + successes + 2 * _PRIOR)
            self.losses[place] -= math.log(chance if failed else 1 - chance)
            self.failures[place], self.successes[place] = failures * keep + failed, successes * keep + (not failed)

    def factor(self) -> int:
        """Place of the factor under which the past was least surprising; that of equal weights unless another did clearly better."""
        best = self.losses.index(min(self.losses))
        return best if self.losses[best] < self.losses[0] - _MARGIN else 0


def failure_risk(failed: Sequence[bool]) -> Risk | None:
    """The risk that the next one fails, from outcomes in the order in which they became known; None without any: unknown."""
    if not failed:
        return None
    past = _Outcomes()
    for outcome in failed:
        past.add(outcome)
    place = past.factor()
    low, middle, high = (float(ends) for ends in _ends(past.failures[place] + _PRIOR, past.successes[place] + _PRIOR))
    return Risk(low, middle, high, len(failed), rate_name(place))


class FailureRate:
    """The rate of each key as `failure_risk` finds it, learned outcome by outcome; retries apart. NaN for a key without outcome.

    `factor`: place in `KEEP` of what the rate was discounted by.
    """

    columns = ("p05", "failure_share", "p95", "factor")

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, bool], _Outcomes] = {}

    def observe(self, finished: Sequence[Finished]) -> None:
        """Adds outcomes that are success or failure."""
        for one in finished:
            if one.failed is not None:
                self._keys.setdefault((*one.submitted.key, one.submitted.retry > 0), _Outcomes()).add(one.failed)

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """The rate of each key with its 90 % interval."""
        answers = np.full((len(submitted), len(self.columns)), np.nan)
        for row, one in enumerate(submitted):
            past = self._keys.get((*one.key, one.retry > 0))
            if past is not None:
                place = past.factor()
                ends = _ends(past.failures[place] + _PRIOR, past.successes[place] + _PRIOR)
                answers[row] = (*ends, place)
        return answers

    def card(self) -> dict[str, Any]:
        """How it is set."""
        return {"keys": len(self._keys), "discounts": list(KEEP)}


def rate_name(place: int) -> str:
    """What a rate with this factor is called: after the number of newest outcomes that decide, where not all do.

    >>> rate_name(0), rate_name(3)
    ('failure_rate', 'failure_rate_of_newest_10')
    """
    return "failure_rate" if place == 0 else f"failure_rate_of_newest_{round(1 / (1 - KEEP[place]))}"


def _ends(failures: float, successes: float) -> np.ndarray:
    """The 5, 50 and 95 % quantile of a Beta distribution."""
    # SciPy comes with scikit-learn; only those who train wait for it
    from scipy.special import betaincinv

    return np.asarray(betaincinv(failures, successes, _LEVELS))
