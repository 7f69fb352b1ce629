"""How is a file written so that a crash, or a second writer, leaves the old content or the new one and never half of either?"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.history.crash import crash_point

_LOOK_AGAIN_S = 0.02
"""Pause between two tries for the lock: short beside the milliseconds that a holder needs, long beside the cost of a try."""


@contextmanager
def locked(path: Path, *, wait_s: float, what: str) -> Generator[None]:
    """Holds the lock file `path` for the block; the system frees it when the process dies.

    Raises BusyError when somebody else holds it for longer than `wait_s` seconds; `what` names the held thing in the message.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BusyError(
                        f"{what}: somebody else has been changing it for more than {wait_s:g} s.",
                        fix=f"Try again; if it stays so, look which process holds {path}.",
                    ) from None
                time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(descriptor)


def create(path: Path, content: bytes) -> None:
    """Writes a file that must not exist yet, whole or not at all; raises FileExistsError where it does.

    A hard link is the one operation that is at once exclusive, like O_EXCL, and complete, like a rename.
    """
    fresh = _written_beside(path, content)
    try:
        os.link(fresh, path)
        crash_point("release.created")
    except FileExistsError:
        raise
    except OSError as error:
        raise SetupError(
            f"{path.parent} is on a file system without hard links ({error.strerror}), which versions need.",
            fix="Put the home on a local file system.",
        ) from error
    finally:
        fresh.unlink()
    _sync_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Gives the file new content in one step: a reader sees the old content or the new one. Permissions are kept."""
    fresh = _written_beside(path, content)
    try:
        if path.exists():
            fresh.chmod(path.stat().st_mode & 0o777)
        crash_point("release.before_replace")
        os.replace(fresh, path)
    except BaseException:
        with suppress(FileNotFoundError):
            fresh.unlink()
        raise
    crash_point("release.replaced")
    _sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Removes what writers that died have left beside the files; call it while holding the folder's lock."""
    for left in folder.glob(".fresh-*"):
        left.unlink(missing_ok=True)


def _written_beside(path: Path, content: bytes) -> Path:
    fresh = path.parent / f".fresh-{path.name}-{os.getpid()}-{time.monotonic_ns()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content[: len(content) // 2])
        crash_point("release.half_written")
        file.write(content[len(content) // 2 :])
        file.flush()
        os.fsync(file.fileno())
    return fresh


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
