"""`workflows history import`: what was imported answers every question, is forecast and reported, and no sync touches it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from tests.cli.conftest import Answer
from workflows_pkg.history import questions
from workflows_pkg.history.store import open_history

Workflows = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(made))
    return made


def table(path: Path) -> Path:
    """Twelve nightly runs of two steps, ten minutes and a minute; in the sixth `load` failed first."""
    lines = ["run_id,dag,step,begin,took_min,how"]
    for n in range(12):
        begin = datetime(2025, 3, 1, 2, tzinfo=UTC) + timedelta(days=n)
        if n == 5:
            lines.append(f"r{n},nightly,load,{begin - timedelta(minutes=20):%Y-%m-%dT%H:%M:%SZ},3,failed")
        lines.append(f"r{n},nightly,load,{begin:%Y-%m-%dT%H:%M:%SZ},{10 + n % 3 / 10},success")
        lines.append(f"r{n},nightly,score,{begin + timedelta(minutes=12):%Y-%m-%dT%H:%M:%SZ},1,success")
    path.write_text("\n".join(lines) + "\n")
    return path


MAP = ("--map", "job_name=dag", "--map", "started_at=begin", "--map", "run_time_s=took_min", "--map", "outcome=how")


def test_what_was_imported_is_asked_forecast_and_reported(home, tmp_path, workflows: Workflows) -> None:
    file = table(tmp_path / "t.csv")
    said = workflows("history", "import", file, *MAP)
    assert (said.code, said.err) == (0, "")
    assert said.out == (
        f"{file}: table, 12 runs of job 'nightly', 25 attempts, 2025-03-01 02:00 to 2025-03-12 02:00; 12 new or changed, written as 't'\n"
    )
    assert workflows("history", "import", file, *MAP).out.endswith("; nothing new\n")
    with closing(open_history(home)) as con:
        (newest,) = con.execute("select run_id from runs order by created_at desc limit 1").fetchall()
        answers = {
            "runs": questions.runs(con),
            "attempts": questions.attempts(con),
            "recent_runs": questions.recent_runs(con),
            "run_timeline": questions.run_timeline(con, newest[0]),
            "runs_by_outcome_per_day": questions.runs_by_outcome_per_day(con),
            "slowest_steps": questions.slowest_steps(con),
            "retry_cost": questions.retry_cost(con),
            "failures_by_cause": questions.failures_by_cause(con),
            "cost_by_workflow": questions.cost_by_workflow(con),
        }
    assert {name: len(frame) for name, frame in answers.items()} == {
        "runs": 12, "attempts": 25, "recent_runs": 12, "run_timeline": 2, "runs_by_outcome_per_day": 12, "slowest_steps": 2,
        "retry_cost": 1, "failures_by_cause": 1, "cost_by_workflow": 1,
    }  # fmt: skip
    assert answers["retry_cost"].loc[0, "wasted_s"] == 180.0
    forecast = {(one["step"], one["quantity"]): one for one in json.loads(workflows("forecast", "nightly", "--json").out)}
    assert forecast["load", "run_time_s"]["p50"] == pytest.approx(606, abs=10)
    assert forecast["", "run_time_s"]["p50"] == pytest.approx(780, abs=20)
    assert forecast["", "run_time_s"]["sample_count"] == 12
    page = tmp_path / "report.html"
    assert workflows("history", "report", page).code == 0
    assert "nightly" in page.read_text()
    undone = workflows("history", "import", "--undo", "t", "--json")
    assert undone.value == {"name": "t", "runs": 12}
    assert workflows("history", "runs").out == "no rows\n"


def test_steps_without_instants_are_forecast_too(home, tmp_path, workflows: Workflows) -> None:
    for n in range(8):
        tasks = [{"id": "split", "runtimeInSeconds": 30.0 + n}, {"id": "join", "runtimeInSeconds": 5.0}]
        document = {
            "name": "science", "schemaVersion": "1.5", "workflow": {
                "specification": {"tasks": [{"name": one["id"], "id": one["id"], "parents": [], "children": []} for one in tasks]},
                "execution": {"makespanInSeconds": 40 + n, "executedAt": f"2025-03-0{n + 1}T10:00:00Z", "tasks": tasks}},
        }  # fmt: skip
        (tmp_path / f"{n}.json").write_text(json.dumps(document))
    files = sorted(tmp_path.glob("*.json"))
    assert workflows("history", "import", *files, "--name", "science").code == 0
    forecast = {(one["step"], one["quantity"]): one for one in json.loads(workflows("forecast", "science", "--json").out)}
    assert forecast["join", "run_time_s"]["p50"] == pytest.approx(5.0, rel=0.05)
    assert 30 <= forecast["split", "run_time_s"]["p50"] <= 40
    assert forecast["", "run_time_s"]["sample_count"] == 8
    assert not [key for key in forecast if key[0] and key[1] in ("time_left_s", "whole_time_s")], "nothing says when steps were"


def test_a_sync_of_an_instance_leaves_imports_alone(project: Path, tmp_path, workflows: Workflows) -> None:
    home = project.parent / "home"

    @dg.op
    def work() -> None: ...

    @dg.job
    def nightly() -> None:
        work()

    assert workflows("history", "import", table(tmp_path / "t.csv"), *MAP).code == 0

    def imported() -> list[tuple[object, ...]]:
        with closing(open_history(home)) as con:
            of = "select run_id from runs where source_id = 'import:t'"
            runs = con.execute(f"select * from runs where run_id in ({of}) order by all").fetchall()
            return runs + con.execute(f"select * from step_attempts where run_id in ({of}) order by all").fetchall()

    before = imported()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        nightly.execute_in_process(instance=instance)
        assert workflows("history", "sync").code == 0
        nightly.execute_in_process(instance=instance)
        assert workflows("history", "sync").code == 0
    assert len(before) == 37
    assert imported() == before
    with closing(open_history(home)) as con:
        assert con.execute("select job_name, count(*) from runs group by all").fetchall() == [("nightly", 14)]
    workflows("history", "import", "--undo", "t")
    with closing(open_history(home)) as con:
        assert con.execute("select count(*) from runs").fetchall() == [(2,)]


def test_a_dry_run_says_what_would_be_written(home, tmp_path, workflows: Workflows) -> None:
    said = workflows("history", "import", table(tmp_path / "t.csv"), *MAP, "--name", "n", "--dry-run")
    assert said.out.endswith("12 new or changed, would be written as 'n'\n")
    assert list(home.iterdir()) == []
    (value,) = workflows("history", "import", tmp_path / "t.csv", *MAP, "--dry-run", "--json").value
    assert (value["format"], value["runs"], value["attempts"], value["changed"], value["jobs"]) == (
        "table",
        12,
        25,
        12,
        ["nightly"],
    )


WRONG = {
    "nothing": ((), "Missing argument 'FILE...'"),
    "a map without a column": (("t.csv", "--map", "begin"), "expected COLUMN=THEIRS, found 'begin'"),
    "a column twice": (("t.csv", "--map", "step=a", "--map", "step=b"), "--map gives 'step' twice: 'a' and 'b'"),
    "an undo of a file": (("t.csv", "--undo", "t"), "--undo takes no FILE"),
    "no such import": (("--undo", "t"), "There is no import 't'. No import is known here."),
    "no such file": (("nowhere.csv",), "There is no file nowhere.csv."),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said(home, workflows: Workflows, arguments, said) -> None:
    answer = workflows("history", "import", *arguments)
    assert answer.code in (1, 2)
    assert said in answer.err
