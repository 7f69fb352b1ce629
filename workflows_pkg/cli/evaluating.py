"""The command that judges the predictors on recorded traces."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from workflows_pkg.cli.output import answer, json_option, note
from workflows_pkg.errors import SetupError
from workflows_pkg.history.layout import Layout
from workflows_pkg.history.store import open_history
from workflows_pkg.history.team.place import not_shared
from workflows_pkg.prediction.evaluation.evaluate import QUESTIONS, Evaluation
from workflows_pkg.prediction.evaluation.evaluate import evaluate as evaluate_trace
from workflows_pkg.prediction.evaluation.measures import Measure, macro
from workflows_pkg.prediction.evaluation.traces import Trace, load, of_history
from workflows_pkg.report.evaluation import evaluation_text
from workflows_pkg.report.evaluation_page import write_evaluation


@click.command()
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="TRACE...")
@click.option(
    "--question",
    "questions",
    multiple=True,
    type=click.Choice([question.name for question in QUESTIONS]),
    help="Ask only this; may be repeated.  [default: everything a trace can answer]",
)
@click.option("--size", metavar="COLUMN", help="The column that holds the size of an attempt's input.  [default: the one found]")
@click.option(
    "--page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page with plots of it all here."
)
@json_option
def evaluate(traces: tuple[Path, ...], questions: tuple[str, ...], size: str | None, page: Path | None, as_json: bool) -> None:
    """How good the forecasts would have been on recorded attempts, beside every simple rule.

    TRACE is a Parquet or CSV file with one row per attempt, a folder of such files, or the folder of an instance with a history.
    Attempts are replayed in order of submission; a prediction sees only what had finished strictly before. Columns known only after an
    attempt has ended describe no row that is predicted. The outcomes of unfinished attempts are exchanged to see that no prediction
    depends on them; where one does, the command fails.

    Rows labelled train-... and test ask what steps learned on the machine 'local' take elsewhere. Benchmarks beside the trace, tables with
    the columns task (or step), machine and realtime, say how much faster or slower each machine is.
    """
    found: list[Evaluation] = []
    described: list[dict[str, Any]] = []
    for trace in _traces(traces, size):
        described.append(_described(trace))
        if trace.refused:
            note(f"{trace.name}: known only afterwards, so not used: {', '.join(trace.refused)}")
        if elsewhere := described[-1]["rows_on_benchmarked_machines"]:
            note(f"{trace.name}: {elsewhere} rows ran on machines of which there are benchmarks; the rules know nothing of these")
        for question in QUESTIONS:
            if not questions or question.name in questions:
                one = evaluate_trace(trace, question, note)
                if one is not None:
                    found.append(one)
    value = {
        "traces": described,
        "measures": [_value(one) for evaluation in found for one in evaluation.measures],
        "means": [_value(one) for one in macro(one for evaluation in found for one in evaluation.measures)],
        "leaks": [
            {"trace": one.trace, "question": one.question} | dataclasses.asdict(one.leak) for one in found if one.leak is not None
        ],
    }
    columns = shutil.get_terminal_size((200, 24)).columns
    answer(
        value,
        as_json,
        lambda: evaluation_text(found, columns) or "nothing here can be judged: no attempt has an outcome to score",
    )
    if page is not None and found:
        note(f"The page is {write_evaluation(found, page, now=datetime.now(UTC))}.")
    leaking = [one for one in found if one.leak is not None and one.leak.changed]
    if leaking:
        names = ", ".join(f"{one.question} on {one.trace}" for one in leaking)
        raise SetupError(f"Predictions depend on outcomes that were not known yet: {names}.", fix="Please report it.")


def _traces(paths: tuple[Path, ...], size: str | None) -> Iterator[Trace]:
    for path in paths:
        if path.is_dir() and Layout(path).published.exists():
            with not_shared(), closing(open_history(path)) as connection:
                yield of_history(connection, str(path))
        else:
            yield from load([path], size)


def _described(trace: Trace) -> dict[str, Any]:
    return {
        "trace": trace.name,
        "rows": len(trace.rows),
        "order": trace.clock,
        "size_from": trace.size_from,
        "features": [*trace.figures.columns, *trace.words.columns],
        "refused": list(trace.refused),
        "least_s": trace.least_s,
        "rows_on_benchmarked_machines": int((trace.rows["machine_factor"] != 1).sum()),
    }


def _value(measure: Measure) -> dict[str, Any]:
    best = measure.best()
    return dataclasses.asdict(measure) | {"best": best[0] if best else None, "gain": measure.gain()}
