"""Which pictures answer a user's questions about history? Each function draws one, from a connection to history.

Every figure carries its title, a line that says how to read it, and units on its axes; without data it says what is missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workflows_pkg.report.axes import duration_axis, figure, label, nothing, time_axis, unit, unit_axis
from workflows_pkg.report.reading import Connection, Frame, frame
from workflows_pkg.report.tables import duration, quantity, share, words
from workflows_pkg.report.theme import CAUSES, OUTCOMES, PREDICTED, REALISED, TIME_PARTS

_BUCKETS_S = (10, 30, 60, 300, 900, 3600, 21_600, 86_400, 604_800, 2_592_000)
_MOST_BARS = 60
_NAMED = "coalesce(workflow, job_name)"
_NO_RUNS = "Nothing has run yet."


def runs_over_time(con: Connection) -> go.Figure:
    """Runs by the time they were asked for, stacked by outcome; the bars' width follows the length of the history."""
    title = "Runs over time"
    span = frame(con, "SELECT epoch(min(created_at)) AS low, epoch(max(created_at)) AS high FROM runs").iloc[0]
    if np.isnan(span["low"]):
        return nothing(title, _NO_RUNS)
    low, high = span["low"], span["high"]
    width = next((size for size in _BUCKETS_S if (high - low) / size <= _MOST_BARS), _BUCKETS_S[-1])
    found = frame(
        con,
        f"""SELECT floor(epoch(created_at) / {width}) * {width} AS bucket, coalesce(outcome, 'open') AS outcome, count(*) AS runs
            FROM runs GROUP BY 1, 2""",
    )
    counts = found.pivot(index="bucket", columns="outcome", values="runs").fillna(0).astype(int)
    drawn = figure(title, f"Runs asked for in each {_bucket_name(width)}, by how they ended. Times are UTC.")
    for outcome in [name for name in OUTCOMES if name in counts.columns]:
        drawn.add_bar(
            x=pd.to_datetime(counts.index + width / 2, unit="s"), y=counts[outcome], name=outcome, marker_color=OUTCOMES[outcome],
            width=width * 1000 * 0.9, hovertemplate=f"%{{x|%Y-%m-%d %H:%M}}: %{{y}} {outcome}<extra></extra>",
        )  # fmt: skip
    drawn.update_layout(
        barmode="stack",
        xaxis=time_axis(*pd.to_datetime([low, high], unit="s")),
        yaxis={"title": {"text": "runs"}, "rangemode": "tozero"},
    )
    if counts.to_numpy().sum(axis=1).max() < 8:
        drawn.update_yaxes(dtick=1)
    return drawn


