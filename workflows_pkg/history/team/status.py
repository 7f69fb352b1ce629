"""What does the writer remember of its publications to the team, for itself and for `workflows doctor`?"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from workflows_pkg.history.layout import Layout


class Status(BaseModel):
    """`generation` was carried last, to `place`, at `carried_at`; `reason` says why it could not be done since `failing_since`."""

    place: str
    generation: str | None = None
    carried_at: datetime | None = None
    tidied_at: datetime | None = None
    failing_since: datetime | None = None
    tried_at: datetime | None = None
    reason: str = ""

    def succeeded(self, generation: str) -> Status:
        done = {"generation": generation, "carried_at": datetime.now(UTC)}
        return self.model_copy(update={**done, "failing_since": None, "tried_at": None, "reason": ""})

    def failed(self, reason: str) -> Status:
        now = datetime.now(UTC)
        return self.model_copy(update={"failing_since": self.failing_since or now, "tried_at": now, "reason": reason})


def read_status(files: Layout, place: str) -> Status:
    """What is remembered of this place; nothing where there was another one before, or the file cannot be read."""
    try:
        found = Status.model_validate_json(_file(files).read_bytes())
    except (OSError, ValidationError):
        return Status(place=place)
    return found if found.place == place else Status(place=place)


def write_status(files: Layout, status: Status) -> None:
    """Replaces what was remembered."""
    fresh = _file(files).with_suffix(".unfinished")
    fresh.write_text(status.model_dump_json(indent=1))
    os.replace(fresh, _file(files))


def _file(files: Layout) -> Path:
    return files.team / "status.json"
