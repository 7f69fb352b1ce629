"""Whenever an archive, a purge or a restore dies, nothing is lost, and the same command again ends where an undisturbed one does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.history.archive import Archive, row_digest
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.orchestration.sources.stored import open_stored

MONTH = timedelta(days=30)

ARCHIVE = ("archive.before_sync", "archive.before_verify", "archive.before_manifest", "archive.after_manifest")
PURGE = ("purge.before_delete", "purge.after_delete", "purge.before_receipt", "purge.after_receipt")
REWRITE = ("purge.before_rewrite", "purge.after_rewrite")
RESTORE = ("restore.before_insert", "restore.after_insert")


class Nursery:
    """Starts children of `purging.py`; one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(Path(__file__).with_name("purging.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip

    def does(self, what: str, aged: Any, *, crash_at: str = "", kill_after_s: float = 0) -> int:
        """Exit code of a child that does this to the instance, below zero for a signal."""
        request = {"what": what, "home": str(aged.home), "archive": str(aged.archive), "crash_at": crash_at}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        pid = self._answer()
        if kill_after_s:
            time.sleep(kill_after_s)
            with suppress(ProcessLookupError):  # it was done before
                os.kill(pid, signal.SIGKILL)
        return self._answer()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    assert made.process.stdin is not None
    assert made.process.stdout is not None
    made.process.stdin.close()
    made.process.stdout.close()
    made.process.wait(timeout=10)


def archive_of(aged: Any) -> Archive:
    return Archive(archive_files(str(aged.archive)))


def archived_rows(aged: Any) -> dict[str, dict[int, bytes]]:
    """Hash of every row that counts as archived, by run and number."""
    archive = archive_of(aged)
    found: dict[str, dict[int, bytes]] = {}
    for source in archive.sources():
        for part in archive.parts(source):
            for run_id, rows in archive.rows(part):
                found.setdefault(run_id, {}).update((row.event_id, row_digest(row)) for row in rows)
    return found


def digests(aged: Any) -> dict[str, dict[int, bytes]]:
    """Hash of every row that is in the instance, by run and number."""
    stored = open_stored(aged.home)
    found = {run_id: {row.event_id: row_digest(row) for rows in stored.rows(run_id) for row in rows} for run_id in aged.old}
    stored.close()
    return found


def lost(aged: Any, before: dict[str, dict[int, bytes]]) -> list[tuple[str, int]]:
    """Rows that were in the instance and are neither there nor in the archive."""
    there, archived = digests(aged), archived_rows(aged)
    return [
        (run_id, number)
        for run_id, rows in before.items()
        for number, digest in rows.items()
        if digest not in (there[run_id].get(number), archived.get(run_id, {}).get(number))
    ]


def test_a_death_at_a_named_point_loses_nothing_and_is_made_good(nursery: Nursery, aged: Any) -> None:
    before, untouched = digests(aged), aged.logs()
    modes = iter(("kill", "exit") * 8)

    def dies(what: str, point: str) -> None:
        mode = next(modes)
        code = nursery.does(what, aged, crash_at=f"{point}:{mode}")
        assert code == (70 if mode == "exit" else -signal.SIGKILL), f"{point} was not reached"
        assert lost(aged, before) == []

    for point in ARCHIVE:
        dies("archive", point)
        assert aged.logs() == untouched
    assert nursery.does("archive", aged) == 0
    archive = archive_of(aged)
    assert archived_rows(aged) == before
    assert archive.sweep(archive.sources()[0]) == 0

    assert nursery.does("purge", aged) == 0
    purged = aged.logs()
    assert purged != untouched
    for point in (*PURGE, *REWRITE * (aged.place.kind == "sharded")):
        assert nursery.does("restore", aged) == 0
        dies("purge", point)
        assert nursery.does("purge", aged) == 0
        assert aged.logs() == purged
    for point in RESTORE:
        dies("restore", point)
        assert nursery.does("restore", aged) == 0
        assert aged.logs() == untouched
        assert nursery.does("purge", aged) == 0


def killed_at_random(nursery: Nursery, aged: Any, kills: int) -> int:
    """Kills purges and restores in the middle of their work; returns how many died, after each of which nothing was lost."""
    before, untouched = digests(aged), aged.logs()
    times = random.Random(20250102)
    assert nursery.does("archive", aged) == 0
    assert nursery.does("purge", aged) == 0
    purged = aged.logs()
    died = 0
    for number in range(kills):
        what = ("restore", "purge")[number % 2]
        died += nursery.does(what, aged, kill_after_s=times.uniform(0.005, 0.2)) == -signal.SIGKILL
        assert lost(aged, before) == []
        assert nursery.does(what, aged) == 0
        assert aged.logs() == (untouched, purged)[number % 2]
    return died


def test_kills_at_random_times_lose_nothing(nursery: Nursery, aged_copy: Callable[[str], Any]) -> None:
    assert killed_at_random(nursery, aged_copy("sharded"), 8) > 0


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["sharded", "consolidated", "postgres"])
def test_many_kills_at_random_times_lose_nothing(nursery: Nursery, aged_copy: Callable[[str], Any], kind: str) -> None:
    assert killed_at_random(nursery, aged_copy(kind), 40) > 10


def test_control_a_purge_that_does_not_read_the_archive_back_is_seen(nursery: Nursery, aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("sharded")
    before = digests(aged)
    assert nursery.does("archive", aged) == 0
    for file in aged.archive.glob("*/*.parquet"):
        file.write_bytes(b"")
    assert nursery.does("purge", aged) == 1, "a purge reads the archive"
    assert digests(aged) == before
    assert nursery.does("purge unread", aged) == 0
    for file in aged.archive.glob("*/*.json"):
        file.unlink()
    assert lost(aged, before) != []
