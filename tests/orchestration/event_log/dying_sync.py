"""Syncs in child processes that die where they are told to: `python dying_sync.py <home> <folder> <mode> <death>...`.

For each death a fresh history: a child syncs and dies there, a second child syncs to the end. Prints one JSON line per death: whether the
first child died, how many events were there after it, and the keys of all events and the cursors at the end. A death is a crash point
(`name` or `name:kill`) or a number of milliseconds after which the child is killed. The mode `broken` moves the cursors in a transaction of
their own, ahead of the rows: the control that must lose rows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from workflows_pkg.history.crash import VARIABLE
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration import batches, events


def in_child(work: Any, kill_after_s: float | None = None) -> int:
    """Runs `work` in a forked child and returns how it ended, as `os.waitpid` says."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def sync(home: Path, history: Path, point: str = "") -> None:
    os.environ[VARIABLE] = point
    batches.PIECE_ROWS, batches.BATCH_ROWS, batches.BATCH_RUNS = 25, 25, 2
    events.sync_events(home, history)


def move_cursors_first() -> None:
    """The broken variant."""
    right_way = events._land_batch

    def wrong_way(history: Any, plan: Any, batch: Any, **more: Any) -> Any:
        history.upsert(events.Cursor, list(batch.cursors.values()))
        time.sleep(0.05)
        return right_way(history, plan, batch, **more)

    events._land_batch = wrong_way


def found(history: Path, result: Path) -> None:
    with closing(open_history(history)) as con:
        keys = con.execute("select run_id, event_id, event_hash from events order by all").fetchall()
        cursors = con.execute("select shard, position from cursors order by all").fetchall()
        runs = con.execute("select run_id, outcome, attempt_count from runs order by all").fetchall()
    result.write_text(json.dumps({"events": keys, "cursors": cursors, "runs": runs}))


def main(home: Path, folder: Path, mode: str, deaths: list[str]) -> None:
    if mode == "broken":
        move_cursors_first()
    for number, death in enumerate(deaths):
        history, result = folder / f"history{number}", folder / f"result{number}.json"
        point, after_s = ("", int(death) / 1000) if death.isdecimal() else (death, None)
        status = in_child(partial(sync, home, history, point), after_s)
        in_child(partial(sync, home, history))
        in_child(partial(found, history, result))
        sys.stdout.write(json.dumps({"death": death, "died": status != 0, **json.loads(result.read_text())}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
