"""How far off are forecasts of run time, and how honest are their intervals?

Scored are successful attempts of at least the trace's shortest time whose step had history when they were submitted; cold ones are
counted apart. Where a predictor abstains, the step's median and quantiles fill in, and the share of its own answers is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from workflows_pkg.prediction.baselines.duration import BASELINES, ENDS, DurationBaselines
from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.evaluation.measures import Measure, Question, by_step
from workflows_pkg.prediction.evaluation.replay import history_counts
from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.rows import Frame

NAME = "duration"
ENDS_LABEL = "quantiles of history"
HISTORY_BINS = {"1-4": (1, 4), "5-19": (5, 19), "20+": (20, 10**9)}
BELOW = ("below p05", "below p50", "below p95")
"""Shares of the truths below each quantile: 5, 50 and 95 % where the forecasts are calibrated."""
_ALPHA = 0.1
_Build = Callable[[str, str, float | None, dict[str, float], int], Measure]


def measures(trace: Trace, ours: Frame | None, baselines: Frame) -> Iterator[Measure]:
    """Every figure of one trace. `ours` has the columns p05, p50, p95 of every row, `baselines` those of the simple rules.

    Errors and losses are shares of the truth in percent; `by step` is the mean over steps of each step's figure.
    """
    rows = trace.rows
    count = history_counts(trace, rows["value"].notna().to_numpy())
    usable = (rows["value"] >= trace.least_s).to_numpy()
    if not usable.any():
        return
    cold, warm = usable & (count == 0), usable & (count > 0)

    def measure(metric: str, better: str, mine: float | None, others: dict[str, float], size: int) -> Measure:
        return Measure(trace.name, NAME, metric, "%", better, mine, others, size)

    yield measure("cold rows", "", 100 * float(cold.sum() / usable.sum()), {}, int(usable.sum()))
    if cold.any() and ours is not None:
        truth, said = rows["value"].to_numpy(float)[cold], ours["p50"].to_numpy(float)[cold]
        answered = ~np.isnan(said)
        yield measure("cold rows answered", "", 100 * float(answered.mean()), {}, int(cold.sum()))
        if answered.any():
            error = np.abs(said - truth)[answered] / truth[answered]
            yield measure("cold rows MdAPE", "", 100 * float(np.median(error)), {}, int(answered.sum()))
            share = 100 * float(np.abs(said - truth)[answered].sum() / truth[answered].sum())
            yield measure("cold rows WAPE", "", share, {}, int(answered.sum()))
    if not warm.any():
        return
    yield from _warm(trace, ours, baselines, warm, "", measure)
    for label, (low, high) in HISTORY_BINS.items():
        chosen = warm & (count >= low) & (count <= high)
        if chosen.any():
            yield from _warm(trace, ours, baselines, chosen, f", history {label}", measure)


def _warm(
    trace: Trace, ours: Frame | None, baselines: Frame, chosen: np.ndarray, suffix: str, measure: _Build
) -> Iterator[Measure]:
    rows = trace.rows[chosen]
    truth = rows["value"].to_numpy(float)
    keys = list(zip(rows["workflow"], rows["step"], strict=True))
    size, total = len(truth), truth.sum()
    rules = baselines[chosen]
    points = {name: rules[name].to_numpy(float) for name in BASELINES}
    mine = None
    if ours is not None:
        mine = np.where(ours["p50"][chosen].isna(), points["median"], ours["p50"][chosen])
        if not suffix:
            yield measure("answered", "", 100 * float(ours["p50"][chosen].notna().mean()), {}, size)

    def both(metric: str, better: str, figure: Callable[[np.ndarray], float]) -> Measure:
        others = {name: figure(said) for name, said in points.items()}
        return measure(metric + suffix, better, None if mine is None else figure(mine), others, size)

    yield both("MdAPE", "low", lambda said: 100 * float(np.median(np.abs(said - truth) / truth)))
    yield both("WAPE", "low", lambda said: 100 * float(np.abs(said - truth).sum() / total))
    yield both("WAPE by step", "low", lambda said: 100 * by_step(keys, np.abs(said - truth), truth))
    if not suffix:
        yield both("MdAPE by step", "low", lambda said: 100 * _median_by_step(keys, np.abs(said - truth) / truth))
        yield both(BELOW[1], "", lambda said: 100 * float(np.mean(truth < said)))
        yield both("pinball 50", "low", lambda said: 50 * float(np.abs(said - truth).sum() / total))
    known = rules[ENDS[0]].notna().to_numpy()
    if not known.any():
        return
    truth, keys, total = truth[known], [key for key, has in zip(keys, known, strict=True) if has], truth[known].sum()
    history = rules.loc[known, list(ENDS)].to_numpy(float)
    own = None
    if ours is not None:
        own = ours.loc[chosen, ["p05", "p95"]].to_numpy(float)[known]
        own = np.where(np.isnan(own), history, own)

    def ends(metric: str, better: str, figure: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
        mine = None if own is None else figure(own[:, 0], own[:, 1])
        return measure(metric + suffix, better, mine, {ENDS_LABEL: figure(history[:, 0], history[:, 1])}, len(truth))

    yield ends("coverage of the 90 % interval", "", lambda low, high: 100 * float(np.mean((truth >= low) & (truth <= high))))
    yield ends("Winkler", "low", lambda low, high: 100 * float(winkler(truth, low, high).sum() / total))
    yield ends("Winkler by step", "low", lambda low, high: 100 * by_step(keys, winkler(truth, low, high), truth))
    yield ends("interval width over truth", "", lambda low, high: 100 * float(np.median((high - low) / truth)))
    if suffix:
        return
    if own is not None:
        for name, end, rule in ((BELOW[0], own[:, 0], history[:, 0]), (BELOW[2], own[:, 1], history[:, 1])):
            yield measure(
                name, "", 100 * float(np.mean(truth < end)), {ENDS_LABEL: 100 * float(np.mean(truth < rule))}, len(truth)
            )
    yield ends("interval width, sum", "", lambda low, high: 100 * float((high - low).sum() / total))
    yield ends("pinball 05", "low", lambda low, high: 100 * pinball(truth, low, 0.05) / total)
    yield ends("pinball 95", "low", lambda low, high: 100 * pinball(truth, high, 0.95) / total)


def winkler(truth: np.ndarray, low: np.ndarray, high: np.ndarray, alpha: float = _ALPHA) -> np.ndarray:
    """The interval score of each row: width, and 2 / alpha times what the truth lies outside (Winkler, JASA 67, 1972).

    >>> winkler(np.array([12.0]), np.array([5.0]), np.array([10.0])).tolist()
    [45.0]
    """
    return (high - low) + 2 / alpha * (np.maximum(low - truth, 0) + np.maximum(truth - high, 0))


def pinball(truth: np.ndarray, quantile: np.ndarray, level: float) -> float:
    """Sum of pinball losses of forecast quantiles at one level, in the truth's unit.

    >>> pinball(np.array([10.0]), np.array([8.0]), 0.95)
    1.9
    """
    short = truth - quantile
    return float(np.maximum(level * short, (level - 1) * short).sum())


def _median_by_step(keys: list, errors: np.ndarray) -> float:
    return float(pd.Series(errors).groupby(pd.MultiIndex.from_tuples(keys)).median().mean())


QUESTION = Question(
    NAME,
    asks=lambda trace: bool((trace.rows["value"] >= trace.least_s).any()),
    ours=DurationPredictor,
    baselines=DurationBaselines,
    measures=measures,
    headline=("WAPE by step", "WAPE", "MdAPE", "coverage of the 90 % interval", "Winkler by step", "interval width over truth"),
)
