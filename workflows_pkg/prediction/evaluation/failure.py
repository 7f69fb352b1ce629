"""How well are failures foretold, and do the probabilities mean what they say?

Scored are attempts whose step had an outcome by then; where there are no run times (builds), those of the later half. Where a predictor
abstains, the running rate fills in. First attempts and re-attempts are told apart. No threshold is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from workflows_pkg.prediction.baselines.failure import BASELINES, FailureBaselines
from workflows_pkg.prediction.evaluation.measures import Measure, Question
from workflows_pkg.prediction.evaluation.replay import history_counts
from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.failing import FailurePredictor
from workflows_pkg.prediction.rows import Frame

NAME = "failure"
_BINS = 10
TOLD = tuple(f"failed of those told {100 * place // _BINS} to {100 * (place + 1) // _BINS} %" for place in range(_BINS))
"""The share of attempts that failed, of those with a risk in each bin: about what was told where the risks are calibrated."""
_LEAST_CHANCE = 1e-3
"""Probabilities are kept this far from 0 and 1 for the log loss, which is infinite there."""


def measures(trace: Trace, ours: Frame | None, baselines: Frame) -> Iterator[Measure]:
    """Every figure of one trace; nothing where no attempt failed or none succeeded. `ours` has the column failure_share."""
    rows = trace.rows
    failed = rows["failed"].to_numpy(float)
    count = history_counts(trace, ~np.isnan(failed))
    usable = ~np.isnan(failed) & (count > 0)
    if rows["value"].isna().all():
        usable = usable & (np.arange(len(rows)) >= len(rows) // 2)
    retries = rows["retry"].to_numpy() > 0
    groups = {"": usable}
    if (retries & usable).any():
        groups |= {", first attempts": usable & ~retries, ", re-attempts": usable & retries}
    for suffix, chosen in groups.items():
        truth = failed[chosen] == 1
        if not truth.any() or truth.all():
            continue
        said = {name: baselines[name].to_numpy(float)[chosen] for name in BASELINES}
        mine = None
        if ours is not None:
            mine = ours["failure_share"].to_numpy(float)[chosen]
            mine = np.where(np.isnan(mine), said["running_rate"], mine)
        for metric, better, figure in _FIGURES:
            others = {name: figure(truth, one) for name, one in said.items()}
            own = None if mine is None else figure(truth, mine)
            yield Measure(trace.name, NAME, metric + suffix, "", better, own, others, len(truth))
        if mine is not None and not suffix:
            for place, name in enumerate(TOLD):
                inside = _bins(mine) == place
                if inside.any():
                    share = 100 * float(truth[inside].mean())
                    yield Measure(trace.name, NAME, name, "%", "", share, {}, int(inside.sum()))


def auc(truth: np.ndarray, said: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a failure was given a larger probability than a success; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(truth, said))


def average_precision(truth: np.ndarray, said: np.ndarray) -> float:
    """Mean precision over the failures, in order of probability."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, said))


def brier(truth: np.ndarray, said: np.ndarray) -> float:
    """Mean squared error of the probabilities.

    >>> brier(np.array([True, False]), np.array([0.5, 0.5]))
    0.25
    """
    return float(np.mean((said - truth) ** 2))


def log_loss(truth: np.ndarray, said: np.ndarray) -> float:
    """Mean negative logarithm of the probability given to what happened."""
    chance = np.clip(said, _LEAST_CHANCE, 1 - _LEAST_CHANCE)
    return float(-np.mean(np.where(truth, np.log(chance), np.log(1 - chance))))


def calibration_error(truth: np.ndarray, said: np.ndarray) -> float:
    """Mean distance, weighted by rows, of probability and observed share in ten bins of equal width."""
    bins = _bins(said)
    sums = [np.bincount(bins, weights=values, minlength=_BINS) for values in (said, truth.astype(float))]
    return float(np.abs(sums[0] - sums[1]).sum() / len(truth))


def _bins(said: np.ndarray) -> np.ndarray:
    return np.minimum((said * _BINS).astype(int), _BINS - 1)


_FIGURES: tuple[tuple[str, str, Callable[[np.ndarray, np.ndarray], float]], ...] = (
    ("AUC", "high", auc),
    ("average precision", "high", average_precision),
    ("Brier", "low", brier),
    ("log loss", "low", log_loss),
    ("calibration error", "low", calibration_error),
)

QUESTION = Question(
    NAME,
    asks=lambda trace: trace.rows["failed"].nunique() == 2,
    ours=FailurePredictor,
    baselines=FailureBaselines,
    measures=measures,
    headline=("AUC", "Brier", "AUC, first attempts", "Brier, first attempts"),
)
