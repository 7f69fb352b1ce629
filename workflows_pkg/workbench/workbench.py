"""What does a user merge into their definitions to get history, forecasts and advice in Dagster itself?

    defs = dg.Definitions.merge(instrument(mine), workbench())

It brings two running sensors, one job and five assets, all named `workflows…`, and no executor, logger, IO manager or resource that
could collide with the user's own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.orchestration.own import SYNC_SENSOR
from workflows_pkg.workbench.assets import IN_MEMORY, home_of, learning_definitions
from workflows_pkg.workbench.learning_sensor import learning_sensor

if TYPE_CHECKING:
    from workflows_pkg.orchestration.events import SyncResult

EVERY_S = 5
"""Seconds between syncs: with the daemon's own 5 s between looks at its sensors, what happened is in history within 10 s."""

BUDGET_S = 5.0
"""Most seconds of work in one tick: the daemon evaluates the sensors of a code location one after the other."""


@cache
def workbench(instance_home: Path | None = None) -> dg.Definitions:
    """Definitions to merge into any others: the sensor that lands history, and what is learned from it.

    The sensor `workflows_history_sync` lands what happened in this instance in the history beside it, every 5 seconds, from the start and
    without launching runs; its skip reason says what it landed. `instance_home` is the Dagster instance, None: the one that evaluates it.

    The same objects each time: Dagster takes an object once, however often it is merged, and refuses two of one name.
    """

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        home = instance_home or home_of(context.instance)
        if home is None:
            return dg.SkipReason(IN_MEMORY)
        # Here, because every process that loads the code location, also one made for a single step, imports this module: DuckDB, pandas
        # and Dagster's storage take a second.
        from workflows_pkg.orchestration.events import sync_events
        from workflows_pkg.workbench.telling import tell_in_passing

        tell_in_passing(context.instance, home)
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
    return dg.Definitions.merge(
        dg.Definitions(sensors=[sensor, learning_sensor(instance_home)]), learning_definitions(instance_home)
    )


def _sentence(result: SyncResult) -> str:
    landed = f"Landed {_count(result.events, 'event')} of {_count(result.runs, 'run')} and {_count(result.ticks, 'tick')}"
    aside = f", put {result.quarantined} unreadable aside" if result.quarantined else ""
    behind = "up to date" if result.complete else f"{_count(result.runs_left, 'run')} still to be read"
    return f"{landed}{aside} in {result.seconds:.1f} s; {behind}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
