"""How is an evaluation read? Per question and metric a table: ours beside every simple rule, one line per trace, and the mean."""

from __future__ import annotations

from collections.abc import Sequence

from workflows_pkg.prediction.evaluation.evaluate import QUESTIONS, Evaluation
from workflows_pkg.prediction.evaluation.measures import Measure, macro
from workflows_pkg.report.tables import MISSING, Column, text_table

_LARGEST = 1e6
"""Figures from here on are written with an exponent: an unguarded regression can be off by any factor."""


def evaluation_text(found: Sequence[Evaluation], width: int) -> str:
    """The headline metrics of every question that any trace could answer; the best rule of a line is named with our gain over it."""
    parts: list[str] = []
    for question in QUESTIONS:
        measures = [one for evaluation in found if evaluation.question == question.name for one in evaluation.measures]
        for metric in question.headline:
            rows = [one for one in measures if one.metric == metric]
            if rows:
                parts.append(_metric_text(rows, width))
        leaks = [one.leak for one in found if one.question == question.name and one.leak is not None]
        if leaks:
            parts.append(
                f"leak check of {question.name}: {sum(one.changed for one in leaks)} of {sum(one.checked for one in leaks)} predictions "
                "changed when the outcomes of unfinished attempts were exchanged"
            )
    return "\n\n".join(parts)


def _metric_text(rows: Sequence[Measure], width: int) -> str:
    first = rows[0]
    names = list(first.baselines)
    shown = [*rows, *(macro(rows) if len(rows) > 1 else [])]
    columns = [Column("trace"), Column("rows", figures=True), Column("ours", figures=True)]
    columns += [Column(name.replace("_", " "), figures=True) for name in names]
    if first.better:
        columns += [Column("gain", figures=True), Column("over")]
    cells: list[list[str]] = []
    for one in shown:
        line = [one.trace, str(one.rows), _figure(one.ours), *(_figure(one.baselines.get(name)) for name in names)]
        if first.better:
            gain, best = one.gain(), one.best()
            line += [MISSING if gain is None else f"{100 * gain:+.1f} %", best[0].replace("_", " ") if best else MISSING]
        cells.append(line)
    wanted = {"low": ", lower is better", "high": ", higher is better"}.get(first.better, "")
    unit = f", {first.unit}" if first.unit else ""
    return f"{first.question}: {first.metric}{unit}{wanted}\n{text_table(columns, cells, width=width)}"


def _figure(value: float | None) -> str:
    if value is None or value != value:
        return MISSING
    if abs(value) >= _LARGEST:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
