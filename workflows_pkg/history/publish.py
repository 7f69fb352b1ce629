"""How does the hot database become the copy that readers open, in one step and only when something changed?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import duckdb

from workflows_pkg.history.crash import crash_point
from workflows_pkg.history.layout import Layout


def publish(con: duckdb.DuckDBPyConnection, layout: Layout) -> bool:
    """Replaces the published copy by the present state of `con`, which must be outside a transaction; False where nothing
    changed.

    A reader has the old file or the new one. A connection to the old one goes on reading it for as long as it likes.
    """
    if not _changed(layout):
        return False
    con.execute("CHECKPOINT")  # afterwards all rows are in the file, and none in the write-ahead log beside it
    crash_point("during_checkpoint")
    fresh = layout.published.with_name(layout.published.name + ".unpublished")
    fresh.unlink(missing_ok=True)
    shutil.copyfile(layout.hot, fresh)
    os.chmod(fresh, 0o444)  # opened for writing by mistake it would grow a write-ahead log, and the change would be lost
    sync(fresh)
    crash_point("before_publish_rename")
    os.replace(fresh, layout.published)
    # A log left by such a mistake belongs to the replaced file; beside the new one it would make DuckDB refuse to open it.
    _log_of(layout.published).unlink(missing_ok=True)
    sync(layout.home)
    layout.stamp.write_text(_state(layout.hot))
    return True


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, safe from a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _changed(layout: Layout) -> bool:
    """Whether the hot database differs from the published copy; true also where a writer died before it could publish.

    DuckDB leaves file and log untouched as long as nothing is written, so their state on disk is the whole answer.
    """
    log = _log_of(layout.hot)
    if not layout.published.exists() or not layout.stamp.exists() or (log.exists() and log.stat().st_size > 0):
        return True
    return layout.stamp.read_text() != _state(layout.hot)


def _state(file: Path) -> str:
    found = file.stat()
    return f"{found.st_mtime_ns} {found.st_size}"


def _log_of(file: Path) -> Path:
    return file.with_name(file.name + ".wal")
