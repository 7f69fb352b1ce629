"""Is this a standard cron expression? Five fields of numbers, names, ranges, steps and lists."""

from __future__ import annotations

import re

from workflows_pkg.errors import bounded
from workflows_pkg.spec.mistakes import UnfitError, nearest

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_ITEM = re.compile(r"(?:\*|([0-9]{1,4}|[A-Za-z]+)(?:-([0-9]{1,4}|[A-Za-z]+))?)(?:/([0-9]{1,4}))?")
_LONGEST = 200
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def check_cron(text: str) -> str:
    """`text` where it is a cron expression of five fields; raises UnfitError naming the field.

    A day that none of the months has is refused: Dagster refuses some of those itself, and never ticks for the others.

    >>> check_cron("0 6 * * mon-fri")
    '0 6 * * mon-fri'
    """
    fields = text.split()
    if len(fields) != len(_FIELDS) or len(text) > _LONGEST:
        names = ", ".join(name for name, *_ in _FIELDS)
        raise UnfitError(
            f"expected five cron fields ({names}), found '{bounded(text)}'.", "Example: 0 6 * * * is daily at 06:00."
        )
    values = [
        set[int]().union(*(_values(part, name, low, high, words) for part in item.split(",")))
        for item, (name, low, high, words) in zip(fields, _FIELDS, strict=True)
    ]
    if all(min(values[2]) > _DAYS_OF_MONTH[month - 1] for month in values[3]):
        raise UnfitError(f"cron: day {fields[2]} never comes in month {fields[3]}.", "Write another day of month, or *.")
    return text


def _values(part: str, name: str, low: int, high: int, words: tuple[str, ...]) -> range:
    """The numbers that one part of a field stands for."""
    match = _ITEM.fullmatch(part)
    if match is None:
        raise UnfitError(f"cron field '{name}': '{bounded(part, 20)}' is not *, a number, a range a-b or a step */n.")
    first, last, step = match.groups()
    start = low if first is None else _number(first, name, low, high, words)
    end = high if first is None else start if last is None else _number(last, name, low, high, words)
    if last is not None and start > end:
        raise UnfitError(f"cron field '{name}': the range {part} begins after its end.", f"Write {first}-{high},{low}-{last}.")
    if step is None:
        return range(start, end + 1)
    if first is not None and last is None:
        raise UnfitError(f"cron field '{name}': the step /{step} needs a range.", f"Write {first}-{high}/{step}.")
    if not 1 <= int(step) <= high:
        raise UnfitError(f"cron field '{name}': expected a step from 1 to {high}, found {step}.")
    return range(start, end + 1, int(step))


def _number(text: str, name: str, low: int, high: int, words: tuple[str, ...]) -> int:
    if not text[0].isdigit():
        if text.lower() in words:
            return words.index(text.lower()) + low
        fix = nearest(text.lower(), words) or (f"Known: {', '.join(words)}." if words else "Write a number.")
        raise UnfitError(f"cron field '{name}': '{bounded(text, 20)}' is not known.", fix)
    if not low <= int(text) <= high:
        raise UnfitError(f"cron field '{name}': expected {low} to {high}, found {text}.")
    return int(text)
