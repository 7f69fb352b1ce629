"""How do figures stand on the page? Tiles, and tables that sort by their headings; every text is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workflows_pkg.report.tables import Tone, quantity, unturned

_LONG = 40
"""A cell with more characters than this is broken into lines; shorter ones stay whole and the table scrolls."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is read, and for figures what is sorted by (NaN: unknown, last)."""

    text: str
    sort: float | None = None
    tone: Tone = "plain"


@dataclass(frozen=True)
class Column:
    """A column: its title and how a row's cell is made."""

    title: str
    cell: Callable[[Row], Cell]
    figures: bool = False


def escaped(text: object) -> str:
    """Text for HTML, inside elements and attributes; it cannot turn the direction of what stands around it."""
    return html.escape(unturned(str(text)))


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """The headline figures: name, figure and a note on each."""
    return "".join(
        f'<div class="tile"><dd>{escaped(figure)} <small>{escaped(note)}</small></dd><dt>{escaped(name)}</dt></div>'
        for name, figure, note in facts
    )


def texts(title: str, name: str) -> Column:
    """A column of the row's texts by key; missing ones as '-'."""
    return Column(title, lambda row: Cell("-" if row[name] is None else str(row[name])))


def figures(title: str, name: str, write: Callable[[float | None], str]) -> Column:
    """A column of the row's figures by key, as `write` says them, sorted by value."""
    return Column(title, lambda row: Cell(write(row[name]), math.nan if row[name] is None else float(row[name])), figures=True)


def in_unit(title: str, name: str, *, signed: bool = False) -> Column:
    """Figures in the unit of the row's quantity."""

    def cell(row: Row) -> Cell:
        value = row[name]
        return Cell(quantity(value, row["quantity"], signed=signed), math.nan if value is None else float(value))

    return Column(title, cell, figures=True)


def table(caption: str, columns: Sequence[Column], found: Sequence[Row]) -> str:
    """A table that sorts by the heading that is clicked; nothing where there are no rows."""
    if not found:
        return ""
    heads = "".join(
        f'<th scope="col"{" class=figure" if column.figures else ""}><button type="button">{escaped(column.title)}</button></th>'
        for column in columns
    )
    body = "".join("<tr>" + "".join(_td(column.cell(row)) for column in columns) + "</tr>" for row in found)
    return (
        f'<div class="card"><div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}"><table>'
        f"<caption><span>{escaped(caption)}</span></caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _td(cell: Cell) -> str:
    if cell.sort is not None:
        key = repr(cell.sort) if math.isfinite(cell.sort) else ""
        return f'<td class="figure" data-sort="{key}">{escaped(cell.text)}</td>'
    kind = "long" if len(cell.text) > _LONG else "text"
    tone = "" if cell.tone == "plain" else f" {cell.tone}"
    return f'<td class="{kind}{tone}">{escaped(cell.text)}</td>'
