"""What would each way of scaling have done in the past weeks, and which one would have been chosen for each?

A week's way is chosen by the two weeks before it alone, so what is printed of a week was decided before it began. It is the one with the
shortest wait that cost no more than reactive scaling or, where a mean wait is allowed, the cheapest that stayed within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workflows_pkg.advisor.scaling.fleet import HOLD_S, Policy, Replayed, fixed, perfect, replay
from workflows_pkg.advisor.scaling.ways import Way, all_ways, policy, spares, train
from workflows_pkg.prediction.demand.hours import forecast_hours
from workflows_pkg.prediction.demand.work import Work, by_minute, hourly_peaks

WEEK_S = 7 * 86_400.0
CHOOSE_BY = 2
"""Weeks by which a way is chosen."""

OURS, REACTIVE = "ours", "reactive"
REACTIVE_WAY = Way("held", hold_s=HOLD_S)


@dataclass(frozen=True)
class Week:
    """One week replayed: every way, and the others beside them; times in seconds since 1970."""

    begin: float
    end: float
    ways: Mapping[Way, Replayed]
    others: tuple[Replayed, ...]


def replay_weeks(work: Work, starts_in_s: float, now: float, most: int) -> list[Week]:
    """The last whole weeks before `now`, at most this many, the oldest first; none of the first seven days, which are looked back to."""
    if not len(work.asked):
        return []
    number = min(most, int((now - work.asked[0]) // WEEK_S) - 1)
    return [_week(work, starts_in_s, now - WEEK_S * back, now - WEEK_S * (back - 1)) for back in range(number, 0, -1)]


def _week(work: Work, starts_in_s: float, begin: float, end: float) -> Week:
    ways = all_ways(starts_in_s)
    asked_for = spares(work, ways, train(work, ways, begin), begin, end)
    found = {way: replay(work, policy(way, spare, begin), starts_in_s, begin, end) for way, spare in asked_for.items()}
    known = by_minute(work.before(begin), work.asked[0], begin)
    highest = int(known.highest.max(initial=0.0))
    others = (
        replace(found[REACTIVE_WAY], name=REACTIVE),
        replay(work, _by_the_hour(work, begin, end), starts_in_s, begin, end),
        replace(replay(work, fixed(max(highest, 1)), starts_in_s, begin, end), name="fixed at the highest so far"),
        perfect(work, starts_in_s, begin, end),
    )
    return Week(begin, end, found, others)


def _by_the_hour(work: Work, begin: float, end: float) -> Policy:
    """The 95 % quantile of each hour, said a day ahead, and more where more is present."""
    start, peaks = hourly_peaks(by_minute(work.before(end), work.asked[0], end))
    first = min(int((begin - start) // 3600), len(peaks))
    # an hour that is not over is not in `peaks`; the last one of the week lasts to its end
    said = forecast_hours(start, peaks, first, len(peaks) + 1)
    plan = said["learned"][:, 2]

    def floor(minute: int, present: int) -> float:
        place = (minute * 60 - start) // 3600 - first
        return float(plan[min(max(place, 0), len(plan) - 1)])

    return Policy("planned by the hour", floor=floor, hold_s=HOLD_S)


def choose(weeks: Sequence[Week], allowed_wait_s: float | None) -> Way:
    """The cheapest way whose mean wait in these weeks was at most this long; without it, the one with the shortest wait of those that cost
    no more than reactive scaling.

    Where no wait was that short, the shortest. Only ways that were there in each of the weeks.
    """
    totals = {
        way: join([week.ways[way] for week in weeks], "") for way in weeks[-1].ways if all(way in week.ways for week in weeks)
    }
    if allowed_wait_s is None:
        cost = totals[REACTIVE_WAY].worker_hours
        fitting = [way for way in totals if totals[way].worker_hours <= cost]
    else:
        fitting = [way for way in totals if totals[way].wait_mean_s <= allowed_wait_s]
    if allowed_wait_s is None or not fitting:
        return min(fitting or totals, key=lambda way: (totals[way].wait_mean_s, totals[way].worker_hours))
    return min(fitting, key=lambda way: (totals[way].worker_hours, totals[way].wait_mean_s))


def ours_and_others(weeks: Sequence[Week], allowed_wait_s: float | None) -> list[Replayed]:
    """What was paid and waited in all weeks that have `CHOOSE_BY` weeks before them: ours first. Empty where there is none."""
    told = range(CHOOSE_BY, len(weeks))
    if not told:
        return []
    ours = [weeks[place].ways[_chosen(weeks, place, allowed_wait_s)] for place in told]
    others = zip(*(weeks[place].others for place in told), strict=True)
    return [join(ours, OURS), *(join(of_one, of_one[0].name) for of_one in others)]


def _chosen(weeks: Sequence[Week], place: int, allowed_wait_s: float | None) -> Way:
    way = choose(weeks[place - CHOOSE_BY : place], allowed_wait_s)
    return way if way in weeks[place].ways else REACTIVE_WAY


def join(parts: Iterable[Replayed], name: str) -> Replayed:
    """Several weeks as one."""
    found = list(parts)
    return Replayed(name, sum(one.worker_hours for one in found), np.concatenate([one.waits for one in found]))