def where_time_goes(con: Connection, *, most: int = 14) -> go.Figure:
    """Seconds in all runs: of whole runs before their first step, and of each step starting, running, waiting between attempts.

    A step's own queue time is left out: it holds the time that the steps before it ran.
    """
    title = "Where the time goes"
    found = frame(
        con,
        f"""SELECT {_NAMED} AS workflow, step, 0 AS "queue", sum(start_time_s) AS "start",
                   sum(run_time_s) AS "run", sum(retry_wait_s) AS "retry wait", count(DISTINCT run_id) AS runs,
                   count(*) AS attempts
            FROM step_attempts WHERE outcome IS DISTINCT FROM 'skipped' GROUP BY 1, 2
            UNION ALL
            SELECT {_NAMED}, '(before its first step)', sum(queue_time_s), sum(start_time_s), 0, 0, count(*), count(*)
            FROM runs GROUP BY 1""",
    )
    parts = list(TIME_PARTS)
    found[parts] = found[parts].astype(float).fillna(0.0)
    found["total"] = found[parts].sum(axis=1)
    found = found[found["total"] > 0].sort_values("total", ascending=False)
    if found.empty:
        return nothing(title, "No step attempt with a known time yet.")
    shown = found.head(most).iloc[::-1]
    left_out = f" The {most} longest of {len(found)} steps." if len(found) > most else ""
    drawn = figure(title, f"Time of all runs together, by step.{left_out}", height=150 + 30 * len(shown))
    names = [f"{label(row.workflow, 26)} / {label(row.step, 26)}" for row in shown.itertuples()]
    for part, colour in TIME_PARTS.items():
        hover = [
            f"{name}<br>{part}: {duration(value)} ({share(value / total)})<br>{runs} runs, {attempts} attempts"
            for name, value, total, runs, attempts in zip(
                names, shown[part], shown["total"], shown["runs"], shown["attempts"], strict=True
            )
        ]
        drawn.add_bar(
            y=names,
            x=shown[part],
            name=part,
            orientation="h",
            marker_color=colour,
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    drawn.update_layout(barmode="stack", xaxis=duration_axis(0, shown["total"].max(), "time, all runs together"))
    return drawn


def failures_and_retries(con: Connection, *, most: int = 12) -> go.Figure:
    """Failed attempts by step and cause, beside the time that each step spent waiting between attempts."""
    title = "Failures by cause, and what waiting for retries took"
    found = frame(
        con,
        f"""SELECT {_NAMED} AS workflow, step, coalesce(failure_cause, 'unknown') AS cause, count(*) AS failed,
                   count(*) FILTER (will_retry) AS retried, sum(retry_wait_s) AS waited, mode(error_class) AS error_class
            FROM step_attempts WHERE outcome = 'failure' GROUP BY 1, 2, 3""",
    )
    if found.empty:
        return nothing(title, "No attempt has failed.")
    found["cause"] = found["cause"].where(found["cause"].isin(list(CAUSES)), "unknown")
    found["waited"] = found["waited"].astype(float).fillna(0.0)
    found["name"] = [f"{label(row.workflow, 24)} / {label(row.step, 24)}" for row in found.itertuples()]
    totals = found.groupby("name")[["failed", "waited"]].sum().sort_values("failed", ascending=False).head(most).iloc[::-1]
    found = found[found["name"].isin(totals.index)]
    drawn = figure(
        title,
        "Left: failed attempts, retried or not. Right: waits between attempts, all runs together.",
        height=170 + 30 * len(totals),
    )
    panels = make_subplots(rows=1, cols=2, figure=drawn, shared_yaxes=True, horizontal_spacing=0.04, column_widths=[0.6, 0.4])
    for cause in [name for name in CAUSES if name in set(found["cause"])]:
        rows = found[found["cause"] == cause]
        panels.add_bar(
            y=rows["name"],
            x=rows["failed"],
            name=cause,
            orientation="h",
            marker_color=CAUSES[cause],
            row=1,
            col=1,
            hovertext=[
                f"{row.failed} failed ({label(row.error_class or cause)}), {row.retried} of them retried"
                for row in rows.itertuples()
            ],
            hovertemplate="%{y}<br>%{hovertext}<extra></extra>",
        )
    panels.add_bar(
        y=totals.index,
        x=totals["waited"],
        name="retry wait",
        orientation="h",
        marker_color=TIME_PARTS["retry wait"],
        showlegend=False,
        hovertext=[duration(value) for value in totals["waited"]],
        hovertemplate="%{y}<br>waited %{hovertext}<extra></extra>",
        row=1,
        col=2,
    )
    few = totals["failed"].max() < 8
    panels.update_xaxes(
        {"title": {"text": "failed attempts"}, "rangemode": "tozero", **({"dtick": 1} if few else {})}, row=1, col=1
    )
    panels.update_xaxes(duration_axis(0, totals["waited"].max(), "wait between attempts"), row=1, col=2)
    panels.update_yaxes(categoryorder="array", categoryarray=list(totals.index))
    panels.update_layout(barmode="stack")
    return panels


def ledger(con: Connection) -> go.Figure:
    """Predicted beside realised change per run, one line for each suggestion that was tried."""
    title = "Ledger: predicted beside realised"
    found = frame(con, "SELECT * FROM ledger ORDER BY decided_at, trial_id")
    found = found[np.isfinite(found["realised"].astype(float))] if not found.empty else found
    if found.empty:
        return nothing(title, "No suggestion has been tried yet.")
    found["unit"] = found["quantity"].map(unit)
    groups = [rows.iloc[::-1] for _, rows in found.groupby("unit", sort=False)]
    drawn = figure(
        title,
        "Change per run, new minus old: left of zero is less. Bars: 90 % (predicted) and 95 % (realised) intervals.",
        height=190 + 56 * len(found) + 60 * (len(groups) - 1),
    )
    panels: Any = make_subplots(
        rows=len(groups),
        cols=1,
        figure=drawn,
        row_heights=[len(rows) for rows in groups],
        vertical_spacing=0.6 / (len(groups) + 1),
    )
    for place, rows in enumerate(groups, start=1):
        _add_changes(panels, rows, place)
    return panels


def run_timeline(con: Connection, run_id: str | None = None) -> go.Figure:
    """Every attempt of one run from the moment it was asked for; by default the newest run with a retry, else the newest."""
    title = "One run, step by step"
    runs = frame(
        con,
        f"""SELECT run_id, {_NAMED} AS workflow, partition_key, coalesce(outcome, 'open') AS outcome, created_at, started_at,
                   ended_at
            FROM runs WHERE run_id = coalesce(?, (
                SELECT run_id
                FROM runs JOIN (SELECT run_id, max(attempt) AS attempts FROM step_attempts GROUP BY 1) USING (run_id)
                ORDER BY trial_id IS NULL DESC, attempts > 1 DESC, created_at DESC LIMIT 1))""",
        [run_id],
    )
    if runs.empty:
        return nothing(title, f"No run {label(run_id)} with steps is known." if run_id else _NO_RUNS)
    run = runs.iloc[0]
    found = frame(
        con,
        """SELECT step_key, attempt, coalesce(outcome, 'open') AS outcome, started_at, ended_at, run_time_s, retry_wait_s,
                  failure_cause, error_class, error_message
           FROM step_attempts WHERE run_id = ? AND started_at IS NOT NULL ORDER BY started_at, attempt""",
        [run["run_id"]],
    )
    if found.empty:
        return nothing(title, "No step of this run has begun.")
    origin = run["created_at"]
    found["from"] = (found["started_at"] - origin).dt.total_seconds()
    ended = (found["ended_at"] - origin).dt.total_seconds()
    end = float(
        np.nanmax([*ended, *found["from"], (run["ended_at"] - origin).total_seconds() if pd.notna(run["ended_at"]) else 0.0])
    )
    found["length"] = (ended.fillna(end) - found["from"]).clip(lower=end * 0.002)
    steps = list(dict.fromkeys(found["step_key"]))
    names = {step: label(step, 36) for step in steps}
    begin = (run["started_at"] - origin).total_seconds() if pd.notna(run["started_at"]) else float(found["from"].min())
    partition = f", {label(run['partition_key'])}" if run["partition_key"] else ""
    drawn = figure(
        f"{title}: {label(run['workflow'])}{partition}",
        f"Run {run['run_id'][:8]}, {run['outcome']}. Time since it was asked for.",
        height=160 + 30 * (len(steps) + 1),
    )
    waiting = label("(queue and start)")
    _add_bar(drawn, [waiting], [0.0], [begin], "queue and start", TIME_PARTS["queue"], [f"queue and start: {duration(begin)}"])
    for outcome in [name for name in OUTCOMES if name in set(found["outcome"])]:
        rows = found[found["outcome"] == outcome]
        hover = [_timeline_hover(row) for row in rows.itertuples()]
        _add_bar(
            drawn, [names[step] for step in rows["step_key"]], rows["from"], rows["length"], outcome, OUTCOMES[outcome], hover
        )
    waits = found[found["retry_wait_s"].astype(float) > 0]
    if not waits.empty:
        _add_bar(
            drawn,
            [names[step] for step in waits["step_key"]],
            waits["from"] + waits["length"],
            waits["retry_wait_s"],
            "retry wait",
            TIME_PARTS["retry wait"],
            [f"waited {duration(value)} before the next attempt" for value in waits["retry_wait_s"]],
        )
    drawn.update_layout(barmode="overlay", xaxis=duration_axis(0, end, "time since the run was asked for"))
    drawn.update_yaxes(categoryorder="array", categoryarray=[waiting, *names.values()], autorange="reversed")
    return drawn


def _add_changes(panels: Any, rows: Frame, place: int) -> None:
    """One panel of the ledger: changes in one unit, predicted above realised."""
    names = [
        f"{label(row.workflow, 24)} v{row.baseline_version} → v{row.version}<br>"
        f"{label(words(row.quantity), 30)}: {label(row.verdict)}"
        for row in rows.itertuples()
    ]
    for kind, colour, shift in (("predicted", PREDICTED, 0.16), ("realised", REALISED, -0.16)):
        values = rows[kind].astype(float)
        panels.add_scatter(
            x=values, y=np.arange(len(rows)) + shift, mode="markers", name=kind, legendgroup=kind, showlegend=place == 1,
            marker={"size": 11, "color": colour, "symbol": "diamond" if kind == "predicted" else "circle"},
            error_x={
                "type": "data", "symmetric": False, "array": rows[f"{kind}_high"].astype(float) - values,
                "arrayminus": values - rows[f"{kind}_low"].astype(float), "thickness": 2, "width": 5,
            },
            hovertext=[
                f"{name}<br>{kind} {quantity(value, row.quantity, signed=True)} from {row.pairs} pairs"
                for name, value, row in zip(names, values, rows.itertuples(), strict=True)
            ],
            hovertemplate="%{hovertext}<extra></extra>", row=place, col=1,
        )  # fmt: skip
    ends = rows[[f"{kind}{end}" for kind in ("predicted", "realised") for end in ("", "_low", "_high")]].to_numpy(dtype=float)
    axis = unit_axis(rows["quantity"].iloc[0], float(np.nanmin(ends)), float(np.nanmax(ends)), "change per run", signed=True)
    panels.update_xaxes({**axis, "zeroline": True, "zerolinewidth": 2}, row=place, col=1)
    places = {"tickvals": list(range(len(rows))), "ticktext": names, "range": [-0.6, len(rows) - 0.4]}
    panels.update_yaxes({**places, "showgrid": False, "zeroline": False}, row=place, col=1)


def _add_bar(drawn: go.Figure, y: Any, base: Any, x: Any, name: str, colour: str, hover: list[str]) -> None:
    drawn.add_bar(
        y=y,
        base=base,
        x=x,
        name=name,
        orientation="h",
        marker_color=colour,
        width=0.62,
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _timeline_hover(row: Any) -> str:
    text = f"{label(row.step_key)}, attempt {row.attempt}: {row.outcome}, {duration(row.run_time_s)}"
    if row.error_class:
        text += f"<br>{label(row.error_class)} ({label(row.failure_cause or 'unknown')}): {label(row.error_message or '', 90)}"
    return text


def _bucket_name(width: int) -> str:
    names = {60: "minute", 300: "5 minutes", 900: "15 minutes", 3600: "hour", 21_600: "6 hours", 86_400: "day", 604_800: "week"}
    return names.get(width) or (f"{width} seconds" if width < 60 else f"{width // 86_400} days")
