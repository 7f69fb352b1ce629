"""A team's history answers as the writer's own does, from machines that have nothing of it."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest

from tests.history.team.conftest import Team
from workflows_pkg import history
from workflows_pkg.cli.main import exit_code
from workflows_pkg.errors import SetupError
from workflows_pkg.history.questions import QUESTIONS
from workflows_pkg.history.records import Forecast, Run
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.history.team.carrying import tidy
from workflows_pkg.history.team.lake import connect_lake
from workflows_pkg.history.team.place import team_place

ROOT = Path(__file__).parents[3]
NOW = datetime.now(UTC)


def run(name: str, days_ago: float = 0, outcome: str | None = "success") -> Run:
    at = NOW - timedelta(days=days_ago)
    ended = at if outcome else None
    return Run(run_id=name, source_id="here", job_name="etl", created_at=at, started_at=at, ended_at=ended, outcome=outcome)


def land(home: Path, *runs: Run) -> None:
    with writer(home) as written:
        written.upsert(Run, list(runs))


def runs(home: Path) -> list[tuple[str, str | None]]:
    with open_history(home) as con:
        return con.execute("select run_id, outcome from runs order by 1").fetchall()


def everything(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    return {kind.table: sorted(con.execute(f"select * from {kind.table}").fetchall(), key=repr) for kind in TABLES}


def test_what_one_home_writes_another_reads(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert runs(elsewhere) == []
    land(here, run("open", outcome=None), run("old", days_ago=10), run("new"))
    assert runs(elsewhere) == runs(here) == [("new", "success"), ("old", "success"), ("open", None)]
    land(here, run("open", outcome="failure"), run("old", days_ago=10, outcome="failure"))
    assert runs(elsewhere) == runs(here) == [("new", "success"), ("old", "failure"), ("open", "failure")]
    assert not any(elsewhere.iterdir())


def test_the_twelve_questions_have_the_answers_of_the_writers_own_history(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    importlib.import_module("history_questions").generate(here, 20_000)
    with writer(here) as written:
        written.seal(NOW.date())
    assert len(list((here / "history.store/sealed").glob("*/*.parquet"))) > 4
    with open_history(elsewhere) as theirs:
        assert theirs.execute("select count(*) from sealed.step_attempts").fetchall()[0][0] > 0
        monkeypatch.delenv("WORKFLOWS_HISTORY")
        with open_history(here) as ours:
            assert everything(theirs) == everything(ours)
            (some_run,) = ours.execute("select run_id from runs order by created_at, run_id limit 1").fetchall()[0]
            for name, question in QUESTIONS.items():
                more = {"step": "step_2"} if name == "duration_quantiles" else {}
                more |= {"run_id": some_run} if "run_id" in question.required else {}
                more |= {"now": NOW} if name in ("deadline_misses", "running_now") else {}
                expected, found = (getattr(history, name)(con, **more) for con in (ours, theirs))
                assert not expected.empty, name
                pd.testing.assert_frame_equal(found, expected, obj=name, rtol=1e-9)


def test_a_reader_keeps_its_state_while_the_writer_goes_on_and_tidies_up(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    land(here, run("first"), run("old", days_ago=10))
    with open_history(elsewhere) as reader:
        before = everything(reader)
        for number in range(2):
            land(here, run(f"later {number}"), run("old", days_ago=10, outcome="failure"), run("first", outcome="failure"))
            assert everything(reader) == before
        place = team_place()
        assert place is not None
        tidy(place)
        assert everything(reader) == before
    assert [name for name, _ in runs(elsewhere)] == ["first", *(f"later {n}" for n in range(2)), "old"]
    assert runs(elsewhere) == runs(here)


def test_what_was_taken_out_and_sealed_days_that_were_replaced_are_gone_for_readers(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    land(here, *(run(f"old {number}", days_ago=12) for number in range(5)))
    with writer(here) as written:
        written.upsert(Forecast, [forecast("etl"), forecast("other")])
        written.upsert(Run, [run("late", days_ago=12)])
    with writer(here) as written:
        written.delete(Forecast, job_name="other")
    with open_history(elsewhere) as theirs, open_history(here) as ours:
        assert everything(theirs) == everything(ours)
        assert len(everything(theirs)["runs"]) == 6
        assert [row[0] for row in everything(theirs)["forecasts"]] == ["etl"]
        assert theirs.execute("select count(*) from sealed.runs").fetchall() == [(6,)]


def test_days_that_are_replaced_and_months_that_are_merged_after_tidying_up_show_once(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    place = team_place()
    assert place is not None
    land(here, *(run(f"{days} days", days_ago=days) for days in range(35, 45)))
    tidy(place)
    land(here, run("late", days_ago=36), run("38 days", days_ago=38, outcome="failure"))  # days that are sealed already
    tidy(place)
    with writer(here) as written:
        written.seal(NOW.date())
    tidy(place)
    with open_history(elsewhere) as theirs, open_history(here) as ours:
        assert everything(theirs) == everything(ours)
        assert len(everything(theirs)["runs"]) == 11
        assert theirs.execute("select count(*), count(distinct run_id) from sealed.runs").fetchall() == [(11, 11)]


def test_control_merging_files_of_days_would_show_rows_twice_and_is_refused(team: Team, tmp_path: Path) -> None:
    here = tmp_path / "here"
    place = team_place()
    assert place is not None
    land(here, *(run(f"{days} days", days_ago=days) for days in range(5, 8)))
    with closing(connect_lake(place)) as con:
        con.execute("CALL ducklake_merge_adjacent_files('history')")  # as somebody may by hand
        assert con.execute("select count(distinct filename) from sealed.runs").fetchall() == [(1,)]
    land(here, run("late", days_ago=6))
    state = json.loads((here / "history.store/team/status.json").read_text())
    assert "no longer under its name" in json.dumps(state)


def forecast(job: str) -> Forecast:
    return Forecast(
        job_name=job, step="", quantity="run_time_s", p05=1.0, p50=2.0, p95=3.0, sample_count=9, predictor="rule", as_of=NOW
    )


def test_the_commands_read_it_from_an_empty_folder(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    land(tmp_path / "here", run("one"), run("old", days_ago=10))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    assert exit_code(["history", "sql", "select run_id from runs order by 1", "--json"]) == 0
    assert "old" in capfd.readouterr().out
    assert exit_code(["history", "snapshot", str(tmp_path / "copy.duckdb")]) == 0
    with duckdb.connect(str(tmp_path / "copy.duckdb"), read_only=True) as copy:
        assert copy.execute("select run_id from runs order by 1").fetchall() == [("old",), ("one",)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("select run_id from runs order by 1;"))
    capfd.readouterr()
    assert exit_code(["history", "open"]) == 0
    assert "old" in capfd.readouterr().out
    with history.connect() as con:
        assert history.runs_by_outcome_per_day(con)["runs"].sum() == 2
    assert not any(empty.iterdir())


def test_a_reader_reaches_nothing_else_and_sees_no_password(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = os.environ["WORKFLOWS_HISTORY"].replace("postgres@", "postgres:hush-hush@")
    monkeypatch.setenv("WORKFLOWS_HISTORY", setting)
    land(tmp_path / "here", run("one"))
    with open_history(tmp_path / "elsewhere") as con:
        shown = repr(con.execute("from duckdb_secrets()").fetchall() + con.execute("from duckdb_databases()").fetchall())
        for refused in (
            "from read_csv('/etc/passwd')",
            "from read_parquet('s3://kept/other/*.parquet')",
            "attach 'postgres:dbname=postgres' as other",
            "create table mine (number int)",
            "delete from live.runs",
            "set enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error):
                con.execute(refused)
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "here/history.store/team").iterdir())
    for secret in ("hush-hush", "their-secret"):
        assert secret not in shown + kept


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("postgresql://me:hush@db/history", "expected data=s3://"),
        ("postgresql://me:hush@db/history?data=/srv/history", "expected data=s3://bucket/folder"),
        ("postgresql://me:hush@db/history?data=s3://bucket", "expected data=s3://bucket/folder"),
        ("mysql://me:hush@db/history?data=s3://bucket/folder", "Expected a PostgreSQL URL"),
        ("postgresql://me:hush@127.0.0.1:1/history?data=s3://bucket/folder", "cannot be reached"),
    ],
)
def test_a_setting_that_cannot_work_is_said_in_one_sentence_without_the_password(
    setting: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOWS_HISTORY", setting)
    for doing in (lambda: open_history(tmp_path), lambda: land(tmp_path, run("one"))):
        with pytest.raises(SetupError) as found:
            doing()
        assert said in str(found.value)
        assert "hush" not in str(found.value)


def test_a_user_who_may_only_select_can_read(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    land(tmp_path / "here", run("one"), run("old", days_ago=10))
    name = f"reader_of_{team.database}"
    team.sql(f"create role {name} login")
    team.sql(f"grant usage on schema workflows_history to {name}")
    monkeypatch.setenv("WORKFLOWS_HISTORY", team.setting.replace("postgres@", f"{name}@"))
    with pytest.raises(SetupError, match="cannot be read: permission denied"):
        runs(tmp_path / "elsewhere")
    team.sql(f"alter default privileges in schema workflows_history grant select on tables to {name}")
    team.sql(f"grant select on all tables in schema workflows_history to {name}")
    assert runs(tmp_path / "elsewhere") == [("old", "success"), ("one", "success")]
    with pytest.raises(SetupError, match="cannot be written"):
        land(tmp_path / "here", run("two"))


def test_a_history_of_an_earlier_version_is_refused_to_readers_and_brought_up_by_the_writer(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    land(here, run("one"), run("old", days_ago=10))
    place = team_place()
    assert place is not None
    with connect_lake(place) as lake:  # as the version before the last migration would have left it
        lake.execute("drop view main.runs")
        lake.execute("alter table live.runs drop column trial_id")
        lake.execute("alter table sealed.runs drop column trial_id")
        lake.execute("delete from store.migrations where name = 'observations'")
    with pytest.raises(SetupError, match="was written by an earlier version"):
        runs(elsewhere)
    land(here, run("two"))
    with open_history(elsewhere) as theirs, open_history(here) as ours:
        assert everything(theirs) == everything(ours)
        assert len(everything(theirs)["runs"]) == 3
    with connect_lake(place) as lake:
        lake.execute("insert into store.migrations values ('of next year', now())")
    with pytest.raises(SetupError, match="was written by a later version"):
        runs(elsewhere)


def test_a_look_at_some_instance_stays_private(team: Team, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "somebody"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        work.execute_in_process(instance=instance)
    page = tmp_path / "look.html"
    assert exit_code(["look", str(home), "--out", str(page), "--no-open"]) == 0, capfd.readouterr().err
    assert team.sql("select to_regclass('workflows_history.workflows_writer') is null") == [(True,)]


@dg.job
def work() -> None:
    dg.op(name="nothing")(lambda: None)()
