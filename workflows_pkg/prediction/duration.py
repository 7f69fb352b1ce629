"""What does the learned predictor expect, from all keys together?

A few dozen values per step are too few for a regression of their own, but how much to trust the last value, the same
partition or the same weekday is alike from step to step. So one gradient boosting of trees is fitted over all keys on
the logarithm of value over the key's median; it is never saved, only fitted again from the history.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from workflows_pkg.prediction.features import FLOOR, MODEL_FEATURES, timeline
from workflows_pkg.prediction.rows import Column, Frame

NAME = "boosted_trees"
FIRST_FIT = 40
"""Finished rows with history before the first fit: two leaves of `_LEAF` rows and some to spare."""
_GROWTH = 1.6
"""Fitted again when the finished rows have grown by this factor: the number of fits grows with the logarithm of the history."""
_NEWEST = 6000
"""Rows a fit looks at, the newest; keeps a fit under a second."""
_LEAF = 8
_FARTHEST = 2.5
"""Bound on |log(value / median)|, a factor of 12: a tree must not chase a single outlier, nor answer with one."""


def learned(observations: Frame, features: Frame, floor: float = FLOOR) -> Column:
    """The learned predictor's p50 of every row on the same index; missing where it abstains (cold key, too little history).

    A row is predicted by the newest fit made strictly before its submission, and a fit rests on rows finished by then.
    """
    x = features[list(MODEL_FEATURES)].to_numpy(float)
    level = features["level"].to_numpy(float)
    value = observations["value"].to_numpy(float)
    with np.errstate(invalid="ignore"):
        target = np.clip(np.log(np.maximum(value, floor)) - level, -_FARTHEST, _FARTHEST)
    answer = np.full(len(observations), np.nan)
    # on a few thousand rows a second thread only waits for the first, and on a busy machine for everybody else
    from threadpoolctl import threadpool_limits

    for trained, asked in _windows(observations, ~np.isnan(target), ~np.isnan(level)):
        # a feature that is missing from every row (no partitions, no re-attempts' history) has no bins to split at
        known = ~np.isnan(x[trained]).all(axis=0)
        with threadpool_limits(1):
            model = _fit(x[trained][:, known], target[trained])
            answer[asked] = np.clip(model.predict(x[asked][:, known]), -_FARTHEST, _FARTHEST)
    return pd.Series(np.exp(level + answer), index=observations.index, name=NAME)


def _windows(observations: Frame, usable: np.ndarray, askable: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of row positions: those a fit learns from, and those submitted between that fit and the next."""
    finished: list[int] = []
    trained: np.ndarray | None = None
    asked: list[int] = []
    due = FIRST_FIT
    for row, finishes in timeline(observations):
        if not finishes:
            if len(finished) >= due:
                if trained is not None and asked:
                    yield trained, np.array(asked)
                trained, asked = np.array(finished[-_NEWEST:]), []
                due = int(len(finished) * _GROWTH) + 1
            if trained is not None and askable[row]:
                asked.append(row)
        elif usable[row]:
            finished.append(row)
    if trained is not None and asked:
        yield trained, np.array(asked)


def _fit(x: np.ndarray, target: np.ndarray) -> Any:
    # scikit-learn takes a second to import; only those who train wait for it
    from sklearn.ensemble import HistGradientBoostingRegressor

    estimator: Any = HistGradientBoostingRegressor  # scikit-learn's inferred types know fewer values than it takes
    model = estimator(
        loss="absolute_error",
        learning_rate=0.15,
        max_iter=50,
        max_leaf_nodes=8,
        min_samples_leaf=_LEAF,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )
    return model.fit(x, target)
