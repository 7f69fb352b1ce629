"""What does an instance's storage give for a run, an event and a tick, before anybody says what it means?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from workflows_pkg.errors import BusyError, SetupError

LONGEST_EVENT = 8_000_000
"""Characters of an event that are read; a longer one is no longer JSON then and goes to quarantine."""

RUNLESS = ""
"""Run id of what was reported from outside, such as by Dagster's REST API; no row of runs belongs to it."""


class RunRow(NamedTuple):
    """One run as its row tells, without its body. `number` counts runs in the order they were asked for; `updated`: UTC text."""

    number: int
    run_id: str
    status: str
    updated: str
    ended: float | None


class EventRow(NamedTuple):
    """One stored event. `text` is as stored; `digest` is blake2b of its bytes, 16 bytes in hex; `log`: a line logged by user code."""

    event_id: int
    digest: str
    text: str
    log: bool


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
    rows: list[EventRow]
    last: bool = True
    gone: bool = False
    failed: SetupError | BusyError | None = None


def event_row(event_id: int, stored: bytes | None, log: bool) -> EventRow:
    """The row of an event; text that is not UTF-8 becomes a sentence that is not JSON, so that the event goes to quarantine."""
    stored = stored or b""
    try:
        text = stored.decode()
    except UnicodeDecodeError as error:
        text = f"not UTF-8: {error}"
    return EventRow(event_id, blake2b(stored, digest_size=16).hexdigest(), text, log)
