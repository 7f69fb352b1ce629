"""Who is the only writer? One lock of the operating system, which dies with its holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from workflows_pkg.errors import BusyError

_LOOK_AGAIN_S = 0.05
"""Pause between two tries: short beside a person's patience, long beside the cost of a try."""

_held: set[int] = set()
"""Descriptors of the locks this process holds, so that a forked child can let go of its copies."""


@contextmanager
def only_writer(path: Path, wait_s: float, doing: str = "writing this history") -> Generator[None]:
    """Holds the lock file `path` for the block; the system frees it when this process ends, however it ends.

    Threads of one process exclude each other too. Raises BusyError, naming the holder and what it is `doing`, when it is not
    free within `wait_s` seconds.
    """
    owner = os.getpid()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _acquire(descriptor, path, wait_s, doing)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(owner).encode(), 0)
        with not_for_children(descriptor):
            yield
    finally:
        if os.getpid() == owner:  # a forked child has closed its copy, and the number may name another file by now
            os.close(descriptor)


@contextmanager
def not_for_children(descriptor: int) -> Generator[None]:
    """A lock that lives as long as this descriptor is open anywhere is this process's alone, for the block."""
    _held.add(descriptor)
    _let_children_go()
    try:
        yield
    finally:
        _held.discard(descriptor)


def _acquire(descriptor: int, path: Path, wait_s: float, doing: str) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
                raise BusyError(
                    f"{path.parent}: process {holder} is {doing}, and did not finish within {wait_s:g} s.",
                    fix=f"Wait until it is done and try again; `ps -p {holder}` shows what it is. Readers need not wait.",
                ) from None
        time.sleep(_LOOK_AGAIN_S)


@cache
def _let_children_go() -> None:
    """A forked child inherits the descriptor, and with it the lock: it would keep the history locked after its parent was
    killed.
    """
    os.register_at_fork(after_in_child=_close_copies)


def _close_copies() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
