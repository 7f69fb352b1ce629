"""How good are the forecasts on what has happened, and would a simple rule have done as well?

The history is replayed in order of submission; each prediction sees only what had finished strictly before. Every simple
rule is scored beside, on the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workflows_pkg.prediction.duration.predictor import FLOOR
from workflows_pkg.prediction.evaluation.duration import pinball
from workflows_pkg.prediction.rows import Frame, attempt_observations
from workflows_pkg.prediction.rules import INTERVAL_FROM, RULES
from workflows_pkg.prediction.serving import predictions

SERVED = "served"
"""What is really answered, with its interval."""

LEAST_S = 0.01
"""Shortest run time that is scored: below 10 ms a relative error measures the clock."""


def replay(attempts: Frame, quantity: str = "run_time_s", floor: float = FLOOR) -> Frame:
    """One row per attempt that began, in order of submission: what was forecast for it then, beside what happened.

    `attempts` has the columns of `StepAttempt`, and `submitted_at` where it is known better than from the waits.
    Columns: those of the observation (`value` is the truth, missing unless it succeeded), `p05`, `p50`, `p95`,
    `predictor`, `count` (finished values of the step then known), one column per simple rule, `rule_p05`, `rule_p95`, and
    `history` (0, 1-4, 5-19 or 20+ values known).
    """
    observations = attempt_observations(attempts, quantity)
    table = pd.concat([observations, predictions(observations, floor)], axis=1)
    bins: Frame = pd.cut(table["count"], [-1, 0, INTERVAL_FROM - 1, 19, np.inf], labels=["0", "1-4", "5-19", "20+"])
    return table.assign(history=bins.astype(str))


def scores(replayed: Frame, by: Sequence[str] = ("job_name", "step"), least: float = LEAST_S) -> Frame:
    """Errors of the served forecast and of every simple rule, one row per group and predictor.

    Scored are successful attempts of at least `least`; all but `row_count` and `cold_share` rest on those with history.
    Columns: those of `by`, `predictor`, `row_count`, `cold_share` (without history of their step), `answered_share`
    (rows the predictor answered itself; the median fills in elsewhere), `error_share` (median absolute relative error),
    `weighted_error_share` (sum of absolute errors over sum of truths), `pinball_p05`, `pinball_p50`, `pinball_p95`
    (pinball loss over sum of truths), `coverage_share` (truths inside the 5 to 95 % interval), `relative_width` (median
    width over truth). Rules share the quantiles of history as interval, from five values on.
    `by=()` gives the whole replay as one group. Missing where no row can be scored.
    """
    scored = replayed[replayed["value"] >= least]
    groups = scored.groupby(list(by), sort=True) if by else [((), scored)]
    rows = [
        dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)) | {"predictor": name} | _score(group, name)
        for key, group in groups
        for name in (SERVED, *RULES)
    ]
    return pd.DataFrame(rows, columns=[*by, "predictor", *_MEASURES])


def macro_mean(scored: Frame) -> Frame:
    """The mean of `scores` over its groups, one row per predictor, so that a step with many attempts counts once.

    `row_count` is the sum; groups without a figure are left out of that figure's mean.
    """
    means = scored.groupby("predictor", sort=False)[list(_MEASURES)].mean()
    means["row_count"] = scored.groupby("predictor", sort=False)["row_count"].sum()
    return means.reset_index()


_MEASURES = (
    "row_count", "cold_share", "answered_share", "error_share", "weighted_error_share",
    "pinball_p05", "pinball_p50", "pinball_p95", "coverage_share", "relative_width",
)  # fmt: skip


def _score(group: Frame, name: str) -> dict[str, float]:
    warm = group[group["count"] > 0]
    found: dict[str, float] = {"row_count": len(group), "cold_share": 1 - len(warm) / len(group) if len(group) else float("nan")}
    if warm.empty:
        return found
    truth = warm["value"].to_numpy(float)
    asked = warm["p50" if name == SERVED else name].to_numpy(float)
    found["answered_share"] = float(np.mean(~np.isnan(asked)))
    middle = np.where(np.isnan(asked), warm["median"].to_numpy(float), asked)
    total = truth.sum()
    found["error_share"] = float(np.median(np.abs(middle - truth) / truth))
    found["weighted_error_share"] = float(np.abs(middle - truth).sum() / total)
    found["pinball_p50"] = pinball(truth, middle, 0.5) / total
    low, high = (warm[column].to_numpy(float) for column in (("p05", "p95") if name == SERVED else ("rule_p05", "rule_p95")))
    with_interval = ~np.isnan(low)
    if with_interval.any():
        truth, low, high = truth[with_interval], low[with_interval], high[with_interval]
        found["pinball_p05"] = pinball(truth, low, 0.05) / truth.sum()
        found["pinball_p95"] = pinball(truth, high, 0.95) / truth.sum()
        found["coverage_share"] = float(np.mean((truth >= low) & (truth <= high)))
        found["relative_width"] = float(np.median((high - low) / truth))
    return found
