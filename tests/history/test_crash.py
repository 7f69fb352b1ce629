"""Whenever the writer dies, every event is there once and the cursor stands behind the last (T-A1, T-A2)."""

from __future__ import annotations

import random
import shutil
import signal

import pytest

from workflows_pkg.history.records import RECORDS
from workflows_pkg.history.store import open_history, writer

ROWS = 8 * 4 * 3
"""Three days of four runs with eight events."""

POINTS = ("before_insert", "mid_batch", "before_commit", "after_commit", "during_checkpoint", "before_publish_rename",
          "during_migration", "before_seal_rename", "after_seal_rename")  # fmt: skip


def broken_promises(home) -> list[str]:
    """What is wrong with the history right now: events lost or doubled, or a cursor elsewhere than after the last event."""
    with writer(home) as history:
        events, distinct = history.con.execute(
            "select count(*), count(distinct (run_id, event_id, event_hash)) from events"
        ).fetchone()
        found = history.con.execute("select position::bigint from cursors").fetchone()
        runs = history.con.execute("select count(*), count(distinct run_id) from runs").fetchone()
    position = found[0] if found else 0
    wrong = [f"{events - distinct} events doubled"] * (events != distinct)
    wrong += [f"cursor {position}, {distinct} events"] * (position != distinct)
    return wrong + [f"{runs} runs doubled"] * (runs[0] != runs[1])


@pytest.fixture(scope="module")
def undisturbed(nursery, tmp_path_factory):
    """Contents of a history that nobody interrupted."""
    home = tmp_path_factory.mktemp("undisturbed")
    assert nursery.ingest(home, rows=ROWS, batch_size=ROWS) == 0
    return contents(home)


@pytest.fixture(scope="module")
def begun(nursery, tmp_path_factory):
    """A history in which something stands already, some of it sealed."""
    home = tmp_path_factory.mktemp("begun")
    assert nursery.ingest(home, rows=8 * 5, batch_size=20) == 0
    return home


def contents(home) -> dict[str, list[tuple]]:
    with open_history(home) as con:
        return {r.table: con.execute(f"select * from {r.table} order by all").fetchall() for r in RECORDS if r.table != "cursors"}


@pytest.mark.parametrize("mode", ["exit", "kill"])
@pytest.mark.parametrize("point", POINTS)
def test_a_death_at_a_named_point_loses_and_doubles_nothing(nursery, tmp_path, begun, undisturbed, point, mode):
    if point != "during_migration":
        shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    code = nursery.ingest(tmp_path, rows=ROWS, crash_at=f"{point}:{mode}")
    assert code == (70 if mode == "exit" else -signal.SIGKILL), "the crash point was not reached"
    assert broken_promises(tmp_path) == []
    assert nursery.ingest(tmp_path, rows=ROWS, batch_size=30) == 0
    assert contents(tmp_path) == undisturbed


def test_a_death_inside_the_checkpoint_loses_nothing(nursery, tmp_path, undisturbed):
    assert nursery.ingest(tmp_path, rows=ROWS // 2, batch_size=24) == 0
    nursery.start("die_inside_checkpoint", tmp_path)
    assert nursery.wait() == 70
    assert broken_promises(tmp_path) == []
    assert nursery.ingest(tmp_path, rows=ROWS) == 0
    assert contents(tmp_path) == undisturbed


def kill_at_random_times(nursery, home, kills: int, cursor_apart: bool) -> list[str]:
    """Kills the writer `kills` times in the middle of its work; returns what was found broken right after each death."""
    times = random.Random(20250101)
    wrong: list[str] = []
    rows = 0  # grows, so that there always is work to be killed in
    while kills:
        rows += 8 * 40
        code = nursery.ingest(home, rows=rows, cursor_apart=cursor_apart, kill_after_s=times.uniform(0.02, 0.25))
        if code == -signal.SIGKILL:
            kills -= 1
        wrong += broken_promises(home)
    return wrong


def test_kills_at_random_times_lose_and_double_nothing(nursery, tmp_path):
    assert kill_at_random_times(nursery, tmp_path, 25, cursor_apart=False) == []


@pytest.mark.long
def test_many_kills_at_random_times_lose_and_double_nothing(nursery, tmp_path):
    assert kill_at_random_times(nursery, tmp_path, 150, cursor_apart=False) == []


def test_control_a_cursor_in_a_transaction_of_its_own_is_caught(nursery, tmp_path):
    assert nursery.ingest(tmp_path, rows=40, cursor_apart=True, crash_at="mid_batch:kill") == -signal.SIGKILL
    assert broken_promises(tmp_path) == ["cursor 11, 0 events"]
