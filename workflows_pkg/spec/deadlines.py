"""By when should a run have ended? So long after it was asked for (`30m`), or when the clock next shows `07:00 Europe/Berlin`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from workflows_pkg.spec.durations import PATTERN, format_duration, parse_positive_duration

_CLOCK = r"(?:by )?([01][0-9]|2[0-3]):([0-5][0-9]) ([A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*)"
_EXPECTED = "expected a duration such as 30m, or a time of day with its zone such as 07:00 Europe/Berlin"
_LONGEST_TEXT = 100


@dataclass(frozen=True)
class Deadline:
    """A length of time after a run was asked for, or a time of day in a zone of the IANA database; exactly one of the two."""

    after: timedelta | None = None
    at: time | None = None
    zone: str = ""

    def due(self, asked: datetime) -> datetime:
        """When a run asked for at `asked` (an instant with a zone) should have ended, in UTC.

        A time of day means the first one after `asked`; one that the clock skips in spring, as much later as the clock is put on.
        Raises OverflowError where no calendar reaches.

        >>> str(parse_deadline("07:00 Europe/Berlin").due(datetime(2026, 10, 24, 20, tzinfo=UTC)))
        '2026-10-25 06:00:00+00:00'
        """
        if self.at is None:
            return asked.astimezone(UTC) + (self.after or timedelta(0))
        day = asked.astimezone(ZoneInfo(self.zone)).date()
        while True:
            due = datetime.combine(day, self.at, ZoneInfo(self.zone)).astimezone(UTC)
            if due > asked:
                return due
            day += timedelta(days=1)


def parse_deadline(text: object) -> Deadline:
    """The deadline that `text` writes; raises ValueError with the accepted forms."""
    if isinstance(text, Deadline):
        return text
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        raise ValueError(_EXPECTED)
    clock = re.fullmatch(_CLOCK, text)
    if clock is None:
        if not re.fullmatch(PATTERN, text):
            raise ValueError(_EXPECTED)
        return Deadline(after=parse_positive_duration(text))
    hour, minute, zone = clock.groups()
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        raise ValueError(f"expected a time zone such as Europe/Berlin or UTC, found '{zone}'") from None
    return Deadline(at=time(int(hour), int(minute)), zone=zone)


def format_deadline(value: Deadline) -> str:
    """The text that `parse_deadline` reads back as the same deadline.

    >>> format_deadline(parse_deadline("by 07:00 Europe/Berlin")), format_deadline(parse_deadline("90m"))
    ('07:00 Europe/Berlin', '1h30m')
    """
    return f"{value.at:%H:%M} {value.zone}" if value.at is not None else format_duration(value.after or timedelta(0))


DeadlineText = Annotated[
    Deadline,
    PlainValidator(parse_deadline),
    PlainSerializer(format_deadline, return_type=str),
    WithJsonSchema(
        {"type": "string", "pattern": f"{PATTERN}|^{_CLOCK}$", "examples": ["30m", "07:00 Europe/Berlin", "by 18:30 UTC"]}
    ),
]
