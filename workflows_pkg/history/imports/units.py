"""What do a time, a duration and an amount of memory mean, as other programs write them? Seconds, MiB and instants in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

SECONDS: dict[str, float] = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "days": 86400.0,
}
"""Seconds in a unit of time."""

MIB: dict[str, float] = {
    "b": 2.0**-20,
    "bytes": 2.0**-20,
    "kb": 1e3 / 2**20,
    "mb": 1e6 / 2**20,
    "gb": 1e9 / 2**20,
    "kib": 2.0**-10,
    "mib": 1.0,
    "gib": 2.0**10,
    "tib": 2.0**20,
}
"""MiB in a unit of memory: kB, MB and GB are powers of 1,000, KiB, MiB and GiB powers of 1,024."""

OTHER_DATES = ("%m-%d-%yT%H:%M:%SZ", "%Y%m%dT%H%M%S%z", "%Y%m%dT%H%M%SZ")
"""Instants that are written without being ISO 8601: what stands in `executedAt` of published WfFormat documents."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)(?![a-z])")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)B?")


def nextflow_duration(text: str) -> float | None:
    """Seconds: `1d 2h 3m`, `12.3s`, `345ms`, or milliseconds where it is a bare number. None where it is none of these.

    >>> nextflow_duration("6m 44s"), nextflow_duration("84ms"), nextflow_duration("1500"), nextflow_duration("soon")
    (404.0, 0.084, 1.5, None)
    """
    if text.isdecimal():
        return int(text) / 1000
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def nextflow_memory(text: str) -> float | None:
    """MiB: `2.4 GB`, `792 MB`, `540 B`, or bytes where it is a bare number. Nextflow counts 1,024 bytes to its KB. None: none of these.

    >>> nextflow_memory("2.5 GB"), nextflow_memory("1048576"), nextflow_memory("much")
    (2560.0, 1.0, None)
    """
    found = _MEMORY.fullmatch(text.replace(",", ""))
    if found is None:
        return None
    return float(found[1]) * 1024.0 ** (" KMGTPE".index(found[2] or " ") - 2)


def instant(text: str, zone: ZoneInfo) -> datetime | None:
    """The instant in UTC: ISO text, in `zone` where it names none; or milliseconds since 1970. None where it is neither.

    >>> instant("2024-02-09 14:44:43.053", ZoneInfo("Europe/Berlin"))
    datetime.datetime(2024, 2, 9, 13, 44, 43, 53000, tzinfo=datetime.timezone.utc)
    """
    try:
        if text.isdecimal():
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
