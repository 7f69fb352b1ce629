"""The `look` command: a first look at somebody's Dagster, which changes nothing there."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
import webbrowser
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from workflows_pkg.cli.output import answer
from workflows_pkg.cli.progress import Progress
from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.history.store import open_history
from workflows_pkg.history.team.place import not_shared

PAGE = "dagster-look.html"

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:/")


@click.command()
@click.argument("where", metavar="PATH_OR_URL", envvar="DAGSTER_HOME")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=PAGE,
    show_default=True,
    help="The page; outside the instance.",
)
@click.option("--open/--no-open", "show", default=None, help="Open the page in a browser. Default: where there is a screen.")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="Keep what was read here, for: workflows history sql --home."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON beside the page.")
def look(where: str, out: Path, show: bool | None, keep: Path | None, as_json: bool) -> None:
    """Look at any Dagster instance, and write one page about it. Nothing in the instance is changed.

    PATH_OR_URL is a DAGSTER_HOME folder (left out: $DAGSTER_HOME), or the URL of the PostgreSQL database it keeps its runs in
    (postgresql://user:password@host:5432/database). The page works offline: where the time goes, slow and failing steps and
    what they cost, schedules in each other's way, forecast errors, up to three suggestions, and what could not be seen.
    """
    started = time.monotonic()
    if not where.strip():  # an unset variable of the shell; as a path it would mean the current folder
        raise SetupError("No instance is named.", fix="Name its DAGSTER_HOME folder, or a PostgreSQL URL.")
    from workflows_pkg.orchestration.events import sync_events  # what only this command needs, and takes seconds to import
    from workflows_pkg.orchestration.sources import open_source

    with Progress() as progress, open_source(where, untouched=True) as source:
        instance = _folders(where, source.place)
        _refuse_inside(instance, out, "--out", "write the page")
        if not _folder_there(out.absolute().parent):
            raise SetupError(
                f"There is no folder {bounded(out.absolute().parent, 200)}.", fix="Make it, or write somewhere else with --out."
            )
        _try_to_write(out.absolute().parent, "--out")
        progress.say(f"reading {source.description}")
        from workflows_pkg.report.document import write_document
        from workflows_pkg.report.look import Told, look_value
        from workflows_pkg.report.look import look as look_at
        from workflows_pkg.report.look_page import look_html
        from workflows_pkg.report.look_text import render_look
        from workflows_pkg.workbench.news import without_own

        with _private(instance, keep) as home, not_shared():
            read = sync_events(source, home, progress=partial(progress.counted, "read"))
            told = Told(source.description, source.notes, read.log_lines)
            with open_history(home) as con:
                seen = look_at(without_own(con), told, datetime.now(UTC), progress.say)
            if seen is None:
                raise SetupError(f"Nothing has ever run in {told.description}.", fix="Start one run in it, then look again.")
        progress.say("writing the page")
        write_document(look_html(seen), out)
    seconds = round(time.monotonic() - started, 1)
    page = out.absolute()
    kept = f"\nkept: workflows history sql --home {keep} 'select * from runs'" if keep is not None else ""
    value = {**look_value(seen), "page": page, "seconds": seconds} if as_json else {}
    answer(value, as_json, lambda: f"{render_look(seen, colour=_colour())}\n\nwrote {page} in {seconds} s{kept}")
    if show or (show is None and not as_json and _screen()):
        webbrowser.open(page.as_uri())


@contextmanager
def _private(instance: list[Path], keep: Path | None) -> Generator[Path]:
    """The folder for the private history: one that goes away, or the one to keep, which has to be new or empty."""
    if keep is None:
        with _writing("Temporary files", "TMPDIR"):
            place = Path(tempfile.gettempdir())
            _refuse_inside(instance, place, "TMPDIR", "put temporary files")
            home = tempfile.TemporaryDirectory(prefix="dagster-look-", ignore_cleanup_errors=True)
        with home as folder:
            yield Path(folder)
        return
    _refuse_inside(instance, keep, "--keep", "keep what was read")
    with _writing(str(keep), "--keep"):
        own = not keep.exists()
        if not own and any(keep.iterdir()):
            raise SetupError(f"{bounded(keep, 200)} is not empty.", fix="Name a folder that is new or empty with --keep.")
        keep.mkdir(parents=True, exist_ok=True)
    _try_to_write(keep, "--keep")
    try:
        yield keep
    except BaseException:  # half of a history would be taken for all of it
        for made in [keep] if own else list(keep.iterdir()):
            shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
        raise


@contextmanager
def _writing(what: str, option: str) -> Generator[None]:
    """Where the system refuses to write there, that is a SetupError."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"{bounded(what, 200)} cannot be written: {error.strerror or error}.", fix=f"Name another folder with {option}."
        ) from error


def _try_to_write(folder: Path, option: str) -> None:
    """Whether it may be written is better known before minutes of reading."""
    with _writing(str(folder), option), tempfile.TemporaryFile(dir=folder):
        pass


def _folder_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # not for this user, or a name that is too long
        return False


def _folders(where: str, runs: str) -> list[Path]:
    """The folders of the instance: the one named, and the one its runs are in, which `dagster.yaml` may put elsewhere."""
    return [Path(folder).expanduser().resolve() for folder in (where, str(Path(runs).parent)) if not _URL.match(folder)]


def _refuse_inside(instance: list[Path], target: Path, option: str, what: str) -> None:
    """Nothing is written below the folders that are looked at, by whatever links the way there leads."""
    wanted = target.resolve()
    for folder in instance:
        if _folder_there(folder) and (wanted == folder or wanted.is_relative_to(folder)):
            raise SetupError(
                f"{bounded(target, 200)} lies inside the instance {bounded(folder, 200)}, which is to stay as it is.",
                fix=f"Name a place outside to {what}: {option}.",
            )


def _screen() -> bool:
    """Whether somebody sits before a screen: a terminal, and on Linux a display."""
    display = sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.stdout.isatty() and display


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
