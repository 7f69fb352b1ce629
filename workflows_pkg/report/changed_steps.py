"""How does a person see what changed? The runs before and after in a plot, with the figures and the runs that it rests on beside."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from workflows_pkg.advisor.change_text import headline, looked_for, say_level, sentence
from workflows_pkg.advisor.changes import FALSE_ALARMS, RECORDED, Change
from workflows_pkg.report import sketch
from workflows_pkg.report.advice_text import markdown
from workflows_pkg.report.asset_pages import Cell, Table, Verdict, behind_link
from workflows_pkg.report.axes import figure, label, time_axis, unit_axis
from workflows_pkg.report.reading import Frame
from workflows_pkg.report.tables import instant, readable
from workflows_pkg.report.theme import OUTCOMES, REALISED, RULE

_MOST_EVIDENCE = 10
"""Runs on either side that stand as a table."""


def steps_as_before(worse: int, worst: Sequence[tuple[Change, Frame]]) -> Verdict:
    """Whether no change for the worse lasts; else of the worst ones a sentence, a plot and the runs just before and after.

    worse: how many last. worst: those to be shown, with their runs as `evidence` gives them.
    """
    figures = {"lasting changes for the worse": worse, "false alarms stated, share of looks": FALSE_ALARMS}
    if not worst:
        return Verdict(True, "No step became slower or fails more often, as far as can be told.", figures)
    more = f" And {worse - len(worst)} more: workflows changed." if worse > len(worst) else ""
    texts: dict[str, str] = {}
    for change, runs in worst:
        name = readable(f"{change.job} / {change.step or 'whole run'}")
        if drawn := change_sketch(change, runs):
            texts[name] = drawn
        rest = f"{markdown(readable(sentence(change)))} {markdown(looked_for(change))}"
        texts[f"{name}, in full"] = f"{rest}\n\n{behind_link(_evidence(change, runs))}"
    return Verdict(False, readable(" ".join(f"{headline(change)}." for change, _ in worst)) + more, figures, texts)


def change_sketch(change: Change, runs: Frame) -> str:
    """A plot short enough to be shown in place on a page of Dagster, as Markdown."""
    before, after = (runs[runs["after"] == side]["value"].to_list() for side in (False, True))
    said = (f"{say_level(change, change.before)} before", f"{say_level(change, change.after)} since {change.since:%m-%d %H:%M}")
    what = "seconds" if change.quantity != "failed_share" else "failures"
    return sketch.levels(f"{readable(change.job)} {change.step}, {what} by run", before, after, said)


def change_plot(change: Change, runs: Frame) -> go.Figure:
    """Every run as a dot over time, the level before and after with its interval, and the interval in which the change lies.

    runs: what `evidence` gives of the change.
    """
    name = f"{change.job} / {change.step or 'whole run'}"
    drawn = figure(label(readable(name)), f"{label(headline(change), 160)}.")
    begun = runs["begun"]
    for side, colour, said in ((False, REALISED, "runs before"), (True, OUTCOMES["failure"], "runs since")):
        part = runs[runs["after"] == side]
        drawn.add_scatter(
            x=part["begun"], y=part["value"], mode="markers", name=said, marker={"color": colour, "size": 5, "opacity": 0.7},
            hovertext=[label(run_id) for run_id in part["run_id"]], hovertemplate="%{hovertext}<br>%{x}<extra></extra>",
        )  # fmt: skip
    for since, until, middle, low, high in (
        (begun.min(), change.since, change.before, change.before_low, change.before_high),
        (change.since, begun.max(), change.after, change.after_low, change.after_high),
    ):
        drawn.add_scatter(x=[since, until], y=[middle, middle], mode="lines", line={"color": RULE, "width": 3}, showlegend=False)
        drawn.add_shape(type="rect", x0=since, x1=until, y0=low, y1=high, fillcolor=RULE, opacity=0.25, line_width=0)
    drawn.add_vrect(x0=change.earliest, x1=change.latest, fillcolor=RULE, opacity=0.3, line_width=1)
    unit = "failed_share" if change.quantity == "failed_share" else "run_time_s"
    title = "failed" if unit == "failed_share" else "time"
    drawn.update_layout(xaxis=time_axis(begun.min(), begun.max()), yaxis=unit_axis(unit, 0.0, float(runs["value"].max()), title))
    return drawn


def _evidence(change: Change, runs: Frame) -> Table:
    """The runs just before and just after, with what is recorded of them."""
    place = int((~runs["after"]).sum())
    near = runs.iloc[max(place - _MOST_EVIDENCE, 0) : place + _MOST_EVIDENCE]
    known = [name for name in RECORDED if name in near and near[name].notna().any()]
    rows = [
        {
            "run": row["run_id"], "begun (UTC)": instant(row["begun"]), "side": "after" if row["after"] else "before",
            "value": say_level(change, row["value"]), **{name: _cell(row[name]) for name in known},
        }
        for row in near.to_dict("records")
    ]  # fmt: skip
    return Table(rows)


def _cell(value: object) -> Cell:
    return None if value is None or value != value else value if isinstance(value, (int, float)) else str(value)
