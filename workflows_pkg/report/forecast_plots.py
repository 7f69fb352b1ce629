"""Do the forecasts hold? Pictures of durations with their forecasts, and of the forecasts' errors, from a connection to history.

As in `plots`, every figure carries its title, a line that says how to read it, and units; without data it says what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workflows_pkg.report.axes import duration_axis, figure, label, log_duration_axis, nothing, time_axis
from workflows_pkg.report.reading import Connection, Frame, frame
from workflows_pkg.report.summary import LATEST_FORECASTS
from workflows_pkg.report.tables import duration, share, words
from workflows_pkg.report.theme import CAUSES, DOTS, OURS, OUTCOMES, RULE

_MOST_POINTS = 600
"""Points of one panel: more only overlap. The newest are shown."""


def step_durations(con: Connection, *, steps: int = 6) -> go.Figure:
    """Run time of each successful attempt over time, one panel for each of the longest steps, with the forecast's 90 % band."""
    title = "Step durations and forecasts"
    found = frame(
        con,
        f"""WITH chosen AS (
                SELECT job_name, step FROM step_attempts WHERE outcome = 'success' AND run_time_s IS NOT NULL
                GROUP BY 1, 2 ORDER BY sum(run_time_s) DESC LIMIT {int(steps)})
            SELECT job_name, coalesce(workflow, job_name) AS workflow, step, ended_at, run_time_s, partition_key
            FROM step_attempts
            WHERE (job_name, step) IN (SELECT (job_name, step) FROM chosen) AND outcome = 'success' AND run_time_s IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY job_name, step ORDER BY ended_at DESC) <= {_MOST_POINTS}
            ORDER BY ended_at""",
    )
    if found.empty:
        return nothing(title, "No step has succeeded yet.")
    bands = frame(
        con,
        "SELECT job_name, step, as_of, p05, p50, p95 FROM forecasts WHERE quantity = 'run_time_s' AND step <> '' ORDER BY as_of",
    )
    order = found.groupby(["job_name", "step"])["run_time_s"].sum().sort_values(ascending=False).index.tolist()
    names = found.drop_duplicates(["job_name", "step"]).set_index(["job_name", "step"])["workflow"]
    columns = 2 if len(order) > 1 else 1
    panel_rows = -(-len(order) // columns)
    drawn = figure(
        title, "Each dot is one successful attempt; the band holds the next one in 9 of 10 cases.", height=130 + 230 * panel_rows
    )
    panels: Any = make_subplots(  # plotly has no types for what subplots add
        rows=panel_rows, cols=columns, figure=drawn, vertical_spacing=0.32 / panel_rows, horizontal_spacing=0.1,
        subplot_titles=[f"{label(names[key], 24)} / {label(key[1], 24)}" for key in order],
    )  # fmt: skip
    for place, key in enumerate(order):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        points = found[(found["job_name"] == key[0]) & (found["step"] == key[1])]
        band = bands[(bands["job_name"] == key[0]) & (bands["step"] == key[1])]
        top = points["run_time_s"].max()
        if not band.empty:
            _add_band(panels, band, points["ended_at"].min(), points["ended_at"].max(), where, legend=place == 0)
            top = max(top, band["p95"].iloc[-1])
        panels.add_scatter(
            x=_plain(points["ended_at"]), y=points["run_time_s"], mode="markers", name="attempt", showlegend=place == 0,
            legendgroup="attempt", marker={"color": DOTS, "size": 5, "opacity": 0.9},
            hovertext=[_attempt_hover(row) for row in points.itertuples()], hovertemplate="%{hovertext}<extra></extra>", **where,
        )  # fmt: skip
        panels.update_yaxes(duration_axis(0, top, "run time" if place % columns == 0 else ""), **where)
        panels.update_xaxes({**time_axis(points["ended_at"].min(), points["ended_at"].max()), "title": None}, **where)
    panels.update_annotations(font_size=13)
    panels.update_layout(margin={"t": 120}, legend={"y": 1 + 24 / (230 * panel_rows - 40)})
    return panels


def forecast_errors(con: Connection, *, most: int = 18) -> go.Figure:
    """The newest forecasts' error in replay beside that of the best simple rule on the same rows."""
    title = "Forecast error beside the simple rule that was best in hindsight"
    found = frame(
        con,
        f"""SELECT * FROM ({LATEST_FORECASTS}) WHERE error_share IS NOT NULL AND best_rule_error_share IS NOT NULL
            ORDER BY step <> '', sample_count DESC, job_name, step, quantity LIMIT {int(most)}""",
    )
    if found.empty:
        return nothing(title, "No forecast has been compared with five outcomes yet.")
    names = [
        f"{label(row.job_name, 22)} / {label(row.step or 'whole run', 22)}, {label(words(row.quantity))}"
        for row in found.itertuples()
    ]
    note = "Median absolute error as a share of the outcome, in replay: each forecast knew only what came before. Left is better."
    hovers = [f"{label(row.predictor)}: {share(row.error_share)}, from {row.sample_count} outcomes" for row in found.itertuples()]
    return beside_the_best_rule(title, note, found, names, hovers)


def beside_the_best_rule(title: str, note: str, found: Frame, names: Sequence[str], hovers: Sequence[str]) -> go.Figure:
    """A line for each row of `found`, the first on top, from our error to that of the rule best in hindsight.

    found: columns `error_share`, `best_rule_error_share`, `best_rule`; names and hovers: what to call them, and the text on ours.
    """
    drawn = figure(title, note, height=170 + 26 * len(found))
    for name, row in zip(names, found.itertuples(), strict=True):
        drawn.add_scatter(
            x=[row.error_share, row.best_rule_error_share], y=[name, name], mode="lines", showlegend=False, hoverinfo="skip",
            line={"color": OURS if row.error_share <= row.best_rule_error_share else OUTCOMES["failure"], "width": 2},
        )  # fmt: skip
    drawn.add_scatter(
        x=found["best_rule_error_share"], y=names, mode="markers", name="best rule in hindsight",
        marker={"symbol": "diamond-open", "size": 10, "color": RULE, "line": {"width": 2}},
        hovertext=[f"{label(words(row.best_rule or ''))}: {share(row.best_rule_error_share)}" for row in found.itertuples()],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    drawn.add_scatter(
        x=found["error_share"], y=names, mode="markers", name="our forecast", marker={"size": 9, "color": OURS},
        hovertext=hovers, hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    drawn.update_layout(
        xaxis={"title": {"text": "median absolute error, share of the outcome"}, "tickformat": ".0%", "rangemode": "tozero"}
    )
    drawn.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    return drawn


def forecast_against_actual(con: Connection) -> go.Figure:
    """Runs that began after a forecast was made: what the newest forecast said against what came."""
    title = "Forecast against what came"
    found = frame(
        con,
        f"""WITH told AS (SELECT * FROM forecasts WHERE step = '' AND quantity = 'run_time_s')
            SELECT coalesce(runs.workflow, runs.job_name) AS workflow, runs.partition_key, runs.run_time_s,
                   told.p05, told.p50, told.p95
            FROM runs ASOF JOIN told ON runs.job_name = told.job_name AND runs.created_at >= told.as_of
            WHERE runs.outcome = 'success' AND runs.run_time_s > 0 AND told.p50 > 0
            ORDER BY runs.created_at DESC LIMIT {_MOST_POINTS}""",
    )
    if found.empty:
        return nothing(title, "No run has ended since the first forecast was made.")
    held = ((found["run_time_s"] >= found["p05"]) & (found["run_time_s"] <= found["p95"])).mean()
    drawn = figure(
        title,
        f"Run time. On the line the forecast was exact; {share(float(held))} of the outcomes lay in its 90 % interval.",
        height=460,
    )
    low = min(found["p05"].clip(lower=1e-3).min(), found["run_time_s"].min())
    high = max(found["p95"].max(), found["run_time_s"].max())
    drawn.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": RULE, "dash": "dot"}, name="exact", hoverinfo="skip"
    )
    for place, (workflow, rows) in enumerate(found.groupby("workflow")):
        drawn.add_scatter(
            x=rows["p50"],
            y=rows["run_time_s"],
            mode="markers",
            name=label(workflow, 30),
            marker={"size": 7, "opacity": 0.8, "color": list(CAUSES.values())[place % len(CAUSES)]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["p95"] - rows["p50"],
                "arrayminus": rows["p50"] - rows["p05"],
                "thickness": 0.6,
                "width": 0,
            },
            hovertext=[
                f"{label(row.workflow)} {label(row.partition_key or '')}<br>"
                f"forecast {duration(row.p50)}, came {duration(row.run_time_s)}"
                for row in rows.itertuples()
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
    drawn.update_layout(
        xaxis=log_duration_axis(low, high, "forecast run time (line: 90 % interval)"),
        yaxis=log_duration_axis(low, high, "actual run time"),
    )
    return drawn


def _add_band(panels: go.Figure, band: Frame, first: Any, last: Any, where: dict[str, int], *, legend: bool) -> None:
    """The forecasts as steps: each holds from its making to the next, the newest a little beyond the last attempt."""
    right = max(last, band["as_of"].iloc[-1]) + max((last - first) * 0.08, pd.Timedelta(seconds=1))
    at = _plain(pd.Series([*band["as_of"], right]))
    low, middle, high = ([*band[name], band[name].iloc[-1]] for name in ("p05", "p50", "p95"))
    line = {"shape": "hv", "width": 0}
    group = {"legendgroup": "band", "hoverinfo": "skip", **where}
    panels.add_scatter(x=at, y=low, mode="lines", line=line, showlegend=False, **group)
    panels.add_scatter(
        x=at,
        y=high,
        mode="lines",
        line=line,
        fill="tonexty",
        fillcolor="rgba(42,157,143,0.22)",
        name="forecast, 90 %",
        showlegend=legend,
        **group,
    )
    panels.add_scatter(
        x=at,
        y=middle,
        mode="lines",
        line={"shape": "hv", "width": 2, "color": OURS},
        name="forecast, middle",
        showlegend=legend,
        legendgroup="forecast middle",
        hovertext=[duration(value) for value in middle],
        hovertemplate="forecast %{hovertext}<extra></extra>",
        **where,
    )


def _plain(instants: Frame) -> Frame:
    """UTC instants without the zone: plotly shows them as they are; the axis says UTC."""
    return instants.dt.tz_localize(None)


def _attempt_hover(row: Any) -> str:
    partition = f"<br>{label(row.partition_key)}" if row.partition_key else ""
    return f"{row.ended_at:%Y-%m-%d %H:%M:%S} UTC{partition}<br>{duration(row.run_time_s)}"
