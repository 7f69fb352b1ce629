"""How are durations written? A number and a unit, several in a row: `10s`, `500ms`, `1h30m`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
PATTERN = r"^(\d+(\.\d+)?(ms|d|h|m|s))+$"
LONGEST = timedelta(days=366)
"""A duration longer than a year is taken for a mistake."""


def parse_duration(text: object) -> timedelta:
    """The duration that `text` writes; raises ValueError with the accepted forms."""
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or not re.fullmatch(PATTERN, text):
        raise ValueError("expected a duration such as 500ms, 10s, 30m, 2h or 1h30m")
    value = timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))
    if value > LONGEST:
        raise ValueError("expected a duration of at most 366d")
    return value


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as the same duration, to the millisecond."""
    milliseconds = round(value.total_seconds() * 1000)
    parts: list[str] = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": PATTERN, "examples": ["10s", "30m", "1h30m"]}),
]
