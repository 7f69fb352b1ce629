"""Commands that run things: a workflow here and now, the view of a run, the Dagster UI."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import click

from workflows_pkg.cli.output import answer, home_option, json_option, note, project_option, resolve_home
from workflows_pkg.errors import SetupError, WorkflowsError
from workflows_pkg.orchestration.instance import create_instance, open_instance
from workflows_pkg.orchestration.location import execute, load_location
from workflows_pkg.orchestration.progress import Follower, Moment, RunState, run_state
from workflows_pkg.orchestration.services import serve
from workflows_pkg.prediction.deadline import WARN_FROM, miss_by_clock
from workflows_pkg.prediction.lookup import Quantiles, expected
from workflows_pkg.report.expectation import at_risk_sentence, deadline_sentence
from workflows_pkg.report.tables import duration

_LOOK_EVERY_S = 0.5


@click.command()
@click.argument("workflow")
@click.option("--partition", help="The partition to run, such as 2013-01-01.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag for the run; may be given several times.")
@home_option
@project_option
@json_option
def run(
    workflow: str,
    partition: str | None,
    tags: tuple[str, ...],
    home: Path | None,
    project: Path,
    module: str | None,
    as_json: bool,
) -> None:
    """Run WORKFLOW (or any job of the code location) in this process and follow it.

    Exit code 0: it succeeded; 1: it failed.
    """
    folder = resolve_home(home)
    wanted = dict(_tag(text) for text in tags)
    location = load_location(project.resolve(), module)
    run_id = str(uuid.uuid4())
    with open_instance(folder) as instance:
        forecast = _expected(folder, workflow)
        if forecast is not None and not as_json:
            note(f"expected {duration(forecast.p50)} (9 of 10 between {duration(forecast.p05)} and {duration(forecast.p95)})")
        ended = threading.Event()
        follower = threading.Thread(target=_follow, args=(Follower(instance, run_id), ended, as_json, forecast), daemon=True)
        follower.start()
        try:
            execute(location, workflow, instance, run_id, partition, wanted)
        finally:
            ended.set()
            follower.join(timeout=10)
        state = run_state(instance, run_id)
    answer(_value(state), as_json, f"{state.status.lower()}  {state.job}  {_took(state)}{_kept(state)}  run {state.run_id}")
    if state.status != "SUCCESS":
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("run_id", required=False)
@click.option("--once", is_flag=True, help="Say where it stands and end.")
@home_option
@json_option
def watch(run_id: str | None, once: bool, home: Path | None, as_json: bool) -> None:
    """Follow a run until it ends: its steps as they happen, and how long it should still take.

    RUN_ID may be the beginning of one; left out, the newest run.
    """
    folder = resolve_home(home)
    with open_instance(folder) as instance:
        state = run_state(instance, run_id)
        follower = Follower(instance, state.run_id)
        note(f"run {state.run_id}  {state.job}")
        forecast, warned = None if as_json else _expected(folder, state.job), False
        while True:
            for moment in follower.news():
                _say(moment, as_json)
            state = run_state(instance, state.run_id)
            if state.finished or once:
                break
            warned = warned or _warn(forecast, state)
            time.sleep(_LOOK_EVERY_S)
    answer(_value(state), as_json, f"{state.status.lower()}  {state.job}  {_took(state)}{_kept(state)}{_left(folder, state)}")
    if state.finished and state.status != "SUCCESS":
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the webserver, on 127.0.0.1."
)
@home_option
@project_option
def ui(port: int, home: Path | None, project: Path, module: str | None) -> None:
    """Start the Dagster UI with its daemon and code server on the instance; Ctrl-C ends all of them.

    A folder that is not there yet, or empty, becomes a new instance.
    """
    chosen = home or Path(".home")
    if not chosen.exists() or not any(chosen.iterdir()):
        create_instance(chosen)
    serve(resolve_home(home), project.resolve(), module=module, port=port, say=note)


def _expected(home: Path, job: str) -> Quantiles | None:
    """The forecast run time; a table that cannot be read is told of and stops nothing."""
    try:
        return expected(home, job)
    except WorkflowsError as error:
        note(f"no forecast: {error}")
        return None


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SetupError(f"'{text}' is not a tag.", fix="Write --tag KEY=VALUE.")
    return key, value


def _follow(follower: Follower, ended: threading.Event, quiet: bool, forecast: Quantiles | None) -> None:
    warned = quiet or forecast is None
    while True:
        last = ended.is_set()
        for moment in follower.news():
            if not quiet:
                _say(moment, quiet)
        if last:
            return
        if not warned and follower.instance.has_run(follower.run_id):
            warned = _warn(forecast, run_state(follower.instance, follower.run_id))
        ended.wait(_LOOK_EVERY_S)


def _warn(forecast: Quantiles | None, state: RunState) -> bool:
    """Says once that a run in progress will probably miss its deadline; whether it was said."""
    gone = _seconds(state)
    if forecast is None or state.due_at is None or gone is None or state.finished:
        return False
    within_s = (state.due_at - datetime.now(UTC)).total_seconds()
    probability = miss_by_clock(forecast, gone, within_s)
    if probability < WARN_FROM:
        return False
    note(at_risk_sentence(state.due_at, within_s, probability))
    return True


def _say(moment: Moment, quiet: bool) -> None:
    if not quiet:
        step = f"{moment.step}  " if moment.step else ""
        note(f"{moment.at:%H:%M:%S}  {step}{moment.what}{': ' + moment.detail if moment.detail else ''}")


def _value(state: RunState) -> dict[str, object]:
    return {
        "run_id": state.run_id,
        "job": state.job,
        "status": state.status,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "run_time_s": _seconds(state),
        "due_at": state.due_at,
        "tags": state.tags,
    }


def _seconds(state: RunState) -> float | None:
    if state.started_at is None:
        return None
    return ((state.ended_at or datetime.now(UTC)) - state.started_at).total_seconds()


def _kept(state: RunState) -> str:
    """What came of the deadline of a run that has ended."""
    if state.due_at is None or state.ended_at is None:
        return ""
    late_s = (state.ended_at - state.due_at).total_seconds()
    return f"  {duration(abs(late_s))} {'after' if late_s > 0 else 'before'} its deadline"


def _took(state: RunState) -> str:
    seconds = _seconds(state)
    return "not started" if seconds is None else duration(seconds)


def _left(home: Path, state: RunState) -> str:
    forecast, gone = _expected(home, state.job), _seconds(state)
    if state.finished or forecast is None or gone is None:
        return ""
    left = f"  about {duration(max(forecast.p50 - gone, 0))} left (at most {duration(max(forecast.p95 - gone, 0))} in 19 of 20 cases)"
    if state.due_at is None:
        return left
    miss = miss_by_clock(forecast, gone, (state.due_at - datetime.now(UTC)).total_seconds())
    return f"{left}; {deadline_sentence(state.due_at, miss)}"
