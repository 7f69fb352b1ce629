"""How is one attempt stopped when its time is up, wherever it runs?

At the deadline three things happen, in this order: the functions that the step registered are called from a thread of their
own (a query is interrupted, a connection closed); a body on the main thread gets a signal, which also ends a wait in the
operating system; a body on any other thread gets an exception at its next line of Python. What leaves `limited` is always
`StepTimeout`. A body that ends in time is never hit later: the watch is over, and what it had sent is taken back, before
`limited` returns.

The limit of it: code in C that neither returns to the interpreter nor can be interrupted by a registered function runs on;
only ending its process stops it. Under a tracer of lines (coverage, a debugger) CPython 3.11 can keep the exception from a
thread that is not the main one.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

from workflows_pkg.errors import StepTimeout
from workflows_pkg.spec.durations import format_duration

Value = TypeVar("Value")


class Stops:
    """Functions to be called when the attempt is stopped; called at once where it was stopped already."""

    def __init__(self) -> None:
        self._functions: list[Callable[[], None]] = []
        self._stopped = False
        self._lock = threading.Lock()

    def register(self, stop: Callable[[], None]) -> None:
        """Has `stop` called from another thread at the deadline; it should return at once."""
        with self._lock:
            if not self._stopped:
                self._functions.append(stop)
                return
        stop()

    def stop(self) -> None:
        """Calls every registered function; what one of them raises keeps none of the others from being called."""
        with self._lock:
            self._stopped = True
            functions, self._functions = self._functions, []
        for function in functions:
            with suppress(Exception):  # a plugin's own clean-up: the attempt is being stopped either way
                function()


class _Overrun(BaseException):
    """Sent into the body at its deadline. Not an Exception, so that a body's `except Exception` does not swallow it."""


def limited(work: Callable[[], Value], timeout: timedelta | None, stops: Stops, step: str) -> Value:
    """What `work` returns or raises; StepTimeout where it took longer than `timeout` (None: no limit)."""
    if timeout is None:
        return work()
    watch = _Watch(timeout.total_seconds(), stops)
    try:
        try:
            watch.start()
            value = work()
        finally:
            watch.end()
        if not watch.expired:
            return value
    except _Overrun:
        watch.end()  # it may have arrived on the way into the first call
    except Exception:
        if not watch.expired:
            raise
    raise StepTimeout(
        f"Step '{step}' took longer than its timeout of {format_duration(timeout)}.",
        fix="Give it more time with 'timeout', or less to do.",
    )


_AGAIN_S = 1.0
"""A body that has not ended this long after a stop is stopped again: an exception that arrives in a destructor, a callback or a
tracer is dropped by Python. Long enough for the body's own cleaning up."""


class _Watch:
    """Waits for the deadline beside the body. `expired` says that it came before the body had ended."""

    def __init__(self, seconds: float, stops: Stops) -> None:
        self.expired = False
        self._seconds = seconds
        self._stops = stops
        self._over = threading.Event()
        self._body = threading.current_thread()
        self._on_main = self._body is threading.main_thread()
        self._thread = threading.Thread(target=self._wait, name="step-timeout", daemon=True)
        self._earlier: Any = None

    def start(self) -> None:
        if self._on_main:
            self._earlier = signal.signal(signal.SIGALRM, self._on_signal)
        self._thread.start()

    def end(self) -> None:
        """Ends the watch and takes back what it sent; an overrun that arrives meanwhile is dropped, `expired` tells of it."""
        while True:
            try:
                self._over.set()
                if self._thread.ident is not None:
                    self._thread.join()
                if self._on_main:
                    signal.signal(signal.SIGALRM, self._earlier)
                elif self.expired:
                    _send(self._body, None)
                return
            except _Overrun:
                continue

    def _wait(self) -> None:
        if self._over.wait(self._seconds):
            return
        self.expired = True
        self._stops.stop()
        while True:
            if self._on_main:
                signal.pthread_kill(self._body.ident or 0, signal.SIGALRM)
            else:
                _send(self._body, _Overrun)
            if self._over.wait(_AGAIN_S):
                return

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.expired:
            if not self._over.is_set():
                raise _Overrun
        elif callable(self._earlier):
            self._earlier(number, frame)  # an alarm of somebody else, such as a test's own time limit


def _send(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Raises `error` in another thread at its next line of Python; None takes back what has not arrived yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), None if error is None else ctypes.py_object(error)
    )
