"""How are figures written for a person? One way for each unit, and tables that fit the terminal."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from workflows_pkg.orchestration.own import BY_HAND

MISSING = "-"
"""Stands for an unknown value; never zero."""

Tone = Literal["plain", "bold", "dim", "good", "bad", "warn"]
_CODES: dict[Tone, str] = {"plain": "", "bold": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33"}
_NARROWEST = 8
"""A text column is not cut below this many cells: shorter stubs cannot be told apart."""

_IMPLICIT_JOB = re.compile(rf"\b{BY_HAND}(_\d+)?\b")
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Column:
    """A column of a text table. Texts are cut with '…' where room is short, unless `whole`; figures stand right and whole."""

    title: str
    figures: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Cell:
    """A text with a tone, for tables on a terminal with colours."""

    text: str
    tone: Tone = "plain"


def unknown(value: float | None) -> bool:
    """Whether a figure is missing: None or not a number."""
    return value is None or math.isnan(value)


def duration(seconds: float | None, *, signed: bool = False) -> str:
    """Seconds as people say them.

    >>> duration(0.34), duration(12.4), duration(185), duration(7620), duration(200_000), duration(None)
    ('340 ms', '12.4 s', '3m05s', '2h07m', '2d07h', '-')
    >>> duration(-1.25, signed=True), duration(0.02, signed=True)
    ('-1.25 s', '+20 ms')
    """
    if seconds is None or unknown(seconds):
        return MISSING
    if math.isinf(seconds):
        return "no end" if seconds > 0 else "-no end"
    sign = "-" if seconds < 0 else "+" if signed and seconds > 0 else ""
    size = abs(seconds)
    if size == 0:
        return "0 s"
    if size < 0.9995:
        return f"{sign}{_three_figures(size * 1000)} ms"
    if size < 59.95:
        return f"{sign}{_three_figures(size)} s"
    whole = round(size)
    if whole < 3600:
        return f"{sign}{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{sign}{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{sign}{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def usd(value: float | None, *, signed: bool = False) -> str:
    """US dollars with cents, or with two figures below one cent, since a run often costs less.

    >>> usd(12.5), usd(0.000123), usd(0.00002), usd(0.0), usd(None), usd(-0.02, signed=True)
    ('$12.50', '$0.00012', '$0.00002', '$0', '-', '-$0.02')
    """
    if value is None or unknown(value):
        return MISSING
    sign = "-" if value < 0 else "+" if signed and value > 0 else ""
    size = abs(value)
    if size == 0:
        return "$0"
    if size >= 0.01:
        return f"{sign}${size:,.2f}"
    decimals = min(12, 1 - math.floor(math.log10(size)))
    return f"{sign}${size:.{decimals}f}".rstrip("0")


def share(value: float | None) -> str:
    """A share of one as per cent.

    >>> share(0.0), share(0.0312), share(0.5), share(0.998), share(1.0), share(3.2), share(None)
    ('0 %', '3.1 %', '50 %', '99.8 %', '100 %', '320 %', '-')
    """
    if value is None or unknown(value):
        return MISSING
    percent = value * 100
    near_an_end = 0 < abs(percent) < 10 or 99 < percent < 100
    return f"{percent:.1f} %" if near_an_end else f"{percent:,.0f} %"


def count(value: float | None) -> str:
    """A whole number with thousands separated: '1,234'."""
    return MISSING if value is None or unknown(value) else f"{value:,.0f}"


def instant(value: datetime | None) -> str:
    """An instant in UTC to the minute: '2026-11-22 11:31'."""
    return MISSING if value is None or value != value else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def file_size(size: int) -> str:
    """Bytes in the unit people use: '5.1 MB'."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def quantity(value: float | None, name: str, *, signed: bool = False) -> str:
    """A value in the unit that the column's name carries: `_s`, `_usd`, `_share`, `_mib`, else a plain figure."""
    if value is None or unknown(value):
        return MISSING
    column = name.split(" ")[0]
    if column.endswith("_s"):
        return duration(value, signed=signed)
    if column.endswith("_usd"):
        return usd(value, signed=signed)
    if column.endswith("_share"):
        return ("+" if signed and value > 0 else "") + share(value)
    sign = "+" if signed and value > 0 else ""
    return f"{sign}{_three_figures(value)}" + (" MiB" if column.endswith("_mib") else "")


