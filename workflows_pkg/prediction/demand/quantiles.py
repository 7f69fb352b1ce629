"""Which values will a count stay within? One estimator of its mean, and how far off it was when it did not know the answer.

Gradient boosting with the Poisson loss learns the mean on the older two thirds of the rows; on the newest third its errors, in units of the
square root of the mean (the spread of a Poisson count), are kept by the size of the mean. Their quantiles, added back, are the
forecast: split conformal prediction with groups (Vovk, "Conditional validity of inductive conformal predictors", 2012), so that a level
holds whatever the loss assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from workflows_pkg.prediction.demand.work import Figures

_LEARN_SHARE = 2 / 3
_MOST_GROUPS, _LEAST_IN_GROUP = 40, 60
"""Groups of equal size by the mean; each with enough rows for a 95 % quantile."""

_LEAST_ROWS = 120
_SEED = 20260101
_THREADS = 1
"""The trees are small: beside other work, threads that wait for each other took six times the processor time of one."""


@dataclass(frozen=True)
class CountQuantiles:
    """What was learned; `at` forecasts. `highest`: the largest value that was learned from, which no mean exceeds."""

    estimator: HistGradientBoostingRegressor
    highest: float
    edges: Figures
    errors: tuple[Figures, ...]

    def at(self, features: Figures, levels: tuple[float, ...]) -> Figures:
        """The quantiles of these levels, one row per row of features and one column per level; at least 0."""
        means = _means(self.estimator, self.highest, features)
        group = np.searchsorted(self.edges, means, side="right")
        found = np.empty((len(means), len(levels)))
        for number, errors in enumerate(self.errors):
            here = group == number
            # the rank of split conformal prediction: of one more than there are
            ranks = np.minimum(np.array(levels) * (len(errors) + 1) / len(errors), 1.0)
            off = np.quantile(errors, ranks, method="inverted_cdf")
            found[here] = means[here, None] + off[None, :] * _spread(means[here])[:, None]
        return np.maximum(found, 0.0)


def learn(features: Figures, values: Figures) -> CountQuantiles | None:
    """Learned from these rows in order of time, those without a value left out; None where they are too few."""
    known = np.isfinite(values)
    features, values = features[known], values[known]
    if len(values) < _LEAST_ROWS:
        return None
    cut = int(len(values) * _LEARN_SHARE)
    if not values[:cut].any():
        return None  # nothing ever came: there is no mean to learn
    estimator = HistGradientBoostingRegressor(
        loss="poisson",
        max_iter=80,
        max_leaf_nodes=15,
        min_samples_leaf=30,
        early_stopping=False,  # pyright: ignore[reportArgumentType]  # its stub knows only "auto"
        random_state=_SEED,
    )
    with threadpool_limits(_THREADS):
        estimator.fit(features[:cut], values[:cut])
    highest = float(values[:cut].max())
    means = _means(estimator, highest, features[cut:])
    errors = (values[cut:] - means) / _spread(means)
    order = np.argsort(means, kind="stable")
    groups = np.array_split(order, int(np.clip(len(order) // _LEAST_IN_GROUP, 1, _MOST_GROUPS)))
    edges = np.array([means[group[0]] for group in groups[1:]])
    return CountQuantiles(estimator, highest, edges, tuple(errors[group] for group in groups))


def _means(estimator: HistGradientBoostingRegressor, highest: float, features: Figures) -> Figures:
    with threadpool_limits(_THREADS):
        # the loss works with logarithms: where counts are rare, a step too far makes millions of them
        return np.clip(estimator.predict(features), 0.0, highest)


def _spread(means: Figures) -> Figures:
    return np.sqrt(means + 0.5)
