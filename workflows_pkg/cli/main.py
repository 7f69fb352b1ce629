"""The `workflows` command: its verbs, and the one place where every error becomes a sentence."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import click

from workflows_pkg.errors import BusyError, SpecError, WorkflowsError, bounded, suggestion

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BUG = 70
"""70 is EX_SOFTWARE of sysexits.h."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a full disk, a quota, or a terminal that went away answer to whoever writes, to standard output too."""


VERBS = {
    "look": "looking",
    "new": "authoring",
    "check": "authoring",
    "run": "running",
    "watch": "running",
    "ui": "running",
    "history": "asking",
    "cost": "costing",
    "forecast": "learning",
    "changed": "changing",
    "scale": "scaling",
    "evaluate": "evaluating",
    "advise": "learning",
    "apply": "learning",
    "doctor": "doctor",
}
"""Verb -> module of this package that has it. A verb is imported when it is used: all of them together take two seconds."""


class Verbs(click.Group):
    """The verbs in the order in which one meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; None for one that is not there."""
        if cmd_name not in VERBS:
            return None
        return getattr(import_module(f"workflows_pkg.cli.{VERBS[cmd_name]}"), cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest verb offered."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"No such command '{bounded(args[0])}'. {suggestion(args[0], VERBS) or 'See: workflows --help'}")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="agentic-workflows", prog_name="workflows")
def cli() -> None:
    """Write, run, learn, improve: workflows on Dagster.

    \b
    Start:    workflows new my_flow;  workflows check;  workflows run my_flow
    Look:     workflows history runs;  workflows forecast;  workflows advise
    Improve:  workflows apply SUGGESTION
    Complete: eval "$(_WORKFLOWS_COMPLETE=bash_source workflows)"   (or zsh_source, fish_source)
    """


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process; never lets a traceback out."""
    sys.exit(exit_code(arguments))


def exit_code(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0 done, 1 it said what is wrong, 2 wrong usage, 70 a bug."""
    if sys.stdout is None:  # closed by the shell; the next file that is opened would be taken for it
        click.echo("Error: Standard output is closed. Open it, or send it to a file.", err=True)
        return EXIT_FAILED
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")  # nothing is reported to anybody unless the user asks for it
    try:
        ended = cli.main(args=arguments, prog_name="workflows", standalone_mode=False)
        return ended if isinstance(ended, int) else 0  # click turns its own Exit into a returned number
    except click.exceptions.Abort:
        click.echo("stopped.", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SpecError as error:
        click.echo(str(error), err=True)
        return EXIT_FAILED
    except WorkflowsError as error:
        click.echo(f"{'Busy' if isinstance(error, BusyError) else 'Error'}: {error}", err=True)
        return EXIT_FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        click.echo("stopped.", err=True)
        return 130
    except OSError as error:
        if error.errno not in _FULL:
            return _bug(error)
        click.echo(f"Error: Nothing more can be written: {error.strerror}. Make room, or write somewhere else.", err=True)
        with suppress(
            OSError
        ):  # the end of the process writes what is left in the buffer, and would fail once more, with a code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  the outermost boundary: what arrives here is a bug of ours
        return _bug(error)


def _bug(error: Exception) -> int:
    with tempfile.NamedTemporaryFile("w", prefix="workflows-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    click.echo(f"Unexpected {type(error).__name__}: {bounded(error, 200)}", err=True)
    click.echo(f"This is a bug. The trace is in {Path(log.name)}; please report it.", err=True)
    return EXIT_BUG
