"""The `history import` command: what other systems recorded, into the history, and out of it again."""

from __future__ import annotations

from pathlib import Path

import click

from workflows_pkg.cli.output import answer, home_option, json_option, resolve_home
from workflows_pkg.errors import WorkflowsError
from workflows_pkg.history.imports import Imported, import_files, undo_import
from workflows_pkg.history.imports.landing import READERS
from workflows_pkg.report.tables import instant


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "format_", type=click.Choice(list(READERS)), help="Default: told from what is in the file.")
@click.option(
    "--map",
    "pairs",
    metavar="COLUMN=THEIRS",
    multiple=True,
    help="For CSV and Parquet: our column and theirs, or 'a value' in single quotes, or nothing to leave it unknown.",
)
@click.option("--name", help="Name of the import, to undo it by; of the job too, where a file names none. Default: the file's.")
@click.option("--timezone", default="UTC", show_default=True, help="Zone of times that name none, such as Europe/Berlin.")
@click.option("--dry-run", is_flag=True, help="Read and compare; write nothing.")
@click.option("--undo", metavar="NAME", help="Take the import of this name out again.")
@home_option
@json_option
def import_(
    files: tuple[Path, ...],
    format_: str | None,
    pairs: tuple[str, ...],
    name: str | None,
    timezone: str,
    dry_run: bool,
    undo: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Import what other systems recorded: Nextflow traces, WfFormat, Airflow's database (SQLite), CSV and Parquet.

    Importing a file again changes nothing, and no sync of a Dagster instance touches what was imported.
    """
    folder = resolve_home(home)
    if undo is not None:
        if files:
            raise click.UsageError("--undo takes no FILE.")
        runs = undo_import(folder, undo)
        answer({"name": undo, "runs": runs}, as_json, f"took {_counted(runs, 'run')} of '{undo}' out of the history")
        return
    if not files:
        raise click.UsageError("Missing argument 'FILE...'.")
    done = import_files(
        folder, files, format=format_, columns=_columns(pairs), name=name, timezone=timezone, dry_run=dry_run  # pyright: ignore[reportArgumentType]  click checked the choice
    )  # fmt: skip
    answer([vars(one) for one in done], as_json, "\n".join(_text(one, dry_run) for one in done))


def _columns(pairs: tuple[str, ...]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"expected COLUMN=THEIRS, found '{pair}'.", param_hint="--map")
        if ours in columns:
            raise WorkflowsError(f"--map gives '{ours}' twice: '{columns[ours]}' and '{theirs}'.")
        columns[ours] = theirs
    return columns


def _text(one: Imported, dry_run: bool) -> str:
    jobs = f"job '{one.jobs[0]}'" if len(one.jobs) == 1 else f"{len(one.jobs)} jobs"
    text = f"{one.file}: {one.format}, {_counted(one.runs, 'run')} of {jobs}, {_counted(one.attempts, 'attempt')}"
    text += f", {instant(one.first)} to {instant(one.last)}"
    written = "would be written" if dry_run else "written"
    text += f"; {one.changed} new or changed, {written} as '{one.name}'" if one.changed else "; nothing new"
    return "\n".join([text, *(f"  note: {remark}" for remark in one.remarks)])


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
