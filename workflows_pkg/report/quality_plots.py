"""How wrong were the forecasts of steps? Pictures of replayed attempts, as `comparison.replayed` and `step_comparison` give them.

As in `plots`, every figure carries its title, a line that says how to read it, and units; without data it says what is missing.
"""

from __future__ import annotations

import plotly.graph_objects as go

from workflows_pkg.report.axes import figure, label, log_duration_axis, nothing
from workflows_pkg.report.comparison import scored_attempts
from workflows_pkg.report.forecast_plots import beside_the_best_rule
from workflows_pkg.report.reading import Frame
from workflows_pkg.report.tables import count, duration, share
from workflows_pkg.report.theme import CAUSES, OURS, OUTCOMES, RULE

PROMISED = 0.9
"""Share of the outcomes that the interval from p05 to p95 should hold."""

_NOTHING = "No step has succeeded twice yet: a forecast needs one outcome, and its error another."
_MOST_STEPS = 24
_Z = 1.96
"""Of the 95 % range around a share of few outcomes."""


def step_errors(steps: Frame) -> go.Figure:
    """The error of each step's forecast beside that of the simple rule best for it in hindsight, the costliest on top."""
    title = "Which steps were forecast how well?"
    if steps.empty:
        return nothing(title, _NOTHING)
    found = steps.head(_MOST_STEPS)
    note = "Median absolute error as a share of the time it took (attempts); on top the steps that were off by the most seconds in all."
    hovers = [
        f"our forecast: {share(row.error_share)}, {count(row.attempts)} attempts of about {duration(row.run_time_s)}, "
        f"off by {duration(row.off_s)} in all"
        for row in found.itertuples()
    ]
    return beside_the_best_rule(title, note, found, _names(found), hovers)


def coverage(steps: Frame) -> go.Figure:
    """How many outcomes of each step lay in the forecast interval, with the range that so few outcomes leave open."""
    title = "Did the intervals hold nine in ten?"
    known = steps[steps["coverage_share"].notna()].head(_MOST_STEPS)
    if known.empty:
        return nothing(title, "No forecast with an interval has met its outcome yet: an interval needs five outcomes before it.")
    note = "Share of the outcomes (attempts) inside the 5 to 95 % interval, and how far so few may be off by chance."
    names = _names(known)
    ranges = [_wilson(row.coverage_share, row.attempts) for row in known.itertuples()]
    holds = [low <= PROMISED <= high for low, high in ranges]
    drawn = figure(title, note, height=170 + 26 * len(known))
    drawn.add_vline(x=PROMISED, line={"color": RULE, "dash": "dot"})
    for fits, name, colour in ((True, "may be 90 %", OURS), (False, "is not 90 %", OUTCOMES["failure"])):
        chosen = [place for place, held in enumerate(holds) if held is fits]
        shares = [float(known["coverage_share"].iloc[place]) for place in chosen]
        drawn.add_scatter(
            x=shares, y=[names[place] for place in chosen], mode="markers", name=name, marker={"size": 9, "color": colour},
            error_x={
                "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": colour,
                "array": [ranges[place][1] - at for place, at in zip(chosen, shares, strict=True)],
                "arrayminus": [at - ranges[place][0] for place, at in zip(chosen, shares, strict=True)],
            },
            hovertext=[f"{share(at)} of {count(known['attempts'].iloc[place])}" for place, at in zip(chosen, shares, strict=True)],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    drawn.update_layout(xaxis={"title": {"text": "share of outcomes in the interval"}, "tickformat": ".0%", "range": [0, 1.02]})
    drawn.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    return drawn


def error_by_history(table: Frame) -> go.Figure:
    """The median relative error by how many outcomes of the step were known, for our forecast and two rules people use."""
    title = "How much history does a forecast need?"
    known = scored_attempts(table)
    if known.empty:
        return nothing(title, _NOTHING)
    bins = [name for name in ("1-4", "5-19", "20+") if (known["history"] == name).any()]
    drawn = figure(
        title, "Median absolute error as a share of the time it took, by outcomes of the step known before.", height=340
    )
    bars = (("p50", "our forecast", OURS), ("median_of_10", "median of the last 10", RULE), ("last", "the last one", "#c9d1d9"))
    for column, name, colour in bars:
        errors = ((known[column] - known["value"]).abs() / known["value"]).groupby(known["history"]).median()
        drawn.add_bar(
            x=[f"{each} known<br>{count((known['history'] == each).sum())} attempts" for each in bins],
            y=[float(errors[each]) for each in bins], name=name, marker={"color": colour},
            text=[share(float(errors[each])) for each in bins], textposition="outside",
            hovertemplate="%{text}<extra>" + name + "</extra>",
        )  # fmt: skip
    drawn.update_layout(
        barmode="group", yaxis={"title": {"text": "median absolute error"}, "tickformat": ".0%", "rangemode": "tozero"}
    )
    return drawn


def attempts_against_forecasts(table: Frame) -> go.Figure:
    """Every replayed attempt: what was forecast for it against what it took."""
    title = "Forecast against what came, attempt by attempt"
    known = scored_attempts(table)
    if known.empty:
        return nothing(title, _NOTHING)
    inside = ((known["value"] >= known["p05"]) & (known["value"] <= known["p95"])).mean()
    note = f"On the line the forecast was exact; {share(float(inside))} of {count(len(known))} attempts lay in their interval."
    drawn = figure(title, note, height=480)
    low, high = min(known["p50"].min(), known["value"].min()), max(known["p50"].max(), known["value"].max())
    drawn.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": RULE, "dash": "dot"}, name="exact", hoverinfo="skip"
    )
    for place, (job, rows) in enumerate(known.groupby("job_name")):
        drawn.add_scatter(
            x=rows["p50"], y=rows["value"], mode="markers", name=label(job, 30),
            marker={"size": 6, "opacity": 0.7, "color": list(CAUSES.values())[place % len(CAUSES)]},
            hovertext=[
                f"{label(row.job_name)} / {label(row.step)} {label(row.partition_key or '')}<br>"
                f"forecast {duration(row.p50)} ({duration(row.p05)} to {duration(row.p95)}), took {duration(row.value)}"
                for row in rows.itertuples()
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip
    drawn.update_layout(
        xaxis=log_duration_axis(low, high, "forecast run time"), yaxis=log_duration_axis(low, high, "run time it took")
    )
    return drawn


def _names(steps: Frame) -> list[str]:
    return [f"{label(row.job_name, 22)} / {label(row.step, 22)} ({count(row.attempts)})" for row in steps.itertuples()]


def _wilson(part: float, number: float) -> tuple[float, float]:
    """The 95 % range of a share seen in `number` outcomes (Wilson 1927).

    >>> [round(end, 2) for end in _wilson(0.9, 10)]
    [0.6, 0.98]
    """
    middle = (part + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
    half = _Z / (1 + _Z**2 / number) * (part * (1 - part) / number + _Z**2 / (4 * number**2)) ** 0.5
    return middle - half, middle + half
