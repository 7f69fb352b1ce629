"""How is a whole plot put where a page shows only Markdown? As an SVG picture with axis, names and figures, embedded in the text.

What a page shows in place is drawn by `sketch`; these stand behind a link there, and have room. Colours and greys are chosen to be
readable on a light and on a dark ground, since a picture does not know which one it is shown on.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workflows_pkg.errors import bounded
from workflows_pkg.report.axes import log_duration_axis, unit, unit_axis
from workflows_pkg.report.theme import FONT, OURS, REALISED, RULE

MOST_ROWS = 30
"""Rows of one picture; about 6 kB of text, kept in the event log with every learning run."""

SPREAD = 50.0
"""Where the largest value is more than this many times the smallest, times are drawn on a logarithmic axis."""

_WIDTH, _ROW, _TOP, _FOOT = 820, 26, 34, 26
_LABELS, _SAID = 230, 130
_LABEL, _FIGURE = 30, 20
"""Characters of a name, and of what is said beside it, for which there is room."""
_INK, _FAINT, _GRID = "#7b8794", "#8a94a0", "#8a94a055"


@dataclass(frozen=True)
class Interval:
    """A row with an interval, its middle, and what really happened (`actual`) as small marks; `said` is written at its right."""

    label: str
    low: float
    middle: float
    high: float
    said: str
    actual: Sequence[float] = ()


@dataclass(frozen=True)
class Pair:
    """A row with two values that are compared: ours, and another."""

    label: str
    ours: float
    other: float
    said: str


def interval_plot(title: str, rows: Sequence[Interval], quantity_name: str, *, signed: bool = False) -> str:
    """The SVG of a bar from `low` to `high` for each row, with its middle and what happened; '' without rows.

    quantity_name: what the values are, whose suffix is their unit. signed: values are changes, with a line at zero.
    """
    shown = rows[:MOST_ROWS]
    values = [value for row in shown for value in (row.low, row.middle, row.high, *row.actual)]

    def drawn(row: Interval, y: int, x: Callable[[float], float]) -> str:
        left, right = x(row.low), max(x(row.high), x(row.low) + 3)
        colour = OURS if not signed or row.high <= 0 else RULE
        bar = (
            f'<rect x="{left:.1f}" y="{y - 6}" width="{right - left:.1f}" height="12" rx="6" fill="{colour}" fill-opacity=".38"/>'
        )
        ticks = "".join(f"M{x(value):.1f} {y - 9}v18" for value in row.actual)
        happened = f'<path d="{ticks}" stroke="{REALISED}" stroke-width="1.5" stroke-opacity=".75"/>' if ticks else ""
        return f'{bar}{happened}<circle cx="{x(row.middle):.1f}" cy="{y}" r="5" fill="{colour}"/>'

    legend = [("●", OURS, "expected, 90 % interval")]
    legend += [("|", REALISED, "newest runs")] if any(row.actual for row in shown) else []
    return _plot(title, shown, values, quantity_name, signed, drawn, legend, len(rows))


def pair_plot(title: str, rows: Sequence[Pair], quantity_name: str, ours: str, other: str) -> str:
    """The SVG of a dot at ours and a ring at the other for each row, joined by a line; '' without rows. ours, other: their names."""
    shown = rows[:MOST_ROWS]

    def drawn(row: Pair, y: int, x: Callable[[float], float]) -> str:
        a, b = x(row.ours), x(row.other)
        return (
            f'<path d="M{a:.1f} {y}H{b:.1f}" stroke="{RULE}" stroke-width="2"/>'
            f'<circle cx="{b:.1f}" cy="{y}" r="5" fill="none" stroke="{RULE}" stroke-width="2.5"/>'
            f'<circle cx="{a:.1f}" cy="{y}" r="5.5" fill="{OURS}"/>'
        )

    values = [value for row in shown for value in (row.ours, row.other)]
    return _plot(title, shown, values, quantity_name, False, drawn, [("●", OURS, ours), ("○", RULE, other)], len(rows))


def picture(title: str, svg: str) -> str:
    """An SVG as Markdown, '' for none."""
    data = base64.b64encode(svg.encode()).decode()
    return f"![{_plain(title)}](data:image/svg+xml;base64,{data})" if svg else ""


def _plot(
    title: str,
    rows: Sequence[Any],
    values: Sequence[float],
    quantity_name: str,
    signed: bool,
    drawn: Callable[[Any, int, Callable[[float], float]], str],
    legend: Sequence[tuple[str, str, str]],
    all_rows: int,
) -> str:
    if not rows:
        return ""
    x, axis = _axis(values, quantity_name, signed)
    bottom = _TOP + _ROW * len(rows)
    parts = [f'<text y="14" font-size="14" font-weight="600">{_text(title, 70)}</text>']
    at = _WIDTH
    for sign, colour, said in reversed(legend):
        at -= 26 + 6 * len(said)
        parts.append(f'<text x="{at}" y="14"><tspan fill="{colour}">{sign}</tspan> {_text(said, 40)}</text>')
    for value, said in axis:
        place = x(value)
        stroke = f'stroke="{_FAINT}" stroke-width="1.5"' if signed and value == 0 else f'stroke="{_GRID}"'
        parts.append(f'<path d="M{place:.1f} {_TOP - 6}V{bottom}" {stroke}/>')
        parts.append(f'<text x="{place:.1f}" y="{bottom + 16}" text-anchor="middle" fill="{_FAINT}">{_text(said, 12)}</text>')
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number + _ROW // 2
        parts.append(f'<text x="{_LABELS - 12}" y="{y + 4}" text-anchor="end">{_text(row.label, _LABEL)}</text>')
        parts.append(drawn(row, y, x))
        parts.append(f'<text x="{_WIDTH - _SAID + 14}" y="{y + 4}">{_text(row.said, _FIGURE)}</text>')
    height = bottom + _FOOT
    if all_rows > len(rows):
        parts.append(f'<text y="{height + 8}" fill="{_FAINT}">The first {len(rows)} of {all_rows}.</text>')
        height += 16
    font = FONT.replace("'", "")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="{font}" font-size="12" fill="{_INK}">{"".join(parts)}</svg>'
    )


def _axis(values: Sequence[float], name: str, signed: bool) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Where a value stands, and the ticks with their labels."""
    low, high = min(values), max(values)
    logarithmic = unit(name) == "_s" and not signed and low > 0 and high / low > SPREAD
    described = log_duration_axis(low, high, "") if logarithmic else unit_axis(name, low, high, "", signed=signed)
    first, last = described["range"]
    room = (_WIDTH - _LABELS - _SAID) / (last - first)

    def x(value: float) -> float:
        place = math.log10(max(value, 1e-12)) if logarithmic else value
        return _LABELS + (min(max(place, first), last) - first) * room

    ticks = zip(described["tickvals"], described["ticktext"], strict=True)
    within = [
        (float(value), str(said)) for value, said in ticks if first <= (math.log10(value) if logarithmic else value) <= last
    ]
    return x, within


def _text(text: str, longest: int) -> str:
    return html.escape("".join(c if c.isprintable() else "?" for c in bounded(text, longest)))


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isalnum() or c in " ,.-%")
