"""How is an evaluation seen? One page: gains per trace, whether intervals and risks keep their promise, and what history is worth.

Everything on it is a figure of the measures that `workflows evaluate --json` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import plotly.graph_objects as go

from workflows_pkg.prediction.evaluation import duration, failure, memory
from workflows_pkg.prediction.evaluation.evaluate import Evaluation
from workflows_pkg.prediction.evaluation.measures import Measure
from workflows_pkg.report.axes import figure, label
from workflows_pkg.report.document import Section, document, write_document
from workflows_pkg.report.evaluation import evaluation_text
from workflows_pkg.report.html_tables import escaped
from workflows_pkg.report.tables import count, instant
from workflows_pkg.report.theme import CAUSES, OURS, OUTCOMES, RULE

_WIDTH = 240
"""Characters of a line in the tables below the pictures."""
_COLOURS = tuple(CAUSES.values())
_PROMISED, _GOOD = 90.0, (88.0, 92.0)
_SHARES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
_RARE = 3.0
"""Share of tasks in % that a memory rule may kill to be compared with."""


def write_evaluation(found: Sequence[Evaluation], path: Path, *, now: datetime) -> Path:
    """Writes the page and returns its path; raises SetupError where it cannot be written."""
    traces = dict.fromkeys(one.trace for one in found)
    return write_document(
        document(
            "How good are the forecasts?",
            f"{count(len(traces))} traces; written {instant(now)} UTC",
            "<p>Attempts replayed in order of submission; each forecast knows only what had ended before. Rules are chosen afterwards, "
            "per trace and metric, which no forecaster could have done.</p>",
            [part for part in (_duration(found), _memory(found), _failure(found)) if part is not None],
        ),
        path,
    )


def _duration(found: Sequence[Evaluation]) -> Section | None:
    by_metric = _measures(found, duration.NAME)
    if "WAPE by step" not in by_metric:
        return None
    figures = {
        "e-gain": _beside("Error of run times", "Sum of errors over sum of truths, mean over steps.", by_metric["WAPE by step"])
    }
    if held := by_metric.get("coverage of the 90 % interval"):
        figures["e-held"] = _held(held)
        figures["e-below"] = _below(by_metric)
    figures["e-history"] = _by_history(by_metric)
    return Section(duration.NAME, "Duration", "", figures, _tables(found, duration.NAME))


def _memory(found: Sequence[Evaluation]) -> Section | None:
    by_metric = _measures(found, memory.NAME)
    wasted, killed = by_metric.get("wasted, warm"), by_metric.get("tasks killed, warm")
    if not wasted or not killed:
        return None
    title, note = (
        "Memory wasted and tasks killed",
        "Of each trace ours and every rule, wasted memory as a share of what the presets waste.",
    )
    drawn = figure(title, note, height=420)
    for place, (waste, kills) in enumerate(zip(wasted, killed, strict=True)):
        preset = waste.baselines.get(memory.PRESET, 0.0)
        if not preset > 0 or waste.ours is None or kills.ours is None:
            continue
        colour, name = _COLOURS[place % len(_COLOURS)], label(waste.trace, 40)
        rules = [rule for rule in waste.baselines if rule in kills.baselines]
        shown = [(kills.baselines[rule], waste.baselines[rule] / preset, rule) for rule in rules]
        for symbol, size, points in (("circle-open", 7, shown), ("circle", 12, [(kills.ours, waste.ours / preset, "ours")])):
            drawn.add_scatter(
                x=[killed_share for killed_share, _, _ in points], y=[wasted_share for _, wasted_share, _ in points],
                mode="markers", name=name, legendgroup=name, showlegend=size > 7,
                marker={"symbol": symbol, "size": size, "color": colour},
                hovertext=[label(method.replace("_", " ")) for _, _, method in points],
                hovertemplate=f"{name}<br>%{{hovertext}}: %{{x:.1f}} % killed, %{{y:.0%}} of the presets' waste<extra></extra>",
            )  # fmt: skip
    drawn.add_vline(x=_RARE, line={"color": RULE, "dash": "dot"}, annotation_text=f"{_RARE:.0f} %")
    drawn.update_layout(
        xaxis={"title": {"text": "tasks killed, %"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "wasted, share of what presets waste"}, "tickformat": ".0%", "type": "log", "tickvals": _SHARES},
    )
    return Section(memory.NAME, "Memory", "", {"e-memory": drawn}, _tables(found, memory.NAME))


def _failure(found: Sequence[Evaluation]) -> Section | None:
    by_metric = _measures(found, failure.NAME)
    if "AUC" not in by_metric:
        return None
    figures = {
        "e-auc": _beside("Who fails is ranked how well?", "Area under the ROC curve; 0.5 is chance.", by_metric["AUC"]),
        "e-risk": _risks(by_metric),
    }
    return Section(failure.NAME, "Failure", "", figures, _tables(found, failure.NAME))


def _beside(title: str, note: str, measures: Sequence[Measure]) -> go.Figure:
    """Ours beside the rule best in hindsight, one line per trace, the largest gain on top."""
    known = sorted((one for one in measures if one.ours is not None and one.best()), key=lambda one: -(one.gain() or 0.0))
    drawn = figure(title, note, height=170 + 26 * len(known))
    names = [label(one.trace, 36) for one in known]
    ours, best, rules = _columns(known)
    better = [(one.gain() or 0.0) >= 0 for one in known]
    for name, mine, rule, gains in zip(names, ours, best, better, strict=True):
        drawn.add_scatter(
            x=[mine, rule], y=[name, name], mode="lines", showlegend=False, hoverinfo="skip",
            line={"color": OURS if gains else OUTCOMES["failure"], "width": 2},
        )  # fmt: skip
    for values, texts, name, marker in (
        (best, rules, "best rule in hindsight", {"symbol": "diamond-open", "size": 10, "color": RULE, "line": {"width": 2}}),
        (ours, ["ours"] * len(known), "ours", {"size": 9, "color": OURS}),
    ):
        drawn.add_scatter(
            x=values, y=names, mode="markers", name=name, marker=marker,
            hovertext=[f"{label(text.replace('_', ' '))}: {value:.3g}" for text, value in zip(texts, values, strict=True)],
            hovertemplate="%{y}<br>%{hovertext}<extra></extra>",
        )  # fmt: skip
    unit = known[0].unit if known else ""
    drawn.update_layout(xaxis={"title": {"text": f"{known[0].metric}{', ' + unit if unit else ''}" if known else ""}})
    drawn.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    return drawn


def _columns(known: Sequence[Measure]) -> tuple[list[float], list[float], list[str]]:
    best = [one.best() or ("", 0.0) for one in known]
    return [one.ours or 0.0 for one in known], [value for _, value in best], [name for name, _ in best]


def _held(measures: Sequence[Measure]) -> go.Figure:
    drawn = figure(
        "Do the intervals hold nine in ten?",
        "Share of outcomes inside, by trace; wanted: between the lines.",
        height=170 + 26 * len(measures),
    )
    names = [label(one.trace, 36) for one in measures]
    for end in _GOOD:
        drawn.add_vline(x=end, line={"color": RULE, "dash": "dot"})
    history = [one.baselines.get(duration.ENDS_LABEL) for one in measures]
    drawn.add_scatter(
        x=history, y=names, mode="markers", name=duration.ENDS_LABEL,
        marker={"symbol": "diamond-open", "size": 10, "color": RULE, "line": {"width": 2}},
    )  # fmt: skip
    drawn.add_scatter(x=[one.ours for one in measures], y=names, mode="markers", name="ours", marker={"size": 9, "color": OURS})
    drawn.update_layout(xaxis={"title": {"text": "inside the 90 % interval, %"}})
    drawn.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    return drawn


def _below(by_metric: Mapping[str, Sequence[Measure]]) -> go.Figure:
    """What share of the truths lay below each quantile, against the share that should."""
    drawn = figure(
        "Are the quantiles calibrated?", "On the line as many lie below a quantile as it says; one line per trace.", height=420
    )
    said = (5.0, 50.0, 95.0)
    drawn.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line={"color": RULE, "dash": "dot"}, name="exact", hoverinfo="skip")
    traces = [one.trace for one in by_metric.get(duration.BELOW[0], ())]
    for place, trace in enumerate(traces):
        came = [next((one.ours for one in by_metric.get(name, ()) if one.trace == trace), None) for name in duration.BELOW]
        drawn.add_scatter(
            x=said, y=came, mode="lines+markers", name=label(trace, 36), line={"width": 1, "color": _COLOURS[place % len(_COLOURS)]},
            hovertemplate=f"{label(trace, 36)}<br>%{{y:.1f}} % below the %{{x:.0f}} % quantile<extra></extra>",
        )  # fmt: skip
    drawn.update_layout(xaxis={"title": {"text": "quantile, %"}}, yaxis={"title": {"text": "truths below it, %"}})
    return drawn


def _by_history(by_metric: Mapping[str, Sequence[Measure]]) -> go.Figure:
    """The mean over traces of our error and of the best rule's, by how many outcomes of the step were known."""
    drawn = figure(
        "How much history does a forecast need?",
        "Mean over the traces that have such attempts; outcomes of the step known before.",
        height=340,
    )
    rows = {
        label_: [one for one in by_metric.get(f"WAPE by step, history {label_}", ()) if one.ours is not None and one.best()]
        for label_ in duration.HISTORY_BINS
    }
    rows = {name: measures for name, measures in rows.items() if measures}
    names = [f"{name} known<br>{count(len(measures))} traces" for name, measures in rows.items()]
    means = [[sum(values) / len(values) for values in _columns(measures)[:2]] for measures in rows.values()]
    for title, colour, place in (("ours", OURS, 0), ("best rule in hindsight", RULE, 1)):
        values = [both[place] for both in means]
        drawn.add_bar(
            x=names,
            y=values,
            name=title,
            marker={"color": colour},
            text=[f"{value:.0f} %" for value in values],
            textposition="outside",
        )
    drawn.update_layout(barmode="group", yaxis={"title": {"text": "error, %"}, "rangemode": "tozero"})
    return drawn


