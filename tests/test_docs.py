"""What the documentation shows works as it stands: its code runs, its workflow loads, its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from workflows_pkg.cli.main import cli
from workflows_pkg.spec.loader import load_text
from workflows_pkg.steps.discovery import discover

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "getting-started.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_workflows_and_code_in_the_pages_work(page: Path) -> None:
    for text in blocks(page, "yaml"):
        assert load_text(text, file=page.name, kinds=discover().params()).steps
    for code in blocks(page, "python"):
        found: dict[str, object] = {}
        exec(compile(code, page.name, "exec"), found)  # noqa: S102  the code is the documentation's own
        assert found["defs"].resolve_all_asset_specs() is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist(page: Path) -> None:
    lines = [line.split("#")[0].strip() for text in blocks(page, "shell") for line in text.splitlines()]
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in filter(None, lines):
        words = shlex.split(line)
        if words[0] == "make":
            assert words[1] in targets, line
        elif words[0] == "workflows":
            check_command(words[1:], line)


def check_command(words: list[str], line: str) -> None:
    """Follows the verbs of a command line and parses the rest of it, running nothing."""
    command: click.Command = cli
    context = click.Context(cli, info_name="workflows")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    command.parse_args(context, list(words))


def test_control_a_command_that_is_not_there_is_seen() -> None:
    with pytest.raises((AssertionError, click.ClickException)):
        check_command(["history", "runs", "--limits", "3"], "workflows history runs --limits 3")
    with pytest.raises(AssertionError):
        check_command(["hystory"], "workflows hystory")
