"""Looking at an instance changes not a byte of it, nor a name in its folders, nor a time of its files."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.history import sqlite_files
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.sources import open_source, sqlite


def fingerprint(home: Path) -> dict[str, tuple[int, str]]:
    """(time of the last change, hash of the content) of everything below, folders by their names only."""
    found: dict[str, tuple[int, str]] = {}
    for path in [home, *sorted(home.rglob("*"))]:
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ",".join(sorted(os.listdir(path)))
        found[str(path.relative_to(home))] = (path.stat().st_mtime_ns, content)
    return found


def look(home: Path, history: Path) -> int:
    with open_source(home, untouched=True) as source:
        return sync_events(source, history).events


def rest(home: Path) -> None:
    """Makes every file look as if nobody had written for a long time."""
    for path in home.rglob("*"):
        if path.is_file():
            os.utime(path, (1_700_000_000, 1_700_000_000))


def leave_logs(home: Path) -> None:
    """Kills a process that has written to every database of the instance and not moved its write-ahead logs into the files."""
    code = "\n".join(
        (
            "import os, signal, sqlite3, sys",
            "held = []",
            "for file in sys.argv[1:]:",
            "    con = sqlite3.connect(file)",
            "    con.execute('pragma wal_autocheckpoint = 0')",
            "    con.execute('create table left_behind (x)')",
            "    con.commit()",
            "    held.append(con)",
            "os.kill(os.getpid(), signal.SIGKILL)",
        )
    )
    files = [str(file) for file in (*home.glob("history/**/*.db"), *home.glob("schedules/*.db"))]
    killed = subprocess.run([sys.executable, "-c", code, *files])
    assert killed.returncode == -9
    for file in files:
        assert Path(f"{file}-wal").stat().st_size > 0
        Path(f"{file}-shm").unlink()  # as after a restart of the machine, or in a copy of the folder


@pytest.fixture(params=["sharded", "consolidated"])
def home(request: pytest.FixtureRequest, copied: Callable[[str], Any]) -> Path:
    return copied(request.param).home


def test_an_instance_at_rest_stays_as_it_is(home: Path, tmp_path: Path) -> None:
    rest(home)
    before = fingerprint(home)
    assert look(home, tmp_path / "look") > 50
    assert fingerprint(home) == before


def test_an_instance_written_to_a_moment_ago_stays_as_it_is(home: Path, tmp_path: Path) -> None:
    for file in home.glob("history/**/*.db"):
        file.touch()
    before = fingerprint(home)
    assert look(home, tmp_path / "look") > 50
    assert fingerprint(home) == before


def test_logs_left_behind_are_read_and_stay_as_they_are(home: Path, tmp_path: Path) -> None:
    leave_logs(home)
    before = fingerprint(home)
    assert look(home, tmp_path / "look") > 50
    assert fingerprint(home) == before
    columns = sqlite.SqliteFile(home / "history" / "runs.db", untouched=True).columns("left_behind")
    assert columns == {"x"}  # what only the log knows is seen


def test_control_reading_with_mode_ro_changes_an_instance_with_logs_left_behind(home: Path, tmp_path: Path) -> None:
    leave_logs(home)
    before = fingerprint(home)
    assert sync_events(home, tmp_path / "sync").events > 50
    assert fingerprint(home) != before


def test_control_immutable_alone_does_not_see_what_the_log_holds(home: Path) -> None:
    leave_logs(home)
    with closing(sqlite3.connect(f"file:{home / 'history' / 'runs.db'}?immutable=1", uri=True)) as con:
        assert con.execute("select count(*) from sqlite_master where name = 'left_behind'").fetchone() == (0,)


@pytest.mark.parametrize("checkpoint", [0, 1, 1000])
def test_a_database_being_written_to_is_read_as_it_was_at_one_moment(tmp_path: Path, checkpoint: int) -> None:
    folder = tmp_path / "busy"
    folder.mkdir()
    file = folder / "busy.db"
    with closing(sqlite3.connect(file)) as con:
        con.execute("pragma journal_mode = wal")
        con.execute("create table pairs (a integer, b integer, filling text)")
        con.execute("create index by_a on pairs (a)")
        con.executemany("insert into pairs values (?, ?, ?)", [(n, 0, "x" * 500) for n in range(400)])
        con.commit()
    done = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(file, timeout=30)) as con:
            con.execute(f"pragma wal_autocheckpoint = {checkpoint}")
            turn = 0
            while not done.is_set():
                turn += 1
                con.execute("update pairs set b = ?", (turn,))
                con.commit()
                time.sleep(0.002)  # between two events of a busy instance

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen: set[int] = set()
        names: set[str] = set()
        deadline = time.monotonic() + 60
        while len(seen) < 15 and time.monotonic() < deadline:
            found, sound = sqlite_files.read(str(file), _state_of_pairs, untouched=True)
            assert (len(found), sound) == (1, "ok")
            seen |= found
            names |= set(os.listdir(folder))
    finally:
        done.set()
        thread.join()
    assert len(seen) >= 15
    assert names <= {"busy.db", "busy.db-wal", "busy.db-shm"}


def _state_of_pairs(con: sqlite3.Connection) -> tuple[set[int], str]:
    return {row[0] for row in con.execute("select distinct b from pairs")}, con.execute("pragma integrity_check").fetchone()[0]


def test_control_a_plain_copy_of_a_database_being_written_to_is_torn(tmp_path: Path) -> None:
    """A copy without a look at the log's header mixes two moments, here made on purpose by a checkpoint between the two files."""
    file, copy = tmp_path / "a.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(file)) as con:
        con.execute("pragma journal_mode = wal")
        con.execute("pragma wal_autocheckpoint = 0")
        con.execute("create table pairs (b integer, filling text)")
        con.executemany("insert into pairs values (?, ?)", [(0, "x" * 500) for _ in range(400)])
        con.commit()
        con.execute("pragma wal_checkpoint(truncate)")
        con.execute("update pairs set b = 1")
        con.commit()
        header = sqlite_files._header(f"{file}-wal")
        shutil.copyfile(file, copy)  # before the change
        con.execute("pragma wal_checkpoint(truncate)")
        con.execute("update pairs set b = 2 where rowid = 1")
        con.commit()
        shutil.copyfile(f"{file}-wal", f"{copy}-wal")
        with closing(sqlite3.connect(copy)) as torn:
            found = {row[0] for row in torn.execute("select distinct b from pairs")}
        assert {0, 2} <= found  # never at the same moment
        assert sqlite_files._header(f"{file}-wal") != header  # which is what tells


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with closing(sqlite3.connect(file)) as con:
        con.execute("create table t (x)")
        con.execute("insert into t values (1)")
        con.commit()
    os.utime(file, (1_700_000_000, 1_700_000_000))
    answers: list[int] = []

    def query(con: sqlite3.Connection) -> int:
        answers.append(con.execute("select x from t").fetchone()[0])
        if len(answers) == 1:
            with closing(sqlite3.connect(file)) as other:
                other.execute("update t set x = 2")
                other.commit()
        return answers[-1]

    assert sqlite_files.read(str(file), query, untouched=True) == 2
    assert answers == [1, 2]


