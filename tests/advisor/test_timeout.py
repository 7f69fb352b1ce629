"""A timeout is learned from good attempts, proposed where attempts hung or the spec asks, and else not mentioned."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from workflows_pkg.advisor.suggestions import resolve_auto, suggest
from workflows_pkg.spec.canonical import digest
from workflows_pkg.spec.model import Workflow

NOW = datetime(2024, 6, 1, tzinfo=UTC)
GOOD = [0.0] * 40


def _timeout(spec: str) -> object:
    return Workflow.model_validate(json.loads(spec)).steps["fetch"].timeout


def test_attempts_that_hung_are_worth_a_timeout(history: Callable, workflow: Callable):
    """40 good attempts of about 0.3 s, four that ran 600 s until somebody stopped them."""
    con = history(GOOD, hang_s=[600.0] * 4)
    (found,) = suggest(con, {"daily": (1, workflow())}, NOW)
    assert (found.kind, found.quantity) == ("timeout", "step_time_s")
    limit = _timeout(found.spec)
    assert isinstance(limit, timedelta)
    assert timedelta(seconds=1) <= limit <= timedelta(seconds=2)
    assert found.effect == pytest.approx(-4 * (600 - limit.total_seconds()) / 44)
    assert found.effect_high is not None
    assert found.effect_high < 0
    evidence = json.loads(found.evidence)
    assert evidence["false_kill_share_upper"] == pytest.approx(3 / 40, rel=0.05)
    assert len(con.execute(evidence["query"]).fetchall()) == evidence["attempts"] == 44
    assert [row["run_time_s"] for row in evidence["hung"]] == [600.0] * 4


def test_auto_without_a_hang_is_a_number_with_no_effect_and_says_so(history: Callable, workflow: Callable):
    (found,) = suggest(history(GOOD), {"daily": (1, workflow(timeout="auto"))}, NOW)
    assert (found.effect, found.effect_low, found.effect_high) == (0, 0, 0)
    assert "saves no time" in found.title
    assert json.loads(found.change)[0]["before"] == "auto"


@pytest.mark.parametrize(
    ("case", "runs", "hang_s", "fields"),
    [
        ("nothing hung and nobody asked", GOOD, [], {}),
        ("a limit that is already tighter", GOOD, [600.0] * 4, {"timeout": "900ms"}),
        ("too few good attempts", [0.0] * 19, [600.0] * 4, {}),
        ("too few good attempts for auto", [0.0] * 19, [], {"timeout": "auto"}),
        ("failures that are quick", [9e9] * 10 + GOOD, [], {}),
        ("one hang in very many runs", [0.0] * 400, [3.0], {}),
    ],
)
def test_silent(case: str, runs: list[float], hang_s: list[float], fields: dict, history: Callable, workflow: Callable):
    assert suggest(history(runs, hang_s=hang_s, attempts=1), {"daily": (1, workflow(**fields))}, NOW) == []


def test_the_limit_stands_above_every_good_attempt(history: Callable, workflow: Callable):
    con = history(GOOD, took_s=7.0)
    (found,) = suggest(con, {"daily": (1, workflow(timeout="auto"))}, NOW)
    limit = _timeout(found.spec)
    longest = con.execute("select max(run_time_s) from step_attempts").fetchone()[0]
    assert isinstance(limit, timedelta)
    assert limit.total_seconds() >= 1.5 * longest


def test_auto_is_resolved_to_a_number_that_is_in_the_digest(history: Callable, workflow: Callable):
    spec = workflow(timeout="auto")
    resolved = resolve_auto(spec, history(GOOD))
    assert isinstance(resolved.steps["fetch"].timeout, timedelta)
    assert digest(resolved) != digest(spec)
    assert resolve_auto(resolved, history(GOOD)) == resolved


def test_auto_stays_auto_where_too_little_is_known(history: Callable, workflow: Callable):
    assert resolve_auto(workflow(timeout="auto"), history([0.0] * 19)).steps["fetch"].timeout == "auto"
    assert (
        resolve_auto(workflow(timeout="auto"), history(GOOD), datetime(2023, 1, 1, tzinfo=UTC)).steps["fetch"].timeout == "auto"
    )


def test_suggestions_that_save_most_come_first(history: Callable, workflow: Callable):
    runs = [0.1] * 20 + [0.0] * 40
    found = suggest(
        history(runs, delay_s=3.0, hang_s=[600.0] * 6), {"daily": (1, workflow(retry={"attempts": 3, "delay": "3s"}))}, NOW
    )
    assert [item.kind for item in found] == ["timeout", "retry_policy"]
