"""How far was one run's log read, and what of it is to be read again?

A log is read on from the last number that was read. Its row is looked at once more: where it has another hash or is gone, events
were deleted and their numbers used again, and the log is read anew. What is read again changes nothing, since a landed row is known
by instance, run, number and hash.

PostgreSQL gives out numbers before it commits, so a smaller number can appear after a larger one was read. There a `Window` stays
open behind the position: the rows in it are read again each time and summed up, and where the sum is another one, a row came late and
all of the window is landed again. A row leaves the window when it was read at least `OVERLAP` ago, and once more, when a run
is taken as read to the end, all of its log is landed again. Between the end of a run and that last look its window
rests: only what follows the position is read, since a busy instance has thousands of such runs. So a row is lost only where its
transaction stayed open for `OVERLAP` while others of its run committed, and for the grace after the end of the run; each of Dagster's
is one INSERT that commits by itself.
SQLite has one writer at a time and gives out the next number under its lock: there is no window.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from workflows_pkg.orchestration.sources.rows import Rows

OVERLAP = timedelta(seconds=120)
"""How far back what changes is looked at again: the row of a run carries the time of the event and is written later, and a
number of PostgreSQL is given out before it is committed.
"""

_SUMS = 1 << 64


@dataclass(frozen=True)
class Window:
    """Rows of a log that are looked at again, in two halves of which the older one leaves first.

    floor, mark: the rows numbered above `floor` are in the window, those above `mark` in its younger half.
    floor_sum, mark_sum: sums of their hashes, in which the order does not count.
    marked_at: when the younger half began, in seconds since 1970.
    """

    floor: int = 0
    floor_sum: int = 0
    mark: int = 0
    mark_sum: int = 0
    marked_at: float = 0.0


@dataclass(frozen=True)
class Position:
    """How far one run's log was read.

    updated: the state of the run's row at that time.
    deleted: the run is no longer in the instance.
    broken: state of a log's file that could not be read; it is tried again when that changes.
    window: None where numbers are committed in their order, and when the run was read to its end.
    """

    event_id: int = 0
    digest: str = ""
    updated: str = ""
    deleted: bool = False
    broken: str = ""
    window: Window | None = None

    @classmethod
    def of(cls, text: str) -> Position:
        """From the text in a cursor."""
        stored = json.loads(text)
        window = stored.pop("window", None)
        return cls(**stored, window=Window(**window) if window else None)

    def text(self) -> str:
        stored = {
            "event_id": self.event_id,
            "digest": self.digest,
            "updated": self.updated,
            "deleted": self.deleted,
            "broken": self.broken,
        }
        return json.dumps(stored if self.window is None else {**stored, "window": asdict(self.window)})


def is_deleted(text: str) -> bool:
    """Whether the position in a cursor says that the run is deleted, without reading it whole: a history has many, and reads few."""
    return '"deleted": true' in text


class Reading:
    """One run's log while it is read on from `before`.

    out_of_order: the source may show a row after one with a larger number.
    closing: this is the last look at a run that is over.
    begun: a last look was begun before and stopped at `before`, since a log may be longer than what one call lands.
    resting: the run is over and was read since, and the last look is still to come; its window is kept and not read.
    now: seconds since 1970.
    """

    def __init__(
        self, before: Position, *, out_of_order: bool, closing: bool, begun: bool, now: float, resting: bool = False
    ) -> None:
        self._before = before
        self._windowed = out_of_order and not closing and not resting
        self._resting = resting
        self._now = now
        goes_on = begun if closing else before.window is not None
        if not before.event_id or (out_of_order and not goes_on):
            self._anew()
        elif resting:
            self._on(None)
        else:
            self._on(before.window)

    @property
    def start(self) -> int:
        """Number of the first event that is wanted."""
        return self._after + 1

    def take(self, rows: Rows, *, last: bool) -> Rows | None:
        """The rows to land of those given, which come in the order of their numbers and begin at `start`.

        None: something changed among the rows read before, and the log is wanted again from `start`, which has moved.
        """
        known = bisect_right(rows.numbers, self._known)
        place = bisect_left(rows.numbers, self._before.event_id, hi=known)
        if place < known and (rows.numbers[place], rows.digests[place]) == (self._before.event_id, self._before.digest):
            self._anchored = True
        self._add(rows.numbers[:known], rows.digests[:known])
        if known < len(rows) or last:
            if not self._anchored:
                self._anew()
                return None
            if self._expected not in (None, self._floor_sum):
                self._window_again()
                return None
            self._expected = None
        fresh = rows.part(known)
        if fresh:
            self._add(fresh.numbers, fresh.digests)
            self._reached = (fresh.numbers[-1], fresh.digests[-1])
        return fresh

    def position(self, *, updated: str, broken: str = "") -> Position:
        """Behind the rows taken so far."""
        event_id, digest = self._reached
        # a window that rested has other sums than its rows where some were added: then it is landed again, which changes nothing
        window = self._before.window if self._resting else self._next_window(event_id) if self._windowed else None
        return Position(event_id, digest, updated, broken=broken, window=window)

    def _anew(self) -> None:
        """All of the log is wanted, and all of it is landed."""
        self._window: Window | None = None
        self._begin(after=0, known=0, reached=(0, ""), anchored=True, expected=None)

    def _on(self, window: Window | None) -> None:
        """What follows the position is landed, and what was read before is checked: its last row, or all of the window."""
        self._window = window
        before = self._before
        after = before.event_id - 1 if window is None else window.floor
        expected = None if window is None else window.floor_sum
        # a window can be empty: then the last row is not among those read, and nothing can have come before it
        anchored = after >= before.event_id
        self._begin(
            after=after, known=before.event_id, reached=(before.event_id, before.digest), anchored=anchored, expected=expected
        )

    def _window_again(self) -> None:
        """All rows of the window are landed."""
        after = self._after
        self._begin(after=after, known=after, reached=(self._before.event_id, self._before.digest), anchored=True, expected=None)

    def _begin(self, *, after: int, known: int, reached: tuple[int, str], anchored: bool, expected: int | None) -> None:
        self._after, self._known, self._reached, self._anchored, self._expected = after, known, reached, anchored, expected
        self._floor_sum = self._mark_sum = 0

    def _add(self, numbers: Sequence[int], digests: Sequence[str]) -> None:
        if not self._windowed:
            return
        for number, digest in zip(numbers, digests, strict=True):
            value = int(digest, 16)
            self._floor_sum = (self._floor_sum + value) % _SUMS
            if self._window is not None and number > self._window.mark:
                self._mark_sum = (self._mark_sum + value) % _SUMS

    def _next_window(self, event_id: int) -> Window:
        window = self._window
        if window is None:
            return Window(0, self._floor_sum, event_id, 0, self._now)
        if window.floor < event_id and self._now - window.marked_at >= OVERLAP.total_seconds():
            return Window(window.mark, self._mark_sum, event_id, 0, self._now)
        return replace(window, floor_sum=self._floor_sum, mark_sum=self._mark_sum)
