"""Cron expressions and durations: what is taken, what is refused, and that Dagster takes what we take."""

from __future__ import annotations

from datetime import timedelta

import pytest
from dagster._utils.schedules import is_valid_cron_string
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from workflows_pkg.spec.cron import check_cron
from workflows_pkg.spec.durations import format_duration, parse_duration

TAKEN = """
* * * * *
0 6 * * *
*/5 * * * *
0 0 29 2 *
0 0 30,31 2,3 *
0,30 8-18/2 1,15 jan,JUL mon-fri
0 0 * * 7
59 23 31 12 0
"""
REFUSED = """
@daily
0 6 * *
0 6 * * * *
60 * * * *
* 24 * * *
* * 0 * *
* * 32 * *
* * * 0 *
* * * 13 *
* * * * 8
-1 * * * *
*/0 * * * *
*/60 * * * *
5/10 * * * *
5-1 * * * *
1-2-3 * * * *
a * * * *
1,,2 * * * *
1, * * * *
* * * mon *
* * * * jan
? * * * *
L * * * *
* * L * *
* * * * 5#3
1.5 * * * *
H * * * *
١ * * * *
99999999999999999999 * * * *
0 0 31 2 *
0 0 30-31 feb *
0 0 31 4,6,9,11 *
0 0 31 2 mon
"""


@pytest.mark.parametrize("text", TAKEN.strip().splitlines())
def test_standard_cron_is_taken_here_and_by_dagster(text):
    assert check_cron(text) == text
    assert is_valid_cron_string(text)


@pytest.mark.parametrize("text", ["", "* * * * *\n* * * * *", *REFUSED.strip().splitlines()])
def test_what_is_not_standard_cron_is_refused(text):
    with pytest.raises(ValueError, match=r"cron"):
        check_cron(text)


def test_control_dagster_would_take_a_day_that_never_comes():
    assert is_valid_cron_string("0 0 31 4 *")


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    part = st.one_of(
        st.just("*"),
        number.map(str),
        pair.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        st.tuples(pair, st.integers(1, high)).map(lambda made: f"{made[0][0]}-{made[0][1]}/{made[1]}"),
    )
    return st.lists(part, min_size=1, max_size=3).map(",".join)


@settings(max_examples=150, deadline=None)
@given(st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 7)).map(" ".join))
def test_dagster_takes_every_cron_that_is_taken_here(text):
    try:
        check_cron(text)
    except ValueError:
        assume(False)
    assert is_valid_cron_string(text)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("500ms", 500),
        ("10s", 10_000),
        ("0m10s", 10_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("2d", 172_800_000),
        ("0.1s", 100),
        ("0s", 0),
    ],
)
def test_duration_is_read(text, milliseconds):
    assert parse_duration(text) == timedelta(milliseconds=milliseconds)


NO_DURATIONS = ["", "10", "s", "10 s", "-1s", "1e3s", "10S", "1w", "١s", "10s\n", 10, None, True, "9" * 400 + "d", "367d"]


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.integers(0, 366 * 86_400_000))
def test_duration_survives_its_text(milliseconds):
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value
