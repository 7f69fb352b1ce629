"""How does a service limit its clients? With a token bucket: every answer takes a token, and tokens come back at a steady rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

KEPT_FOR_S = 60.0
"""How long a token that came for a waiting client is kept for it; its retry may come from a process that takes seconds to start."""


@dataclass(frozen=True)
class Taking:
    """What one request met: whether it got its token, the level before it took one, and who waited for tokens already."""

    granted: bool
    level: float
    waiting: tuple[str, ...]


class TokenBucket:
    """A fair bucket of `capacity` tokens that refills at `rate` tokens a second; safe to share between threads.

    First come, first served: who is refused is put on a list, and the next token is kept for the first of it. So a greedy
    client delays the others by a token each, and cannot starve them. It starts full.

    `clock` gives seconds and is passed in by tests that move time themselves.
    """

    def __init__(self, capacity: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self.rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._level = capacity
        self._seen = clock()
        self._waiting: list[str] = []
        self._kept: dict[str, float] = {}

    def take(self, client: str) -> Taking:
        """Takes one token for `client`, where one is there and nobody waits for it."""
        with self._lock:
            self._refill()
            level, waiting = self._level, tuple(self._waiting)
            if client in self._kept:
                del self._kept[client]
                return Taking(True, level, waiting)
            if level >= 1 and not self._waiting:
                self._level -= 1
                return Taking(True, level, waiting)
            if client not in self._waiting:
                self._waiting.append(client)
            return Taking(False, level, waiting)

    def set(self, level: float, waiting: tuple[str, ...] = ()) -> None:
        """Puts the bucket at `level`, from which it refills at once, with these clients waiting."""
        with self._lock:
            self._seen = self._clock()
            self._level = min(self.capacity, max(0.0, level))
            self._waiting = list(waiting)
            self._kept.clear()

    def _refill(self) -> None:
        now = self._clock()
        while self._waiting:
            comes_at = self._seen + max(0.0, 1 - self._level) / self.rate
            if comes_at > now:
                break
            self._level += (comes_at - self._seen) * self.rate - 1
            self._seen = comes_at
            self._kept[self._waiting.pop(0)] = comes_at + KEPT_FOR_S
        self._level = min(self.capacity, self._level + (now - self._seen) * self.rate)
        self._seen = now
        self._kept = {client: until for client, until in self._kept.items() if until > now}
