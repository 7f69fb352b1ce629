"""What does a user merge into their definitions to get history in Dagster itself?

    defs = dg.Definitions.merge(instrument(mine), workbench())

It brings a running sensor, and no executor, logger, IO manager or resource that could collide with the user's own.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.orchestration.events import SYNC_SENSOR, SyncResult, sync_events

EVERY_S = 5
"""Seconds between syncs: with the daemon's own 5 s between looks at its sensors, what happened is in history within 10 s."""

BUDGET_S = 5.0
"""Most seconds of work in one tick: the daemon evaluates the sensors of a code location one after the other."""


def workbench(instance_home: Path | None = None) -> dg.Definitions:
    """Definitions to merge into any others.

    The sensor `workflows_history_sync` lands what happened in this instance in the history beside it, every 5 seconds, from the start and
    without launching runs; its skip reason says what it landed. `instance_home` is the Dagster instance, None: the one that evaluates it.
    """

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        home = instance_home or _home(context.instance)
        if home is None:
            return dg.SkipReason("This instance keeps its event log in memory; there is nothing to read. Set DAGSTER_HOME.")
        try:
            return dg.SkipReason(_sentence(sync_events(home, home, budget_s=BUDGET_S, wait_s=0)))
        except (BusyError, SetupError) as error:
            return dg.SkipReason(str(error))  # the tick shows it; a failed tick every 5 seconds would bury the failures of others

    sensor = dg.SensorDefinition(
        name=SYNC_SENSOR,
        evaluation_fn=evaluate,
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Lands what happened in this instance in its history (history.duckdb).",
    )
    return dg.Definitions(sensors=[sensor])


def _home(instance: dg.DagsterInstance) -> Path | None:
    """The folder of a persistent instance; an ephemeral one keeps its events elsewhere, or nowhere."""
    return None if instance.is_ephemeral else Path(instance.root_directory)


def _sentence(result: SyncResult) -> str:
    landed = f"Landed {_count(result.events, 'event')} of {_count(result.runs, 'run')} and {_count(result.ticks, 'tick')}"
    aside = f", put {result.quarantined} unreadable aside" if result.quarantined else ""
    behind = "up to date" if result.complete else f"{_count(result.runs_left, 'run')} still to be read"
    return f"{landed}{aside} in {result.seconds:.1f} s; {behind}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
