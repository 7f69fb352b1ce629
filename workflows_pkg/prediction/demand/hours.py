"""How many will be present at most in each of the coming hours, and how good was that in the last two weeks?

Judged in order: what is said of an hour uses nothing of the 23 hours before it, so that it can be said a day ahead. The better of the
learned forecast and the two rules (the same hour of the last seven days, or of the same day in the last four weeks) is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np

from workflows_pkg.prediction.demand.features import calendar, same_time
from workflows_pkg.prediction.demand.quantiles import learn
from workflows_pkg.prediction.demand.work import CONSIDERED_DAYS, Figures, Work, by_minute, hourly_peaks

LEVELS = (0.05, 0.5, 0.95)
MOST_HOURS = 24
JUDGED_DAYS = 14
_WEEK = 7 * 24
_BY = ("learned", "the last seven days", "the last four weeks")


@dataclass(frozen=True)
class Hour:
    """The most that will be present at once in an hour: in 5, 50 and 95 of 100 such hours at most this many.

    `p95` workers are thus enough in 95 of 100 such hours.
    """

    start: datetime
    p05: int
    p50: int
    p95: int


@dataclass(frozen=True)
class Hours:
    """The coming hours; `by`: what forecast them.

    `loss` of each forecast: mean quantile loss over 5, 50 and 95 %, in slots, in the last two weeks, by which it was chosen.
    `covered_share`: share of the hours of the last week within 5 to 95 %, had it been forecast by what was known of the week before.
    """

    hours: tuple[Hour, ...]
    by: str
    loss: dict[str, float]
    covered_share: float


def coming_hours(work: Work, now: datetime, hours: int) -> Hours | None:
    """The next `hours` (1 to 24), the present one first, from what was known at `now`; None where three weeks are not known."""
    moment = now.timestamp()
    known = work.before(moment)
    if not len(known.asked):
        return None
    since = max(known.asked[0], moment - 86_400 * CONSIDERED_DAYS)
    start, peaks = hourly_peaks(by_minute(known, since, moment))
    judged = JUDGED_DAYS * 24
    if len(peaks) < judged + _WEEK:
        return None
    first = len(peaks) - judged
    said = forecast_hours(start, peaks, first, len(peaks))
    truth = peaks[first:]
    loss = {name: quantile_loss(truth, found) for name, found in said.items()}
    _, last = served(truth[:_WEEK], said, slice(_WEEK), slice(_WEEK, judged))
    # the present hour is not over: it has no peak yet, and is the first to be forecast
    coming = forecast_hours(start, peaks, len(peaks), len(peaks) + hours)
    both = {name: np.concatenate([said[name], coming[name]]) for name in said}
    by, ahead = served(truth, both, slice(judged), slice(judged, None))
    begin = datetime.fromtimestamp(start + 3600 * len(peaks), UTC)
    found = tuple(Hour(begin + timedelta(hours=number), *map(int, row)) for number, row in enumerate(ahead))
    return Hours(found, by, loss, float(covered(truth[_WEEK:], last).mean()))


def forecast_hours(start: int, peaks: Figures, first: int, end: int) -> dict[str, Figures]:
    """What each way says of the hours from `first` up to `end`: one row per hour, one column per level; learned anew every week.

    `start`: seconds since 1970 of hour 0. Without enough to learn from, the learned forecast is that of the last seven days.
    """
    rows = np.arange(first, end)
    same = same_time(peaks, rows, 24)
    days = np.column_stack([same.quantile(level, "days") for level in LEVELS])
    weeks = np.column_stack([same.quantile(level, "weeks") for level in LEVELS])
    days = np.nan_to_num(days)
    weeks = np.where(np.isnan(weeks), days, weeks)
    learned = days.copy()
    features = calendar(peaks, np.arange(end), 24, start, 1)
    for low, high in pairwise([*range(first, end, _WEEK), end]):
        seen = np.arange(24, min(low, len(peaks)))
        trained = learn(features[seen], peaks[seen]) if len(seen) >= _WEEK else None
        if trained is not None:
            learned[low - first : high - first] = trained.at(features[low:high], LEVELS)
    # what is counted is whole, so what is said of it is
    return {name: np.round(found) for name, found in zip(_BY, (learned, days, weeks), strict=True)}


def served(truth: Figures, said: dict[str, Figures], before: slice, rows: slice) -> tuple[str, Figures]:
    """Which way did best in the hours `before`, whose truth this is, and what it says of `rows`.

    Its ends are moved outwards as far as they would have had to be to hold before (split conformal prediction, anew each time, since what
    was learned ages).
    """
    best = min(said, key=lambda name: quantile_loss(truth, said[name][before]))
    known, found = said[best][before], said[best][rows].copy()
    rank = min(LEVELS[2] * (len(truth) + 1) / len(truth), 1.0)
    found[:, 0] -= max(float(np.quantile(known[:, 0] - truth, rank, method="inverted_cdf")), 0.0)
    found[:, 2] += max(float(np.quantile(truth - known[:, 2], rank, method="inverted_cdf")), 0.0)
    return best, np.maximum(found, 0.0)


def covered(truth: Figures, said: Figures) -> Figures:
    """Whether each truth lies between the outer levels."""
    return (truth >= said[:, 0]) & (truth <= said[:, 2])


def quantile_loss(truth: Figures, said: Figures) -> float:
    """Mean quantile loss (Koenker and Bassett, 1978) over the levels, in the unit of the truth."""
    off = truth[:, None] - said
    levels = np.array(LEVELS)
    return float(np.maximum(levels * off, (levels - 1) * off).mean())
