"""Figures have one way of being written, and a table fits the terminal whatever is in it."""

import math
import unicodedata
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from workflows_pkg.report.tables import Cell, Column, cells_wide, duration, file_size, instant, quantity, share, text_table, usd


def test_unknown_is_a_dash_and_never_zero():
    for write in (duration, usd, share, lambda value: quantity(value, "x_s"), lambda value: quantity(value, "x")):
        assert write(None) == write(math.nan) == "-"
        assert write(0.0) != "-"
    assert instant(None) == "-"


def test_units_follow_the_columns_name():
    assert quantity(90.0, "run_time_s") == "1m30s"
    assert quantity(-0.5, "run_time_s of the step", signed=True) == "-500 ms"
    assert quantity(0.02, "cost_usd", signed=True) == "+$0.02"
    assert quantity(0.25, "late_share") == "25 %"
    assert quantity(512.0, "peak_memory_mib") == "512 MiB"
    assert quantity(3, "runs") == "3"


@given(st.floats(0.0001, 1e7))
def test_duration_is_right_to_its_last_figure(seconds):
    text = duration(seconds)
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
    if " " in text:
        number, unit = text.split(" ")
        told, last = float(number) * units[unit], 0.01 * seconds
    else:
        large = next(unit for unit in "dhm" if unit in text)
        small = {"d": "h", "h": "m", "m": "s"}[large]
        left, right = text.rstrip("hms").split(large)
        told, last = int(left) * units[large] + int(right) * units[small], units[small]
    assert abs(told - seconds) <= last


def test_instants_are_told_in_utc():
    assert instant(datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))) == "2026-02-28 23:30"
    assert instant(datetime(2026, 3, 1, tzinfo=UTC)) == "2026-03-01 00:00"


def test_file_sizes():
    assert [file_size(size) for size in (12, 5_300, 4_966_023)] == ["12 bytes", "5.3 kB", "5.0 MB"]


COLUMNS = [Column("step"), Column("run time", figures=True), Column("error")]


def test_table_is_cut_to_the_terminal_in_its_texts_and_never_in_its_figures():
    text = text_table(COLUMNS, [["score", "12.4 s", "x" * 300], ["a_long_step_name_indeed", "1h02m", "-"]], width=60)
    assert max(map(len, text.split("\n"))) <= 60
    assert "12.4 s" in text
    assert "1h02m" in text
    assert "…" in text


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=40)), min_size=1, max_size=6), st.integers(40, 120))
def test_no_text_breaks_the_lines_the_width_or_the_terminal(texts, width):
    text = text_table(COLUMNS, [[left, "1.0 s", right] for left, right in texts], width=width)
    lines = text.split("\n")
    assert len(lines) == len(texts) + 1
    assert all(cells_wide(line) <= width for line in lines)
    assert "\x1b" not in text
    assert {"Cc", "Cf"}.isdisjoint(unicodedata.category(character) for character in text if character != "\n")


def test_colours_appear_only_when_asked_for_and_do_not_move_columns():
    rows = [[Cell("ok", "good"), "1 s", "-"], [Cell("broken", "bad"), "2 s", "-"]]
    plain, painted = text_table(COLUMNS, rows), text_table(COLUMNS, rows, colour=True)
    assert "\x1b" not in plain
    for code in ("\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"):
        painted = painted.replace(code, "")
    assert painted == plain


def test_control_an_escape_sequence_in_an_error_message_would_reach_the_terminal():
    attack = "\x1b]0;owned\x07\x1b[2J"
    assert attack in f"{attack:<20}", "formatting alone lets it through"
    assert "\x1b" not in text_table([Column("error")], [[attack]])
    assert "\u202e" not in text_table([Column("error")], [["abc\u202edef"]])


def test_table_without_rows_says_so():
    assert text_table(COLUMNS, []) == "(none)"
