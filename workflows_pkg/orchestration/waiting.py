"""How is a child waited for so that it is known what it used? Each of multiprocessing's ways to wait, with the account kept.

- A forked or spawned child is this process's own: `wait4` gives the exit code and the account at once.
- A child of a fork server is waited for by the server, which sends the exit code through a pipe. One that has loaded
  `orchestration.fork_server` waits with `wait4` as well, and sends the account after the code.

The account's peak memory is the child's `ru_maxrss`. For a started program the kernel takes into it what its parent's program had
ever taken (exec keeps the mark of the memory it replaces, and until then that was the parent's): it is known where it is
clearly above that.

Standard library only: a fork server loads this before it forks.
"""

from __future__ import annotations

import multiprocessing.process
import os
import resource
import struct
import sys
from multiprocessing import popen_fork, popen_forkserver, popen_spawn_posix
from multiprocessing.connection import wait
from typing import Any, NamedTuple


class Account(NamedTuple):
    """What a process had used when it was waited for, with the children that it had waited for itself; None: unknown."""

    cpu_s: float
    peak_memory_mib: float | None


ACCOUNT = struct.Struct("dd")
"""An account as a fork server sends it after an exit code."""


def account_of(usage: resource.struct_rusage) -> Account:
    """The account of a child from what `wait4` gave."""
    return Account(usage.ru_utime + usage.ru_stime, peak_memory_mib_of(usage))


def peak_memory_mib_of(usage: resource.struct_rusage) -> float:
    """Largest resident memory that an account of use names."""
    return usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)  # in bytes on macOS, in KiB elsewhere


def own_peak_memory_mib() -> float:
    """Largest resident memory of the program that this process runs: on Linux `VmHWM`, which begins with it."""
    try:
        with open("/proc/self/status", "rb") as status:
            return int(status.read().partition(b"VmHWM:")[2].split(None, 1)[0]) / 1024
    except (OSError, ValueError, IndexError):
        return peak_memory_mib_of(resource.getrusage(resource.RUSAGE_SELF))


def _counted_late_mib() -> float:
    """How much the kernel's marks of one memory may differ: each CPU counts pages (anonymous, of files, shared) in batches of its own.

    A batch is max(32, twice the CPUs) pages (`percpu_counter_batch` in lib/percpu_counter.c of Linux 6.2 and later).
    """
    cpus = os.cpu_count() or 1
    return 3 * cpus * max(32, 2 * cpus) * resource.getpagesize() / 2**20


class Wait:
    """A child of this process, from now on waited for with its account kept. Raises nothing for kinds it does not know."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._waiting: Any = getattr(process, "_popen", None)
        kind = _KINDS.get(type(self._waiting))
        if kind is not None:
            self._waiting.__class__ = kind

    def account(self) -> Account | None:
        """None: it has not ended, or it was waited for in a way that keeps no account."""
        return getattr(self._waiting, "account", None)


# Classes put under objects that exist: they have no state of their own to begin with.


class _Own:
    pid: int
    returncode: int | None
    account: Account | None = None

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code once the child has ended, as multiprocessing's own."""
        if self.returncode is None:
            try:
                pid, status, usage = os.wait4(self.pid, flag)
            except OSError:
                return None
            if pid == self.pid:
                self.returncode, self.account = os.waitstatus_to_exitcode(status), self._kept(account_of(usage))
        return self.returncode

    def _kept(self, account: Account) -> Account:
        return account


class _Forked(_Own, popen_fork.Popen):
    pass


class _Spawned(_Own, popen_spawn_posix.Popen):
    def _kept(self, account: Account) -> Account:
        parents_at_most = own_peak_memory_mib() + _counted_late_mib()
        known = account.peak_memory_mib is not None and account.peak_memory_mib > parents_at_most
        return account if known else account._replace(peak_memory_mib=None)


class _Served(popen_forkserver.Popen):
    account: Account | None = None

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None and super().poll(flag) is not None:
            self.account = self._sent()
        return self.returncode

    def _sent(self) -> Account | None:
        """What stands in the pipe after the exit code: nothing, where it is somebody else's fork server."""
        try:
            rest = os.read(self.sentinel, ACCOUNT.size) if wait([self.sentinel], 0) else b""
        except OSError:
            return None
        return Account(*ACCOUNT.unpack(rest)) if len(rest) == ACCOUNT.size else None


_KINDS: dict[type, type] = {
    popen_spawn_posix.Popen: _Spawned,
    popen_fork.Popen: _Forked,
    popen_forkserver.Popen: _Served,
}
