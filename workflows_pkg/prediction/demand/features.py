"""What is known of a slot of time before it begins, from a count by slots: the same time on earlier days and weeks, and the last minutes.

A series has one value a slot (a minute or an hour); `per_day` slots make a day. Row `t` uses values of slots at least a day before it less
half a window, and counts of minutes that are over when it begins.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workflows_pkg.prediction.demand.work import MINUTE_S, Figures, Minutes

DAYS, WEEKS = 7, 4
"""Earlier days and weeks at whose same time is looked."""

_DAY_S = 86_400
_MONDAY = 3
"""1970-01-01 was a Thursday."""

_LAST = (2, 5, 15, 60, 240)
_HIGHEST = (5, 15, 60)
"""Minutes back from the row: how many asked, and how much more was present at most than is now."""


@dataclass(frozen=True)
class SameTime:
    """Values at the same time of each of the last `DAYS` days, and of the same day of each of the last `WEEKS` weeks; not a number before
    the first."""

    days: Figures
    weeks: Figures

    def quantile(self, level: float, of: Literal["days", "weeks"]) -> Figures:
        """The rule: this quantile of what was at the same time, `of` the days or the weeks; not a number where nothing is known."""
        values = np.sort(self.days if of == "days" else self.weeks, axis=1)  # what is unknown comes last
        known = np.isfinite(values).sum(axis=1)
        place = level * np.maximum(known - 1, 0)
        low = np.floor(place).astype(int)
        rows = np.arange(len(values))
        below, above = values[rows, low], values[rows, np.minimum(low + 1, np.maximum(known - 1, 0))]
        return below + (above - below) * (place - low)


def same_time(values: Figures, rows: Figures, per_day: int) -> SameTime:
    """What the series had at the same time as each row, on earlier days and in earlier weeks."""
    return SameTime(
        np.column_stack([_lagged(values, rows, per_day * day) for day in range(1, DAYS + 1)]),
        np.column_stack([_lagged(values, rows, per_day * DAYS * week) for week in range(1, WEEKS + 1)]),
    )


def calendar(values: Figures, rows: Figures, per_day: int, start: int, half: int) -> Figures:
    """One row of features for each of `rows`: the calendar, and what the series had around the same time on earlier days and weeks.

    `start`: seconds since 1970 of slot 0; `half`: slots on either side that count as around.
    """
    same = same_time(values, rows, per_day)
    around = same_time(_means(values, half), rows, per_day)
    at = start + rows * (_DAY_S // per_day)
    day_mean, day_highest = _of_known(np.nanmean, same.days), _of_known(np.nanmax, same.days)
    near_days = _of_known(np.nanmean, around.days)
    columns = [day_mean, day_highest, _of_known(np.nanmedian, same.days), near_days, around.days[:, 0]]
    # before there are weeks, the days say what is known: the estimator takes no column without any value
    columns += [_or(_of_known(np.nanmean, same.weeks), day_mean), _or(_of_known(np.nanmax, same.weeks), day_highest)]
    columns += [_or(_of_known(np.nanmean, around.weeks), near_days)]
    return np.column_stack([*columns, at % _DAY_S // (_DAY_S // per_day), (at // _DAY_S + _MONDAY) % 7])


def recent(minutes: Minutes, rows: Figures) -> Figures:
    """One row of features for each of `rows`: what has asked in the last minutes, what is present, how it fell, how long nothing asked."""
    count = len(minutes.asked)
    so_far = np.concatenate([[0.0], np.cumsum(minutes.asked)])
    columns = [so_far[rows] - so_far[np.maximum(rows - back, 0)] for back in _LAST]
    columns.append(minutes.at_start[rows])
    for back in _HIGHEST:
        windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.zeros(back), minutes.highest]), back)
        columns.append(windows.max(axis=1)[:count][rows] - minutes.at_start[rows])
    last = np.maximum.accumulate(np.where(minutes.asked > 0, np.arange(count), -1))
    columns.append(rows - np.concatenate([[-1], last[:-1]])[rows])
    return np.column_stack(columns)


def minute_features(minutes: Minutes, values: Figures, rows: Figures) -> Figures:
    """`calendar` and `recent` of a series of minutes."""
    per_day = _DAY_S // MINUTE_S
    return np.column_stack([calendar(values, rows, per_day, minutes.start, 30), recent(minutes, rows)])


def _lagged(values: Figures, rows: Figures, back: int) -> Figures:
    places = rows - back
    if not len(values):
        return np.full(len(rows), np.nan)
    return np.where(places >= 0, values[np.clip(places, 0, len(values) - 1)], np.nan)


def _means(values: Figures, half: int) -> Figures:
    """Means of the known values up to `half` slots on either side."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[high] - sums[low]) / np.maximum(counts[high] - counts[low], 1)


def _of_known(summary: Callable[..., Figures], values: Figures) -> Figures:
    """The summary of each row's known values; not a number where none is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows before the first day have nothing to summarise
        return summary(values, axis=1)


def _or(values: Figures, instead: Figures) -> Figures:
    return np.where(np.isnan(values), instead, values)
