"""Does any prediction know what had not happened yet? Exchanges the outcomes of unfinished attempts and looks whether one changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.predictor import Predictor

OUTCOME_COLUMNS = ("value", "run_time_s", "peak_memory_bytes", "failed")
SHARES = (0.3, 0.7)
"""Shares of the submissions after which the check looks, one replay each."""
MOST_ROWS = 4000
"""Submissions looked at, the first of the trace, so that the check takes seconds."""


@dataclass(frozen=True)
class Leak:
    """Predictions made up to an instant that changed with outcomes nobody could know by then: their number of how many, and the first."""

    changed: int
    checked: int
    first_row: int | None


def leak(trace: Trace, build: Callable[[], Predictor], seed: int = 0) -> Leak:
    """What changes in the predictions of a fresh predictor, made up to some instants, when the future is another one.

    No leak where `changed` is zero. `checked` counts predictions made while something was unfinished.
    """
    short = _first(trace, MOST_ROWS)
    submitted = short.rows["submitted_s"].to_numpy(float)
    changed = checked = 0
    first: int | None = None
    for share in SHARES:
        moment = float(np.quantile(submitted, share, method="lower"))
        made = replay(short, build(), until=moment).to_numpy()
        other = replay(with_another_future(short, moment, seed), build(), until=moment).to_numpy()
        rows = np.flatnonzero(submitted <= moment)
        differs = ~np.isclose(made[rows], other[rows], rtol=1e-9, atol=0, equal_nan=True).all(axis=1)
        checked += len(rows)
        changed += int(differs.sum())
        if first is None and differs.any():
            first = int(rows[np.flatnonzero(differs)[0]])
    return Leak(changed, checked, first)


def with_another_future(trace: Trace, moment: float, seed: int = 0) -> Trace:
    """The trace with the outcomes of attempts that had not finished before `moment` exchanged among themselves."""
    rows = trace.rows.copy()
    open_then = np.flatnonzero(~(rows["finished_s"] < moment).to_numpy())
    mixed = np.random.default_rng(seed).permutation(open_then)
    for name in OUTCOME_COLUMNS:
        # a factor besides, so that equal outcomes cannot hide a leak
        scale = 1.0 if name == "failed" else 7.0
        rows.loc[open_then, name] = rows[name].to_numpy(float)[mixed] * scale
    if trace.clock == "times":
        took = (rows["finished_s"] - rows["submitted_s"]).to_numpy(float)[mixed]
        ends = np.maximum(rows["submitted_s"].to_numpy(float)[open_then] + took, moment)
        rows.loc[open_then, "finished_s"] = ends
    return replace(trace, rows=rows)


def _first(trace: Trace, most: int) -> Trace:
    if len(trace.rows) <= most:
        return trace
    return replace(trace, rows=trace.rows.iloc[:most], figures=trace.figures.iloc[:most], words=trace.words.iloc[:most])