def words(column: str) -> str:
    """A column name as words, without its unit: 'run_time_s' is 'run time'.

    >>> words("run_time_s"), words("cost_usd"), words("error_share"), words("run_time_s of the step")
    ('run time', 'cost', 'error', 'run time of the step')
    """
    name, space, rest = column.partition(" ")
    for suffix in ("_usd", "_share", "_mib", "_s"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ") + space + rest


def paint(text: str, tone: Tone, *, colour: bool) -> str:
    """The text in a terminal colour, or as it is where `colour` is off (not a terminal, or NO_COLOR)."""
    return f"\x1b[{_CODES[tone]}m{text}\x1b[0m" if colour and _CODES[tone] else text


def text_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, width: int = 100, colour: bool = False, indent: int = 0
) -> str:
    """An aligned table of at most `width` cells a line, without a final line break; a table without rows says so.

    Control characters in a cell are shown as '?': a step's error message must not be able to steer the terminal.

    >>> print(text_table([Column("step"), Column("time", figures=True)], [["clean", "1.2 s"], ["score", "340 ms"]]))
    step     time
    clean   1.2 s
    score  340 ms
    """
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    cells = [[Cell(printable(cell.text), cell.tone) for cell in row] for row in cells]
    margin = " " * indent
    if not cells:
        return f"{margin}(none)"
    widths = [
        max(cells_wide(column.title), *(cells_wide(row[place].text) for row in cells)) for place, column in enumerate(columns)
    ]
    widths = _fitted(widths, columns, width - indent)
    head = [Cell(column.title, "dim") for column in columns]
    lines = [_line(row, widths, columns, colour) for row in [head, *cells]]
    return "\n".join(margin + line.rstrip() for line in lines)


def readable(text: str) -> str:
    """The text with Dagster's implicit job of all assets called by what a person does to start it; a program needs its real name.

    >>> readable("2 runs of '__ASSET_JOB' failed")
    "2 runs of 'materialize (assets)' failed"
    """
    return _IMPLICIT_JOB.sub("materialize (assets)", text)


def unturned(text: str) -> str:
    """The text with '?' for the marks that turn the direction of writing: one in a name would turn the sentence around it as well.

    >>> unturned("a\\u202eb")
    'a?b'
    """
    return _TURNING.sub("?", text)


def printable(text: str) -> str:
    """The text on one line with control characters replaced, safe to show on a terminal."""
    line = " ".join(text.split())
    return "".join("?" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") else character for character in line)


def cells_wide(text: str) -> int:
    """Cells of a terminal that the text takes: two for wide East Asian characters and emoji, none for combining marks."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _three_figures(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:,.{min(decimals, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _fitted(widths: list[int], columns: Sequence[Column], room: int) -> list[int]:
    fitted = list(widths)
    gaps = 2 * (len(columns) - 1)
    while sum(fitted) + gaps > room:
        texts = [
            place
            for place, column in enumerate(columns)
            if not column.figures and not column.whole and fitted[place] > _NARROWEST
        ]
        if not texts:
            break
        widest = max(texts, key=lambda place: fitted[place])
        fitted[widest] -= 1
    return fitted


def _line(row: Sequence[Cell], widths: list[int], columns: Sequence[Column], colour: bool) -> str:
    parts: list[str] = []
    for cell, room, column in zip(row, widths, columns, strict=True):
        text = _cut(cell.text, room)
        padding = " " * (room - cells_wide(text))
        painted = paint(text, cell.tone, colour=colour)
        parts.append(padding + painted if column.figures else painted + padding)
    return "  ".join(parts)


def _cut(text: str, room: int) -> str:
    if cells_wide(text) <= room:
        return text
    kept = ""
    for character in text:
        if cells_wide(kept + character) > room - 1:
            break
        kept += character
    return kept + "…"
