"""How are durations written? A number and a unit, several in a row: `10s`, `500ms`, `1h30m`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|d|h|m|s)")
PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|d|h|m|s))+$"
LONGEST = timedelta(days=366)
"""A duration longer than a year is taken for a mistake."""
_LONGEST_TEXT = 60
"""More characters than any sensible duration has; keeps the numbers inside what a float holds."""


def parse_duration(text: object, longest: timedelta = LONGEST) -> timedelta:
    """The duration that `text` writes, to the millisecond; raises ValueError with the accepted forms."""
    if isinstance(text, timedelta):
        return text
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT or not re.fullmatch(PATTERN, text):
        raise ValueError("expected a duration such as 500ms, 10s, 30m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > longest.total_seconds():
        raise ValueError(f"expected a duration of at most {longest.days}d")
    return timedelta(milliseconds=round(seconds * 1000))


def parse_positive_duration(text: object) -> timedelta:
    """As `parse_duration`, and longer than nothing: for waits that would otherwise never wait."""
    value = parse_duration(text)
    if value <= timedelta(0):
        raise ValueError("expected a duration longer than 0s")
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


_SCHEMA = WithJsonSchema({"type": "string", "pattern": PATTERN, "examples": ["10s", "30m", "1h30m"]})
_TEXT = PlainSerializer(format_duration, return_type=str)

Duration = Annotated[timedelta, BeforeValidator(parse_duration), _TEXT, _SCHEMA]
PositiveDuration = Annotated[timedelta, BeforeValidator(parse_positive_duration), _TEXT, _SCHEMA]
