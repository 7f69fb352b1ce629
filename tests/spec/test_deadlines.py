"""Is a deadline read as it is meant, on days when the clock is changed too, and refused with a sentence where it is none?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from workflows_pkg.errors import SpecError
from workflows_pkg.spec.deadlines import format_deadline, parse_deadline
from workflows_pkg.spec.tuning import Address, parse_tuning, tuning_digest

BERLIN = "07:00 Europe/Berlin"


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "asked", "due"),
    [
        ("30m", "2026-10-01 12:00", "2026-10-01 12:30"),
        (BERLIN, "2026-07-01 04:59", "2026-07-01 05:00"),
        (BERLIN, "2026-07-01 05:00", "2026-07-02 05:00"),  # strictly after
        (BERLIN, "2026-07-01 23:30", "2026-07-02 05:00"),
        (f"by {BERLIN}", "2026-10-24 20:00", "2026-10-25 06:00"),  # the night in which summer time ends
        ("02:30 Europe/Berlin", "2026-03-28 20:00", "2026-03-29 01:30"),  # a time that this night does not have
        ("18:30 UTC", "2026-01-31 19:00", "2026-02-01 18:30"),
    ],
)
def test_when_a_run_is_due(text: str, asked: str, due: str) -> None:
    deadline = parse_deadline(text)
    assert deadline.due(_utc(asked)) == _utc(due)
    assert parse_deadline(format_deadline(deadline)) == deadline


@pytest.mark.parametrize(
    "text", ["", "soon", "7:00 UTC", "25:00 UTC", "07:00", "0s", "-5m", "07:00 ../etc/passwd", 30, None, "9" * 200]
)
def test_what_is_no_deadline_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_deadline(text)


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(ValueError, match="found 'Europe/Berlln'"):
        parse_deadline("07:00 Europe/Berlln")


def test_a_tuning_has_deadlines_for_what_makes_runs() -> None:
    tuning = parse_tuning(f"job:a: {{deadline: {BERLIN}}}\nschedule:b: {{deadline: 30m}}\n")
    assert {address.name: format_deadline(entry.deadline) for address, entry in tuning.entries.items() if entry.deadline} == {
        "a": BERLIN,
        "b": "30m",
    }
    with pytest.raises(SpecError, match="a deadline belongs to a run"):
        parse_tuning("asset:a: {deadline: 30m}\n")
    with pytest.raises(SpecError, match="expected a duration such as 30m, or a time of day with its zone"):
        parse_tuning("job:a: {deadline: 7am}\n")


def test_an_entry_without_deadline_has_the_digest_it_had_before() -> None:
    plain, due = (parse_tuning(f"job:a: {{timeout: 2h{more}}}\n").entries for more in ("", ", deadline: 30m"))
    assert tuning_digest(plain) == "902a7ea23ac5"
    assert tuning_digest(plain) != tuning_digest(due)
    assert plain.keys() == due.keys() == {Address("job", "a")}
