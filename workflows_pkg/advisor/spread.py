"""When does a schedule ask, as told from its ticks, and at which minute would it be in nobody's way?"""

from __future__ import annotations

from datetime import datetime

import numpy as np

LARGEST_SHIFT = 29
"""Minutes by which a schedule is moved at most, so that its runs stay in the same hour wherever that is possible."""

SMALLEST_SHIFT = 5
"""Nearer than this the runs of the others are still being taken from the queue."""


def inferred_cron(minutes: list[datetime]) -> str | None:
    """The cron of a schedule by the minutes of its ticks, in UTC: once an hour, a day or a week; None where it is another.

    >>> from datetime import UTC
    >>> inferred_cron([datetime(2026, 1, day, 6, 30, tzinfo=UTC) for day in range(1, 15)])
    '30 6 * * *'
    """
    if len(minutes) < 4:  # fewer say nothing about a rule
        return None
    of_hour = {at.minute for at in minutes}
    hours = {at.hour for at in minutes}
    weekdays = {at.isoweekday() % 7 for at in minutes}
    if len(of_hour) != 1:
        return None
    (minute,) = of_hour
    if len(hours) == 1:
        (hour,) = hours
        days = "*" if len(weekdays) > 1 else str(next(iter(weekdays)))
        return f"{minute} {hour} * * {days}" if len(weekdays) in (1, 7) else None
    return f"{minute} * * * *" if len(hours) == 24 else None


def elsewhere(cron: str, busy: np.ndarray) -> str | None:
    """The same cron at the minute of the hour with the fewest runs around it, the nearest of equal ones; None where none is quieter."""
    minute = int(cron.split(" ")[0])
    around = [int(busy[[(place + shift) % 60 for shift in (-2, -1, 0, 1, 2)]].sum()) for place in range(60)]
    once_an_hour = cron.split(" ")[1] == "*"
    places = [
        place
        for shift in range(SMALLEST_SHIFT, LARGEST_SHIFT + 1)
        for place in (minute + shift, minute - shift)
        if once_an_hour or 0 <= place < 60
    ]
    if not places:
        return None
    best = min(places, key=lambda place: (around[place % 60], abs(place - minute), place < minute))
    if around[best % 60] >= around[minute]:
        return None
    return " ".join([str(best % 60), *cron.split(" ")[1:]])


def told(cron: str) -> str:
    """One of these crons in words.

    >>> told("30 6 * * 1"), told("5 * * * *")
    ('06:30 on Mondays', 'minute 5 of the hour')
    """
    minute, hour, _, _, weekday = cron.split(" ")
    if hour == "*":
        return f"minute {minute} of the hour"
    day = (
        ""
        if weekday == "*"
        else f" on {('Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday')[int(weekday)]}s"
    )
    return f"{int(hour):02d}:{int(minute):02d}{day}"
