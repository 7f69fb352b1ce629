"""When should this run have ended? Read from its tags, by whoever stamps, follows or lands it.

A workflow of ours, and an entry of `tuning.yaml`, write the hidden tag; any other job says so with `workflows/deadline`, as a tag of the
job, of a schedule's request or of a single run. The hidden one counts where both are there: a tuning overrides the code.

Imported where runs are launched, so it imports neither DuckDB nor pandas nor pyarrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from workflows_pkg.errors import bounded
from workflows_pkg.orchestration.version_tags import DEADLINE_TAG
from workflows_pkg.spec.deadlines import parse_deadline

SAID_TAG = "workflows/deadline"
_SECONDS_TAGS = (".dagster/workflows_deadline_s", "workflows/deadline_s")
"""What earlier versions wrote: seconds after the run was asked for."""


def due_at(tags: Mapping[str, str], asked: datetime) -> datetime | None:
    """When a run asked for at `asked` should have ended, in UTC; None where no tag says it, or none that can be read."""
    text = tags.get(DEADLINE_TAG) or tags.get(SAID_TAG)
    try:
        if text:
            return parse_deadline(text).due(asked)
        seconds = next((tags[tag] for tag in _SECONDS_TAGS if tag in tags), None)
        after = timedelta(seconds=float(seconds or "nan"))
        return asked + after if after > timedelta(0) else None
    except (ValueError, OverflowError):
        return None


def unreadable(tags: Mapping[str, str]) -> str:
    """A sentence about a deadline that is no deadline, with what to write; empty where there is nothing wrong."""
    text = tags.get(DEADLINE_TAG) or tags.get(SAID_TAG)
    if not text:
        return ""
    try:
        parse_deadline(text)
    except ValueError as problem:
        return f"Its deadline '{bounded(text, 60)}' is not understood: {problem}."
    return ""
