"""Sketches stay short enough for Dagster to show them in place, are real SVG, and carry no text that could break out of them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from urllib.parse import unquote

import pytest

from workflows_pkg.report.sketch import LONGEST, Row, intervals, levels


def drawn(markdown: str) -> ET.Element:
    found = re.fullmatch(r"!\[[^\]\n]*\]\(<data:image/svg\+xml,([^<>\n]*)>\)", markdown)
    assert found is not None, markdown
    return ET.fromstring(unquote(found[1]))  # noqa: S314  our own text


def texts(markdown: str) -> list[str]:
    return [element.text or "" for element in drawn(markdown).iter() if element.tag.endswith("text")]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_sketch_is_an_image_that_is_shown_in_place(count: int) -> None:
    sketch = intervals("run time", [Row(f"job_{n}", n, n + 1, n + 3, f"{n} s") for n in range(count)], zero=True)
    assert len(sketch) <= LONGEST
    assert texts(sketch)[:2] == ["job_0", "0 s"]


def test_the_longest_rows_are_left_out_from_the_end_until_it_fits() -> None:
    rows = [Row(f"job_{n}", 1, 2, 3, "2 s") for n in range(40)]
    names = [text for text in texts(intervals("x", rows)) if text.startswith("job")]
    assert names == [f"job_{n}" for n in range(len(names))]
    assert 4 <= len(names) < 40


@pytest.mark.parametrize(
    "name", ["</text><script>x</script>", "a)b](http://x)", "x" * 500, "naïve\n⏱", "' onload='x", "%3Cscript%3E"]
)
def test_a_hostile_name_stays_a_name(name: str) -> None:
    sketch = intervals("x", [Row(name, 1, 2, 3, "2 s")])
    root = drawn(sketch)
    assert {element.tag.split("}")[1] for element in root.iter()} == {"svg", "path", "text"}
    assert not [element for element in root.iter() if any(key.startswith("on") for key in element.attrib)]


def test_equal_ends_and_no_rows_are_no_error() -> None:
    assert intervals("x", []) == ""
    assert texts(intervals("x", [Row("same", 2, 2, 2, "2 s")])) == ["same", "2 s"]


@pytest.mark.parametrize("count", [1, 7, 500])
def test_a_change_of_level_is_drawn_with_its_runs_around_it(count: int) -> None:
    sketch = levels("load", [40.0] * count, [60.0] * count, ("40 s before", "60 s since"))
    assert len(sketch) <= LONGEST
    assert texts(sketch) == ["40 s before", "60 s since"]
    assert len(re.findall("h0", sketch)) == 2 * min(count, len(re.findall("h0", sketch)) // 2) >= 2 * min(count, 20)


def test_a_change_without_runs_on_a_side_is_not_drawn_and_zeros_are_no_error() -> None:
    assert levels("x", [], [1.0], ("", "")) == ""
    assert texts(levels("x", [0.0, 0.0], [0.0], ("0 %", "0 %"))) == ["0 %", "0 %"]
    hostile = levels("</svg>", [1.0], [2.0], ("<script>", "' onload='x"))
    assert {element.tag.split("}")[1] for element in drawn(hostile).iter()} == {"svg", "path", "text"}
