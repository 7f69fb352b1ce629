"""The commands as a user types them, on a project that is theirs."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.history.cost import use
from workflows_pkg.history.questions import QUESTIONS
from workflows_pkg.history.records import Run, StepAttempt, Suggestion
from workflows_pkg.history.store import writer
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.canonical import canonical_json
from workflows_pkg.spec.difference import difference
from workflows_pkg.spec.loader import load
from workflows_pkg.spec.rates import parse_rates
from workflows_pkg.steps.discovery import discover

pytestmark = pytest.mark.usefixtures("project")
Call = Callable[..., Any]


def test_from_a_new_file_to_a_forecast(project: Path, workflows: Call) -> None:
    assert workflows("new", "sums").code == 0
    assert "1 workflow ok" in workflows("check").out
    for _ in range(3):
        ran = workflows("run", "sums")
        assert ran.code == 0
        assert ran.out.startswith("success  sums")
        assert "total  done" in ran.err
        assert "DEBUG" not in ran.err
    assert "of 3 runs" in workflows("history", "sync").out
    assert workflows("history", "sync").out.startswith("0 events")
    runs = workflows("history", "runs", "--json").value
    assert [run["outcome"] for run in runs] == ["success"] * 3
    forecast = workflows("forecast", "--json").value
    whole = [row for row in forecast if row["job_name"] == "sums" and row["step"] == "" and row["quantity"] == "run_time_s"]
    assert whole[0]["rests_on"].startswith("Rests on ")
    assert {"usual", "ratio"} <= whole[0]["basis"].keys()
    told = workflows("forecast", "sums").out
    assert f"run time: {whole[0]['rests_on']}" in told
    assert len(whole) == 1
    assert 0 < whole[0]["p05"] <= whole[0]["p50"] <= whole[0]["p95"]
    assert "expected" in workflows("run", "sums").err
    assert "no suggestion" in workflows("advise").out


def test_a_failing_job_that_is_not_ours_ends_with_its_reason(workflows: Call) -> None:
    ran = workflows("run", "theirs")
    assert ran.code == 1
    assert "shout  failed: ValueError: the moon is full" in ran.err
    watched = workflows("watch", "--json")
    assert watched.code == 1
    assert watched.value["status"] == "FAILURE"


def test_tags_and_partitions_reach_the_run(workflows: Call) -> None:
    workflows("new", "days", "--template", "daily")
    ran = workflows("run", "days", "--partition", "2025-03-01", "--tag", "asked_by=me", "--json")
    assert ran.code == 0
    assert ran.value["tags"]["asked_by"] == "me"
    assert ran.value["tags"]["dagster/partition"] == "2025-03-01"
    assert ran.value["tags"]["workflows/version"] == "1"


def test_history_answers_sql_and_only_reads(workflows: Call) -> None:
    workflows("new", "sums")
    workflows("run", "sums")
    workflows("history", "sync")
    answer = workflows("history", "sql", "select step, outcome from step_attempts order by step", "--json")
    assert {"step": "total", "outcome": "success"} in answer.value
    refused = workflows("history", "sql", "delete from runs")
    assert refused.code == 1
    assert workflows("history", "sql", "selct 1").code == 1
    for question in ("", "select 1; select 2", "copy (select 1) to 'x.parquet'", "set threads = 1"):
        refused = workflows("history", "sql", question)
        assert refused.code == 1
        assert "Expected one query" in refused.err


def test_costs_are_by_the_rate_card_and_a_changed_one_rewrites_nothing(tmp_path: Path, workflows: Call) -> None:
    home = tmp_path / "home"
    (home / "rates.yaml").write_text("rates: [{run_hour: 3600}]\n")
    workflows("new", "sums")
    workflows("run", "sums")
    workflows("history", "sync")

    def costs() -> list[tuple[float, str]]:
        answer = workflows(
            "history", "sql", "select run_time_s, cost_usd, rate_card from step_attempts order by started_at", "--json"
        )
        return [(row["cost_usd"] / row["run_time_s"], row["rate_card"]) for row in answer.value]

    first = costs()
    assert first
    assert {round(price, 6) for price, _ in first} == {1.0}
    (home / "rates.yaml").write_text("rates: [{run_hour: 7200}]\n")
    assert "from the next sync with news on" in workflows("cost", "rates").out
    workflows("history", "sync")
    workflows("run", "sums")
    workflows("history", "sync")
    both = costs()
    assert both[: len(first)] == first, "what was landed keeps its cost and its card"
    assert {round(price, 6) for price, _ in both[len(first) :]} == {2.0}
    (month,) = workflows("cost", "--json").value
    assert month["runs"] == month["priced_runs"] == 2
    told = workflows("cost", "rates").out
    assert "from the beginning" in told
    assert "7200 USD an hour of a step" in told
    (home / "rates.yaml").write_text("rates: [{run_hours: 1}]\n")  # a broken card stops no history
    assert "Did you mean 'run_hour'" in workflows("cost", "rates").err
    workflows("run", "sums")
    assert "1 run" in workflows("history", "sync").out
    assert {round(price, 6) for price, _ in costs()[len(both) :]} == {2.0}


def test_a_cost_is_split_by_what_was_paid_for_and_asked_of_other_prices(tmp_path: Path, workflows: Call) -> None:
    card = parse_rates("rates: [{run_hour: 3600, million_input_tokens: 2, call: 0.5}]")
    began = datetime.now(UTC) - timedelta(hours=3)
    shared = {"run_id": "r", "job_name": "asking", "outcome": "success", "started_at": began, "run_time_s": 2.0}
    told = {"input_tokens": 500_000, "calls": 4, "cost_usd": 2 + 1 + 2.0, "rate_card": card.digest}
    rows = [
        StepAttempt(step_key="ask", step="ask", attempt=1, **shared, **told),
        StepAttempt(step_key="wait", step="wait", attempt=1, cost_usd=2.0, rate_card=card.digest, **shared),
        StepAttempt(step_key="other", step="other", attempt=1, cost_usd=0.25, **shared),
    ]
    tried = {"job_name": "asking", "outcome": "success", "trial_id": "t", "cost_usd": 2.0}
    trial = StepAttempt(
        run_id="tried", step_key="ask", step="ask", attempt=1, started_at=began, run_time_s=2.0, rate_card=card.digest, **tried
    )
    with writer(tmp_path / "home") as history:
        use(history, card, began)
        history.upsert(
            Run,
            [
                Run(run_id="r", source_id="s", job_name="asking", outcome="success", created_at=began, cost_usd=7.25),
                Run(run_id="tried", source_id="s", created_at=began, **tried),
            ],
        )
        history.upsert(StepAttempt, [*rows, trial])
    split = workflows("cost", "--by", "kind", "--json").value
    assert [(row["kind"], row["attempts"], row["used"], row["unit"], row["cost_usd"]) for row in split] == [
        ("run time", 2, pytest.approx(4 / 3600), "hours", pytest.approx(4.0)),
        ("input tokens", 1, 0.5, "million", 1.0),
        ("calls", 1, 4.0, "calls", 2.0),
        ("not by a card", 1, None, None, 0.25),
    ]
    assert sum(row["cost_usd"] for row in split) == pytest.approx(sum(row.cost_usd or 0 for row in rows)), (
        "nothing is lost or doubled"
    )
    both = workflows("cost", "--by", "kind", "--json").value, workflows("cost", "--json").value
    assert [sum(row["cost_usd"] for row in one) for one in both] == [pytest.approx(7.25)] * 2, (
        "trials are in neither, or both disagree"
    )
    other = tmp_path / "other.yaml"
    other.write_text("rates: [{million_input_tokens: 20, call: 0.1}]\n")
    said = workflows("cost", "what-if", "asking", "--rates", str(other)).out
    assert "3 attempts in 28 days cost $7.25; by these prices $10.40." in said
    assert "2 of them have no known cost by these prices." in said
    compared = workflows("cost", "what-if", "asking", "--rates", str(other), "--json").value
    assert {row["kind"]: (row["was_usd"], row["would_be_usd"]) for row in compared} == {
        "run time": (pytest.approx(4.0), None),
        "input tokens": (1.0, 10.0),
        "calls": (2.0, pytest.approx(0.4)),
        "not by a card": (0.25, None),
    }
    other.write_text("rates: [{cal: 1}]\n")
    assert (
        "other.yaml:1:10: rates[0]: there is no field 'cal'. Did you mean 'call'?"
        in workflows("cost", "what-if", "asking", "--rates", str(other)).err
    )
    assert "--every or --rates" in workflows("cost", "what-if", "asking").err


def test_what_less_often_would_have_cost(tmp_path: Path, workflows: Call) -> None:
    begin = datetime.now(UTC) - timedelta(days=2)
    with writer(tmp_path / "home") as history:
        shared = {"source_id": "s", "job_name": "hourly", "trigger": "schedule", "outcome": "success", "cost_usd": 0.5}
        history.upsert(Run, [Run(run_id=f"r{n}", created_at=begin + timedelta(hours=n), **shared) for n in range(40)])
    said = workflows("cost", "what-if", "hourly", "--every", "2h").out
    assert "20 of 40 scheduled runs" in said
    assert "They cost $20.00." in said
    assert "costs the same however long ago the last was: $10.00." in said
    assert workflows("cost", "what-if", "hourly", "--every", "2h", "--json").value["same_usd"] == 10.0
    assert "There is no job 'hourlyy'. Did you mean 'hourly'?" in workflows("cost", "what-if", "hourlyy", "--every", "2h").err
    assert workflows("cost", "what-if", "hourly", "--every", "soon").code == 2
    assert workflows("cost", "what-if", "hourly", "--every", "2h", "--days", "nan").code == 2


def test_report_is_one_html_file(project: Path, workflows: Call) -> None:
    assert workflows("history", "report", "page.html").code == 0
    assert "<html" in (project / "page.html").read_text()[:200]


def test_runs_that_land_late_are_learned_from_all_the_same(workflows: Call) -> None:
    """A run that ended before the last training, but was landed after it, is news."""
    workflows("new", "sums")
    workflows("run", "sums")
    workflows("history", "sync")
    workflows("run", "sums")
    workflows("forecast")
    workflows("history", "sync")
    rows = [row for row in workflows("forecast", "--json").value if row["step"] == "" and row["quantity"] == "run_time_s"]
    assert [row["sample_count"] for row in rows] == [2]


def test_a_damaged_forecast_table_stops_no_run(workflows: Call) -> None:
    workflows("new", "sums")
    (Path(os.environ["DAGSTER_HOME"]) / "forecasts.json").write_text("{")
    ran = workflows("run", "sums")
    assert ran.code == 0
    assert "no forecast: " in ran.err


def test_a_suggestion_is_applied_undone_and_written_only_into_its_own_file(project: Path, workflows: Call) -> None:
    workflows("new", "sums")
    workflows("new", "others")
    home = Path(os.environ["DAGSTER_HOME"])
    file = project / "workflows/sums.yaml"
    store = VersionStore(home)
    base, number = store.current(load(file, discover().params()))
    total = base.steps["total"]
    changed = base.model_copy(
        update={"steps": {**base.steps, "total": total.model_copy(update={"timeout": timedelta(seconds=9)})}}
    )
    text = canonical_json(changed)
    change = json.dumps([vars(each) for each in difference(base, changed)], default=str)
    suggestion = Suggestion(
        suggestion_id="abcdef12", kind="timeout", workflow="sums", step="total", based_on=number, title="stop after 9s",
        change=change, spec=text, evidence="{}", quantity="step_time_s", created_at=datetime.now(UTC),
    )  # fmt: skip
    with writer(home) as history:
        history.upsert(Suggestion, [suggestion])
    refused = workflows("apply", "abcd", "--write", project / "workflows/others.yaml")
    assert refused.code == 1
    assert "is not the file of sums" in refused.err
    assert store.active("sums").number == 1
    assert "runs version 2" in workflows("apply", "abcd").out
    assert "timeout" not in file.read_text()
    assert "runs version 1 again" in workflows("apply", "--undo", "sums").out
    assert workflows("history", "sql", "select status from suggestions", "--json").value == [{"status": "undone"}]


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown workflow": (("run", "summs"), "Did you mean 'sums'?"),
    "partition of an unpartitioned workflow": (("run", "sums", "--partition", "2025-01-01"), "Leave the partition out"),
    "tag without a value": (("run", "sums", "--tag", "x"), "--tag KEY=VALUE"),
    "unknown run": (("watch", "0000"), "There is no run '0000'"),
    "home that is not there": (("run", "sums", "--home", "nowhere"), "does not exist"),
    "path that is not there": (("check", "nowhere.yaml"), "There is no file or folder nowhere.yaml"),
    "module that is not there": (("run", "sums", "--module", "no_such_module_here"), "no_such_module_here"),
    "bad name": (("new", "Bad-Name"), "Bad-Name"),
    "file that exists": (("new", "sums"), "exists already"),
    "unknown suggestion": (("apply", "12345678"), "There is no suggestion"),
    "apply without a name": (("apply",), "Name a SUGGESTION"),
    "undo of the unknown": (("apply", "--undo", "summs"), "Did you mean 'sums'?"),
    "advice for the unknown": (("advise", "summs"), "Did you mean 'sums'?"),
    "forecast for the unknown": (("forecast", "summs"), "There is no forecast"),
    "report into no folder": (("history", "report", "no/where/page.html"), "There is no folder"),
    "run config that only a file can give": (("run", "with_config"), "needs run config"),
    "unknown verb": (("fly",), "No such command"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_gets_one_clear_error(name: str, workflows: Call) -> None:
    workflows("new", "sums")
    VersionStore(Path(os.environ["DAGSTER_HOME"])).current(load(Path("workflows/sums.yaml"), discover().params()))
    arguments, expected = WRONG[name]
    answer = workflows(*arguments)
    assert answer.code in (1, 2)
    assert expected in answer.err


def test_check_reports_every_bad_file_and_runs_the_others(project: Path, workflows: Call) -> None:
    workflows("new", "sums")
    (project / "workflows/bad.yaml").write_text("workflow: bad\nsteps:\n  a: {uses: data.sqll, with: {query: select 1}}\n")
    (project / "workflows/worse.yaml").write_text("workflow: [\n")
    answer = workflows("check")
    assert answer.code == 1
    assert "bad.yaml:3:" in answer.out
    assert "data.sql" in answer.out
    assert "worse.yaml:" in answer.out
    assert "1 workflow ok, 2 problems" in answer.out
    assert workflows("run", "sums").code == 0


def test_check_sees_what_two_files_claim_together(project: Path, workflows: Call) -> None:
    workflows("new", "sums")
    twin = project / "twin.yaml"
    twin.write_text((project / "workflows/sums.yaml").read_text())
    answer = workflows("check", "workflows/sums.yaml", twin)
    assert answer.code == 1
    assert "already defined in workflows/sums.yaml" in answer.out


def test_doctor_names_what_is_wrong(project: Path, workflows: Call) -> None:
    healthy = workflows("doctor", "--json")
    assert healthy.code == 0
    (project / "workflows/bad.yaml").write_text("workflow: bad\nsteps: {}\n")
    left_out = workflows("doctor")
    assert left_out.code == 1
    assert "PROBLEM  workflow file" in left_out.out
    module = next(project.glob("project_of_somebody_*.py"))
    module.write_text("import nothing_of_that_name\n")
    sick = workflows("doctor", "--module", module.stem + "_other")
    assert sick.code == 1
    assert "PROBLEM  code location" in sick.out


def test_every_answer_in_json_is_json(workflows: Call) -> None:
    workflows("new", "sums", "--json")
    for verb in (("check",), ("run", "sums"), ("watch",), ("history", "sync"), ("history", "runs"), ("history", "steps"),
                 ("history", "failures"), ("forecast",), ("advise",), ("doctor",)):  # fmt: skip
        answer = workflows(*verb, "--json")
        json.loads(answer.out)


def test_a_half_written_instance_is_told_and_left_alone(workflows: Call) -> None:
    workflows("new", "sums")
    workflows("run", "sums")
    database = Path(os.environ["DAGSTER_HOME"]) / "history" / "runs.db"
    database.write_bytes(database.read_bytes()[:100])
    answer = workflows("history", "sync")
    assert answer.code == 1
    assert "runs.db" in answer.err


def test_sync_does_not_wait_for_a_lock_of_dagster(workflows: Call) -> None:
    workflows("new", "sums")
    workflows("run", "sums")
    database = sqlite3.connect(Path(os.environ["DAGSTER_HOME"]) / "history" / "runs.db", isolation_level=None)
    database.execute("begin immediate")
    try:
        assert workflows("history", "sync").code == 0
    finally:
        database.execute("rollback")
        database.close()


def test_the_twelve_questions_can_be_asked_by_name(workflows: Call) -> None:
    listed = workflows("history", "ask")
    assert listed.code == 0
    assert all(f"{number}. {name}" in listed.out for number, name in enumerate(QUESTIONS, start=1))
    workflows("new", "sums")
    run_id = workflows("run", "sums", "--json").value["run_id"]
    workflows("history", "sync")
    assert workflows("history", "ask", "runs_by_outcome_per_day", "--json").value[0]["runs"] == 1
    lines = workflows("history", "ask", "run-timeline", "--run", run_id[:8], "--csv").out.splitlines()
    assert lines[0].startswith("step,step_key,attempt")
    assert len(lines) > 1
    assert "basis" in workflows("history", "ask", "critical_path", "--run", run_id).out
    for arguments, said in (
        (["slowest_step"], "Did you mean 'slowest_steps'?"),
        (["critical_path"], "critical_path needs --run."),
        (["critical_path", "--run", "nope"], "There is no run 'nope'"),
        (["running_now", "--workflow", "sums"], "running_now does not take --workflow. It takes no filter."),
        (["concurrency", "--by", "week"], "concurrency takes --by hour, day; found 'week'."),
        (["retry_cost", "--since", "2025-02-01", "--until", "2025-01-01"], "is not before --until"),
        (["retry_cost", "--csv", "--json"], "--csv and --json cannot both be."),
    ):
        answered = workflows("history", "ask", *arguments)
        assert answered.code in (1, 2)
        assert said in answered.err


def test_empty_instants_and_local_times_are_shown_as_what_they_are(workflows: Call) -> None:
    workflows("new", "sums")
    workflows("run", "sums")
    workflows("history", "sync")
    sql = (
        "select null::timestamptz as nothing, null::date as no_day, date '2020-01-01' as day, "
        "timestamp '2020-01-01 10:30:00' as local union all select null, null, null, null"
    )
    lines = workflows("history", "sql", sql).out.splitlines()
    assert lines[1].split() == ["-", "-", "2020-01-01", "2020-01-01", "10:30:00"]
    assert lines[2].split() == ["-", "-", "-", "-"]
