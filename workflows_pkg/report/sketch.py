"""How is a small plot put where a page shows only text? As an SVG of a few hundred characters inside a Markdown image.

Dagster's pages show Markdown metadata in place up to 999 characters and hide longer ones behind a link, so a sketch keeps to that:
few rows, no decoration, shapes that share one path. Colours are readable on light and dark grounds alike. `svg` draws the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

LONGEST = 999
"""Characters of Markdown that Dagster's asset pages show in place (its web app compares with 1,000)."""

WIDTH, LABELS, FIGURES, ROW = 360, 130, 66, 24
"""Pixels: of the picture, of the names at its left, of the figures at its right, of a row. The metadata column of an asset's page is
about 300 wide on a small screen and 600 on a large one.
"""

_INK, _FAINT, _OURS, _BAD, _GOOD = "gray", "gray", "royalblue", "tomato", "seagreen"
_LONGEST_LABEL = 20
_HEIGHT = 60
"""Pixels of the highest column."""

_MOST_DOTS = 40


@dataclass(frozen=True)
class Row:
    """One row of a sketch: its name, the ends and the middle of its interval, and how the middle is written at its right."""

    label: str
    low: float
    middle: float
    high: float
    said: str


@dataclass(frozen=True)
class Pair:
    """One row with two values: ours, and what it is compared with; `said` is written at its right."""

    label: str
    ours: float
    other: float
    said: str


@dataclass(frozen=True)
class Bar:
    """One row with a bar from zero."""

    label: str
    value: float
    said: str
    bad: bool = False


R = TypeVar("R")


def intervals(title: str, rows: Sequence[Row], *, zero: bool = False) -> str:
    """Markdown of a picture with a bar from `low` to `high` and a mark at `middle` for each row; '' without rows.

    As many of the first rows as fit are drawn. zero: the axis includes zero, marked by a line.
    """

    def drawn(shown: Sequence[Row]) -> str:
        x = _scale([value for row in shown for value in (row.low, row.high)], zero=zero)
        bars = "".join(f"M{x(row.low)} {y}H{max(x(row.high), x(row.low) + 2)}" for y, row in _placed(shown))
        marks = "".join(f"M{x(row.middle)} {y - 7}v14" for y, row in _placed(shown))
        line = f"<path d='M{x(0)} 0v{len(shown) * ROW}' stroke='{_FAINT}'/>" if zero else ""
        shapes = (
            f"{line}<path d='{bars}' stroke='{_OURS}' stroke-width='10' stroke-opacity='.45'/>"
            f"<path d='{marks}' stroke='{_OURS}' stroke-width='3'/>"
        )
        return _framed(len(shown) * ROW, shapes + _texts([(row.label, row.said) for row in shown]))

    return _fitted(title, rows, drawn)


