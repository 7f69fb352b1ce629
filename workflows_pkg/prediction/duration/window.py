"""The newest values of something, kept both in order of time and in order of size, and running moments; all bounded in memory."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import deque

MOST = 1000
"""Values kept: what a step took a thousand attempts ago says nothing more that the newer ones do not."""


class Window:
    """The newest values, at most `most`: `newest` by time, `ordered` by size."""

    __slots__ = ("most", "newest", "ordered")

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.newest: deque[float] = deque()
        self.ordered: array[float] = array("d")  # together in memory: thousands of them are read for one forecast

    def add(self, value: float) -> None:
        """Appends a value; the oldest goes where there are too many."""
        self.newest.append(value)
        insort(self.ordered, value)
        if len(self.newest) > self.most:
            gone = self.newest.popleft()
            del self.ordered[bisect_left(self.ordered, gone)]

    def quantile(self, level: float) -> float:
        """The quantile, interpolated linearly; not for an empty window."""
        place = level * (len(self.ordered) - 1)
        below = int(place)
        share = place - below
        low = self.ordered[below]
        return low if share == 0 else low + share * (self.ordered[below + 1] - low)

    def recent(self, count: int) -> list[float]:
        """The newest values, at most `count`, the newest first."""
        newest = self.newest
        return [newest[-place] for place in range(1, min(count, len(newest)) + 1)]


class Mean:
    """A running mean that forgets: the weight of a value shrinks with each newer one, never below `least` for the newest."""

    __slots__ = ("count", "least", "mean")

    def __init__(self, least: float = 0.0) -> None:
        self.count = 0
        self.mean = 0.0
        self.least = least

    def add(self, value: float) -> None:
        """One more value."""
        self.count += 1
        self.mean += max(1.0 / self.count, self.least) * (value - self.mean)


class Line:
    """Least squares of y on x from running moments; older points fade so that about the newest `MOST` decide."""

    __slots__ = ("count", "x", "xx", "xy", "y", "yy")

    def __init__(self) -> None:
        self.count = 0
        self.x = self.y = self.xx = self.xy = self.yy = 0.0

    def add(self, x: float, y: float) -> None:
        """One more point."""
        self.count = count = self.count + 1
        dx, dy = x - self.x, y - self.y
        share = 1.0 / count if count < MOST else 1.0 / MOST
        self.x += share * dx
        self.y += share * dy
        if count > MOST:
            keep = 1.0 - share
            self.xx *= keep
            self.xy *= keep
            self.yy *= keep
        self.xx += dx * (x - self.x)
        self.xy += dx * (y - self.y)
        self.yy += dy * (y - self.y)

    def at(self, x: float, stiffness: float = 0.0) -> float:
        """The line at x; its mean where all points have one x. `stiffness` pulls the slope to zero, in units of the moments."""
        below = self.xx + stiffness
        if below <= 1e-12 * self.count * max(1.0, self.x * self.x):
            return self.y
        return self.y + self.xy / below * (x - self.x)


def middle(values: list[float]) -> float:
    """The median of a few values; sorts them in place."""
    values.sort()
    half = len(values) // 2
    return values[half] if len(values) % 2 else 0.5 * (values[half - 1] + values[half])
