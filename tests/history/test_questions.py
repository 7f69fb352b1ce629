"""The named questions, on a history small enough to work out by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from workflows_pkg.errors import NotFound
from workflows_pkg.history import questions
from workflows_pkg.history.derive import derive
from workflows_pkg.history.ingest import land
from workflows_pkg.history.records import StepAttempt
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.spec.rates import flat


@pytest.fixture
def con(tmp_path, whole_run, new_log, translate):
    """Two good runs of `etl`, a lost one, a trial, and an open run of a job without a workflow; one USD per second."""
    lost = new_log("lost", 2).say("run_started", 1).say("step_started", 2, step="etl.load")
    lost.say("step_retried", 4, step="etl.load", seconds=5.0, error="TimeoutError", message="too slow").say(
        "step_restarted", 9, step="etl.load"
    )
    lost.say("step_failed", 19, step="etl.load", error="TimeoutError", message="too slow again").say("run_failed", 20)
    logs = [whole_run("good1", 1), whole_run("good2", 2), lost, whole_run("tried", 2), new_log("open", 3).say("run_started", 1)]
    facts = [
        log.facts(
            job_name="adhoc" if log.run_id == "open" else "etl",
            workflow=None if log.run_id == "open" else "etl",
            trial_id="t1" if log.run_id == "tried" else None,
        )
        for log in logs
    ]
    with writer(tmp_path) as history:
        for log in logs:
            land(history, log.batch(), translate, [])
        derive(history, pd.DataFrame(facts), card=flat(3600.0), causes={"TimeoutError": "timeout", "RateLimited": "dependency"})
    with open_history(tmp_path) as found:
        yield found


def rows(frame: pd.DataFrame, *names: str) -> list[tuple]:
    return [tuple(row) for row in frame[list(names)].astype(object).itertuples(index=False)]


def test_trials_are_left_out_unless_asked_for(con):
    assert list(questions.runs(con)["run_id"]) == ["good1", "good2", "lost", "open"]
    assert len(questions.runs(con, exclude_trials=False)) == 5
    assert len(questions.attempts(con)) == 3 + 3 + 2
    assert len(questions.attempts(con, exclude_trials=False)) == 11
    assert list(questions.runs(con, workflow="etl", exclude_trials=False)["run_id"]) == ["good1", "good2", "lost", "tried"]


def test_runs_by_outcome_per_day(con):
    found = questions.runs_by_outcome_per_day(con)
    assert rows(found.assign(day=found["day"].astype(str).str[:10]), "day", "outcome", "runs") == [
        ("2025-01-01", "success", 1), ("2025-01-02", "failure", 1), ("2025-01-02", "success", 1), ("2025-01-03", "open", 1),
    ]  # fmt: skip


def test_slowest_steps(con):
    found = questions.slowest_steps(con)
    near = lambda seconds: pytest.approx(seconds, rel=0.01)  # noqa: E731
    assert rows(found, "workflow", "step", "attempts", "p50_s", "max_s", "total_s") == [
        ("etl", "load", 6, near(2), near(10), 24.0),
        ("etl", "score", 2, near(2), near(2), 4.0),
    ]
    assert found["share"].sum() == pytest.approx(1)
    assert len(questions.slowest_steps(con, limit=1)) == 1
    assert questions.slowest_steps(con, workflow="another").empty


def test_retry_cost(con):
    assert rows(
        questions.retry_cost(con), "step", "retries", "rescued_runs", "lost_runs", "wasted_s", "waited_s", "wasted_usd"
    ) == [("load", 3, 2, 1, 6.0, 11.0, pytest.approx(6.0))]


def test_failures_by_cause(con):
    found = questions.failures_by_cause(con)
    assert rows(found, "step", "failure_cause", "error_class", "failures", "final", "last_message") == [
        ("load", "dependency", "RateLimited", 2, 0, "slow down"), ("load", "timeout", "TimeoutError", 2, 1, "too slow again"),
    ]  # fmt: skip


def test_cost_by_workflow(con):
    found = questions.cost_by_workflow(con)
    assert rows(found.head(1), "workflow", "runs", "cost_usd", "cost_per_run_usd", "failed_usd") == [
        ("etl", 3, pytest.approx(28), pytest.approx(28 / 3), pytest.approx(12))
    ]
    assert (found.iloc[1]["workflow"], found.iloc[1]["runs"]) == ("adhoc", 0)
    assert pd.isna(found.iloc[1]["cost_usd"]), "the cost of an open run without attempts is unknown"


def test_recent_runs_are_the_newest_and_show_trials(con):
    assert list(questions.recent_runs(con, limit=2)["run_id"]) == ["open", "good2"]
    assert "tried" in set(questions.recent_runs(con)["run_id"])


def test_the_timeline_of_a_run_counts_from_its_asking(con):
    found = questions.run_timeline(con, "good1")
    assert rows(found, "step", "attempt", "outcome", "begins_s", "ends_s") == [
        ("load", 1, "failure", 10.0, 12.0), ("load", 2, "success", 16.0, 20.0), ("score", 1, "success", 21.0, 23.0),
    ]  # fmt: skip
    with pytest.raises(NotFound, match=r"no run 'goood1'. Did you mean 'good1'\?"):
        questions.run_timeline(con, "goood1")


def test_records_can_be_read_with_a_condition(con):
    found = questions.read(con, StepAttempt, "failure_cause = ? and not will_retry", ["timeout"])
    assert [(row.run_id, row.attempt) for row in found] == [("lost", 2)]


def test_instants_are_utc_and_durations_are_numbers(con):
    found = questions.attempts(con)
    assert str(found["started_at"].dt.tz) == "UTC"
    assert found["run_time_s"].dtype == float


def test_an_empty_history_answers_with_empty_frames(tmp_path):
    with open_history(tmp_path) as con:
        for ask in (questions.runs, questions.attempts, questions.runs_by_outcome_per_day, questions.slowest_steps, questions.retry_cost,
                    questions.failures_by_cause, questions.cost_by_workflow, questions.recent_runs):  # fmt: skip
            assert ask(con).empty
