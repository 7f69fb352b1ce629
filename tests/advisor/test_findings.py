"""What is noticed: each planted trouble by its own finding, nothing in a healthy history, and what chance may do is bounded."""

from __future__ import annotations

import runpy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.advisor.collisions import collisions
from workflows_pkg.advisor.findings import Finding, findings

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "foreign_history.py"))
NOW: datetime = made["NOW"]
START: datetime = made["START"]
STEPS = made["STEPS"]


def _streak() -> Any:
    history = made["healthy"]()
    for number in range(6):
        history.run("orders", START + timedelta(days=20, hours=number), STEPS, fails="load", cause="code", error="KeyError")
    return history


def _retried() -> Any:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](200)):
        history.run("orders", at, STEPS, retries="extract" if number % 5 == 0 else "")
    return history


def _waiting() -> Any:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](60)):
        history.run("orders", at, {"extract": 4.0}, queue_s=30.0 if number % 2 else 1.0)
    return history


def _partition() -> Any:
    history = made["Made"]()
    for day in range(40):
        key = f"2026-01-{day % 20 + 1:02d}"
        history.run("daily", START + timedelta(days=day), STEPS, partition=key)
    for number in range(4):
        history.run("daily", START + timedelta(days=41, hours=number), STEPS, partition="2026-01-07", fails="load", cause="data")
    history.run("daily", START + timedelta(days=42), STEPS, partition="2026-01-08")
    return history


def _late(missed: int = 6) -> Any:
    """40 runs of which so many end a minute after their deadline, the others ten minutes before."""
    history = made["healthy"]()
    of_one_job = [run for run in history.runs if run["job_name"] == history.runs[0]["job_name"]]
    for number, run in enumerate(of_one_job[:40]):
        run["deadline_at"] = run["ended_at"] + (timedelta(minutes=-1) if number < missed else timedelta(minutes=10))
    return history


def _queued_since() -> Any:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](120)):
        history.run("orders", at, STEPS, queue_s=50.0 if number >= 80 else 2.0)
    return history


def _fails_since() -> Any:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](200)):
        history.run("orders", at, STEPS, fails="load" if number >= 150 and number % 3 == 0 else "")
    return history


PLANTED = {
    "failures_cost": lambda: made["failing"](),
    "retries_cost": _retried,
    "slower_step": lambda: made["slower"](),
    "slower_runs": lambda: _queued_since(),
    "fails_more": lambda: _fails_since(),
    "failing_streak": _streak,
    "colliding_ticks": lambda: made["crowded"](),
    "long_queue": _waiting,
    "hung_runs": lambda: made["hanging"](),
    "failing_partition": _partition,
    "missed_deadlines": _late,
}


def _of(history: Any, kind: str, now: datetime = NOW) -> list[Finding]:
    return [found for found in findings(history.con(), now) if found.kind == kind]


def test_a_healthy_history_gives_none():
    assert findings(made["healthy"]().con(), NOW) == []


def test_an_empty_history_gives_none():
    assert findings(made["Made"]().con(), NOW) == []


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_trouble_is_noticed_with_a_query_that_runs(kind: str):
    history = PLANTED[kind]()
    con = history.con()
    found = [finding for finding in findings(con, NOW) if finding.kind == kind]
    assert found, kind
    for finding in found:
        assert con.execute(finding.query).fetchall()
        assert finding.sentence.endswith(".")
        assert finding.figures
        for job in {run["job_name"] for run in history.runs} & {finding.job}:
            assert job in finding.sentence
    assert findings(con, NOW) == findings(con, NOW)


@pytest.mark.parametrize("kind", PLANTED)
def test_what_happened_later_or_in_trials_is_not_seen(kind: str):
    history = PLANTED[kind]()
    assert _of(history, kind, START) == []
    for row in (*history.runs, *history.attempts):
        row["trial_id"] = "t1"
    assert _of(history, kind) == []


def test_figures_are_those_of_the_query_and_costs_are_by_the_rate_card():
    history = made["failing"]()
    con = history.con()
    (found,) = [finding for finding in findings(con, NOW) if finding.kind == "failures_cost"]
    bad = [run for run in history.runs if run["outcome"] == "failure"]
    assert found.figures["failed_runs"] == len(bad) == 15
    assert found.figures["lost_s"] == pytest.approx(sum(run["run_time_s"] for run in bad))
    assert found.figures["lost_usd"] == pytest.approx(sum(run["cost_usd"] for run in bad))
    names = [item[0] for item in con.execute(found.query).description]
    (row,) = con.execute(found.query).fetchall()
    answer = dict(zip(names, row, strict=True))
    # the order in which several threads add up is theirs
    assert {name: answer[name] for name in ("failed_runs", "runs", "lost_s")} == pytest.approx(
        {name: found.figures[name] for name in ("failed_runs", "runs", "lost_s")}
    )


def test_deadlines_missed_now_and_then_are_no_finding():
    (found,) = _of(_late(6), "missed_deadlines")
    assert found.figures["missed_runs"] == 6
    assert found.figures["late_s"] == pytest.approx(60)
    assert _of(_late(2), "missed_deadlines") == []
    assert _of(_late(0), "missed_deadlines") == []


def test_a_name_with_quotes_stays_a_name():
    history = made["Made"]()
    for number, at in enumerate(made["hours"](60)):
        history.run("o'rders; drop table runs", at, STEPS, fails="load" if number % 10 == 0 else "")
    con = history.con()
    found = findings(con, NOW)
    assert found
    assert all(con.execute(finding.query).fetchall() for finding in found)


def test_schedules_that_meet_without_waiting_are_no_finding():
    history = made["crowded"](extra_s=0.0)
    assert _of(history, "colliding_ticks") == []
    (crowd,) = collisions(history.con(), NOW)
    assert (crowd.times, crowd.runs, crowd.costs) == (300, 900, False)


def test_a_collision_says_what_it_cost():
    (crowd,) = collisions(made["crowded"]().con(), NOW)
    assert crowd.names == ("clicks_hourly", "orders_hourly", "stock_hourly")
    assert crowd.mean_s == pytest.approx(42)
    assert crowd.alone_s == pytest.approx(1.75, abs=0.2)
    assert crowd.lost_s == pytest.approx((42 - crowd.alone_s) * 900)


def test_a_slow_backfill_is_no_slowdown():
    history = made["healthy"]()
    for number in range(60):
        history.run("orders", START + timedelta(days=30, minutes=number), {"extract": 90.0, "load": 300.0}, trigger="backfill")
    assert _of(history, "slower_step") == []


def test_a_job_that_often_fails_has_no_streak_by_chance():
    history = made["Made"]()
    for number, at in enumerate(made["hours"](100)):
        history.run("flaky", at, STEPS, fails="load" if number % 2 or number > 96 else "")
    assert _of(history, "failing_streak") == []


def test_a_change_of_long_ago_is_no_finding():
    history = made["slower"]()
    for at in made["hours"](200):
        history.run("orders", at + timedelta(days=120), {"extract": 20.0, "load": 60.0})
    assert _of(history, "slower_step") == []


def test_a_step_that_fails_in_every_run_is_told_once():
    history = _fails_since()
    for number in range(20):
        history.run("orders", START + timedelta(days=20, hours=number), STEPS, fails="load")
    assert _of(history, "failing_streak")
    assert _of(history, "fails_more") == []
