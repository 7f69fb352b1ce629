"""What does an instance's storage give for a run, an event, a tick and a backfill, before anybody says what it means?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import compress
from typing import NamedTuple

from workflows_pkg.errors import BusyError, SetupError

LONGEST_EVENT = 8_000_000
"""Characters of an event that are read; a longer one is no longer JSON then and goes to quarantine."""

_DIGEST_BYTES = 16

RUNLESS = ""
"""Run id of what was reported from outside, such as by Dagster's REST API; no row of runs belongs to it."""


class RunRow(NamedTuple):
    """One run as its row tells, without its body. `number` counts runs in the order they were asked for; `updated`: UTC text."""

    number: int
    run_id: str
    status: str
    updated: str
    ended: float | None


@dataclass(frozen=True, slots=True)
class Rows:
    """Stored events of one run in the order of their numbers, column by column: an object for each would cost more than reading it.

    digests: blake2b of the stored bytes, 16 bytes in hex.
    texts: the stored bytes, which need not be UTF-8.
    logs: which of them are lines logged by user code.
    """

    numbers: Sequence[int] = ()
    digests: Sequence[str] = ()
    texts: Sequence[bytes] = ()
    logs: Sequence[bool] = ()

    @classmethod
    def of(cls, numbers: Sequence[int], texts: Sequence[bytes], logs: Sequence[bool]) -> Rows:
        """With the digests made."""
        return cls(numbers, [blake2b(text, digest_size=_DIGEST_BYTES).hexdigest() for text in texts], texts, logs)

    def __len__(self) -> int:
        return len(self.numbers)

    def events(self) -> Rows:
        """Without the lines logged by user code."""
        if True not in self.logs:
            return self
        kept = [not log for log in self.logs]
        texts = list(compress(self.texts, kept))
        return Rows(list(compress(self.numbers, kept)), list(compress(self.digests, kept)), texts, [False] * len(texts))

    def part(self, begin: int, end: int | None = None) -> Rows:
        """The rows from one place up to another."""
        if begin == 0 and end in (None, len(self)):
            return self
        return Rows(self.numbers[begin:end], self.digests[begin:end], self.texts[begin:end], self.logs[begin:end])


NO_ROWS = Rows()


def digest(text: bytes) -> str:
    """By which an event is known beside its number: blake2b of its stored bytes, 16 bytes in hex."""
    return blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()


@dataclass(frozen=True)
class TickRow:
    """One evaluation of a schedule or sensor. `at` and `updated` are texts, UTC; `body` is JSON."""

    number: int
    status: str
    kind: str
    at: str
    body: str
    updated: str


@dataclass(frozen=True)
class BackfillRow:
    """One backfill, called a bulk action there. `at` is text, UTC; `body` is JSON."""

    backfill_id: str
    status: str
    at: str | None
    body: str | None


@dataclass(frozen=True)
class RunBody:
    """What the storage says of one run beside its state. `created` is text, UTC."""

    run_id: str
    job_name: str
    status: str
    created: str | None
    snapshot_id: str | None
    tags: Mapping[str, str]


class Wanted(NamedTuple):
    """A run whose events numbered `start` or above are wanted."""

    run_id: str
    start: int


@dataclass(frozen=True)
class Piece:
    """Some events of one run's log, in the order of their numbers.

    last: nothing more of this log was there when it was read.
    gone: there is no log (any more), which is not the same as an empty one.
    failed: why this one log could not be read.
    """

    run_id: str
    rows: Rows = NO_ROWS
    last: bool = True
    gone: bool = False
    failed: SetupError | BusyError | None = None
