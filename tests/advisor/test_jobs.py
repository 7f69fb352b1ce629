"""Suggestions for jobs without a spec of ours: silent on healthy histories, speaking where the evidence is, honest about what it is not."""

from __future__ import annotations

import json
import runpy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.advisor.jobs import suggest_for_jobs
from workflows_pkg.advisor.spread import inferred_cron
from workflows_pkg.history.records import Suggestion
from workflows_pkg.spec.durations import parse_duration
from workflows_pkg.spec.model import Retry

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "foreign_history.py"))
NOW: datetime = made["NOW"]
START: datetime = made["START"]
STEPS = made["STEPS"]


def _one(history: Any) -> Suggestion:
    (found,) = suggest_for_jobs(history.con(), NOW)
    return found


def _again_at_once(**more: Any) -> Any:
    """A transient failure in every twentieth run, and somebody who starts the run again within 20 s, which succeeds."""
    return made["failing"](again_s=25.0, **more)


def test_a_healthy_history_gives_none():
    assert suggest_for_jobs(made["healthy"]().con(), NOW) == []
    assert suggest_for_jobs(made["Made"]().con(), NOW) == []


def test_a_transient_failure_that_was_over_within_the_wait_is_worth_a_retry():
    con = _again_at_once().con()
    (found,) = suggest_for_jobs(con, NOW)
    assert (found.kind, found.workflow, found.step, found.based_on) == ("job_retry", "orders", "extract", 0)
    (change,) = json.loads(found.change)
    assert (change["path"], change["before"]) == ("job:orders/step:extract.retry", None)
    assert json.loads(found.spec) == {"job:orders/step:extract": {"retry": change["after"]}}
    assert Retry.model_validate(change["after"]).attempts == 3
    evidence = json.loads(found.evidence)
    rows = con.execute(evidence["query"]).fetchall()
    assert len(rows) == evidence["failures"] == 15
    assert evidence["tried_again_within_a_minute"] == evidence["succeeded_within_a_minute"] == 15
    assert "15 of the 15 failures that were tried again within 60 s were over by then, of 15 in all" in found.title
    assert found.effect_high is not None
    assert found.effect_high < -0.03


def test_failures_that_were_not_tried_again_in_time_widen_the_effect():
    found = _one(_again_at_once(soon_s=1800, first_only=6))
    assert found.quantity == "failure_share"
    assert found.effect_low is not None
    assert found.effect_high is not None
    assert found.effect_low <= -15 / 306, "all of them were over half an hour later"
    assert -6 / 306 < found.effect_high < 0, "six were over in time, and that is certain"
    assert found.effect == pytest.approx(-(15 + 6) / 2 / 306)


@pytest.mark.parametrize("quick", [0, 1, 4])
def test_no_retry_where_next_to_nothing_was_tried_again_in_time(quick: int):
    """That trouble was over half an hour later does not prove that it was over within a minute."""
    history = _again_at_once(soon_s=1800, first_only=quick) if quick else made["failing"](soon_s=1800)
    assert suggest_for_jobs(history.con(), NOW) == []


def test_what_is_proposed_gains_something_at_both_ends_of_its_interval():
    for history in (_again_at_once(), _again_at_once(first_only=5), made["hanging"](), made["crowded"]()):
        found = _one(history)
        assert found.effect_high is not None
        assert found.effect_high < 0, found.title


@pytest.mark.parametrize(
    ("case", "history"),
    [
        ("a bug in the code", lambda: _again_at_once(cause="code", error="KeyError")),
        ("bad data", lambda: _again_at_once(cause="data", error="ParserError")),
        ("nobody knows the class", lambda: _again_at_once(cause="unknown", error="VendorError")),
        ("the next run is tomorrow", lambda: made["failing"](soon_s=86_400 / 2)),
        ("too few", lambda: _again_at_once(every=80)),
        ("the next ones fail too", lambda: _again_at_once(again=True)),
        ("a workflow of ours", lambda: _again_at_once(workflow="orders")),
        ("a trial", lambda: _again_at_once(trial_id="t1")),
    ],
)
def test_no_retry_without_evidence(case: str, history: Any):
    assert suggest_for_jobs(history().con(), NOW) == []


