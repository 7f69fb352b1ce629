"""The twelve questions on a history of five runs, each answer worked out by hand from the table below."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from workflows_pkg import history
from workflows_pkg.errors import NotFound, SetupError
from workflows_pkg.history.questions import QUESTIONS
from workflows_pkg.history.records import Forecast, JobStep, Run, StepAttempt
from workflows_pkg.history.store import writer

DAY = datetime(2025, 1, 31, tzinfo=UTC)
NOW = DAY + timedelta(days=2, hours=12, minutes=6)
WITHIN_1_PERCENT = 0.01

# run, workflow, owner, asked for, started, ended (seconds later), deadline, outcome, queued, USD, trial
RUNS = [
    ("r1", "etl", "ann", DAY + timedelta(hours=10), 60, 360, 300, "success", 30.0, 3.0, None),
    ("r2", "etl", "ann", DAY + timedelta(hours=10, minutes=30), 20, 200, 300, "success", 10.0, 1.0, None),
    ("r3", None, None, DAY + timedelta(days=1, hours=23), 0, 7200, None, "failure", None, None, None),
    ("r4", "etl", "ann", DAY + timedelta(days=1, hours=9), 0, 50, None, "success", 5.0, 9.0, "t1"),
    ("r5", "etl", "ann", DAY + timedelta(days=2, hours=12), 60, None, 240, None, 45.0, None, None),
]
# run, step, attempt, from, to (seconds after asking), outcome, followed, waited, cause
ATTEMPTS = [
    ("r1", "extract", 1, 60, 120, "success", False, None, None),
    ("r1", "load", 1, 130, 150, "failure", True, 10.0, "timeout"),
    ("r1", "load", 2, 160, 260, "success", False, None, None),
    ("r1", "report", 1, 130, 270, "success", False, None, None),
    ("r1", "publish", 1, 280, 360, "success", False, None, None),
    ("r1", "never", 1, 280, 280, "skipped", False, None, None),
    ("r2", "extract", 1, 20, 60, "success", False, None, None),
    ("r2", "load", 1, 60, 200, "success", False, None, None),
    ("r3", "crunch", 1, 0, 1800, "failure", True, 60.0, "memory"),
    ("r3", "crunch", 2, 1860, 7200, "failure", False, None, "memory"),
    ("r4", "extract", 1, 0, 50, "success", False, None, None),
    ("r5", "extract", 1, 60, 100, "success", False, None, None),
    ("r5", "load", 1, 110, None, None, False, None, None),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    asked = {run[0]: run for run in RUNS}
    later = lambda run_id, seconds: None if seconds is None else asked[run_id][3] + timedelta(seconds=seconds)  # noqa: E731
    with writer(home) as written:
        written.upsert(Run, [
            Run(
                run_id=run, source_id="here", job_name=workflow or "adhoc", workflow=workflow, owner=owner, created_at=at, trial_id=trial,
                started_at=later(run, started), ended_at=later(run, ended), deadline_at=later(run, deadline), outcome=outcome,
                queue_time_s=queued, cost_usd=usd, job_snapshot_id="shape" if workflow else None,
            )
            for run, workflow, owner, at, started, ended, deadline, outcome, queued, usd, trial in RUNS
        ])  # fmt: skip
        written.upsert(StepAttempt, [
            StepAttempt(
                run_id=run, step_key=step, step=step, attempt=attempt, job_name=asked[run][1] or "adhoc", workflow=asked[run][1],
                trial_id=asked[run][10], started_at=later(run, begin), ended_at=later(run, end), outcome=outcome, will_retry=followed,
                run_time_s=None if end is None else end - begin, retry_wait_s=waited,
                cost_usd=None if end is None else (end - begin) / 100,
                failure_cause=cause, error_class="Killed" if cause == "memory" else None,
                error_message=f"{step} {attempt}" if cause else None,
            )
            for run, step, attempt, begin, end, outcome, followed, waited, cause in ATTEMPTS
        ])  # fmt: skip
        written.upsert(JobStep, [
            JobStep(job_snapshot_id="shape", step=step, needs=needs)
            for step, needs in (("extract", "[]"), ("load", '["extract"]'), ("report", '["extract"]'), ("publish", '["load", "report"]'))
        ])  # fmt: skip
        written.upsert(Forecast, [
            Forecast(job_name="etl", step=step, quantity=quantity, p05=p50 / 2, p50=p50, p95=p95, sample_count=9, predictor="rule",
                     as_of=at)
            for step, quantity, p50, p95, at in (
                ("", "run_time_s", 1.0, 2.0, DAY),  # an older one
                ("", "run_time_s", 200.0, 280.0, DAY + timedelta(days=1)), ("", "queue_time_s", 20.0, 50.0, DAY + timedelta(days=1)),
                ("extract", "time_left_s", 150.0, 300.0, DAY + timedelta(days=1)),
                ("load", "time_left_s", 90.0, 99.0, DAY + timedelta(days=1)),
            )
        ])  # fmt: skip
    return home


@pytest.fixture
def con(home):
    with history.connect(home) as found:
        yield found


def rows(frame: pd.DataFrame, *names: str) -> list[tuple]:
    wanted = frame[list(names)].astype(object)
    return [
        tuple(str(v)[:10] if hasattr(v, "isoformat") else v for v in row)
        for row in wanted.where(wanted.notna(), None).itertuples(index=False)
    ]


def near(value: float):
    return pytest.approx(value, rel=WITHIN_1_PERCENT)


def test_1_runs_by_outcome_per_day(con):
    assert rows(history.runs_by_outcome_per_day(con), "day", "outcome", "runs") == [
        ("2025-01-31", "success", 2), ("2025-02-01", "failure", 1), ("2025-02-02", "open", 1),
    ]  # fmt: skip
    assert rows(history.runs_by_outcome_per_day(con, since="2025-02-01", until="2025-02-02"), "outcome") == [("failure",)]
    assert rows(history.runs_by_outcome_per_day(con, workflow="adhoc"), "day") == [("2025-02-01",)]
    assert len(history.runs_by_outcome_per_day(con, exclude_trials=False)) == 4


def test_2_slowest_steps(con):
    found = history.slowest_steps(con, limit=2)
    assert rows(found, "workflow", "step", "attempts", "p50_s", "p95_s", "max_s", "total_s") == [
        ("adhoc", "crunch", 2, near(1800), near(5340), near(5340), 7140.0), ("etl", "load", 3, near(100), near(140), near(140), 260.0),
    ]  # fmt: skip
    assert found["share"].tolist() == [pytest.approx(7140 / 7760), pytest.approx(260 / 7760)]


def test_3_duration_quantiles(con):
    found = history.duration_quantiles(con, "extract")
    assert rows(found, "workflow", "begins_on", "attempts", "p05_s", "p50_s", "p95_s") == [
        ("etl", "2025-01-31", 2, near(40), near(40), near(60)), ("etl", "2025-02-02", 1, near(40), near(40), near(40)),
    ]  # fmt: skip
    assert rows(history.duration_quantiles(con, "extract", by="month"), "begins_on", "attempts") == [
        ("2025-01-01", 2),
        ("2025-02-01", 1),
    ]
    assert rows(history.duration_quantiles(con, "extract", by="week"), "begins_on", "attempts") == [("2025-01-27", 3)]
    assert history.duration_quantiles(con, "no such step").empty


def test_4_queue_time_by_hour(con):
    assert rows(history.queue_time_by_hour(con), "hour", "runs", "mean_s", "p50_s", "max_s") == [
        (10, 2, 20.0, near(10), near(30)), (12, 1, 45.0, near(45), near(45)),
    ]  # fmt: skip
    by_hour = history.queue_time_by_hour(con, by="hour", exclude_trials=False)
    assert [str(hour) for hour in by_hour["hour"]] == [
        "2025-01-31 10:00:00+00:00", "2025-02-01 09:00:00+00:00", "2025-02-02 12:00:00+00:00",
    ]  # fmt: skip


def test_5_retry_cost(con):
    columns = ("workflow", "step", "retries", "rescued_runs", "lost_runs", "wasted_s", "waited_s", "wasted_usd")
    assert rows(history.retry_cost(con), *columns) == [
        ("adhoc", "crunch", 1, 0, 1, 1800.0, 60.0, 18.0), ("etl", "load", 1, 1, 0, 20.0, 10.0, 0.2),
    ]  # fmt: skip


def test_6_failures_by_cause(con):
    columns = ("step", "failure_cause", "error_class", "failures", "final", "last_message")
    assert rows(history.failures_by_cause(con), *columns) == [
        ("crunch", "memory", "Killed", 2, 1, "crunch 2"), ("load", "timeout", None, 1, 0, "load 1"),
    ]  # fmt: skip


def test_7_cost_by_owner_and_month(con):
    assert rows(history.cost_by_owner_and_month(con), "month", "owner", "runs", "priced_runs", "cost_usd", "failed_usd") == [
        ("2025-01-01", "ann", 2, 2, 4.0, 0.0), ("2025-02-01", "ann", 1, 0, None, None), ("2025-02-01", None, 1, 0, None, None),
    ]  # fmt: skip


def test_8_critical_path(con):
    columns = ("step", "attempts", "begins_s", "ends_s", "wait_s", "run_time_s", "retry_wait_s", "share", "basis")
    assert rows(history.critical_path(con, "r1"), *columns) == [
        ("extract", 1, 60.0, 120.0, 60.0, 60.0, 0.0, pytest.approx(120 / 360), "dependencies"),
        ("report", 1, 130.0, 270.0, 10.0, 140.0, 0.0, pytest.approx(150 / 360), "dependencies"),
        ("publish", 1, 280.0, 360.0, 10.0, 80.0, 0.0, pytest.approx(90 / 360), "dependencies"),
    ]
    assert rows(history.critical_path(con, "r3"), *columns) == [
        ("crunch", 2, 0.0, 7200.0, 0.0, 7140.0, 60.0, 1.0, "observed order")
    ]
    assert rows(history.critical_path(con, "r5"), "step", "outcome", "ends_s", "share") == [
        ("extract", "success", 100.0, None), ("load", None, None, None),
    ]  # fmt: skip
    with pytest.raises(NotFound, match="no run 'r9'"):
        history.critical_path(con, "r9")


def test_9_deadline_misses(con):
    columns = ("workflow", "deadline_runs", "missed_runs", "missed_share", "late_mean_s", "last_missed_on", "overdue_runs")
    assert rows(history.deadline_misses(con, now=NOW), *columns) == [("etl", 2, 1, 0.5, 60.0, "2025-01-31", 1)]
    assert rows(history.deadline_misses(con, since="2025-02-01", now=NOW), *columns) == [("etl", 0, 0, None, None, None, 1)]
    assert history.deadline_misses(con, workflow="adhoc", now=NOW).empty


def test_10_concurrency(con):
    found = history.concurrency(con, by="hour", since="2025-02-01", until="2025-02-03").set_index("begins_at")
    assert len(found) == 48
    at = lambda hour: found.loc[DAY + timedelta(days=1, hours=hour)]  # noqa: E731
    assert (at(23)["runs_mean"], at(23)["runs_peak"], at(23)["attempts_mean"]) == (1.0, 1, pytest.approx(3540 / 3600))
    assert (at(24)["runs_mean"], at(24)["attempts_mean"]) == (1.0, 1.0)
    assert (at(26)["runs_mean"], at(26)["runs_peak"]) == (0.0, 0)
    assert at(9)["runs_mean"] == pytest.approx(50 / 3600), "a trial takes room too"
    assert at(9)["runs_peak"] == 0, "it began and ended within a minute"
    assert at(36)["runs_mean"] == pytest.approx(59 / 60)
    assert at(40)["attempts_peak"] == 1, "what has not ended runs on"


def test_11_run_timeline(con):
    found = history.run_timeline(con, "r1")
    assert rows(found, "step", "attempt", "begins_s", "ends_s") == [
        ("extract", 1, 60.0, 120.0), ("load", 1, 130.0, 150.0), ("report", 1, 130.0, 270.0),
        ("load", 2, 160.0, 260.0), ("never", 1, 280.0, 280.0),        ("publish", 1, 280.0, 360.0),
    ]  # fmt: skip


def test_12_running_now(con):
    (one,) = history.running_now(con, now=NOW).to_dict("records")
    assert (one["run_id"], one["state"], one["for_s"], one["expected_p50_s"], one["expected_p95_s"]) == (
        "r5",
        "running",
        300.0,
        200.0,
        280.0,
    )
    # extract ended 260 s ago, and usually 150 s are left then; the run's own forecast says 200 of which 300 have passed
    assert (one["left_p50_s"], one["left_p95_s"], one["late"]) == (0.0, 40.0, True)
    assert (one["deadline_at_risk"], one["steps_ended"], one["steps_known"]) == (True, 1, 2)
    (early,) = history.running_now(con, now=NOW - timedelta(seconds=240)).to_dict("records")
    assert (early["left_p50_s"], early["late"]) == (130.0, False)


def test_plain_sql_stays_possible(con):
    assert con.sql("select sum(runs) from run_days").fetchall() == con.sql("select count(*) from runs").fetchall() == [(5,)]


def test_every_question_is_described_with_its_columns(con):
    assert len(QUESTIONS) == 12
    for question in QUESTIONS.values():
        given = {"step": "load"} if "step" in question.required else {"run_id": "r1"} if question.required else {}
        answered = question.ask(con, **given)
        assert not answered.empty, question.name
        assert question.title.endswith((".", "it.")), question.name
        assert [column for column in answered.columns if f"`{column}`" not in question.answer] == [], question.name
        assert getattr(history, question.name) is question.ask


def test_an_empty_history_answers_with_empty_frames(tmp_path):
    with history.connect(tmp_path) as con:
        for question in QUESTIONS.values():
            if "run_id" not in question.required:
                assert question.ask(con, **({"step": "load"} if question.required else {})).empty, question.name


def test_without_a_name_the_history_is_where_the_command_line_finds_it(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with history.connect() as con:
        assert len(history.runs_by_outcome_per_day(con)) == 3
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "gone"))
    with pytest.raises(SetupError, match="does not exist"):
        history.connect()
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match="No instance is named"):
        history.connect()