def test_a_live_instance_gets_no_file_from_us(copied: Callable[[str], Any], tmp_path: Path) -> None:
    place = copied("sharded")
    with closing(sqlite3.connect(place.home / "history" / "runs.db")) as con:  # somebody works here, with a log and its index
        con.execute("pragma wal_autocheckpoint = 0")
        con.execute("update runs set mode = 'x'")
        con.commit()
        before = fingerprint(place.home)
        assert look(place.home, tmp_path / "look") > 50
        assert fingerprint(place.home) == before


def test_dagster_yaml_is_read_without_making_an_instance(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(f"storage: {{sqlite: {{base_dir: {tmp_path / 'elsewhere'}}}}}\n")
    before = fingerprint(tmp_path)
    with pytest.raises(Exception, match="has not run anything yet"):
        open_source(home, untouched=True)
    assert fingerprint(tmp_path) == before


def test_what_was_looked_at_is_the_whole_history(home: Path, tmp_path: Path) -> None:
    leave_logs(home)
    look(home, tmp_path / "look")
    sync_events(home, tmp_path / "sync")
    found = []
    for name in ("look", "sync"):
        with closing(open_history(tmp_path / name)) as con:
            found.append(con.execute("select run_id, event_id, event_hash from events order by all").fetchall())
    assert found[0] == found[1]
