"""What do the plots look like? One template for light and one for dark grounds, with the same colours for the same things."""

from __future__ import annotations

from typing import Any, Literal

import plotly.graph_objects as go

Mode = Literal["light", "dark"]

OUTCOMES: dict[str, str] = {
    "success": "#2a9d8f", "failure": "#e4572e", "canceled": "#b08968", "skipped": "#a5adb8", "open": "#5b8def",
}  # fmt: skip
"""Told apart by people with red-green blindness too (they differ in lightness), and visible on white and on black."""

TIME_PARTS: dict[str, str] = {"queue": "#9aa5b1", "start": "#e9b44c", "run": "#4a7fd6", "retry wait": "#a06cd5"}

CAUSES: dict[str, str] = {
    "code": "#7a6ff0", "data": "#4a7fd6", "timeout": "#e9b44c", "memory": "#c65b9b", "dependency": "#e4572e",
    "infrastructure": "#2a9d8f", "unknown": "#9aa5b1",
}  # fmt: skip

OURS, RULE, PREDICTED, REALISED, DOTS = "#2a9d8f", "#9aa5b1", "#e9b44c", "#4a7fd6", "#5b8def"

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"

_INK: dict[Mode, dict[str, str]] = {
    "light": {"text": "#1f2933", "faint": "#52606d", "grid": "#e4e7eb", "ground": "#ffffff", "line": "#9aa5b1"},
    "dark": {"text": "#e6eaf0", "faint": "#a9b4c2", "grid": "#2d3642", "ground": "#161b22", "line": "#66717f"},
}


def template(mode: Mode) -> go.layout.Template:
    """The plotly template for a light or dark ground; the plots' own grounds are transparent, so the page shows through."""
    ink = _INK[mode]
    axis: dict[str, Any] = {
        "gridcolor": ink["grid"], "linecolor": ink["line"], "zerolinecolor": ink["line"], "zerolinewidth": 1,
        "automargin": True, "title": {"font": {"size": 12, "color": ink["faint"]}, "standoff": 8},
        "tickfont": {"size": 12, "color": ink["text"]}, "ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)",
    }  # fmt: skip
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": ink["text"]},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": ink["ground"], "bordercolor": ink["line"], "font": {"color": ink["text"], "family": FONT}},
            "legend": {
                "orientation": "h",
                "yanchor": "bottom",
                "y": 1.02,
                "xanchor": "left",
                "x": 0,
                "font": {"size": 12},
                "traceorder": "normal",
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": ink["line"], "activecolor": ink["text"]},
            "margin": {"l": 60, "r": 20, "t": 44, "b": 50},
            "annotationdefaults": {"font": {"color": ink["text"]}},
            "bargap": 0.25,
        }
    )
