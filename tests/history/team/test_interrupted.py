"""Nothing is lost and nothing doubled when the writer is killed, a server is away, or two machines want to write."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.history.team.conftest import Team
from tests.history.team.test_team import everything, forecast, land, run, runs
from workflows_pkg.cli.main import exit_code
from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.history.layout import layout
from workflows_pkg.history.records import RECORDS, Forecast, Run
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.history.team.place import team_place
from workflows_pkg.history.team.status import read_status, write_status

LAND = Path(__file__).with_name("land.py")
POINTS = ("after_team_upload", "before_team_commit", "after_team_commit")


def land_and_die(home: Path, point: str, days_ago: float, *names: str) -> None:
    command = [sys.executable, str(LAND), str(home), str(days_ago), *names]
    done = subprocess.run(command, env={**os.environ, "WORKFLOWS_CRASH_AT": f"{point}:kill"}, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def same_everywhere(here: Path, elsewhere: Path) -> None:
    with open_history(elsewhere) as theirs, open_history(here) as ours:
        assert everything(theirs) == everything(ours)


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_that_is_killed_while_it_publishes_loses_and_doubles_nothing(point: str, team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    land_and_die(here, point, 12, "begun")  # the very first publication too
    assert [name for name, _ in runs(elsewhere)] == (["begun"] if point == "after_team_commit" else [])
    land(here, run("first"))
    assert [name for name, _ in runs(elsewhere)] == ["begun", "first"]
    land_and_die(here, point, 12, "killed", "begun")  # a sealed day is replaced: files are copied, and taken out
    found = Counter(name for name, _ in runs(elsewhere))
    assert found == Counter(["begun", "first"] + (["killed"] if point == "after_team_commit" else []))
    land(here, run("next"))
    assert Counter(name for name, _ in runs(elsewhere)) == Counter(["begun", "first", "killed", "next"])
    same_everywhere(here, elsewhere)
    assert len(list((here / "history.store/team").glob("*.duckdb"))) == 1


def test_a_publication_that_compares_with_another_copy_than_the_lake_has_goes_wrong(team: Team, tmp_path: Path) -> None:
    """The control: it is the generation that keeps a killed writer's rows right."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    files = layout(here)
    land(here, run("first"))
    (first,) = files.team.glob("*.duckdb")
    kept = tmp_path / "kept.duckdb"
    os.link(first, kept)
    with writer(here) as written:
        written.upsert(Forecast, [forecast("etl")])
    (second,) = files.team.glob("*.duckdb")
    second.unlink()
    os.link(kept, second)  # what was carried before, under the name of what was carried last
    with writer(here) as written:
        written.delete(Forecast, job_name="etl")
    with open_history(elsewhere) as theirs:
        assert len(everything(theirs)["forecasts"]) == 1, "a row that is gone stays for readers"


