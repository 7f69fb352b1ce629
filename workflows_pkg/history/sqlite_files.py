"""How is a SQLite file read that belongs to somebody else, without disturbing it?

Reading takes no lock that could make its owner wait. A database at rest is read as immutable, and the read is thrown away if the
file changed meanwhile. One in use is read in one of two ways:

- beside its owner (`untouched=False`) with `mode=ro`, where readers and the writer of a write-ahead log do not wait for each other;
  SQLite may make the index of the log (`-shm`) anew beside it;
- without leaving a trace (`untouched=True`) from a private copy of the file and its log in a temporary folder.

Why a copy made beside a writer is one state of the database: pages move from the log into the file at a checkpoint, and the log
keeps them until its header changes. The header is read before the file is copied and after the log is: where it is the same,
every page that changed in the file meanwhile is in the copied log too, and SQLite takes it from there. Without a log the file
itself must not have changed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from workflows_pkg.errors import BusyError, SetupError, bounded

QUIET_S = 1.0
"""A file untouched for this long is read as immutable. Well above the coarsest modification time in use (ext4: 4 ms)."""

PATIENCE_S = 5.0
"""How long to wait for a database that somebody holds exclusively, which only a database without a write-ahead log allows."""

_COPY_TRIES = 20
"""A copy that changed under way is made again this often: writers pause between events."""

_TICK_S = 0.02
"""Above the coarsest modification time: two writes closer together may show the same one."""

_LOG_HEADER = 32
"""Bytes of the header of a write-ahead log; its salts change when the log is begun anew (sqlite.org/fileformat2.html)."""

Result = TypeVar("Result")

State = tuple[int, int] | None
"""Modification time in ns and size; None where there is no file."""


def read(path: str, query: Callable[[sqlite3.Connection], Result], *, untouched: bool = False) -> Result:
    """`query` of a read-only connection to `path`; raises BusyError where somebody holds the file, SetupError where it is broken.

    `query` may be called twice and must read all it wants before it returns.
    """
    if os.path.islink(path):  # SQLite keeps the log beside the file itself, not beside the link
        path = os.path.realpath(path)
    try:
        before = at_rest(path)
        if before is not None:
            try:
                with _connection(path, "immutable=1") as connection:
                    result = query(connection)
                if _state(path) == before and not _pending(path):
                    return result
            except sqlite3.DatabaseError:  # changed under the reader; below a broken file is told from a busy one
                pass
        if untouched:
            return _read_copy(path, query)
        try:
            with _connection(path, "mode=ro") as connection:
                return query(connection)
        except sqlite3.OperationalError as error:
            # in a folder that this user may only read, SQLite cannot make the index of the write-ahead log; and whoever died while
            # writing without such a log left a journal, which only somebody who may write the file can play back; whoever lives holds it
            left = _pending_journal(f"{path}-journal") and not _held(error)
            if not (os.path.exists(path) and (os.path.exists(f"{path}-wal") or left)):
                raise
            return _read_copy(path, query)
    except sqlite3.OperationalError as error:
        if _held(error):
            raise BusyError(f"{path} is held by another program: {error}.", fix="Wait and try again.") from error
        raise SetupError(
            f"{path} cannot be read: {bounded(error, 200)}.", fix="Check that it is the file that is meant, and may be read."
        ) from error
    except sqlite3.DatabaseError as error:
        raise SetupError(
            f"{path} is not a readable SQLite file: {bounded(error, 200)}.", fix="Restore it from a backup."
        ) from error
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}.", fix="Check that this user may read it.") from error


def _held(error: sqlite3.OperationalError) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def at_rest(path: str) -> State:
    """The file's state, where nothing is being written nor was a moment ago and no log waits beside it; None otherwise."""
    state = _state(path)
    return None if state is None or _age_s(state) < QUIET_S or _pending(path) else state


def _age_s(state: tuple[int, int]) -> float:
    """Seconds between now and the last change, also where the clock of the file's machine is ahead."""
    return abs(time.time() - state[0] / 1e9)


def _state(path: str) -> State:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size)


def _pending(path: str) -> bool:
    """Whether a log beside the file holds what the file does not."""
    return any((state := _state(f"{path}{end}")) is not None and state[1] > 0 for end in ("-wal", "-journal"))


@contextmanager
def _connection(path: str, how: str) -> Generator[sqlite3.Connection]:
    uri = f"file:{quote(os.path.abspath(path))}?{how}"  # '?', '#' and '%' in a name would be parameters
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_S, check_same_thread=False)) as connection:
        yield connection


def _read_copy(path: str, query: Callable[[sqlite3.Connection], Result]) -> Result:
    with _copy(path) as copied, _connection(copied, "mode=rw") as connection:
        return query(connection)


@contextmanager
def _copy(path: str) -> Generator[str]:
    """A private copy of the file and its log as they were at one moment; raises BusyError where they never rest."""
    with tempfile.TemporaryDirectory(prefix="workflows-") as folder:
        copied = os.path.join(folder, "copy.db")
        for _ in range(_COPY_TRIES):
            if _copied(path, copied):
                yield copied
                return
            time.sleep(_TICK_S)
        raise BusyError(f"{path} changes faster than it can be copied.", fix="Try again later.")


def _copied(path: str, copied: str) -> bool:
    """Copies the file and what is beside it; whether the copy is one state of the database."""
    log, journal = f"{path}-wal", f"{path}-journal"
    for end in ("-wal", "-journal"):
        Path(f"{copied}{end}").unlink(missing_ok=True)
    header, before = _header(log), (_state(path), _state(journal))
    settled = before[0] is not None and _age_s(before[0]) > _TICK_S
    shutil.copyfile(path, copied)
    if header:
        shutil.copyfile(log, f"{copied}-wal")
        return _header(log) == header and not _pending_journal(journal)
    if _pending_journal(journal):
        shutil.copyfile(journal, f"{copied}-journal")
    return settled and not _header(log) and (_state(path), _state(journal)) == before


def _header(log: str) -> bytes:
    try:
        with open(log, "rb") as file:
            return file.read(_LOG_HEADER)
    except OSError:
        return b""


def _pending_journal(journal: str) -> bool:
    state = _state(journal)
    return state is not None and state[1] > 0
