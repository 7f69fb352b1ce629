"""What asked for a slot, when, and for how long did it keep it? Read from history, and counted minute by minute.

A slot is what one run takes of a worker, or one attempt of a step. Whatever has been asked for and has not ended is `present`: it has a
slot or waits for one. All times are seconds since 1970, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np

from workflows_pkg.prediction.rows import Connection, numbers

Figures = np.ndarray[Any, Any]
Slots = Literal["runs", "steps"]

MINUTE_S = 60
CONSIDERED_DAYS = 182
"""Days of history that are looked at: the longest that anything is learned from, half a year by the hour. What is dated before, by a clock
that went wrong or an import, would be counted minute by minute from there on, and be taken for history."""
_LEAST_OPEN_S = 86_400.0

_RUNS = """
    select epoch(created_at) as asked, epoch(ended_at) as ended,
        coalesce(start_time_s, 0) + coalesce(run_time_s, epoch(ended_at) - epoch(coalesce(started_at, created_at))) as busy
    from runs where created_at between ? and ?"""
_STEPS = """
    select epoch(a.started_at) - coalesce(a.queue_time_s, 0) - coalesce(a.start_time_s, 0) as asked,
        coalesce(epoch(a.ended_at), epoch(r.ended_at)) as ended, coalesce(a.start_time_s, 0) + a.run_time_s as busy
    from step_attempts a join runs r using (run_id) where a.started_at is not null and a.outcome is distinct from 'skipped'
        and r.created_at between ? and ?"""
"""A step that was lost with its run has no end of its own: it ended with the run at the latest."""


@dataclass(frozen=True)
class Work:
    """What asked for slots, in order of asking.

    `asked`: when; `ended`: when it was over, infinite while it is not; `busy`: seconds that it kept a slot, not a number while unknown.
    """

    asked: Figures
    ended: Figures
    busy: Figures

    @classmethod
    def of(cls, asked: Any, ended: Any, busy: Any) -> Work:
        """The work of these three columns, put in order; a missing end means that it goes on."""
        columns = [np.asarray(column, dtype=float) for column in (asked, ended, busy)]
        order = np.argsort(columns[0], kind="stable")
        asked, ended, busy = (column[order] for column in columns)
        ended = np.where(np.isnan(ended), np.inf, np.maximum(ended, asked))
        return cls(asked, ended, np.maximum(busy, 0.0))

    def before(self, moment: float) -> Work:
        """What was known of it at `moment`: nothing that was asked for later, and no end that was still to come."""
        kept = self.asked < moment
        open_ = self.ended[kept] >= moment
        return Work(self.asked[kept], np.where(open_, np.inf, self.ended[kept]), np.where(open_, np.nan, self.busy[kept]))

    def present(self, at: float) -> int:
        """How many are present at this instant."""
        return int(((self.asked <= at) & (self.ended > at)).sum())


def read_work(con: Connection, slots: Slots, now: datetime | None = None, days: float = CONSIDERED_DAYS) -> Work:
    """Every run, or every attempt of a step that began, of the last `days` before `now` in the history behind `con`. Trials too: they need
    workers like others.

    `now`: the present; None: when the newest run was asked for. What is open for a day, and for longer than anything that has ended took,
    by the newest instant in the history, is taken for lost.
    """
    moment = now or con.execute("select max(created_at) from runs").fetchone()[0]
    if moment is None:
        return Work.of([], [], [])
    frame = con.execute(_RUNS if slots == "runs" else _STEPS, [moment - timedelta(days=days), moment]).df()
    asked, ended, busy = (numbers(frame[name]) for name in ("asked", "ended", "busy"))
    # an end by a clock that is ahead must not make what is open look old
    newest = max(asked.max(), ended.max() if now is None else ended[ended <= now.timestamp()].max())
    # deleted before they ended, or never launched: open for longer than whatever has ended
    longest = (ended - asked).max()
    lost = ended.isna() & (newest - asked > max(_LEAST_OPEN_S, longest if longest == longest else 0.0))
    return Work.of(asked[~lost], ended[~lost], busy[~lost])


@dataclass(frozen=True)
class Minutes:
    """Work counted by minutes, of which the first begins at `start` (a whole minute).

    `at_start`: present when the minute begins; `highest`: the most present within it; `asked`: how many asked in it.
    """

    start: int
    at_start: Figures
    highest: Figures
    asked: Figures

    @property
    def end(self) -> int:
        """Where the last minute ends."""
        return self.start + MINUTE_S * len(self.at_start)


def by_minute(work: Work, start: float, end: float) -> Minutes:
    """The whole minutes from the one of `start` to the last that is over at `end`."""
    first = int(start // MINUTE_S) * MINUTE_S
    count = max(int((end - first) // MINUTE_S), 0)
    edge = first + MINUTE_S * count
    ended = work.ended[np.isfinite(work.ended)]
    instants = np.concatenate([work.asked, ended])
    change = np.concatenate([np.ones(len(work.asked)), -np.ones(len(ended))])
    # at one instant an end comes first: the slot that it frees can be had by what asks then
    order = np.lexsort((change, instants))
    instants, level = instants[order], np.cumsum(change[order])
    place = np.searchsorted(instants, first + MINUTE_S * np.arange(count), side="right")
    at_start = np.where(place > 0, level[np.maximum(place, 1) - 1], 0.0) if len(level) else np.zeros(count)
    highest = at_start.copy()
    within = (instants >= first) & (instants < edge)
    np.maximum.at(highest, ((instants[within] - first) // MINUTE_S).astype(int), level[within])
    asks = work.asked[(work.asked >= first) & (work.asked < edge)]
    asked = np.bincount(((asks - first) // MINUTE_S).astype(int), minlength=count).astype(float)
    return Minutes(first, at_start, highest, asked)


def growth(minutes: Minutes, ahead: int) -> Figures:
    """By how much what is present grows at most from the beginning of a minute within `ahead` minutes, that one included.

    Not a number in the last minutes, whose window is not over.
    """
    found = np.full(len(minutes.highest), np.nan)
    whole = len(found) - ahead + 1
    if whole > 0:
        windows = np.lib.stride_tricks.sliding_window_view(minutes.highest, ahead)
        found[:whole] = windows.max(axis=1) - minutes.at_start[:whole]
    return found


def hourly_peaks(minutes: Minutes) -> tuple[int, Figures]:
    """Where the first whole hour begins, and the most present in each hour."""
    skipped = (-minutes.start // MINUTE_S) % 60
    whole = minutes.highest[skipped:]
    whole = whole[: len(whole) // 60 * 60]
    return minutes.start + MINUTE_S * skipped, whole.reshape(-1, 60).max(axis=1) if len(whole) else whole
