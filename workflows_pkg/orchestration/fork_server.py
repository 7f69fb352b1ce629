"""Has a fork server tell what its children used. Loaded in it before it forks (`orchestration.crashes`), and nowhere else.

The server is the parent that waits for the processes of steps, so it alone can read the kernel's account of them. Its loop, which is
the standard library's, calls `os.waitpid` and then sends the exit code: here it waits with `wait4`, and the account goes after the
code, in one write. Whoever knows nothing of it reads the code and closes the pipe.
"""

from __future__ import annotations

import contextlib
import os
from multiprocessing import forkserver
from types import SimpleNamespace
from typing import Any

from workflows_pkg.orchestration.waiting import ACCOUNT, Account, account_of

_waited: list[Account] = []
"""Of the child whose exit code is sent next."""


def _waitpid(pid: int, options: int) -> tuple[int, int]:
    _waited.clear()
    found, status, usage = os.wait4(pid, options)
    if found:
        _waited.append(account_of(usage))
    return found, status


def _fork() -> int:
    _waited.clear()  # the number sent next is a process id
    return os.fork()


def _write_signed(fd: int, number: int) -> None:
    rest = ACCOUNT.pack(*_waited.pop()) if _waited else b""
    os.write(fd, forkserver.SIGNED_STRUCT.pack(number) + rest)  # less than PIPE_BUF: all of it or none


def _told() -> None:
    theirs: Any = forkserver
    if callable(theirs.write_signed) and theirs.SIGNED_STRUCT.size == 8 and theirs.os is os:
        theirs.os = SimpleNamespace(**{**vars(os), "waitpid": _waitpid, "fork": _fork})
        theirs.write_signed = _write_signed


with contextlib.suppress(Exception):  # a fork server that cannot measure still has to fork
    _told()