def pairs(title: str, rows: Sequence[Pair]) -> str:
    """Markdown of a picture with a dot at ours and an upright mark at the other for each row, from zero on; '' without rows."""

    def drawn(shown: Sequence[Pair]) -> str:
        x = _scale([value for row in shown for value in (row.ours, row.other)], zero=True)
        between = "".join(f"M{x(row.other)} {y - 7}v14m0-7H{x(row.ours)}" for y, row in _placed(shown))
        dots = "".join(f"M{x(row.ours)} {y}h0" for y, row in _placed(shown))
        shapes = (
            f"<path d='{between}' stroke='{_FAINT}' stroke-width='2' fill='none'/>"
            f"<path d='{dots}' stroke='{_OURS}' stroke-width='11' stroke-linecap='round'/>"
        )
        return _framed(len(shown) * ROW, shapes + _texts([(row.label, row.said) for row in shown]))

    return _fitted(title, rows, drawn)


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Markdown of a picture with a bar for each row, from zero on; bad ones in their own colour; '' without rows."""

    def drawn(shown: Sequence[Bar]) -> str:
        x = _scale([row.value for row in shown], zero=True)
        shapes = ""
        for bad, colour in ((False, _OURS), (True, _BAD)):
            lines = "".join(f"M{x(0)} {y}H{max(x(row.value), x(0) + 2)}" for y, row in _placed(shown) if row.bad is bad)
            shapes += f"<path d='{lines}' stroke='{colour}' stroke-width='12'/>" if lines else ""
        return _framed(len(shown) * ROW, shapes + _texts([(row.label, row.said) for row in shown]))

    return _fitted(title, rows, drawn)


def columns(title: str, good: Sequence[int], bad: Sequence[int], said: str) -> str:
    """Markdown of a picture with an upright bar for each place, the good of it below and the bad on top; '' without places.

    As many of the last places as fit are drawn. said: a line below.
    """

    def drawn(shown: Sequence[tuple[int, int]]) -> str:
        pairs = list(reversed(shown))
        most = max((a + b for a, b in pairs), default=0) or 1
        step = max(4, min(24, WIDTH // len(pairs)))
        below = above = ""
        for place, (a, b) in enumerate(pairs):
            x, up = place * step + step // 2, round(_HEIGHT * a / most)
            below += f"M{x} {_HEIGHT}v-{up}" if a else ""
            above += f"M{x} {_HEIGHT - up}v-{max(round(_HEIGHT * b / most), 2)}" if b else ""
        shapes = f"<path d='M0 {_HEIGHT}H{step * len(pairs)}' stroke='{_FAINT}'/>"
        for lines, colour in ((below, _GOOD), (above, _BAD)):
            shapes += f"<path d='{lines}' stroke='{colour}' stroke-width='{step - 3}'/>" if lines else ""
        return _framed(_HEIGHT + 20, f"{shapes}<text y='{_HEIGHT + 15}'>{_escaped(said, WIDTH // 7)}</text>")

    return _fitted(title, list(zip(good, bad, strict=True))[::-1], drawn)


def levels(title: str, before: Sequence[float], after: Sequence[float], said: tuple[str, str]) -> str:
    """Markdown of a picture with a dot for each figure in order, and the middle of those before and after a change as lines with what is
    said of them; a line between them marks the change. '' where a side has none. As many figures on either side as fit.
    """
    if not len(before) or not len(after):
        return ""

    def drawn(number: int) -> str:
        old, new = list(before[-number:]), list(after[:number])
        top = max(*old, *new) or 1.0
        step = (WIDTH - FIGURES - 10) / (len(old) + len(new))
        y = [round(5 + _HEIGHT * (1 - value / top)) for value in (*old, *new)]
        dots = [f"M{round(5 + step * place)} {at}h0" for place, at in enumerate(y)]
        at = round(5 + step * (len(old) - 0.5))
        middles = [sorted(part)[len(part) // 2] for part in (y[: len(old)], y[len(old) :])]
        ends = ((0, at), (at, WIDTH - FIGURES - 5))
        lines = "".join(f"M{low} {middle}H{high}" for (low, high), middle in zip(ends, middles, strict=True))
        marks = "".join(
            f"<path d='{''.join(part)}' stroke='{colour}' stroke-width='4' stroke-linecap='round'/>"
            for part, colour in ((dots[: len(old)], _OURS), (dots[len(old) :], _BAD))
        )
        texts = "".join(
            f"<text x='{x}' y='{_HEIGHT + 22}'>{_escaped(text, 26)}</text>" for x, text in zip((0, at + 4), said, strict=True)
        )
        return _framed(
            _HEIGHT + 28, f"{marks}<path d='{lines}M{at} 0V{_HEIGHT + 26}' stroke='{_FAINT}' stroke-width='1.5'/>{texts}"
        )

    return _fitted(title, range(1, 1 + min(_MOST_DOTS, max(len(before), len(after)))), lambda shown: drawn(len(shown)))


def _fitted(title: str, rows: Sequence[R], drawn: Callable[[Sequence[R]], str]) -> str:
    """The picture of as many of the first rows as fit."""
    for shown in range(len(rows), 0, -1):
        text = _image(title, drawn(rows[:shown]))
        if len(text) <= LONGEST:
            return text
    return ""


def _scale(values: Sequence[float], *, zero: bool) -> Callable[[float], int]:
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    per_unit = (WIDTH - LABELS - FIGURES - 10) / (high - low) if high > low else 0.0
    return lambda value: LABELS + round((value - low) * per_unit)


def _placed(rows: Sequence[R]) -> list[tuple[int, R]]:
    return [(number * ROW + ROW // 2, row) for number, row in enumerate(rows)]


def _texts(rows: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f"<text y='{y + 4}'>{_escaped(label)}</text><text x='{WIDTH - FIGURES}' y='{y + 4}'>{_escaped(said)}</text>"
        for y, (label, said) in _placed(rows)
    )


def _framed(height: int, shapes: str) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' font-family='sans-serif' font-size='12' "
        f"fill='{_INK}'>{shapes}</svg>"
    )


def _image(title: str, svg: str) -> str:
    # Between angle brackets Markdown takes spaces and parentheses in an address as they are.
    address = quote(svg, safe=" '=/:;,.-()!?+*@&$~_")
    return f"![{title}](<data:image/svg+xml,{address}>)"


def _escaped(text: str, longest: int = _LONGEST_LABEL) -> str:
    """A name as SVG text, cut; what could end the text, the address or the Markdown is replaced."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(c if c.isprintable() and c not in "<>&'\"\\[]()" else "." for c in cut)
