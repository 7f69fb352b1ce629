"""Which pictures belong to a first look? Each function draws one from what `look` found; without data it says what is missing."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from workflows_pkg.report.axes import duration_axis, figure, label, nothing, unit_axis
from workflows_pkg.report.look import Look
from workflows_pkg.report.tables import count, duration, readable, share
from workflows_pkg.report.theme import OURS, PREDICTED, RULE, TIME_PARTS

_PARTS = {"queue": "queue_s", "start": "start_s", "run": "run_s", "retry wait": "retry_wait_s"}
_MOST_JOBS = 14
_MOST_COMPARED = 16
_LABEL = 30

_STRIP = ((0.0, "rgba(74,127,214,0)"), (0.02, "rgba(74,127,214,0.35)"), (1.0, "rgba(228,87,46,1)"))
"""From nothing over blue to orange: transparent where nobody asks, so that it shows on both grounds."""


def where_time_goes(seen: Look) -> go.Figure:
    """Stacked bars, one per job: seconds in the queue, starting, running and waiting between attempts, of all its ended runs."""
    title = "Where the time goes, by job"
    jobs = [job for job in seen.jobs if job.total_s > 0]
    if not jobs:
        return nothing(title, "No run with a known time has ended yet.")
    shown = jobs[:_MOST_JOBS][::-1]
    more = f" The {_MOST_JOBS} longest of {len(jobs)} jobs." if len(jobs) > _MOST_JOBS else ""
    drawn = figure(title, f"All ended runs of each job together; run time is without the waits between attempts.{more}")
    names = _names([job.job for job in shown])
    for part, colour in TIME_PARTS.items():
        values = [getattr(job, _PARTS[part]) or 0.0 for job in shown]
        hover = [
            f"{label(readable(job.job))}<br>{part}: {_known(getattr(job, _PARTS[part]))}, {share(value / job.total_s)} of the job's time"
            f"<br>{count(job.runs)} runs"
            for job, value in zip(shown, values, strict=True)
        ]
        drawn.add_bar(
            y=names,
            x=values,
            name=part,
            orientation="h",
            marker_color=colour,
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    drawn.update_layout(
        barmode="stack",
        height=150 + 30 * len(shown),
        xaxis=duration_axis(0, max(job.total_s for job in shown), "time, all runs together"),
    )
    return drawn


def asked_by_minute(seen: Look) -> go.Figure:
    """A strip for each hour of the day, a cell for each minute: how many runs schedules and sensors asked for then."""
    title = "When runs are asked for"
    if not seen.asked:
        return nothing(title, "No run here was asked for by a schedule or a sensor.")
    hours = sorted({hour for hour, _, _ in seen.asked})
    first, last = hours[0], hours[-1]
    grid = np.zeros((last - first + 1, 60), int)
    for hour, minute, number in seen.asked:
        grid[hour - first, minute] = number
    names = [f"{hour:02d}" for hour in range(first, last + 1)]
    hover = [
        [f"{hour}:{minute:02d} UTC: {count(grid[row, minute])} runs" for minute in range(60)] for row, hour in enumerate(names)
    ]
    drawn = figure(
        title, "Runs that schedules and sensors asked for, by minute of the hour and hour of the day (UTC), over the whole history.",
        height=150 + 16 * max(len(names), 4),
    ).update_layout(margin={"t": 60})  # fmt: skip
    drawn.add_heatmap(
        z=grid, x=list(range(60)), y=names, hovertext=hover, hovertemplate="%{hovertext}<extra></extra>", colorscale=_STRIP, zmin=0,
        xgap=1, ygap=1, colorbar={"title": {"text": "runs"}, "thickness": 10, "outlinewidth": 0},
    )  # fmt: skip
    drawn.update_layout(
        xaxis={"title": {"text": "minute of the hour"}, "tickvals": list(range(0, 60, 5)), "showgrid": False, "zeroline": False},
        yaxis={
            "title": {"text": "hour (UTC)"}, "type": "category", "autorange": "reversed", "showgrid": False,
            "tickvals": names[:: max(1, len(names) // 8)],
        },
    )  # fmt: skip
    return drawn


def forecast_errors(seen: Look) -> go.Figure:
    """Two points per job: the error of our forecast of its run time, and that of the mean of its last ten runs."""
    title = "How far off a forecast of the run time is"
    rows = seen.forecast.jobs[:_MOST_COMPARED][::-1]
    if not rows:
        return nothing(title, "No job has ten successful runs yet, so there is nothing to compare.")
    drawn = figure(title, "Median error over the truth, replayed: each forecast knew only what had ended before. Left is better.")
    names = _names([row.job for row in rows])
    for place, row in enumerate(rows):
        drawn.add_scatter(
            x=[row.error_share, row.mean_of_ten_share], y=[names[place]] * 2, mode="lines", line={"color": RULE, "width": 2},
            hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    for name, values, colour, symbol in (
        ("mean of the last ten", [row.mean_of_ten_share for row in rows], RULE, "diamond"),
        ("best simple rule, known afterwards", [row.best_rule_share for row in rows], PREDICTED, "line-ns-open"),
        ("this forecast", [row.error_share for row in rows], OURS, "circle"),
    ):
        drawn.add_scatter(
            x=values, y=names, mode="markers", name=name, marker={"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2}},
            hovertext=[f"{label(readable(row.job))}<br>{name}: {share(value)}" for row, value in zip(rows, values, strict=True)],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    top = max(max(row.error_share, row.mean_of_ten_share, row.best_rule_share) for row in rows)
    drawn.update_layout(
        height=170 + 28 * len(rows), xaxis=unit_axis("error_share", 0, min(top, 3.0), "median error, share of the true run time")
    )
    return drawn


def _known(value: float | None) -> str:
    return "unknown" if value is None else duration(value)


def _names(jobs: list[str]) -> list[str]:
    """Labels that differ wherever the names differ: two names cut to the same label would share a bar."""
    names: list[str] = []
    for job in jobs:
        name = label(readable(job), _LABEL)
        while name in names:
            name += " "
        names.append(name)
    return names
