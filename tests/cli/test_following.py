"""`workflows history sync --follow`: what happens is in history soon, whatever else writes there or fails meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from workflows_pkg.history.store import open_history, writer

# whoever starts the tests in the background may have made their children deaf to Ctrl-C
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from workflows_pkg.cli.main import main; main()"
COMMAND = (sys.executable, "-c", START, "history", "sync", "--follow")
PATIENCE_S = 180


@dg.job
def nothing() -> None: ...


@contextmanager
def following(log: Path) -> Generator[subprocess.Popen[bytes]]:
    with log.open("wb") as out, subprocess.Popen(COMMAND, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def runs_landed(home: Path) -> int:
    with open_history(home) as con:
        return con.execute("select count(*) from runs where outcome = 'success'").fetchall()[0][0]


def test_a_follower_lands_what_happens_and_outlives_another_writer_and_a_broken_file(project: Path, tmp_path: Path) -> None:
    home, log = Path(os.environ["DAGSTER_HOME"]), tmp_path / "log.txt"
    with dg.DagsterInstance.from_config(str(home)) as instance, following(log) as process:
        until(lambda: "0 runs" in log.read_text(), "it did not begin")
        nothing.execute_in_process(instance=instance)
        until(lambda: runs_landed(home) == 1, "the first run did not land")

        with writer(home, 30):  # the sensor, say
            nothing.execute_in_process(instance=instance)
        until(lambda: runs_landed(home) == 2, "what happened while another process wrote did not land")

        database = home / "history" / "runs.db"
        aside = database.rename(home / "runs.aside")
        until(lambda: "Trying again." in log.read_text(), "it did not tell that the database is gone")
        aside.rename(database)
        nothing.execute_in_process(instance=instance)
        until(lambda: runs_landed(home) == 3, "it did not go on after the database was back")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    said = log.read_text()
    assert "Traceback" not in said


def test_an_instance_that_is_not_there_is_refused_at_once(project: Path, tmp_path: Path) -> None:
    """The control: only what worked once is waited for."""
    found = subprocess.run([*COMMAND, "--home", str(tmp_path / "nowhere")], capture_output=True, timeout=PATIENCE_S, check=False)
    assert (found.returncode, b"Trying again" in found.stderr) == (1, False)