def test_no_retry_where_the_step_is_retried_already():
    history = _again_at_once()
    history.run("orders", START + timedelta(days=30), STEPS, retries="extract")
    assert suggest_for_jobs(history.con(), NOW) == []


def test_other_partitions_prove_nothing():
    history = made["Made"]()
    for number, at in enumerate(made["hours"](300)):
        history.run("orders", at, STEPS, fails="extract" if number % 20 == 5 else "", partition=f"p{number}")
    assert suggest_for_jobs(history.con(), NOW) == []


def test_hung_runs_are_worth_a_timeout():
    history = made["hanging"]()
    con = history.con()
    (found,) = suggest_for_jobs(con, NOW)
    assert (found.kind, found.workflow, found.quantity) == ("job_timeout", "nightly", "run_time_s")
    (change,) = json.loads(found.change)
    assert change["path"] == "job:nightly.timeout"
    assert json.loads(found.spec) == {"job:nightly": {"timeout": change["after"]}}
    limit_s = parse_duration(change["after"]).total_seconds()
    good = [run["run_time_s"] for run in history.runs if run["outcome"] == "success"]
    hung = [run["run_time_s"] for run in history.runs if run["outcome"] == "canceled"]
    assert max(good) < limit_s < min(hung)
    assert found.effect == pytest.approx(-sum(seconds - limit_s for seconds in hung) / 120, rel=1e-3)
    assert found.effect_high is not None
    assert found.effect_high < 0
    assert len(con.execute(json.loads(found.evidence)["query"]).fetchall()) == 120


def test_no_timeout_where_nothing_hung():
    history = made["failing"](cause="code", error="KeyError")
    assert suggest_for_jobs(history.con(), NOW) == []


def test_schedules_that_make_each_other_wait_are_spread_as_advice():
    found = _one(made["crowded"]())
    assert (found.kind, found.workflow, found.quantity) == ("schedule_spread", "stock", "queue_time_s")
    (change,) = json.loads(found.change)
    assert (change["path"], change["before"]) == ("schedule:stock_hourly.cron", "0 * * * *")
    minute, rest = change["after"].split(" ", 1)
    assert rest == "* * * *"
    assert min(int(minute), 60 - int(minute)) >= 5
    assert abs(int(minute) - 23) > 2, "not where the sensor asks"
    assert found.effect == pytest.approx(-(82 - 1.75), abs=0.3)
    assert "Advice only" in found.title


def test_control_schedules_that_meet_without_waiting_stay_where_they_are():
    assert suggest_for_jobs(made["crowded"](extra_s=0.0).con(), NOW) == []


def test_the_largest_saving_comes_first_and_the_limit_holds():
    history = made["crowded"]()
    for other in (made["hanging"](), _again_at_once()):
        for run, renamed in (("nightly", "nightly"), ("orders", "orders_slow")):
            for row in (*other.runs, *other.attempts):
                if row["job_name"] == run:
                    row.update(job_name=renamed, run_id=f"{renamed}{row['run_id']}")
        history.runs += other.runs
        history.attempts += other.attempts
    con = history.con()
    found = suggest_for_jobs(con, NOW)
    assert [item.kind for item in found] == ["job_timeout", "schedule_spread", "job_retry"]
    assert suggest_for_jobs(con, NOW, limit=1) == found[:1]
    assert suggest_for_jobs(con, NOW) == found, "the same history gives the same suggestions"
    assert len({item.suggestion_id for item in found}) == 3


@pytest.mark.parametrize(
    ("minutes", "cron"),
    [
        ([START + timedelta(hours=number) for number in range(48)], "0 * * * *"),
        ([START + timedelta(days=number, hours=6, minutes=30) for number in range(14)], "30 6 * * *"),
        ([START + timedelta(weeks=number, hours=6) for number in range(5)], "0 6 * * 1"),
        ([START + timedelta(minutes=20 * number) for number in range(90)], None),
        ([START + timedelta(hours=6 * number) for number in range(40)], None),
        ([START, START + timedelta(days=1)], None),
    ],
)
def test_a_cron_is_told_from_ticks_only_where_it_is_plain(minutes: list[datetime], cron: str | None):
    assert inferred_cron(minutes) == cron