def _risks(by_metric: Mapping[str, Sequence[Measure]]) -> go.Figure:
    """What share failed of those told a risk, against the risk; larger dots are more attempts."""
    drawn = figure(
        "Are the risks calibrated?",
        "On the line as many failed as were told; one line per trace, larger dots: more attempts.",
        height=420,
    )
    drawn.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line={"color": RULE, "dash": "dot"}, name="exact", hoverinfo="skip")
    middles = {name: 100 * (place + 0.5) / len(failure.TOLD) for place, name in enumerate(failure.TOLD)}
    for place, trace in enumerate(dict.fromkeys(one.trace for one in by_metric["AUC"])):
        told = [(middles[name], one) for name in failure.TOLD for one in by_metric.get(name, ()) if one.trace == trace]
        drawn.add_scatter(
            x=[middle for middle, _ in told], y=[one.ours for _, one in told], mode="lines+markers", name=label(trace, 36),
            line={"width": 1, "color": _COLOURS[place % len(_COLOURS)]},
            marker={"size": [4 + min(one.rows, 2500) ** 0.5 / 4 for _, one in told]},
            hovertext=[f"{one.ours:.1f} % failed of {count(one.rows)} told about {middle:.0f} %" for middle, one in told],
            hovertemplate=f"{label(trace, 36)}<br>%{{hovertext}}<extra></extra>",
        )  # fmt: skip
    drawn.update_layout(xaxis={"title": {"text": "risk told, %"}}, yaxis={"title": {"text": "failed, %"}})
    return drawn


def _measures(found: Sequence[Evaluation], question: str) -> dict[str, list[Measure]]:
    by_metric: dict[str, list[Measure]] = {}
    for evaluation in found:
        if evaluation.question == question:
            for one in evaluation.measures:
                by_metric.setdefault(one.metric, []).append(one)
    return by_metric


def _tables(found: Sequence[Evaluation], question: str) -> str:
    text = evaluation_text([one for one in found if one.question == question], _WIDTH)
    return f"<details><summary>The figures, beside every rule</summary><pre>{escaped(text)}</pre></details>"
