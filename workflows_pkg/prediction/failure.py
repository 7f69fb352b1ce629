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
from dataclasses import dataclass
from datetime import datetime

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.rows import Frame, in_utc

FAILURE = "failure_share"
"""The quantity: the risk that a run, or a step with all its retries, fails."""

KEEP = (1.0, 0.98, 0.95, 0.9, 0.8)
"""Factors by which weights may shrink: never, or so that about the newest 50, 20, 10 or 5 outcomes decide. The last is the one that
did best on public records of continuous integration, where failures come in streaks."""

_PRIOR = 0.5
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


def failure_risk(failed: Sequence[bool]) -> Risk | None:
    """The risk that the next one fails, from outcomes in the order in which they became known; None without any: unknown."""
    if not failed:
        return None
    keep = _factor(failed)
    failures, successes = _counts(failed, keep)
    # SciPy comes with scikit-learn; only those who train wait for it
    from scipy.special import betaincinv

    low, middle, high = (float(betaincinv(failures, successes, level)) for level in (0.05, 0.5, 0.95))
    name = "failure_rate" if keep == 1.0 else f"failure_rate_of_newest_{round(1 / (1 - keep))}"
    return Risk(low, middle, high, len(failed), name)


def risks(tried: Frame, moment: datetime) -> list[Forecast]:
    """The risk of failure of every (job, step) as of `moment`, from `tried`: one row per run, or per last attempt of a step.

    Only outcomes known by then count, and only success and failure: a canceled run says nothing of it.
    """
    known = in_utc(tried)
    known = known[known["outcome"].isin(["success", "failure"]) & (known["ended_at"] < moment)]
    known = known.sort_values(["ended_at", "run_id"], kind="stable")
    found: list[Forecast] = []
    for (job, step), rows in known.groupby(["job_name", "step"]):
        risk = failure_risk([outcome == "failure" for outcome in rows["outcome"]])
        if risk is None:
            continue
        found.append(
            Forecast(
                job_name=str(job),
                step=str(step),
                quantity=FAILURE,
                p05=risk.p05,
                p50=risk.p50,
                p95=risk.p95,
                sample_count=risk.sample_count,
                predictor=risk.predictor,
                error_share=None,
                best_rule=None,
                best_rule_error_share=None,
                as_of=moment,
            )
        )
    return found


def _factor(failed: Sequence[bool]) -> float:
    """The factor with the smallest sum of log losses of one-step-ahead forecasts over the key's past."""
    losses = {keep: _loss(failed, keep) for keep in KEEP}
    best = min(KEEP, key=lambda keep: losses[keep])
    return best if losses[best] < losses[1.0] - _MARGIN else 1.0


def _loss(failed: Sequence[bool], keep: float) -> float:
    failures = successes = loss = 0.0
    for outcome in failed:
        chance = (failures + _PRIOR) / (failures + successes + 2 * _PRIOR)
        loss -= math.log(chance if outcome else 1 - chance)
        failures, successes = failures * keep + outcome, successes * keep + (not outcome)
    return loss


def _counts(failed: Sequence[bool], keep: float) -> tuple[float, float]:
    """Parameters of the posterior Beta distribution."""
    failures = successes = 0.0
    for outcome in failed:
        failures, successes = failures * keep + outcome, successes * keep + (not outcome)
    return failures + _PRIOR, successes + _PRIOR
