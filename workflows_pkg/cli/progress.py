"""What is being done, on standard error, while a command works for long."""

from __future__ import annotations

import time

import click

from workflows_pkg.cli.output import interactive, note

_TOLD_EVERY_S = {True: 0.2, False: 5.0}
"""Seconds between two lines of progress, for a person who watches and for a log."""


class Progress:
    """One line that changes for a person, a line now and then for a log."""

    def __init__(self) -> None:
        self._last = 0.0
        self._shown = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if interactive():
            click.echo("\r" + " " * self._shown + "\r", err=True, nl=False)

    def say(self, text: str) -> None:
        """A sentence."""
        self._last = time.monotonic()
        if interactive():
            click.echo("\r" + text.ljust(self._shown), err=True, nl=False)
            self._shown = len(text)
        else:
            note(text)

    def counted(self, what: str, done: int, total: int) -> None:
        """How many of all are done, such as 'read 3 of 7 runs'; not every call shows."""
        if time.monotonic() - self._last > _TOLD_EVERY_S[interactive()] or done == total:
            self.say(f"{what} {done:,} of {total:,} runs")
