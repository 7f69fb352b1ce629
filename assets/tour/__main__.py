"""`make run` after installing: python -m assets.tour --home .home. Safe to run again: it goes on where the last one ended."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from assets.data import prepare
from assets.neighbours.running import Neighbours, backup, neighbours
from assets.tour.console import Console
from assets.tour.learning import decide, land, learn_and_advise, shown_comparison, shown_forecasts, shown_summary, shown_verdict
from assets.tour.runs import FIRST_TIME, FURTHER_TIME, compiled_workflows, planned, run_all, run_by_daemon
from assets.tour.trial import PAIRS, try_version
from workflows_pkg.errors import WorkflowsError
from workflows_pkg.history.records import Suggestion
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.instance import create_instance, open_instance
from workflows_pkg.orchestration.services import refuse_where_served
from workflows_pkg.release.apply import apply, undo
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.report.page import write_report


def main() -> None:
    """Goes through the whole tour. Exit code 1 with one sentence where it cannot go on."""
    parser = argparse.ArgumentParser(prog="python -m assets.tour", description=main.__doc__)
    parser.add_argument("--home", type=Path, default=Path(".home"), help="folder of the instance (default: %(default)s)")
    home = parser.parse_args().home.resolve()
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    try:
        create_instance(home)
        refuse_where_served(home)
        console = Console(home / "tour.log")
        with console.stoppable():
            tour(home, console)
    except WorkflowsError as error:
        sys.exit(f"\nThe tour cannot go on: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")


def tour(home: Path, console: Console) -> None:
    """All parts in order. What they leave in `home` is complete after each."""
    data = home / "data"
    console.heading("Real data: every flight that left New York City in 2013, and the weather it met")
    prepare(data)
    with neighbours(home, data) as around, open_instance(home) as instance:
        with backup(home, data):
            make_history(instance, home, data, console)
        landed = land(home, console)
        console.say(f"  {landed.events:,} events of {landed.runs} runs landed in DuckDB in {landed.seconds:.1f} s")
        console.heading("Learning from the history")
        suggestions = learn_and_advise(instance, home, console)
        console.say(shown_summary(home, console))
        console.say("\nForecasts of the next runs\n" + shown_forecasts(home, console))
        console.say("\nForecasts beside the simple rules\n" + shown_comparison(home, console))
        improve(suggestions, instance, home, around, console)
        land(home, console)
        learn_and_advise(instance, home, console)  # so that forecasts and advice in the UI know of what was decided
        told = len(around.received())
    with open_history(home) as con:
        report = write_report(con, home / "report.html")
    closing(home, report, told, console)


def make_history(instance: dg.DagsterInstance, home: Path, data: Path, console: Console) -> None:
    """Runs the example workflows among their neighbours: in this process, and the last six through daemon and code server."""
    compiled = compiled_workflows(home)
    counts = FIRST_TIME if instance.get_runs_count() < sum(FIRST_TIME.values()) else FURTHER_TIME
    console.heading(f"{sum(counts.values())} runs in this process")
    console.say("  Neighbours: a weather service that answers 429 when its bucket is empty, a backup that locks the warehouse,")
    console.say("  and months whose join needs more memory than the step is given.")
    run_all(planned(instance, counts), compiled, instance, data, console)
    console.heading("Six runs through daemon, code server and run coordinator, one of them asked for by the file sensor")
    made, succeeded = run_by_daemon(instance, home, data, console)
    console.say(f"  {succeeded} of {made} succeeded" + ("" if made == succeeded else "; the others failed for the reasons above"))


def improve(
    suggestions: Sequence[Suggestion], instance: dg.DagsterInstance, home: Path, around: Neighbours, console: Console
) -> None:
    """Applies one suggestion as a new version, tries it against the old one, and keeps or undoes it by the verdict."""
    # A workflow that runs by partitions can be given the inputs of its past runs again; for the step that asks the weather
    # service even the state of the server, so that one comes first.
    possible = [each for each in suggestions if each.workflow in ("flights_daily", "late_report")]
    chosen = min(possible, key=lambda each: each.step != "weather", default=None)
    if chosen is None:
        console.heading("No suggestion to try")
        console.say("  The history supports none; that is an answer too. Run the tour again for more history.")
        return
    console.heading(f"Trying suggestion {chosen.suggestion_id}: {chosen.title}")
    version = apply(chosen, VersionStore(home), author="tour")
    console.say(
        f"  {chosen.workflow} version {version.number}, made from version {chosen.based_on}; the workflow file is untouched."
    )
    console.say(
        f"  {PAIRS} pairs of runs in the order old new, new old, …; both runs of a pair take the same partition and find the"
    )
    console.say("  weather service in the same state, as runs of the history met them. The backup rests meanwhile.")
    try:
        verdict, entry = try_version(chosen, version, instance, home, around, console)
    except BaseException:
        undo(chosen.workflow, VersionStore(home))  # what was not judged must not stay active
        raise
    land(home, console)
    outcome = decide(home, chosen, verdict, entry)
    console.say(shown_verdict(chosen, verdict, entry, console))
    console.say(f"  {outcome}")


def closing(home: Path, report: Path, told: int, console: Console) -> None:
    """Where everything is, and what to do next."""
    place = home if not home.is_relative_to(Path.cwd()) else home.relative_to(Path.cwd())
    console.heading("Done")
    console.say(
        f"""  report          {place / report.name}   (open it in a browser)
  history         {place / "history.duckdb"}   (any DuckDB client, read-only)
  notifications   {place / "notifications.jsonl"}   ({told} received)
  versions        {place / "versions"}
  log of the runs {place / console.log.name}

  Next:
    workflows history runs           what ran          workflows advise     what should change
    workflows forecast               what to expect    make ui              the Dagster UI on this instance
    python -m assets.neighbours.running --home {place}   the neighbours again, to run flights_daily by hand
  (commands are in .venv/bin; this tour can be run again and goes on from here)"""
    )


if __name__ == "__main__":
    main()
