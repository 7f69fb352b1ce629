"""Which Dagster instance is meant? Opens one by its folder, with the settings this project starts with."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from workflows_pkg.errors import SetupError, bounded

STARTING_SETTINGS = """\
# Settings of a Dagster instance that serves this project: copy it into your DAGSTER_HOME and change what you like.
# `make run` and `make ui` start a new instance with exactly these.
telemetry: {enabled: false}
nux: {enabled: false}  # no sign-up dialog in the UI
# a run whose worker vanished is noticed, and none stays open for ever
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
  cancel_timeout_seconds: 60
  max_runtime_seconds: 7200
  poll_interval_seconds: 10
# Each run's page says before it starts how long it should take, how likely it fails and what it costs: from forecasts.json, which
# training publishes. Dagster's queue otherwise; its settings, as under `run_queue`, stand under `config`. Leave the three lines out
# to do without.
run_coordinator:
  module: workflows_pkg.instance.coordinator
  class: ForecastingRunCoordinator
concurrency: {runs: {max_concurrent_runs: 2}}
"""


def create_instance(home: Path) -> None:
    """Makes `home` an instance with the settings above; one that has settings keeps them.

    Raises SetupError where the folder holds other things, or cannot be made or written.
    """
    _refuse_other_folders(home)
    settings = home / "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            settings.write_text(STARTING_SETTINGS)
    except OSError as error:
        raise SetupError(f"{home} cannot be made a Dagster instance: {error.strerror}.", fix="Choose another folder.") from error


_MARKS = {"dagster.yaml", "history"}
"""One of these is in every instance's folder: its settings, or the databases Dagster makes where it has none."""


@contextmanager
def open_instance(home: Path) -> Generator[dg.DagsterInstance]:
    """The instance kept in `home`, whose settings are left as they are. Raises SetupError where it cannot be opened.

    An empty folder becomes an instance by being opened, as Dagster has it; one that holds other things is refused, since Dagster
    would lay its databases between them.
    """
    home = home.resolve()
    _refuse_other_folders(home)
    os.environ["DAGSTER_HOME"] = str(home)  # Dagster's own reading of a folder goes through the environment
    try:
        instance = dg.DagsterInstance.get()
    except Exception as error:
        raise SetupError(
            f"The Dagster instance in {home} cannot be opened: {bounded(error, 300)}.", fix=f"Look at {home / 'dagster.yaml'}."
        ) from error
    with instance:
        yield instance


def _refuse_other_folders(home: Path) -> None:
    try:
        names = {entry.name for entry in home.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise SetupError(f"{home} is no folder of an instance: {error.strerror}.", fix="Choose another folder.") from error
    if names and not names & _MARKS:
        raise SetupError(
            f"{home} is no Dagster instance: it holds other things, and neither dagster.yaml nor a history.",
            fix=f"Name the folder that DAGSTER_HOME names, or an empty one; or make it one on purpose: touch {home / 'dagster.yaml'}",
        )


def daemon_states(instance: dg.DagsterInstance) -> dict[str, bool]:
    """Daemon name -> whether its heartbeat is fresh; empty where none has ever run."""
    names = instance.get_required_daemon_types()
    states = instance.get_daemon_statuses(names)
    return {name: bool(status.healthy) for name, status in states.items() if status.last_heartbeat is not None}
