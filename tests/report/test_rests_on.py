"""What a forecast rests on is said in words, and only what is known."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.live.basis import moved
from workflows_pkg.report.rests_on import rests_on

MONDAY = datetime(2026, 3, 2, 6, tzinfo=UTC)


def _said(quantity: str = "run_time_s", predictor: str = "median", step: str = "load", **basis: Any) -> str:
    return rests_on(
        Forecast(
            job_name="etl", step=step, quantity=quantity, p05=1, p50=2, p95=3, sample_count=48, predictor=predictor, as_of=MONDAY,
            basis=json.dumps(basis) if basis else None,
        )
    )  # fmt: skip


def _moved(
    values: list[float], expected: float, tags: list[str | None] | None = None, ahead: str | None = None
) -> dict[str, Any]:
    days = [MONDAY - timedelta(days=len(values) - place) for place in range(len(values))]
    return moved(expected, values, days, tags or [None] * len(values), ahead, MONDAY)


def test_whose_outcomes_they_are_is_said() -> None:
    assert _said() == "Rests on 48 attempts, mostly by median."
    assert _said(step="").startswith("Rests on 48 runs")
    assert _said(predictor="same_tag") == "Rests on 48 attempts, mostly what the same partition took."
    assert _said(predictor="borrowed_from_same_kind") == "Has no outcome of its own: borrowed from steps of its kind."


def test_what_moved_it_is_said_where_outcomes_alike_were_off_as_much() -> None:
    steady = [10.0] * 50
    assert "As usual (10 s)." in _said(**_moved(steady, 10.1))
    risen = [10.0] * 35 + [13.0] * 15
    assert "29 % above its usual 10 s: its newest 10 were 30 % above it." in _said(**_moved(risen, 12.9))
    weekly = [20.0 if (MONDAY - timedelta(days=49 - place)).weekday() == 0 else 10.0 for place in range(49)]
    assert "90 % above its usual 10 s: 7 of the same weekday were 100 % above it." in _said(**_moved(weekly, 19.0))
    tags: list[str | None] = ["a", "b"] * 25
    by_tag = [10.0, 5.0] * 25
    assert "25 of the same partition were 33 % below it." in _said(**_moved(by_tag, 5.1, tags, "b"))
    unexplained = _said(**_moved(list(np.full(50, 10.0)), 14.0))
    assert unexplained.endswith("40 % above its usual 10 s."), "control: nothing alike was off, and nothing is made up"
    assert moved(1.0, [], [], [], None, MONDAY) == {}


def test_failures_name_streak_likeliest_cause_and_scores() -> None:
    said = _said(
        "failure_share", "failure_regression", newest={"outcome": "failure", "in_a_row": 3, "failed_share": 0.2},
        causes={"failures": 8, "by_cause": {"timeout": 5, "code": 3}}, outcomes=60, as_served=0.09, best_rule="markov",
        scores={"failure_rate": 0.12, "failure_regression": 0.08, "markov": 0.11},
        since={"at": MONDAY.timestamp(), "after": "failure_rate"},
    )  # fmt: skip
    assert "The newest 3 failed; 20 % failed in all. Likeliest cause: timeout, 5 of the newest 8 failures." in said
    assert "as served: 0.09; rate 0.12, regression 0.08, best rule (markov) 0.11." in said
    assert said.endswith("Served since 2026-03-02 06:00 UTC, as failure rate had done worse.")


def test_a_request_names_the_limit_and_the_rule_that_is_served_instead() -> None:
    score = {"wasted_gib_h": 1.0, "killed_share": 0.01}
    said = _said(
        "memory_request_mib", "max_seen", limit_mib=2048, outcomes=120, used_gib_h=10.0, as_served=score,
        scores={"sized_by_cost": {"wasted_gib_h": 2.0, "killed_share": 0.1}, "max_seen": score},
        since={"at": MONDAY.timestamp(), "after": "sized_by_cost", "killed": True},
    )  # fmt: skip
    assert "by the rule max seen" in said
    assert "Its author allows it 2,048 MiB; no request is above that." in said
    assert "By predictor: sized by cost 10 % killed, 20 % of what was used wasted; max seen 1.0 % killed" in said
    assert said.endswith("as sized by cost killed too many.")
