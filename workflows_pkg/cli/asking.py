"""The `history` commands: land Dagster's event log in DuckDB, and ask it questions."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path

import click

from workflows_pkg.cli.archiving import archive, purge, restore
from workflows_pkg.cli.importing import import_
from workflows_pkg.cli.opening import open_shell, snapshot, take_over
from workflows_pkg.cli.output import answer, frame_text, home_option, json_option, note, resolve_home
from workflows_pkg.cli.progress import Progress
from workflows_pkg.cli.questioning import ask
from workflows_pkg.errors import BusyError, SetupError, bounded
from workflows_pkg.history import questions
from workflows_pkg.history.store import open_history, query
from workflows_pkg.orchestration.events import SyncResult, sync_events
from workflows_pkg.orchestration.sources import Source, open_source

FOLLOW_EVERY_S = 0.5
"""Pause between two looks at the instance: one that finds nothing takes some 50 ms of one core on PostgreSQL."""

FOLLOW_BUSY_EVENTS, FOLLOW_BUSY_S = 1_000, 0.3
"""Pause after a look that landed so many events: of an instance that writes thousands a second each is seen the later the longer the pause
is, and most of what a look costs does not depend on how many they are.
"""

FOLLOW_AGAIN_S = 5.0
"""Pause after a look that failed."""

FOLLOW_ANEW_S = 60.0
"""The instance is opened again this often, and after a look that failed: it may have moved, or its tables have another shape by now."""

_SHOWN = ["run_id", "workflow", "partition_key", "trigger", "outcome", "created_at", "queue_time_s", "run_time_s", "cost_usd"]
"""Columns of a run that fit a terminal; --json has all."""


@click.group()
def history() -> None:
    """What happened: land Dagster's event log in DuckDB, and ask it questions.

    Any DuckDB client can open history.duckdb in the instance's folder while it grows.
    """


history.add_command(ask)
history.add_command(import_)


@history.command()
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C: what happens is in history within seconds.")
@home_option
@json_option
def sync(follow: bool, home: Path | None, as_json: bool) -> None:
    """Read what is new in the instance's event log; doing it twice changes nothing.

    --follow is for a service beside the daemon; without it, the sensor of workbench() does the same every 5 seconds. The two get on with
    each other.
    """
    folder = resolve_home(home)
    with Progress() as progress:
        result = sync_events(folder, folder, progress=partial(progress.counted, "read"))
    answer(vars(result), as_json, _landed(result))
    if not follow:
        return
    said = ""
    opened, until = ExitStack(), 0.0
    source: Source | None = None
    while True:
        time.sleep(FOLLOW_BUSY_S if result.events >= FOLLOW_BUSY_EVENTS else FOLLOW_EVERY_S)
        try:
            if source is None or time.monotonic() > until:
                opened.close()
                source, until = opened.enter_context(open_source(folder)), time.monotonic() + FOLLOW_ANEW_S
            result = sync_events(source, folder)
        except (BusyError, SetupError) as error:  # a database that restarts, or another writer, is no reason to leave
            if error.message != said:
                note(f"{error.message} Trying again.")
            said, source = error.message, None
            time.sleep(FOLLOW_AGAIN_S)
            continue
        said = ""
        if result.events or result.ticks or result.backfills or result.quarantined:
            if as_json:
                click.echo(json.dumps(vars(result)))  # a line each, so that they can be read as they come
            else:
                click.echo(f"{datetime.now().astimezone():%H:%M:%S} {_landed(result)}")


def _landed(result: SyncResult) -> str:
    text = f"{result.events:,} events of {result.runs:,} runs and {result.ticks:,} ticks in {result.seconds:.1f} s"
    if result.backfills:
        text += f"; {result.backfills:,} backfills"
    if result.quarantined:
        text += f"; {result.quarantined:,} could not be read: workflows history sql 'select * from quarantine'"
    return text


@history.command()
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@home_option
@json_option
def runs(limit: int, home: Path | None, as_json: bool) -> None:
    """The newest runs: outcome, and seconds queued, starting, running."""
    with open_history(resolve_home(home)) as connection:
        frame = questions.recent_runs(connection, limit=limit)
    answer(frame, as_json, lambda: frame_text(frame.filter(items=_SHOWN)))


@history.command()
@click.option("--workflow", help="Only this workflow or job.")
@home_option
@json_option
def steps(workflow: str | None, home: Path | None, as_json: bool) -> None:
    """The slowest steps."""
    with open_history(resolve_home(home)) as connection:
        frame = questions.slowest_steps(connection, workflow=workflow)
    answer(frame, as_json, lambda: frame_text(frame))


@history.command()
@home_option
@json_option
def failures(home: Path | None, as_json: bool) -> None:
    """Failures by cause, and what retrying cost."""
    with open_history(resolve_home(home)) as connection:
        causes, retries = questions.failures_by_cause(connection), questions.retry_cost(connection)
    answer({"causes": causes, "retries": retries}, as_json, lambda: f"{frame_text(causes)}\n\n{frame_text(retries)}")


@history.command()
@click.argument("question")
@home_option
@json_option
def sql(question: str, home: Path | None, as_json: bool) -> None:
    """Answer QUESTION, one SQL query over the tables of the data dictionary."""
    with open_history(resolve_home(home)) as connection:
        frame = query(connection, question)
    answer(frame, as_json, lambda: frame_text(frame))


@history.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@home_option
@json_option
def report(target: Path, home: Path | None, as_json: bool) -> None:
    """Write the HTML report, one file that needs nothing else, to TARGET."""
    from workflows_pkg.report.page import write_report  # plotly takes a second to import; only this command needs it

    if not target.parent.is_dir():
        raise SetupError(f"There is no folder {bounded(target.parent)}.", fix="Make it, or write somewhere else.")
    with open_history(resolve_home(home)) as connection:
        write_report(connection, target)
    answer({"file": target.resolve()}, as_json, f"wrote {target}")


for command in (open_shell, snapshot, take_over, archive, purge, restore):
    history.add_command(command)
