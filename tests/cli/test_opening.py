"""A shell on history, and a copy of it to take along."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.history.records import RECORDS, Run, Tick
from workflows_pkg.history.snapshot import write_snapshot
from workflows_pkg.history.store import open_history, writer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history with a run that is sealed and one that is not."""
    folder = tmp_path / "home"
    folder.mkdir()
    with writer(folder) as history:
        for run_id, year in (("old", 2024), ("new", 2026)):
            at = datetime(year, 1, 1, tzinfo=UTC)
            history.upsert(
                Run, [Run(run_id=run_id, source_id="s", job_name="etl", outcome="success", created_at=at, ended_at=at)]
            )
            history.upsert(Tick, [Tick(source_id="s", tick_id=year, name="nightly", kind="schedule", status="success", at=at)])
        history.seal(date(2025, 1, 1))
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


def test_a_snapshot_has_all_of_every_table_and_needs_nothing_else(home: Path, tmp_path: Path) -> None:
    with open_history(home) as history:
        told = {record.table: history.execute(f"select * from {record.table} order by all").fetchall() for record in RECORDS}
    target = tmp_path / "mine.duckdb"
    assert write_snapshot(home, target) == sum(map(len, told.values())) >= 4
    home.rename(tmp_path / "elsewhere")
    with duckdb.connect(str(target), read_only=True) as copy:
        copy.execute("set TimeZone = 'UTC'")
        assert {name: copy.execute(f"select * from {name} order by all").fetchall() for name in told} == told
    with pytest.raises(SetupError, match="is there already"):
        write_snapshot(tmp_path / "elsewhere", target)
    assert not list(tmp_path.glob("*.unfinished*"))


def test_control_the_published_file_alone_lacks_what_is_sealed(home: Path, tmp_path: Path) -> None:
    published = (home / "history.duckdb").rename(tmp_path / "published.duckdb")
    home.rename(tmp_path / "elsewhere")
    with duckdb.connect(str(published), read_only=True) as copy, pytest.raises(duckdb.IOException):
        copy.execute("select * from runs").fetchall()


def test_the_commands_answer(home: Path, tmp_path: Path, workflows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    told = workflows("history", "snapshot", tmp_path / "mine.duckdb", "--json")
    assert told.value["rows"] >= 4
    assert "There is no folder" in workflows("history", "snapshot", tmp_path / "nowhere" / "x").err
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("select count(*) as n from runs; drop table runs;\nselect nothing; select 7 as seven")
    )
    said = workflows("history", "open")
    assert said.code == 0
    assert "2" in said.out
    assert "seven" in said.out
    assert "Expected one query" in said.err
    assert "could not answer" in said.err


def in_a_terminal(path: str, *talk: tuple[str, bytes]) -> None:
    """Opens the shell with this PATH in a terminal, and types what follows each text once that has appeared, one after the other."""
    there, here = pty.openpty()
    command = [sys.executable, "-W", "ignore", "-c", "from workflows_pkg.cli.main import main; main()", "history", "open"]
    process = subprocess.Popen(command, stdin=here, stdout=here, stderr=here, env={**os.environ, "PATH": path, "TERM": "dumb"})
    os.close(here)
    said, ends = "", time.monotonic() + 120
    for text, typed in talk:
        while text not in said:
            assert time.monotonic() < ends, said
            said += os.read(there, 4096).decode(errors="replace")
        said = said.split(text, 1)[1]
        os.write(there, typed)
    assert process.wait(timeout=60) == 0
    os.close(there)


def test_a_person_gets_a_prompt(home: Path) -> None:
    question = b"select job_name,\n count(*) as how_many from runs group by 1;\n"
    in_a_terminal(
        "/nowhere", ("history> ", question), ("how many", b""), ("history> ", b"\x04")
    )  # typed before the prompt, Ctrl-D is lost


def test_a_person_gets_duckdbs_own_shell_where_there_is_one(home: Path, tmp_path: Path) -> None:
    shell = tmp_path / "bin" / "duckdb"
    shell.parent.mkdir()
    shell.write_text('#!/bin/sh\necho "given: $@"\nread line\n')
    shell.chmod(0o755)
    in_a_terminal(str(shell.parent), (f"given: -readonly {home / 'history.duckdb'}", b"\n"))
