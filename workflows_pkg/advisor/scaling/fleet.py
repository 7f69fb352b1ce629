"""What would a number of workers that follows a figure have cost, and how long would work have waited? Replayed, without randomness.

The figure drives a Kubernetes HorizontalPodAutoscaler as KEDA sets it up. Its constants are the vendors' defaults:
https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/ (looks every 15 s; leaves a difference of up to 10 %
alone; adds at most 4 workers or as many as there are; follows the highest figure of the last 300 s downwards) and
https://keda.sh/docs/latest/reference/scaledobject-spec/ (first to one worker, and to none 300 s after the last need).

Assumed: one slot is one worker; work is taken in the order of asking; a worker that is busy is let finish before it goes; one is paid
from when it is asked for until it is gone; what asks for work does not depend on how long earlier work waited.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workflows_pkg.prediction.demand.work import MINUTE_S, Figures, Work

LOOK_S = 15
TOLERANCE = 0.1
STEP = 4
HOLD_S = 300.0


Floor = Callable[[int, int], float]
"""What a way of scaling asks for beyond what is present: by the minute since 1970 and what was present when that minute began."""


@dataclass(frozen=True)
class Policy:
    """How the wanted number of workers follows: it is the larger of what is present and of `floor`, and at most `most`.

    `hold_s`: seconds for which the highest figure is kept before workers go.
    """

    name: str
    floor: Floor = lambda minute, present: 0.0
    hold_s: float = 0.0
    most: float = math.inf


def fixed(workers: int) -> Policy:
    """Always this many workers."""
    return Policy("fixed", floor=lambda minute, present: workers, most=workers)


@dataclass(frozen=True)
class Replayed:
    """What a way of scaling cost and how long work waited: hours of workers, and seconds by piece of work in order of asking."""

    name: str
    worker_hours: float
    waits: Figures

    @property
    def wait_mean_s(self) -> float:
        """Mean wait; 0 where there was no work."""
        return float(self.waits.mean()) if len(self.waits) else 0.0

    @property
    def wait_p95_s(self) -> float:
        """The wait that 95 of 100 stay within."""
        return float(np.quantile(self.waits, 0.95)) if len(self.waits) else 0.0


def replay(work: Work, policy: Policy, starts_in_s: float, begin: float, end: float) -> Replayed:
    """The work asked for from `begin` to `end`, with workers that take `starts_in_s` to start.

    Begins with the workers that the floor asks for then. Goes on after `end` until everything asked for has a worker; that is
    paid too. Work of unknown length is left out.
    """
    kept = (work.asked >= begin) & (work.asked < end) & ~np.isnan(work.busy)
    asked, took = work.asked[kept].tolist(), work.busy[kept].tolist()
    waits = [0.0] * len(asked)
    queue: deque[int] = deque()
    busy: list[float] = []
    starting: deque[float] = deque()
    recent: deque[tuple[float, float]] = deque()  # figures of the last `hold_s`, falling
    idle = int(min(policy.floor(int(begin // MINUTE_S), 0), policy.most))
    paid = 0.0
    place, total_asked, never = 0, len(asked), math.inf
    now = begin
    minute_over, floor = begin, 0.0
    while now < end or queue or place < total_asked:
        # what happened since the last look, in order
        while True:
            asks = asked[place] if place < total_asked else never
            frees = busy[0] if busy else never
            comes = starting[0] if starting else never
            first = min(asks, frees, comes)
            if first > now:
                break
            if first == frees:
                heapq.heappop(busy)
                idle += 1
            elif first == comes:
                starting.popleft()
                idle += 1
            else:
                queue.append(place)
                place += 1
            while idle and queue:
                one = queue.popleft()
                waits[one] = first - asked[one]
                heapq.heappush(busy, first + took[one])
                idle -= 1
        present = len(queue) + len(busy)
        if now >= minute_over:
            floor = policy.floor(int(now // MINUTE_S), present)
            minute_over = (now // MINUTE_S + 1) * MINUTE_S
        wanted = min(max(present, floor), policy.most)
        if policy.hold_s:
            while recent and recent[-1][1] <= wanted:
                recent.pop()
            recent.append((now, wanted))
            while recent[0][0] < now - policy.hold_s:
                recent.popleft()
            wanted = recent[0][1]
        there = idle + len(busy) + len(starting)
        if there == 0 < wanted:
            starting.append(now + starts_in_s)
        elif wanted > there * (1 + TOLERANCE):
            starting.extend([now + starts_in_s] * int(min(wanted - there, max(STEP, there))))
        elif wanted < there * (1 - TOLERANCE):
            fewer = int(there - wanted)
            while fewer and starting:
                starting.pop()
                fewer -= 1
            idle -= min(fewer, idle)
        there = idle + len(busy) + len(starting)
        paid += there * LOOK_S
        # with nobody there and nobody wanted, nothing happens before the next minute or the next piece of work
        rest = (
            min(minute_over, asked[place] if place < total_asked else never) - now if not (there or queue or wanted) else LOOK_S
        )
        now += LOOK_S * max(math.ceil(rest / LOOK_S), 1)
    return Replayed(policy.name, paid / 3600, np.array(waits))


def perfect(work: Work, starts_in_s: float, begin: float, end: float) -> Replayed:
    """The least that anybody could pay so that nothing waits, knowing all that will come.

    A worker is asked for `starts_in_s` before it is needed; one that is free is kept where it is needed again sooner than another could
    start. Free workers are taken last in, first out, which leaves the longest gaps.
    """
    kept = (work.asked >= begin) & (work.asked < end) & ~np.isnan(work.busy)
    asked, took = work.asked[kept].tolist(), work.busy[kept].tolist()
    ends: list[float] = []
    free: list[float] = []
    paid = sum(took)
    for at, length in zip(asked, took, strict=True):
        while ends and ends[0] <= at:
            free.append(heapq.heappop(ends))
        paid += min(at - free.pop(), starts_in_s) if free else starts_in_s
        heapq.heappush(ends, at + length)
    return Replayed("perfect knowledge", paid / 3600, np.zeros(len(asked)))
