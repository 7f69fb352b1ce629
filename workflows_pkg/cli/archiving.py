"""The `history` commands that keep Dagster's event log small: archive, purge, restore."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflows_pkg.cli.output import answer, home_option, json_option, listing, resolve_home
from workflows_pkg.cli.progress import Progress
from workflows_pkg.spec.durations import parse_duration

if TYPE_CHECKING:
    from workflows_pkg.history.archive import Archive
    from workflows_pkg.orchestration.purge import PurgeResult

    _Age = click.ParamType[timedelta]
else:
    _Age = click.ParamType  # takes no type argument before click 8.2, which a Dagster may be pinned below

FOLDER = "archive"
"""Where an archive lies unless one is named, in the instance's folder."""

LONGEST = timedelta(days=36_600)


class Age(_Age):
    """How long a run has to be over: `30d`, `12h`."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The duration; fails with the accepted forms."""
        try:
            return parse_duration(value, LONGEST)
        except ValueError as error:
            self.fail(f"'{value}': {error}, or 30d.", param, ctx)


def _older_than(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--older-than", type=Age(), required=True, metavar="AGE", help="Only runs that have been over for longer, such as 30d."
    )(function)


def _archive_option(*names: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    where = f"a folder or s3://bucket/folder. Default: {FOLDER} in the instance's folder."
    return click.option(*names, "place", metavar="ARCHIVE", help=f"{text}: {where}")


@click.command()
@_older_than
@_archive_option("--to", text="Where to write it")
@home_option
@json_option
def archive(older_than: timedelta, place: str | None, home: Path | None, as_json: bool) -> None:
    """Copy the event logs of old runs into Parquet files, a folder for each day. Nothing in the instance changes.

    Every file is read back from the disk and compared before it counts. What was archived before is not archived again.
    """
    from workflows_pkg.orchestration.archiving import archive_runs  # with Dagster's settings it takes a second to import

    folder = resolve_home(home)
    target = _archive(place, folder)
    with Progress() as progress:
        done = archive_runs(folder, target, older_than, partial(progress.counted, "archived"))
    text = f"{done.runs:,} runs with {done.rows:,} rows ({_size(done.bytes)} of text) are now in {target.place}"
    text += f": {done.files:,} files, {_size(done.file_bytes)}, read back and equal" if done.files else ""
    if done.unreadable:
        text += f"\n{done.unreadable:,} runs could not be read and are not in it"
    answer({**asdict(done), "archive": target.place}, as_json, text)


@click.command()
@_older_than
@_archive_option("--archive", text="The archive that has what is to go")
@click.option("--yes", is_flag=True, help="Do it. Without, nothing changes and what would go is shown.")
@home_option
@json_option
def purge(older_than: timedelta, place: str | None, yes: bool, home: Path | None, as_json: bool) -> None:
    """Remove from the instance what its pages do not need of old runs, once it is in the archive and in history.

    Runs, assets, partitions and checks look the same afterwards; docs/archive-and-purge.md says which events of a run stay.
    Shows what would go, and removes it with --yes. `workflows history restore` puts it back.
    """
    from workflows_pkg.orchestration.purge import purge as purge_instance

    folder = resolve_home(home)
    target = _archive(place, folder)
    with Progress() as progress:
        done = purge_instance(folder, target, older_than, do=yes, progress=partial(progress.counted, "looked at"))
    value = {**asdict(done), "total": asdict(done.total), "archive": target.place}
    answer(value, as_json, lambda: _purge_text(done))


@click.command()
@_archive_option("--from", text="Where it is")
@click.option("--run", "run_id", metavar="ID", help="Only this run.")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Only runs that were asked for on this day (UTC).")
@home_option
@json_option
def restore(place: str | None, run_id: str | None, day: datetime | None, home: Path | None, as_json: bool) -> None:
    """Put purged events back into the instance, as they were. Doing it twice changes nothing."""
    from workflows_pkg.orchestration.archiving import restore as restore_instance

    if run_id is not None and day is not None:
        raise click.UsageError("Name a run with --run or a day with --day, not both.")
    folder = resolve_home(home)
    source = _archive(place, folder)
    wanted: date | None = day.date() if day is not None else None
    with Progress() as progress:
        done = restore_instance(folder, source, run_id=run_id, day=wanted, progress=partial(progress.counted, "restored"))
    lines = [f"{done.rows:,} rows of {done.runs:,} runs are back"]
    lines += [f"{done.complete:,} runs had all of theirs"] * bool(done.complete)
    lines += [f"{done.deleted:,} runs are no longer in the instance"] * bool(done.deleted)
    lines += [f"{done.conflicts:,} runs were left alone: another event has the number of an archived one"] * bool(done.conflicts)
    answer({**asdict(done), "archive": source.place}, as_json, "\n".join(lines))


def _archive(place: str | None, home: Path) -> Archive:
    from workflows_pkg.history.archive import Archive
    from workflows_pkg.history.archive_files import archive_files

    return Archive(archive_files(place or str(home / FOLDER)))


def _purge_text(done: PurgeResult) -> str:
    total = done.total
    rows = [
        {"job": job, "runs": f"{gone.runs:,}", "rows": f"{gone.rows:,}", "text": _size(gone.bytes)}
        for job, gone in done.jobs.items()
    ]
    lines = [listing(rows, ("runs", "rows", "text")), ""] if rows else []
    went = "went" if done.done else "would go"
    lines.append(f"{total.rows:,} rows of {total.runs:,} runs, {_size(total.bytes)} of text, {went}")
    if done.file_bytes_before:
        lines.append(f"their files were {_size(done.file_bytes_before)} and are {_size(done.file_bytes_after)}")
    for count, why in (
        (done.not_archived, "are not in the archive: workflows history archive"),
        (done.not_in_history, "are not complete in history: workflows history sync"),
        (done.changed, "have other rows than the archive: workflows history archive"),
        (done.busy, "are held by another program or cannot be read: run the same command again"),
    ):
        lines += [f"{count:,} runs {why}"] * bool(count)
    if not done.done and total.rows:
        lines.append("nothing was changed; add --yes to do it")
    return "\n".join(lines)


def _size(count: int) -> str:
    """Bytes for a person."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
