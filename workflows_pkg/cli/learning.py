"""Commands that learn and improve: forecast, advise, apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from workflows_pkg.cli.output import answer, home_option, json_option, listing, note, resolve_home
from workflows_pkg.errors import NotFound, SetupError
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Forecast, Suggestion
from workflows_pkg.history.store import Writer, open_history, writer
from workflows_pkg.release.apply import apply as apply_suggestion
from workflows_pkg.release.apply import undo
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.report.comparison import comparison_table, rule_comparison
from workflows_pkg.report.tables import quantity, words
from workflows_pkg.spec.loader import load
from workflows_pkg.steps.discovery import discover
from workflows_pkg.workbench.learning import has_news, learn, record_versions, refresh_suggestions


@click.command()
@click.argument("job", required=False)
@click.option("--train/--no-train", "training", default=True, help="Learn from what is new first.")
@click.option(
    "--compare", is_flag=True, help="Show the error beside every simple rule's on the same attempts, replayed in order."
)
@home_option
@json_option
def forecast(job: str | None, training: bool, compare: bool, home: Path | None, as_json: bool) -> None:
    """How long the next run will wait, start and take, and what it will cost, with the error of the simple rules beside.

    JOB limits the answer to one workflow or job and shows its steps. An interval holds 90 of 100 cases.
    """
    folder = resolve_home(home)
    if training and has_news(folder):
        note("learning from new runs ...")
        with writer(folder) as history:
            learn(history, folder)
    with open_history(folder) as connection:
        latest = read(
            connection, Forecast, "(job_name, as_of) in (select (job_name, max(as_of)) from forecasts group by job_name)"
        )
        if compare:
            compared = rule_comparison(connection)
            answer(compared, as_json, lambda: comparison_table(compared))
            return
    jobs = {one.job_name for one in latest}
    if job is not None and job not in jobs:
        raise NotFound("forecast for job", job, jobs)
    shown = [one for one in latest if one.job_name == job or (job is None and (as_json or one.step == ""))]
    shown.sort(key=lambda one: (one.job_name, one.step, one.quantity))
    rows = [
        {
            "job": one.job_name,
            "step": one.step or "whole run",
            "what": words(one.quantity),
            "expected": quantity(one.p50, one.quantity),
            "from": quantity(one.p05, one.quantity),
            "to": quantity(one.p95, one.quantity),
            "n": one.sample_count,
            "by": one.predictor,
            "error": quantity(one.error_share, "error_share"),
            "best rule": one.best_rule or "-",
            "its error": quantity(one.best_rule_error_share, "error_share"),
        }
        for one in shown
    ]
    nothing = "nothing to forecast from yet; run something and sync: workflows history sync"
    figures = ("expected", "from", "to", "n", "error", "its error")
    answer([one.model_dump() for one in shown], as_json, lambda: listing(rows, figures) if rows else nothing)


@click.command()
@click.argument("workflow", required=False)
@home_option
@json_option
def advise(workflow: str | None, home: Path | None, as_json: bool) -> None:
    """Suggest changes, each with its evidence and the effect to expect; no suggestion is a good answer.

    Two kinds so far: a retry policy that fits how failures pass, and a timeout learned from how long attempts take.
    """
    folder = resolve_home(home)
    store = VersionStore(folder)
    if workflow is not None and workflow not in store.names():
        raise NotFound("workflow with a version", workflow, store.names())
    with writer(folder) as history:
        found = refresh_suggestions(history, store)
    chosen = [s for s in found if workflow is None or s.workflow == workflow]
    lines = [_suggestion_text(suggestion) for suggestion in chosen]
    nothing = "no suggestion: nothing in the history supports one yet"
    answer([_suggestion_value(s) for s in chosen], as_json, "\n\n".join(lines) if lines else nothing)


@click.command()
@click.argument("suggestion", required=False)
@click.option(
    "--write", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Also write it into this workflow file."
)
@click.option("--undo", "undone", metavar="WORKFLOW", help="Go back to the version before the active one of this workflow.")
@home_option
@json_option
def apply(suggestion: str | None, write: Path | None, undone: str | None, home: Path | None, as_json: bool) -> None:
    """Make SUGGESTION the next version of its workflow, and the one that runs from now on.

    The author's file stays as it is unless --write names it. --undo goes back.
    """
    folder = resolve_home(home)
    store = VersionStore(folder)
    if (suggestion is None) == (undone is None):
        raise click.UsageError("Name a SUGGESTION (see: workflows advise) or use --undo WORKFLOW.")
    if undone is not None:
        if undone not in store.names():
            raise NotFound("workflow with a version", undone, store.names())
        left = store.active(undone)
        active = undo(undone, store)
        with writer(folder) as history:
            for one in read(history.con, Suggestion, "suggestion_id = ?", [left.suggestion_id]):
                history.upsert(Suggestion, [one.model_copy(update={"status": "undone"})])
            record_versions(history, store)
        answer(_version_value(active), as_json, f"{undone} runs version {active.number} again ({active.reason})")
        return
    with writer(folder) as history:
        chosen = _find(history, str(suggestion))
        if write is not None and load(write, discover().params()).workflow != chosen.workflow:
            raise SetupError(f"{write} is not the file of {chosen.workflow}.", fix="Name the file that holds this workflow.")
        version = apply_suggestion(chosen, store)
        history.upsert(Suggestion, [chosen.model_copy(update={"status": "applied"})])
        record_versions(history, store)
    lines = [
        f"{chosen.workflow} runs version {version.number}: {chosen.title}",
        f"undo with: workflows apply --undo {chosen.workflow}",
    ]
    if write is not None:
        written = store.write_back(chosen.workflow, write)
        lines.append(f"wrote {written.path}; the file as it was is {written.backup}, its comments are only there")
    answer(_version_value(version), as_json, "\n".join(lines))


def _find(history: Writer, suggestion_id: str) -> Suggestion:
    known = read(history.con, Suggestion)
    matches = [s for s in known if s.suggestion_id.startswith(suggestion_id)]
    if len(matches) != 1:
        if not matches:
            raise NotFound("suggestion", suggestion_id, [s.suggestion_id for s in known])
        raise SetupError(f"'{suggestion_id}' begins {len(matches)} suggestions.", fix="Write more of it.")
    return matches[0]


def _suggestion_text(suggestion: Suggestion) -> str:
    changes = "\n".join(
        f"    {change['path']}: {change['before']} -> {change['after']}" for change in json.loads(suggestion.change)
    )
    return (
        f"{suggestion.suggestion_id}  {suggestion.workflow} / {suggestion.step}: {suggestion.title}\n{changes}\n"
        f"    expected: {_effect(suggestion)} in {suggestion.quantity}\n"
        f"    do it with: workflows apply {suggestion.suggestion_id}"
    )


def _effect(suggestion: Suggestion) -> str:
    if suggestion.effect is None:
        return "unknown change"
    low, high = (quantity(end, suggestion.quantity, signed=True) for end in (suggestion.effect_low, suggestion.effect_high))
    return f"{quantity(suggestion.effect, suggestion.quantity, signed=True)} a run (90 %: {low} to {high})"


def _suggestion_value(suggestion: Suggestion) -> dict[str, Any]:
    value = suggestion.model_dump()
    return value | {name: json.loads(value[name]) for name in ("change", "spec", "evidence")}


def _version_value(version: Any) -> dict[str, Any]:
    return {"workflow": version.workflow, "version": version.number, "digest": version.digest, "reason": version.reason}
