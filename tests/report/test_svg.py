"""The plots behind a link are whole SVG pictures: every row, its figures where they belong, and no text that could break out."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET

import pytest

from workflows_pkg.report.svg import MOST_ROWS, Interval, Pair, interval_plot, pair_plot, picture

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  our own text


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in drawn(svg).iter(f"{SVG}text")]


def test_an_interval_stands_between_its_ends_and_the_middle_inside() -> None:
    svg = interval_plot("Run times", [Interval("etl", 10, 20, 40, "20 s", (12, 30))], "run_time_s")
    bar, dot = next(drawn(svg).iter(f"{SVG}rect")), next(drawn(svg).iter(f"{SVG}circle"))
    left, width, middle = float(bar.attrib["x"]), float(bar.attrib["width"]), float(dot.attrib["cx"])
    assert left + width / 3 == pytest.approx(middle, abs=1)
    assert {"etl", "20 s", "Run times"} < set(texts(svg))
    assert "| newest runs" in texts(svg)


def test_far_apart_times_stand_on_a_logarithmic_axis() -> None:
    rows = [Interval("short", 0.9, 1, 1.1, "1 s"), Interval("long", 900, 1000, 1100, "17m")]
    first, second = (float(dot.attrib["cx"]) for dot in drawn(interval_plot("x", rows, "run_time_s")).iter(f"{SVG}circle"))
    near = interval_plot("x", [rows[0], Interval("twice", 1.9, 2, 2.1, "2 s")], "run_time_s")
    width = 820 - 230 - 130
    assert 0.5 * width < second - first < 0.95 * width
    assert "0 s" in texts(near)  # control: near ones begin at zero
    assert "0 s" not in texts(interval_plot("x", rows, "run_time_s"))


def test_a_change_has_a_line_at_zero_and_what_may_be_none_is_grey() -> None:
    svg = interval_plot("x", [Interval("a", -2, -1, -0.5, "-1 s"), Interval("b", -2, -1, 0.5, "-1 s")], "run_time_s", signed=True)
    good, unsure = (dot.attrib["fill"] for dot in drawn(svg).iter(f"{SVG}circle"))
    assert good != unsure
    assert 'stroke-width="1.5"' in svg


def test_pairs_show_both_and_say_which_is_which() -> None:
    svg = pair_plot("Errors", [Pair("etl", 0.1, 0.2, "10 %")], "error_share", "forecast", "best rule")
    other, ours = (float(dot.attrib["cx"]) for dot in drawn(svg).iter(f"{SVG}circle"))
    assert ours < other
    assert {"● forecast", "○ best rule"} <= set(texts(svg))


def test_more_rows_than_fit_are_counted() -> None:
    svg = pair_plot("x", [Pair(f"job {n}", 0.1, 0.2, "") for n in range(MOST_ROWS + 5)], "error_share", "a", "b")
    assert texts(svg)[-1] == f"The first {MOST_ROWS} of {MOST_ROWS + 5}."
    assert len(picture("x", svg)) < 40_000


@pytest.mark.parametrize("name", ["</text><script>x</script>", "a & b", '" onload="x', "x" * 500, "\x00\x1b[31m", "naïve ⏱"])
def test_a_hostile_name_stays_a_name(name: str) -> None:
    svg = interval_plot(name, [Interval(name, 1, 2, 3, name)], "run_time_s")
    assert {element.tag.removeprefix(SVG) for element in drawn(svg).iter()} <= {"svg", "path", "text", "tspan", "rect", "circle"}
    assert not [key for element in drawn(svg).iter() for key in element.attrib if key.startswith("on")]


def test_a_picture_is_one_markdown_image() -> None:
    svg = pair_plot("x", [Pair("a", 1, 2, "")], "rows", "a", "b")
    found = re.fullmatch(
        r"!\[Errors of jobs x\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", picture("Errors of jobs [x](", svg)
    )
    assert found is not None
    assert base64.b64decode(found[1]).decode() == svg


@pytest.mark.parametrize(
    "row", [Interval("same", 2, 2, 2, ""), Interval("zero", 0, 0, 0, ""), Interval("tiny", 1e-9, 1e-9, 1e-9, "")]
)
def test_equal_ends_and_no_rows_are_no_error(row: Interval) -> None:
    assert drawn(interval_plot("x", [row], "run_time_s")) is not None
    assert interval_plot("x", [], "run_time_s") == picture("x", "") == ""