@pytest.mark.long
def test_a_writer_whose_memory_of_the_team_is_lost_carries_everything_again(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    land(here, run("first"), run("old", days_ago=12))
    for copy in (here / "history.store/team").glob("*.duckdb"):
        copy.unlink()
    land(here, run("second"))
    assert [name for name, _ in runs(elsewhere)] == ["first", "old", "second"]
    same_everywhere(here, elsewhere)


def test_rows_land_while_the_object_store_is_away_and_the_team_gets_them_afterwards(
    team: Team, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    land(here, run("first"))
    team.servers.s3.stop()
    try:
        with caplog.at_level(logging.WARNING):
            land(here, run("second"), run("old", days_ago=12))
            land(here, run("third"))  # soon after: the servers are left alone
        assert [name for name, _ in runs(here)] == ["first", "old", "second", "third"]
        assert len([one for one in caplog.records if "was not brought up to date" in one.getMessage()]) == 1
        half_a_minute_later(here)
        land(here, run("third"))
        assert len(list(layout(here).team.glob("*.duckdb"))) == 2, "what was carried last, and what could not be"
        said = doctor(here, capfd)
        assert said["state"] == "problem"
        assert "is behind since" in said["text"]
        assert [name for name, _ in runs(elsewhere)] == ["first"], "what is in PostgreSQL is still read"
    finally:
        team.servers.s3.start()
    half_a_minute_later(here)
    land(here)
    assert [name for name, _ in runs(elsewhere)] == ["first", "old", "second", "third"]
    same_everywhere(here, elsewhere)
    assert doctor(here, capfd)["state"] == "ok"


def test_rows_land_while_postgresql_is_away_and_the_team_gets_them_afterwards(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    land(here, run("first"))
    team.servers.sql(f"alter database {team.database} allow_connections false")
    team.servers.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{team.database}'")
    with caplog.at_level(logging.WARNING):
        land(here, run("second"))
    assert "was not brought up to date" in caplog.text
    assert [name for name, _ in runs(here)] == ["first", "second"]
    with pytest.raises(SetupError, match="cannot be reached"):
        runs(elsewhere)
    with pytest.raises(SetupError, match="cannot be reached"):
        land(tmp_path / "a new home", run("third"))
    team.servers.sql(f"alter database {team.database} allow_connections true")
    half_a_minute_later(here)
    land(here, run("third"))
    assert [name for name, _ in runs(elsewhere)] == ["first", "second", "third"]
    same_everywhere(here, elsewhere)


def half_a_minute_later(home: Path) -> None:
    place = team_place()
    assert place is not None
    status = read_status(layout(home), place.shown)
    assert status.tried_at is not None
    write_status(layout(home), status.model_copy(update={"tried_at": datetime.now(UTC) - timedelta(seconds=31)}))


def doctor(home: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, str]:
    capfd.readouterr()
    exit_code(["doctor", "--home", str(home), "--json"])
    return next(one for one in json.loads(capfd.readouterr().out) if one["about"] == "team history")


def test_of_two_machines_one_writes_and_the_other_is_told_in_one_sentence(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    command = [sys.executable, str(LAND), str(here), "0", "wait"]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"writing\n"
        with pytest.raises(BusyError, match=f"process {first.pid} is writing the team's history at postgresql://"):
            with writer(elsewhere, wait_s=0.3):
                pass
    finally:
        first.kill()
        first.communicate()
    with pytest.raises(SetupError, match=f"is written by {here} on .*, and this is another home"):  # the lock is free again
        with writer(elsewhere, wait_s=20):
            pass
    assert not (elsewhere / "history.store/hot.duckdb").exists()
    land(here, run("next"))
    assert [name for name, _ in runs(elsewhere)] == ["next", "wait"], "it was killed after it had landed"


def test_without_the_extra_the_command_that_installs_it_is_said(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from pathlib import Path\n"
        "from workflows_pkg.history.store import open_history\n"
        "from workflows_pkg.errors import MissingExtra\n"
        "try: open_history(Path(sys.argv[2]))\n"
        "except MissingExtra as error: sys.stdout.write(str(error))"
    )
    setting = "postgresql://me@127.0.0.1:1/history?data=s3://bucket/folder"
    done = subprocess.run(
        [sys.executable, "-c", program, "psycopg2", str(tmp_path)],
        env={**os.environ, "WORKFLOWS_HISTORY": setting}, capture_output=True, text=True,
    )  # fmt: skip
    assert "pip install 'agentic-workflows[team]'" in done.stdout, done.stderr


@pytest.mark.long
def test_a_new_home_takes_over_with_all_rows_and_the_old_one_is_refused(
    team: Team, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lost, new, elsewhere = tmp_path / "lost", tmp_path / "new", tmp_path / "elsewhere"
    new.mkdir()
    land(lost, run("first"), run("open", outcome=None), run("old", days_ago=12))
    with writer(lost) as written:
        written.upsert(Forecast, [forecast("etl")])
        written.upsert(Run, [run("old", days_ago=12, outcome="failure")])
    with open_history(lost) as ours:
        before = {kind.table: everything(ours)[kind.table] for kind in RECORDS}
    assert exit_code(["history", "take-over", "--home", str(new)]) == 0, capfd.readouterr().err
    for home in (new, elsewhere):
        with open_history(home) as con:
            assert {kind.table: everything(con)[kind.table] for kind in RECORDS} == before
    for _ in range(2):
        with pytest.raises(SetupError, match=f"{new} on .* has taken over the team's history .* its writer no more"):
            land(lost, run("too late"))
    capfd.readouterr()
    exit_code(["doctor", "--home", str(lost)])
    assert "its writer no more" in capfd.readouterr().out
    land(new, run("next"), run("open", outcome="success"), run("old", days_ago=12))
    expected = [("first", "success"), ("next", "success"), ("old", "success"), ("open", "success")]
    assert runs(new) == runs(elsewhere) == expected
    same_everywhere(new, elsewhere)
    assert exit_code(["history", "take-over", "--home", str(new)]) == 1
    assert "has a history of its own" in capfd.readouterr().err


def test_a_home_restored_from_a_backup_brings_the_team_back_to_what_it_has(team: Team, tmp_path: Path) -> None:
    here, elsewhere, backup = tmp_path / "here", tmp_path / "elsewhere", tmp_path / "backup"
    land(here, run("first"), run("old", days_ago=12))
    shutil.copytree(here, backup)
    land(here, run("old", days_ago=12, outcome="failure"), run("older", days_ago=13))
    shutil.rmtree(here)
    shutil.copytree(backup, here)
    land(here, run("old", days_ago=12, outcome="canceled"))  # a file of a name that the team has with other rows
    assert runs(here) == runs(elsewhere) == [("first", "success"), ("old", "canceled")]
    same_everywhere(here, elsewhere)
