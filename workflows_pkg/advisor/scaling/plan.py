"""How many workers now, and in each of the coming hours? And would that have paid in the past weeks?

    with open_history(folder) as con:
        work = read_work(con, "runs", datetime.now(UTC))
    plan = make_plan(work, datetime.now(UTC), starts_in_s=120, allowed_wait_s=None)
    workers_now(plan, work, datetime.now(UTC)).workers

A plan is good for hours; the figure of the moment needs the newest history.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from workflows_pkg.advisor.scaling.fleet import Replayed
from workflows_pkg.advisor.scaling.ways import Trained, Way, spares, train
from workflows_pkg.advisor.scaling.weeks import CHOOSE_BY, REACTIVE_WAY, choose, ours_and_others, replay_weeks
from workflows_pkg.prediction.demand.hours import MOST_HOURS, Hours, coming_hours
from workflows_pkg.prediction.demand.work import MINUTE_S, Work, by_minute

SHOWN_WEEKS = 4
"""Weeks that are replayed for show, besides those that only choose."""

LEAST_DAYS = 7 * (1 + CHOOSE_BY)
"""A first week to look back to, and those that choose."""


@dataclass(frozen=True)
class Plan:
    """How to scale from `at` on.

    `starts_in_s`: how long a worker takes to start. `allowed_wait_s`: the mean wait that was allowed, None: the shortest for
    what reactive scaling would cost.
    `why_reactive`: why nothing is forecast, else empty. `hours`: None then. `replayed`: the past weeks, ours first, from `replayed_from`;
    empty where there are fewer than four weeks of history.
    """

    at: datetime
    starts_in_s: float
    allowed_wait_s: float | None
    way: Way
    trained: Trained
    hours: Hours | None
    replayed: tuple[Replayed, ...]
    replayed_from: datetime | None
    why_reactive: str = ""


@dataclass(frozen=True)
class Moment:
    """The figure of a moment: `workers` wanted, of which `present` have work or work waits for them; `spare` are kept idle.

    `known_until`: the newest instant in the history, None without one: whatever happened since is not in these figures.
    """

    at: datetime
    workers: int
    present: int
    known_until: datetime | None

    @property
    def spare(self) -> int:
        """Workers beyond what is present."""
        return self.workers - self.present


def make_plan(work: Work, now: datetime, starts_in_s: float, allowed_wait_s: float | None, weeks: int = SHOWN_WEEKS) -> Plan:
    """The plan by what was known at `now`; about two seconds of a processor for each week that is replayed."""
    moment = now.timestamp()
    known = work.before(moment)
    days = (moment - known.asked[0]) / 86_400 if len(known.asked) else 0.0
    if days < LEAST_DAYS:
        why = (
            f"{days:.1f} days of history are known, and {LEAST_DAYS} are needed"
            if len(known.asked)
            else "nothing has asked for a worker yet"
        )
        return Plan(now, starts_in_s, allowed_wait_s, REACTIVE_WAY, {}, None, (), None, why)
    past = replay_weeks(known, starts_in_s, moment, weeks + CHOOSE_BY)
    way = choose(past[-CHOOSE_BY:], allowed_wait_s)
    replayed = ours_and_others(past, allowed_wait_s)
    begin = datetime.fromtimestamp(past[CHOOSE_BY].begin, UTC) if replayed else None
    hours = coming_hours(known, now, MOST_HOURS)
    return Plan(now, starts_in_s, allowed_wait_s, way, train(known, (way,), moment), hours, tuple(replayed), begin)


def workers_now(plan: Plan, work: Work, now: datetime) -> Moment:
    """How many workers there should be, by the newest history."""
    moment = now.timestamp()
    known = work.before(moment)
    present = known.present(moment)
    newest = max(known.asked.max(initial=0.0), known.ended[np.isfinite(known.ended)].max(initial=0.0))
    minute = moment // MINUTE_S * MINUTE_S
    wanted = float(present)
    if plan.way.hold_s:
        wanted = max(wanted, float(by_minute(known, moment - plan.way.hold_s, minute + MINUTE_S).highest.max()))
    for spare in spares(known, (plan.way,), plan.trained, minute, minute + MINUTE_S).values():
        wanted = max(wanted, known.present(minute) + float(spare[0]))
    return Moment(now, int(wanted), present, datetime.fromtimestamp(newest, UTC) if newest else None)
