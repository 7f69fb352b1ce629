"""`workflows history ask`: the twelve questions by name."""

from __future__ import annotations

import inspect
from datetime import date, datetime
from pathlib import Path
from typing import Any, get_args

import click

from workflows_pkg.cli.output import answer, frame_text, home_option, json_option, resolve_home
from workflows_pkg.errors import NotFound, SetupError, bounded
from workflows_pkg.history.questions import QUESTIONS, Question
from workflows_pkg.history.store import open_history

_FLAGS = {
    "run_id": "--run",
    "workflow": "--workflow",
    "step": "--step",
    "since": "--since",
    "until": "--until",
    "by": "--by",
    "limit": "--limit",
    "exclude_trials": "--trials",
}
"""Filter of a question -> its option. A question's other parameters are for tests and notebooks."""

_DATE = click.DateTime(formats=["%Y-%m-%d"])


@click.command()
@click.argument("name", required=False, metavar="[QUESTION]")
@click.option("--run", "run_id", metavar="RUN_ID", help="The run, or the begin of its id.")
@click.option("--workflow", help="Only this workflow or job.")
@click.option("--step", help="Only this step.")
@click.option("--since", type=_DATE, metavar="YYYY-MM-DD", help="From this UTC day on.")
@click.option("--until", type=_DATE, metavar="YYYY-MM-DD", help="Before this UTC day.")
@click.option(
    "--by", metavar="PERIOD", help="How long a row's time is: hour, hour_of_day, day, week or month, as the question says."
)
@click.option("--limit", type=click.IntRange(1, 100_000), help="At most so many rows.")
@click.option("--trials", is_flag=True, help="Count trial runs too.")
@click.option("--csv", "as_csv", is_flag=True, help="Answer with CSV instead of text: units and columns as in --json.")
@home_option
@json_option
def ask(name: str | None, home: Path | None, as_json: bool, as_csv: bool, trials: bool, **given: Any) -> None:
    """Answer one of the twelve QUESTIONs; without one, list them.

    Add --json or --csv for programs; what the columns mean is said in docs/reference/questions.md.
    """
    if name is None:
        value = {question.name: {"title": question.title, "answer": question.answer} for question in QUESTIONS.values()}
        answer(value, as_json, _list())
        return
    question = QUESTIONS.get(name.replace("-", "_"))
    if question is None:
        raise NotFound("question", name, QUESTIONS)
    if as_csv and as_json:
        raise click.UsageError("--csv and --json cannot both be.")
    filters = _filters(question, given | {"exclude_trials": False if trials else None})
    with open_history(resolve_home(home)) as connection:
        if "run_id" in filters:
            filters["run_id"] = _whole_id(connection, filters["run_id"])
        frame = question.ask(connection, **filters)
    if as_csv:
        click.echo(frame.to_csv(index=False, lineterminator="\n"), nl=False)
    else:
        answer(frame, as_json, lambda: frame_text(frame))


def _list() -> str:
    lines = ["workflows history ask QUESTION", ""]
    for number, question in enumerate(QUESTIONS.values(), start=1):
        options = " ".join(
            f"{_FLAGS[name]} ..." if name in question.required else f"[{_FLAGS[name]}]"
            for name in question.filters
            if name in _FLAGS
        )
        lines += [f"{number:2}. {question.name}", f"    {question.title}", f"    {options}" if options else ""]
    return "\n".join(line for line in lines if line or line is lines[1])


def _filters(question: Question, given: dict[str, Any]) -> dict[str, Any]:
    """What was given, by the names of the question's parameters; raises UsageError for what it does not know or lacks."""
    filters = {name: value.date() if isinstance(value, datetime) else value for name, value in given.items() if value is not None}
    for name in filters:
        if name not in question.filters:
            known = ", ".join(_FLAGS[one] for one in question.filters if one in _FLAGS) or "no filter"
            raise click.UsageError(f"{question.name} does not take {_FLAGS[name]}. It takes {known}.")
    for name in question.required:
        if name not in filters:
            raise click.UsageError(f"{question.name} needs {_FLAGS[name]}.")
    if "by" in filters:
        periods = _periods(question)
        if filters["by"] not in periods:
            raise click.UsageError(f"{question.name} takes --by {', '.join(periods)}; found '{bounded(filters['by'], 40)}'.")
    since, until = filters.get("since"), filters.get("until")
    if isinstance(since, date) and isinstance(until, date) and since >= until:
        raise click.UsageError(f"--since {since} is not before --until {until}, so there is nothing to ask about.")
    return filters


def _periods(question: Question) -> tuple[str, ...]:
    """The values of the question's `by`."""
    return get_args(inspect.get_annotations(question.ask, eval_str=True)["by"])


def _whole_id(connection: Any, begin: str) -> str:
    """The one run whose id begins so; as it was given where there is none, for the question to say so."""
    found = connection.execute("select run_id from runs where starts_with(run_id, ?) limit 2", [begin]).fetchall()
    if len(found) > 1 and (begin,) not in found:
        raise SetupError(f"'{bounded(begin, 40)}' begins more than one run.", fix="Write more of it.")
    return found[0][0] if len(found) == 1 else begin
