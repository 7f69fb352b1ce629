"""Is the changed version better? Both run in turns on the same machine, and the differences of the pairs decide.

The rule, fixed before the first run, the first line that holds:

    no gain     the 95 % interval of the mean difference, new minus old, excludes every gain worth having (5 % of the old mean)
    gain        the interval lies below zero, and no more runs failed
    not shown   neither; more pairs may tell

Pairs run in the order old new, new old, old new, …: a machine that grows slower, or faster, by the same amount from run to run
adds nothing to the mean of the differences. The interval is the expanded percentile interval of the paired bootstrap
(T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015): plain percentiles are too
narrow for a dozen pairs, and calling noise a gain is the error to guard against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import ndtr, stdtrit

from workflows_pkg.history.records import LedgerEntry, Suggestion

Arm = Literal["baseline", "candidate"]
VerdictName = Literal["gain", "no gain", "not shown"]

PAIRS = 12
"""Pairs of a trial where nobody asks for another number: enough to see a change as large as the noise of one run."""

FEWEST_PAIRS = 6
"""Below this no gain is declared: equal versions have all of five differences below zero in 1 of 32 trials, of six in 1 of 64,
and about 1 in 40 is the error that a 95 % interval promises on this side."""

RESAMPLES = 10_000
"""Bootstrap samples; the ends of the interval then move by under 2 % of its width from one seed to another."""

WORTH_SHARE = 0.05
"""A gain below 5 % of the old mean is taken as not worth a version, whatever the unit."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measured:
    """What one run gave: the compared value, None where it has none, and whether the run failed.

    A failed run can have a value, such as the time its attempts took.
    """

    value: float | None
    failed: bool = False


@dataclass(frozen=True)
class Pair:
    """One run of each version, one right after the other."""

    index: int
    baseline: Measured
    candidate: Measured

    @property
    def failures(self) -> tuple[int, int]:
        """Failed runs of the baseline and of the candidate: 0 or 1 each."""
        return int(self.baseline.failed), int(self.candidate.failed)

    @property
    def difference(self) -> float | None:
        """New minus old; None where one of the two has no value."""
        old, new = self.baseline.value, self.candidate.value
        return None if old is None or new is None else new - old


@dataclass(frozen=True)
class Verdict:
    """The recorded conclusion of a trial. Differences are new minus old, in the unit of the values compared.

    `mean`, `low` and `high` are not-a-number where fewer than two pairs are complete. `predicted` is what the suggestion
    expected, None where it did not say.
    """

    name: VerdictName
    mean: float
    low: float
    high: float
    pairs: int
    test: str
    reason: str
    baseline_mean: float
    smallest_worth: float
    failures: tuple[int, int]
    predicted: float | None = None


def interleaved(pairs: int) -> list[Arm]:
    """The order in which the runs are made: old new, new old, old new, … with `pairs` pairs."""
    order: list[Arm] = []
    for index in range(pairs):
        order += _order(index)
    return order


def run_trial(
    run_baseline: Callable[[int], Measured],
    run_candidate: Callable[[int], Measured],
    pairs: int = PAIRS,
) -> list[Pair]:
    """Runs both versions `pairs` times in the interleaved order.

    The callables get the number of the pair, so that both arms can be given the same input and the same surroundings.
    """
    made: list[Pair] = []
    for index in range(pairs):
        values: dict[Arm, Measured] = {}
        for arm in _order(index):
            values[arm] = (run_baseline if arm == "baseline" else run_candidate)(index)
        made.append(Pair(index, values["baseline"], values["candidate"]))
    return made


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean difference: expanded percentiles of 10,000 paired bootstrap samples.

    The seed is fixed, so that the same differences always give the same interval. Needs at least two differences.

    >>> low, high = interval([-1.0, -1.2, -0.8, -1.1, -0.9, -1.0])
    >>> round(low, 2), round(high, 2)
    (-1.15, -0.85)
    """
    values = np.asarray(differences, dtype=float)
    means = _resampling(len(values)) @ values
    count = len(values)
    spread = math.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - CONFIDENCE) / 2)
    tail = float(ndtr(spread))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def verdict(pairs: Sequence[Pair], *, predicted: float | None = None) -> Verdict:
    """The conclusion by the rule above; a gain is worth having from 5 % of the old mean."""
    differences = [pair.difference for pair in pairs if pair.difference is not None]
    old = [pair.baseline.value for pair in pairs if pair.baseline.value is not None and pair.candidate.value is not None]
    failures = sum(pair.failures[0] for pair in pairs), sum(pair.failures[1] for pair in pairs)
    count = len(differences)
    mean = float(np.mean(differences)) if differences else math.nan
    low, high = interval(differences) if count > 1 else (math.nan, math.nan)
    baseline_mean = float(np.mean(old)) if old else math.nan
    worth = WORTH_SHARE * abs(baseline_mean) if old else 0.0
    name, reason = _conclude(count, low, high, worth, failures)
    test = f"expanded percentile bootstrap of {count} paired differences, {RESAMPLES} resamples, 95 %"
    return Verdict(name, mean, low, high, count, test, reason, baseline_mean, worth, failures, predicted)


def ledger_entry(suggestion: Suggestion, verdict: Verdict, *, trial_id: str, version: int, decided_at: datetime) -> LedgerEntry:
    """The ledger's line for a trial of `suggestion` as `version`: what was predicted beside what came of it."""
    return LedgerEntry(
        trial_id=trial_id,
        suggestion_id=suggestion.suggestion_id,
        workflow=suggestion.workflow,
        baseline_version=suggestion.based_on,
        version=version,
        quantity=suggestion.quantity,
        pairs=verdict.pairs,
        predicted=suggestion.effect,
        predicted_low=suggestion.effect_low,
        predicted_high=suggestion.effect_high,
        realised=verdict.mean,
        realised_low=verdict.low,
        realised_high=verdict.high,
        verdict=verdict.name,
        test=verdict.test,
        decided_at=decided_at,
    )


def _order(index: int) -> tuple[Arm, Arm]:
    return ("baseline", "candidate") if index % 2 == 0 else ("candidate", "baseline")


def _conclude(count: int, low: float, high: float, worth: float, failures: tuple[int, int]) -> tuple[VerdictName, str]:
    if count < FEWEST_PAIRS:
        return "not shown", f"only {count} complete pairs; at least {FEWEST_PAIRS} are needed"
    if low > -worth:
        return "no gain", "the interval excludes every gain worth having"
    if high < 0 and failures[1] <= failures[0]:
        return "gain", "the interval lies below zero and no more runs failed"
    if high < 0:
        return (
            "not shown",
            f"the interval lies below zero, but {failures[1]} runs failed against {failures[0]} of the old version",
        )
    return "not shown", "the interval holds both zero and gains worth having"


@lru_cache(maxsize=32)
def _resampling(count: int) -> np.ndarray:
    """Share of each value in each of the bootstrap samples: (RESAMPLES, count), rows sum to 1; the same on every call."""
    generator = np.random.default_rng(20260)
    return generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
