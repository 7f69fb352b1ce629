"""How is an event stored without waiting for the disk? Together with the next one of its run, in that one's transaction.

On Dagster's default storage, SQLite with a file for each run, any event costs a connection, a commit that waits for the disk, and a
second wait where closing the only connection writes the file anew: several times what measuring itself takes. The next event of the
run is never far, as Dagster writes one wherever a step's body ends, and pays for the same.

A connection that is kept open would save the second wait for all events, and with it what tells the UI that there are new ones.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import dagster as dg

# Where Dagster's storage is opened has no public name; tests/orchestration/test_with_next.py fails when it moves.
from dagster._core.storage.event_log import SqliteEventLogStorage

_log = logging.getLogger(__name__)

_waiting: dict[str, list[dg.EventLogEntry]] = {}
_lock = threading.Lock()
os.register_at_fork(after_in_child=_waiting.clear)  # they are the parent's to store


def stored_with_next(instance: dg.DagsterInstance, run_id: str, event: dg.DagsterEvent) -> bool:
    """Has the event stored just before the next one of its run in this process; False where this storage is none that can.

    To be called only where a next one is sure to come. What reads the run in this process finds the event already.
    """
    storage: Any = instance.event_log_storage
    if type(storage) is SqliteEventLogStorage:
        storage.__class__ = _Storage
    if type(storage) is not _Storage:
        return False
    entry = dg.EventLogEntry(
        error_info=None,
        level=logging.INFO,
        user_message="",
        run_id=run_id,
        timestamp=time.time(),
        step_key=event.step_key,
        job_name=event.job_name,
        dagster_event=event,
    )
    with _lock:
        _waiting.setdefault(run_id, []).append(entry)
    return True


class _Storage(SqliteEventLogStorage):
    """Dagster's own, put under an object that exists."""

    @contextmanager
    def run_connection(self, run_id: str | None = None) -> Generator[Any]:
        with super().run_connection(run_id) as connection:
            if run_id not in _waiting:
                yield connection
                return
            with _lock:
                entries = _waiting.pop(run_id, [])
            try:
                for entry in entries:
                    self._store(connection, entry)
                yield connection
            except BaseException:
                with _lock:
                    _waiting[run_id] = entries + _waiting.get(run_id, [])  # rolled back: with the one after that
                raise

    def _store(self, connection: Any, entry: dg.EventLogEntry) -> None:
        try:
            connection.execute(self.prepare_insert_event(entry))
        except Exception:  # noqa: BLE001 - a courtesy: the event that this goes with is stored all the same
            _log.debug("An event could not be stored.", exc_info=True)
