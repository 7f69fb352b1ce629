"""The reference of the command line, made from the commands' own help: `python -m workflows_pkg.cli.reference [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from workflows_pkg.cli.main import cli

PAGE = Path("docs/reference/command-line.md")


def command_reference() -> str:
    """Every command's help as one markdown page."""
    sections = [f"## {name}\n\n```text\n{text.rstrip()}\n```\n" for name, text in _helps(cli, "workflows")]
    return "# The `workflows` command\n\nMade from `--help` by `make reference`.\n\n" + "\n".join(sections)


def _helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    context = click.Context(command, info_name=name.split()[-1], parent=parent, terminal_width=100, max_content_width=100)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None:
                yield from _helps(found, f"{name} {child}", context)


if __name__ == "__main__":
    fresh = command_reference()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.exists() and PAGE.read_text() == fresh else f"{PAGE} is stale. Run: make reference")
    PAGE.write_text(fresh)
