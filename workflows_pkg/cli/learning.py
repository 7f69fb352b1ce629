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
from workflows_pkg.release.apply import ADVICE_ONLY, MAY_TUNE, apply_to_tuning, undo, undo_in_tuning
from workflows_pkg.release.apply import apply as apply_suggestion
from workflows_pkg.release.durable import replace
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.report.comparison import comparison_table, rule_comparison
from workflows_pkg.report.rests_on import rests_on
from workflows_pkg.report.tables import quantity, words
from workflows_pkg.spec.loader import load
from workflows_pkg.spec.source import read_text
from workflows_pkg.spec.tuning import FILE as TUNING_FILE
from workflows_pkg.spec.tuning import entries, load_tuning
from workflows_pkg.steps.discovery import discover
from workflows_pkg.workbench.learning import learn, record_versions, refresh_suggestions
from workflows_pkg.workbench.news import has_news


@click.command()
@click.argument("job", required=False)
@click.option("--train/--no-train", "training", default=True, help="Learn from what is new first.")
@click.option(
    "--compare", is_flag=True, help="Show the error beside every simple rule's on the same attempts, replayed in order."
)
@home_option
@json_option
def forecast(job: str | None, training: bool, compare: bool, home: Path | None, as_json: bool) -> None:
    """How long the next run will wait, start and take, what it will cost, how likely it fails, and what memory its steps should ask for.

    JOB limits the answer to one workflow or job, and shows its steps and what each forecast rests on. An interval holds 90 of 100 cases;
    the error of the simple rules stands beside.
    """
    folder = resolve_home(home)
    if training and has_news(folder):
        note("learning from new runs ...")
        learn(folder)
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
    values = [
        one.model_dump() | {"basis": json.loads(one.basis) if one.basis else None, "rests_on": rests_on(one)} for one in shown
    ]
    answer(values, as_json, lambda: listing(rows, figures) + (_reasons(shown) if job is not None else "") if rows else nothing)


def _reasons(forecasts: list[Forecast]) -> str:
    """What each forecast rests on, a paragraph per step."""
    lines: list[str] = []
    for step in dict.fromkeys(one.step for one in forecasts):
        lines += ["", step or "whole run"]
        told = [one for one in forecasts if one.step == step and one.quantity not in _TOLD_WITH]
        lines += [f"  {words(one.quantity)}: {rests_on(one)}" for one in told]
    return "\n" + "\n".join(lines)


_TOLD_WITH = frozenset({"cost_usd", "memory_retry_mib", "time_left_s", "whole_time_s"})
"""Quantities that rest on the same as another of their step."""


@click.command()
@click.argument("job", required=False)
@home_option
@json_option
def advise(job: str | None, home: Path | None, as_json: bool) -> None:
    """Suggest changes, each with its evidence and the effect to expect; no suggestion is a good answer.

    Two kinds so far: a retry policy that fits how failures pass, and a timeout learned from how long attempts take. JOB limits the
    answer to one workflow or job.
    """
    folder = resolve_home(home)
    found = refresh_suggestions(folder).suggestions
    known = {*VersionStore(folder).names(), *_jobs(folder)}
    if job is not None and job not in known:
        raise NotFound("workflow or job", job, known)
    chosen = [s for s in found if job is None or s.workflow == job]
    lines = [_suggestion_text(suggestion) for suggestion in chosen]
    nothing = "no suggestion: nothing in the history supports one yet"
    answer([_suggestion_value(s) for s in chosen], as_json, "\n\n".join(lines) if lines else nothing)


