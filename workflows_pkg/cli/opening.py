"""The `history` commands for somebody's own SQL at length: a shell, and a copy to take along."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from workflows_pkg.cli.output import answer, frame_text, home_option, json_option, resolve_home
from workflows_pkg.errors import SetupError, WorkflowsError, bounded
from workflows_pkg.history.layout import layout
from workflows_pkg.history.store import open_history, query
from workflows_pkg.history.team.place import team_place

_PROMPT, _MORE = "history> ", "     ... "


@click.command("open")
@home_option
def open_shell(home: Path | None) -> None:
    """Ask history one SQL query after the other, each ended by a semicolon; Ctrl-D ends it.

    With DuckDB's own shell, where `duckdb` is on the PATH, else with a plain prompt. It shows the state of the moment at which it was
    opened, keeps nobody from writing, and only reads.
    """
    folder = resolve_home(home)
    files = layout(folder)
    published = files.published
    own = published.exists() and (team_place() is None or files.writes_for_team)
    shell = shutil.which("duckdb")
    if shell is not None and own and sys.stdin.isatty():
        os.execv(shell, [shell, "-readonly", str(published)])  # noqa: S606  a shell is what was asked for
    if sys.stdin.isatty():
        import readline

        readline.parse_and_bind("tab: self-insert")
        click.echo("tables: " + ", ".join(_tables(folder)))
    with open_history(folder) as connection:
        for question in _questions():
            try:
                click.echo(frame_text(query(connection, question)))
            except WorkflowsError as error:  # said, and the next question is waited for
                click.echo(str(error), err=True)


@click.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@home_option
@json_option
def snapshot(target: Path, home: Path | None, as_json: bool) -> None:
    """Copy all of history into TARGET, one DuckDB file that needs nothing else."""
    from workflows_pkg.history.snapshot import write_snapshot

    if not target.absolute().parent.is_dir():
        raise SetupError(f"There is no folder {bounded(target.parent)}.", fix="Make it, or write somewhere else.")
    rows = write_snapshot(resolve_home(home), target)
    size = target.stat().st_size
    answer(
        {"file": target.resolve(), "rows": rows, "bytes": size}, as_json, f"{rows:,} rows in {target}, {size / 2**20:,.1f} MiB"
    )


@click.command("take-over")
@home_option
@json_option
def take_over(home: Path | None, as_json: bool) -> None:
    """Make this home, which has no history yet, the writer of the team's, with all of its rows.

    For when the home that wrote it is lost: that one is refused from then on.
    """
    from workflows_pkg.history.team.taking_over import take_over as take

    folder = resolve_home(home)
    rows = take(folder)
    answer({"home": folder, "rows": rows}, as_json, f"{folder} writes the team's history now; it has {rows:,} rows.")


def _tables(folder: Path) -> list[str]:
    with open_history(folder) as connection:
        found = connection.execute(
            "select distinct table_name from information_schema.tables where table_schema = 'main' order by 1"
        )
        return [name for (name,) in found.fetchall()]


def _questions() -> Iterator[str]:
    """Queries one after the other: as they are typed, over as many lines as one likes, or as they come through a pipe."""
    if not sys.stdin.isatty():
        yield from (one for one in sys.stdin.read().split(";") if one.strip())
        return
    lines: list[str] = []
    while True:
        try:
            lines.append(input(_MORE if lines else _PROMPT).rstrip())
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if lines[-1].endswith(";"):
            yield "\n".join(lines).removesuffix(";")
            lines = []
        elif not any(lines):
            lines = []
