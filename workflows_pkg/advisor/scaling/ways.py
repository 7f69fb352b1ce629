"""Which ways of scaling are tried, and what does each ask for in every minute of a week, from what was known when the minute began?

A way keeps idle workers: as many more than are present as would be needed within the next minutes, by a quantile of how much what is
present has grown. With workers that need two minutes to start, the window is three minutes (one to look, two to start), or six, which
keeps a worker where the next piece of work is likely a little later. Learned ways are learned anew each week.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workflows_pkg.advisor.scaling.fleet import HOLD_S, Policy
from workflows_pkg.prediction.demand.features import DAYS, minute_features, same_time
from workflows_pkg.prediction.demand.quantiles import CountQuantiles, learn
from workflows_pkg.prediction.demand.work import MINUTE_S, Figures, Minutes, Work, by_minute, growth

DAY = 1440
"""Minutes."""

_LEARN_MINUTES = 28 * DAY
_LEAST_LEARN_MINUTES = 7 * DAY
LOOKED_BACK_DAYS = 28 + 28
"""Learned from four weeks, whose oldest rows look four weeks back: all that the figure of a moment needs."""

_HOLDS_S = (HOLD_S, 0.0, 900.0, 1800.0)
_ALWAYS = (1, 2)
_RULE_LEVELS = (0.5, 0.8, 0.95)
_LEARNED_LEVELS = (0.6, 0.8, 0.9, 0.95)
_LONGER = 3
"""Minutes by which the longer window is longer."""


@dataclass(frozen=True)
class Way:
    """One way.

    held: idle workers go after `hold_s`. always: `workers` idle ones are kept. rule, learned: kept are those that this `level` of the
    growth within `minutes` asks for; the rule takes it over the same minute of the last seven days.
    """

    kind: Literal["held", "always", "rule", "learned"]
    hold_s: float = 0.0
    workers: int = 0
    level: float = 0.0
    minutes: int = 0

    @property
    def said(self) -> str:
        """In words."""
        if self.kind == "held":
            return f"idle workers kept for {self.hold_s / 60:g} min" if self.hold_s else "idle workers not kept"
        if self.kind == "always":
            return f"{self.workers} idle worker{'s' if self.workers > 1 else ''} always"
        by = "learned growth" if self.kind == "learned" else "growth at the same time of the last seven days"
        return f"{100 * self.level:.0f} % of the {by} within {self.minutes} min"


def all_ways(starts_in_s: float) -> tuple[Way, ...]:
    """What is tried, the vendor's default first."""
    short = 1 + math.ceil(starts_in_s / MINUTE_S)
    return (
        *(Way("held", hold_s=hold) for hold in _HOLDS_S),
        *(Way("always", workers=workers) for workers in _ALWAYS),
        *(Way("rule", level=level, minutes=short) for level in _RULE_LEVELS),
        *(Way("learned", level=level, minutes=minutes) for minutes in (short, short + _LONGER) for level in _LEARNED_LEVELS),
    )


Trained = Mapping[int, CountQuantiles]
"""What was learned of growth within so many minutes."""


def train(work: Work, ways: Iterable[Way], moment: float) -> Trained:
    """What the learned ways among `ways` need, learned from what was known at `moment`; empty where that was too little."""
    minutes = _minutes(work.before(moment), moment, moment)
    first = len(minutes.at_start)
    found: dict[int, CountQuantiles] = {}
    for reach in sorted({way.minutes for way in ways if way.kind == "learned"}):
        # a window that is not over has no value yet
        rows = np.arange(max(DAYS * DAY, first - _LEARN_MINUTES), first - reach + 1)
        if len(rows) < _LEAST_LEARN_MINUTES:
            continue
        values = growth(minutes, reach)
        trained = learn(minute_features(minutes, values, rows), values[rows])
        if trained is not None:
            found[reach] = trained
    return found


def spares(work: Work, ways: Iterable[Way], trained: Trained, begin: float, end: float) -> Mapping[Way, Figures]:
    """Idle workers that each way asks for in each minute from the one of `begin` to the last that begins before `end`.

    Of each minute nothing later than its beginning is used. A learned way for which nothing was learned is left out.
    """
    minutes = _minutes(work.before(end), begin, math.ceil(end / MINUTE_S) * MINUTE_S)
    rows = np.arange(int((begin - minutes.start) // MINUTE_S), len(minutes.at_start))
    by_reach: defaultdict[int, list[Way]] = defaultdict(list)
    found: dict[Way, Figures] = {}
    for way in ways:
        if way.kind in ("held", "always"):
            found[way] = np.full(len(rows), float(way.workers))
        else:
            by_reach[way.minutes].append(way)
    for reach, of_reach in by_reach.items():
        values = growth(minutes, reach)
        same = same_time(values, rows, DAY)
        found |= {way: np.round(np.nan_to_num(same.quantile(way.level, "days"))) for way in of_reach if way.kind == "rule"}
        learned = [way for way in of_reach if way.kind == "learned"]
        if learned and reach in trained:
            levels = tuple(way.level for way in learned)
            quantiles = np.round(trained[reach].at(minute_features(minutes, values, rows), levels))
            found |= {way: quantiles[:, place] for place, way in enumerate(learned)}
    return found


def _minutes(known: Work, begin: float, end: float) -> Minutes:
    since = max(known.asked[0] if len(known.asked) else begin, begin - 86_400 * LOOKED_BACK_DAYS)
    return by_minute(known, min(since, begin), end)


def policy(way: Way, spare: Figures, begin: float) -> Policy:
    """The way as a policy, with its idle workers by minute from `begin` on."""
    first = int(begin // MINUTE_S)
    return Policy(
        way.said,
        floor=lambda minute, present: present + (spare[minute - first] if minute - first < len(spare) else 0.0),
        hold_s=way.hold_s,
    )
