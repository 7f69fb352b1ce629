"""What does a person see while the tour goes on? Headings and results on standard output, progress on standard error."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TextIO, TypeVar

T = TypeVar("T")

_BAR = 30
"""Cells of a progress bar."""
_LINES = 4
"""Lines that a progress leaves where standard error is not a terminal, such as in a log of CI."""


class Progress:
    """How far one part of the tour is: a bar that is redrawn on a terminal, a few plain lines elsewhere."""

    def __init__(self, label: str, total: int, out: TextIO) -> None:
        self._label = label
        self._total = max(total, 1)
        self._out = out
        self._done = 0
        self._began = time.monotonic()
        if total:
            self._draw("")

    def step(self, what: str = "") -> None:
        """One more is done; `what` says which."""
        self.at(self._done + 1, what)

    def at(self, done: int, what: str = "", *, total: int | None = None) -> None:
        """`done` of the total are done; `total` where it turned out to be another."""
        self._total = max(total or self._total, 1)
        before, self._done = min(self._done, self._total), min(done, self._total)
        if self._out.isatty() or self._done * _LINES // self._total > before * _LINES // self._total:
            self._draw(what)

    def end(self) -> None:
        """Leaves the line."""
        if self._out.isatty():
            self._out.write("\n")
            self._out.flush()

    def _draw(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        text = f"{self._label} {self._done}/{self._total}  {seconds:.0f} s"
        if self._out.isatty():
            filled = round(_BAR * self._done / self._total)
            line = f"  [{'#' * filled}{'.' * (_BAR - filled)}] {text}  {what}"
            self._out.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\033[K")
        else:
            self._out.write(f"  {text}\n")
        self._out.flush()


class Console:
    """Where the tour speaks. Dagster's own log, which goes to standard error, is kept in `log` meanwhile."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._screen = sys.stderr
        self._began = time.monotonic()
        self._stopping = False
        self.colour = sys.stdout.isatty()
        self.width = min(shutil.get_terminal_size((110, 24)).columns, 120)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Inside, Ctrl-C (or a signal to end) lets what is in progress end, and `check` raises KeyboardInterrupt; a second one at once.

        An exception raised wherever the first one finds this process would often be lost: SQLAlchemy, which is asked ten times a second
        while runs are waited for, cleans up in callbacks from which nothing rises.
        """
        earlier = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, before in earlier.items():
                signal.signal(number, before)

    def _hear(self, number: int, frame: object) -> None:
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        self._screen.write("\n  Stopping as soon as what is in progress has ended; Ctrl-C again does not wait for it.\n")
        self._screen.flush()

    def check(self) -> None:
        """Raises KeyboardInterrupt where it was asked to stop."""
        if self._stopping:
            raise KeyboardInterrupt

    def undisturbed(self, work: Callable[[], T]) -> T:
        """What `work` gives; it runs in another thread, since in the main one Dagster would take Ctrl-C and record a failed run."""
        self.check()
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(work).result()
        self.check()
        return found

    def heading(self, text: str) -> None:
        """A part of the tour begins."""
        self.check()
        line = f"[{time.monotonic() - self._began:5.0f} s] {text}"
        self.say(f"\n\033[1m{line}\033[0m" if self.colour else f"\n{line}")

    def say(self, text: str) -> None:
        """A result."""
        print(text, flush=True)

    def seconds(self) -> float:
        """Since the tour began."""
        return time.monotonic() - self._began

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Progress]:
        """A progress whose line is left at the end."""
        shown = Progress(label, total, self._screen)
        try:
            yield shown
        finally:
            shown.end()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Inside, what libraries write to standard error goes to the log."""
        with self.log.open("a", encoding="utf-8") as file, redirect_stderr(file):
            yield
