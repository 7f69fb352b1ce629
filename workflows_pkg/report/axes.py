"""How are axes labelled so that a person reads them at once? Durations in their own units; names that stay names."""

from __future__ import annotations

import html
import math
from datetime import datetime, timedelta
from typing import Any

import plotly.graph_objects as go

from workflows_pkg.errors import bounded
from workflows_pkg.report.tables import duration, quantity, unturned
from workflows_pkg.report.theme import template

_STEPS_S = (
    *(factor * 10.0**power for power in range(-6, 1) for factor in (1, 2, 5)),
    10.0, 15.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0, 43_200.0,
    *(86_400.0 * days for days in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)  # fmt: skip
"""Distances between ticks that divide the clock: 15 s and 30 s, but not 20 s."""

_TICKS = 6
_LABEL = 44
"""Longest name on an axis, in characters; the whole name is in the hover text."""


def figure(title: str, subtitle: str = "", *, height: int = 360) -> go.Figure:
    """An empty figure with a title and a line that says how to read it."""
    drawn = go.Figure()
    drawn.update_layout(
        template=template("light"), height=height, margin={"t": 96}, title={
            "text": title, "x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top",
            "pad": {"l": 12, "t": 12}, "font": {"size": 16}, "subtitle": {"text": subtitle, "font": {"size": 12}},
        },
    )  # fmt: skip
    return drawn


def nothing(title: str, why: str) -> go.Figure:
    """A figure that says why it shows nothing."""
    drawn = figure(title, height=200)
    drawn.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    drawn.add_annotation(text=why, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14})
    return drawn


def label(name: object, limit: int = _LABEL) -> str:
    """A name for a label: plotly reads a part of HTML in labels, so the name is escaped, and cut."""
    return html.escape(unturned(bounded(name, limit)), quote=False)


def duration_axis(low: float, high: float, title: str, *, signed: bool = False) -> dict[str, Any]:
    """A linear axis in seconds from `low` to `high` with labels such as '30 s', '1m30s' or '2h00m'."""
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low
    if span <= 0 or not math.isfinite(span):
        low, high, span = 0.0, 1.0, 1.0
    step = next((size for size in _STEPS_S if span / size <= _TICKS), _STEPS_S[-1])
    ticks = [place * step for place in range(math.floor(low / step), math.ceil(high / step) + 1)]
    texts = [_compact(duration(tick, signed=signed)) for tick in ticks]
    return {
        "title": {"text": title},
        "tickvals": ticks,
        "ticktext": texts,
        "range": [low - (span * 0.06 if low < 0 else 0), high + span * 0.06],
    }


def log_duration_axis(low: float, high: float, title: str) -> dict[str, Any]:
    """A logarithmic axis in seconds with labels in their own units."""
    low, high = max(low, 1e-6), max(high, 1e-5)
    apart = max((high / low) ** (1 / _TICKS), 1.4)
    ticks: list[float] = []
    for size in _STEPS_S:
        if low / 1.6 <= size <= high * 1.6 and (not ticks or size >= 0.99 * apart * ticks[-1]):
            ticks.append(size)
    return {
        "title": {"text": title}, "type": "log", "tickvals": ticks, "ticktext": [_compact(duration(tick)) for tick in ticks],
        "range": [math.log10(low) - 0.1, math.log10(high) + 0.1],
    }  # fmt: skip


def time_axis(low: datetime, high: datetime) -> dict[str, Any]:
    """An axis of instants: days as 2026-03-01, and the hour above where the span is short."""
    short = high - low < timedelta(days=4)
    return {"title": {"text": "time (UTC)"}, "tickformat": "%H:%M\n%Y-%m-%d" if short else "%Y-%m-%d"}


def unit_axis(name: str, low: float, high: float, title: str, *, signed: bool = False) -> dict[str, Any]:
    """A linear axis in the unit of the quantity `name`: seconds, US dollars, a share, or plain figures."""
    if unit(name) == "_s":
        return duration_axis(low, high, title, signed=signed)
    low, high = min(low, 0.0), max(high, 0.0)
    span = high - low or 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step = next(size * step for size in (1, 2, 5, 10) if span / (size * step) <= _TICKS)
    ticks = [place * step for place in range(math.floor(low / step), math.ceil(high / step) + 1)]
    texts = [quantity(round(tick, 12), name, signed=signed) for tick in ticks]
    return {"title": {"text": title}, "tickvals": ticks, "ticktext": texts, "range": [low - span * 0.06, high + span * 0.06]}


def unit(name: str) -> str:
    """The unit that a quantity's name carries, '' where it carries none.

    >>> unit("run_time_s of the step"), unit("cost_usd"), unit("rows")
    ('_s', '_usd', '')
    """
    column = name.split(" ")[0]
    return next((suffix for suffix in ("_usd", "_share", "_mib", "_s") if column.endswith(suffix)), "")


def _compact(text: str) -> str:
    """'2m00s' as '2m': on an axis the zeros are noise."""
    return text.removesuffix("00s") if "m" in text and "ms" not in text else text.removesuffix("00m").removesuffix("00h")