@click.command()
@click.argument("suggestion", required=False)
@click.option(
    "--write", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Also write it into this workflow file."
)
@click.option(
    "--tuning",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The tuning file of a job without a spec.  [default: ./{TUNING_FILE}]",
)
@click.option(
    "--undo",
    "undone",
    metavar="WORKFLOW|SUGGESTION",
    help="Go back to the version before the active one of this workflow, or take this suggestion out of the tuning file.",
)
@home_option
@json_option
def apply(
    suggestion: str | None, write: Path | None, tuning: Path | None, undone: str | None, home: Path | None, as_json: bool
) -> None:
    """Make SUGGESTION the next version of its workflow, and the one that runs from now on.

    The author's file stays as it is unless --write names it. --undo goes back.

    For a job without a spec the suggestion becomes an entry in the tuning file, which the code location reads when it is loaded
    again; a suggestion about a schedule's cron is advice only, and is shown.
    """
    folder = resolve_home(home)
    store = VersionStore(folder)
    if (suggestion is None) == (undone is None):
        raise click.UsageError("Name a SUGGESTION (see: workflows advise) or use --undo WORKFLOW.")
    with open_history(folder) as connection:
        known = read(connection, Suggestion)
    named = None if undone in store.names() else _without_spec(known, suggestion or undone or "")
    if named is not None:
        if write is not None:
            raise SetupError(f"{named.workflow} has no workflow file.", fix="Use --tuning FILE.")
        answer(*_tune(named, undone is not None, tuning, folder, as_json))
        return
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


def _without_spec(known: list[Suggestion], suggestion_id: str) -> Suggestion | None:
    """The one suggestion of this id that is about a job without a spec; None: there is none, or it is about a workflow."""
    matches = [s for s in known if suggestion_id and s.suggestion_id.startswith(suggestion_id)]
    return matches[0] if len(matches) == 1 and matches[0].kind in (*MAY_TUNE, *ADVICE_ONLY) else None


def _tune(suggestion: Suggestion, undone: bool, tuning: Path | None, folder: Path, as_json: bool) -> tuple[Any, bool, str]:
    """Writes the suggestion into the tuning file, or takes it out; what to answer."""
    if suggestion.kind in ADVICE_ONLY:
        lines = [f"{suggestion.title}", "nothing was changed: this is advice only, a cron stands in your code"]
        for change in json.loads(suggestion.change):
            lines += [f"  {change['path']}", f"  - {change['before']}", f"  + {change['after']}"]
        return _suggestion_value(suggestion), as_json, "\n".join(lines)
    file = tuning or Path(TUNING_FILE)
    if tuning is None and not file.exists():
        raise SetupError(
            f"There is no {TUNING_FILE} here.",
            fix=f"Name the file that your code passes to instrument(defs, tuning=...): --tuning {TUNING_FILE} makes a new one.",
        )
    if not file.absolute().parent.is_dir():
        raise SetupError(f"There is no folder {file.absolute().parent}.", fix="Name a file in a folder that exists.")
    with writer(folder) as history:  # held before the file is touched: what is applied is also known to be
        load_tuning(file)  # tells what is wrong with it under its own name
        before = read_text(file) if file.exists() else ""
        text, changed = undo_in_tuning(suggestion, before) if undone else apply_to_tuning(suggestion, before)
        if text != before or not file.exists():
            replace(file, text.encode())
        history.upsert(Suggestion, [changed])
    value = {"suggestion": changed.suggestion_id, "status": changed.status, "file": str(file), "entries": entries(text)}
    if undone:
        return value, as_json, f"{file} is without it again: {suggestion.title}\nreload the code location"
    lines = [
        f"{file}: {suggestion.title}",
        *(f"  {address}: {json.dumps(entry)}" for address, entry in json.loads(suggestion.spec).items()),
    ]
    lines += [
        "reload the code location, whose code says instrument(defs, tuning=...)",
        f"undo with: workflows apply --undo {suggestion.suggestion_id}",
    ]
    return value, as_json, "\n".join(lines)


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
        f"    {_how(suggestion)}"
    )


def _how(suggestion: Suggestion) -> str:
    """What to type; the entry for a job without a spec goes into the file that its code location reads."""
    command = f"workflows apply {suggestion.suggestion_id}"
    if suggestion.kind in ADVICE_ONLY:
        return f"advice only, it stands in your code; show the change with: {command}"
    if suggestion.kind in MAY_TUNE:
        return f"do it with: {command} --tuning {TUNING_FILE}  (the file that your code gives to instrument)"
    return f"do it with: {command}"


def _jobs(home: Path) -> set[str]:
    """Every job that has run here."""
    with open_history(home) as connection:
        return {name for (name,) in connection.execute("select distinct job_name from runs").fetchall()}


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
