"""`workflows scale`: how many workers now and in the coming hours, for a person, for Prometheus and for KEDA."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import duckdb
from click.core import ParameterSource

from workflows_pkg.cli.output import answer, home_option, interactive, json_option, note, resolve_home
from workflows_pkg.errors import SetupError, WorkflowsError, bounded
from workflows_pkg.history.layout import Layout
from workflows_pkg.history.store import open_history
from workflows_pkg.prediction.demand.work import CONSIDERED_DAYS, Slots, Work, read_work
from workflows_pkg.spec.durations import parse_positive_duration

if TYPE_CHECKING:
    from workflows_pkg.advisor.scaling.plan import Moment, Plan

MOST_START_S = 3600.0
"""Workers that take longer to start are planned by the day, not by the minute."""

ANEW_S = 3600
"""Seconds after which a server plans anew: the choice of a way rests on weeks, and an hour of the next day is known only then."""


@dataclass(frozen=True)
class Asked:
    """What was asked of both commands."""

    folder: Path
    slots: Slots
    starts_in_s: float
    allowed_wait_s: float | None

    def work(self, now: datetime, days: float) -> Work:
        """What the history has of it in the last `days` before `now`. Raises SetupError where it cannot be read."""
        try:
            with closing(open_history(self.folder)) as con:
                return read_work(con, self.slots, now, days)
        except duckdb.Error as error:
            raise SetupError(f"The history in {self.folder} cannot be read: {bounded(error, 200)}.") from error

    def plan(self, weeks: int | None = None) -> Plan:
        """The plan by the newest history; `weeks`: how many are replayed for show."""
        from workflows_pkg.advisor.scaling.plan import SHOWN_WEEKS, make_plan

        shown, now = SHOWN_WEEKS if weeks is None else weeks, datetime.now(UTC)
        return make_plan(self.work(now, CONSIDERED_DAYS), now, self.starts_in_s, self.allowed_wait_s, shown)

    def moment(self, plan: Plan) -> Moment:
        """How many workers there should be now, by the newest history."""
        from workflows_pkg.advisor.scaling.plan import workers_now
        from workflows_pkg.advisor.scaling.ways import LOOKED_BACK_DAYS

        now = datetime.now(UTC)
        return workers_now(plan, self.work(now, LOOKED_BACK_DAYS + 1), now)


def _seconds(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_positive_duration(text).total_seconds()
    except ValueError as error:
        raise click.BadParameter(f"{error}.", context, parameter) from None


def _start_seconds(context: click.Context, parameter: click.Parameter, text: str) -> float:
    seconds = _seconds(context, parameter, text) or 0.0
    if seconds > MOST_START_S:
        raise click.BadParameter(f"expected at most {MOST_START_S / 3600:g}h, found {text}.", context, parameter)
    return seconds


def _question(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is asked, before or after `serve`."""
    for option in (
        home_option,
        click.option(
            "--wait",
            metavar="DURATION",
            callback=_seconds,
            help="The cheapest with at most this mean wait. Default: the shortest wait for what reactive scaling would cost.",
        ),
        click.option(
            "--starts-in",
            default="2m",
            show_default=True,
            metavar="DURATION",
            callback=_start_seconds,
            help="How long a worker takes to start.",
        ),
        click.option(
            "--slots",
            type=click.Choice(["runs", "steps"]),
            default="runs",
            show_default=True,
            help="What takes a worker: a run, or a step.",
        ),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@_question
@click.option("--hours", type=click.IntRange(1, 24), default=12, show_default=True, help="How many coming hours to show.")
@json_option
@click.pass_context
def scale(
    context: click.Context, slots: Slots, starts_in: float, wait: float | None, hours: int, home: Path | None, as_json: bool
) -> None:
    """How many workers there should be now and in the coming hours, and what that would have cost in the past weeks.

    One worker has one slot. The past weeks are replayed beside reactive scaling as KEDA does it, a fixed number, and perfect knowledge.
    With `serve` the same is a page of metrics for Prometheus and KEDA.
    """
    if context.invoked_subcommand is not None:
        return
    asked = Asked(resolve_home(home), slots, starts_in, wait)
    from workflows_pkg.report.scaling import scaling_text, scaling_value

    if interactive():
        note("replaying the past weeks ...")
    plan = asked.plan()
    moment = asked.moment(plan)
    answer(scaling_value(plan, moment, slots, hours), as_json, lambda: scaling_text(plan, moment, slots, hours))


@scale.command()
@_question
@click.option("--port", type=click.IntRange(1, 65535), default=9477, show_default=True, help="Port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 in a cluster.")
@click.pass_context
def serve(context: click.Context, port: int, host: str, **here: Any) -> None:
    """Serve the figures at /metrics until Ctrl-C: `workflows_scale_workers` is what KEDA scales to.

    Every look reads the newest history; what brings it there (the workbench's sensor, or `workflows history sync --follow`) has to run.
    """
    from workflows_pkg.cli.metrics_server import listen, shared
    from workflows_pkg.report.scaling_metrics import metrics

    before = context.parent.params if context.parent is not None else {}
    said = {
        name: value if context.get_parameter_source(name) is ParameterSource.COMMANDLINE else before.get(name, value)
        for name, value in here.items()
    }
    asked = Asked(resolve_home(said["home"]), said["slots"], said["starts_in"], said["wait"])

    plans: list[Plan] = []

    def look() -> tuple[Plan, Moment]:
        if not Layout(asked.folder).published.exists():  # an empty history would ask for no worker
            raise SetupError(f"There is no history in {asked.folder} any more.", fix="Run: workflows history sync")
        return plans[-1], asked.moment(plans[-1])

    registry = metrics(asked.slots, shared(look), lambda error: note(f"the history could not be read: {error}"))
    plans.append(asked.plan(weeks=0))
    try:
        server, thread = listen(host, port, registry)
    except OSError as error:
        raise SetupError(
            f"Nothing can listen on {host}:{port}: {error.strerror}.", fix="Choose another with --host and --port."
        ) from error
    # also where whoever started it ignores Ctrl-C, and as the first process of a container, which no signal ends without a handler
    earlier = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    note(f"serving http://{host}:{port}/metrics; Ctrl-C ends it")
    try:
        while True:
            time.sleep(ANEW_S)
            try:
                plans[:] = [asked.plan(weeks=0)]
            except WorkflowsError as error:
                note(f"not planned anew, the last plan goes on: {error}")
    finally:
        for number, before_it in earlier.items():
            signal.signal(number, before_it)
        server.shutdown()
        server.server_close()
        thread.join()
