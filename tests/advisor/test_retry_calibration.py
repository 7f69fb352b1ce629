"""Runs whose attempts share a process and runs that start one for each stand in one history, and neither misleads the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pytest

from workflows_pkg.advisor import retry_policy
from workflows_pkg.advisor.draft import Effect, bootstrap
from workflows_pkg.advisor.retry_simulation import Episodes, calibrate, prepare, simulate
from workflows_pkg.advisor.suggestions import suggest
from workflows_pkg.history.records import Suggestion
from workflows_pkg.prediction.recovery import episodes
from workflows_pkg.spec.model import Retry, Workflow

NOW = datetime(2024, 6, 1, tzinfo=UTC)
RETRY = {"attempts": 5, "delay": "1s", "jitter": "full"}
SHARED, STARTED = 0.01, (5.9, 2.5, 3.4)


@pytest.fixture
def same_process(history: Callable) -> duckdb.DuckDBPyConnection:
    return _history(history)


@pytest.fixture
def mixed(history: Callable) -> duckdb.DuckDBPyConnection:
    """The same runs and three more whose attempts start a process each; the trouble there lasts no longer than elsewhere.

    Two of them meet trouble that is still there at the first retry, as a second, independent failure would be.
    """
    con = _history(history)
    slow = history([9.0, 0.05, 5.0], delay_s=1.0, attempts=5, overhead_s=STARTED, full_jitter=True, seed=4)
    rows = slow.execute("select * replace ('d' || run_id as run_id) from step_attempts").df()
    con.execute("insert into step_attempts select * from rows")
    assert len(rows)
    return con


def _history(history: Callable) -> duckdb.DuckDBPyConnection:
    rng = np.random.default_rng(8)
    runs = [*rng.uniform(0.002, 0.03, 28), *([0.0] * 18)]
    return history(runs, delay_s=1.0, attempts=5, overhead_s=(SHARED,), full_jitter=True)


def _suggested(con: duckdb.DuckDBPyConnection, workflow: Callable[..., Workflow]) -> list[Suggestion]:
    return suggest(con, {"daily": (1, workflow(retry=RETRY))}, NOW)


def _with_common_overhead(*args: Any, **kwargs: Any) -> Episodes:
    """The broken variant: one median overhead for all episodes."""
    world = prepare(*args, **kwargs)
    return replace(world, overhead_s=np.full_like(world.overhead_s, np.median(world.overhead_s[:, 0])))


def _world(con: duckdb.DuckDBPyConnection, make: Callable[..., Episodes]) -> Episodes:
    found = episodes(con.execute("select * from step_attempts").df())
    return make(found, sorted(set(found["run_id"])), Retry.model_validate(RETRY), 1)


def test_runs_that_start_a_process_for_every_attempt_do_not_turn_the_effect(
    same_process: duckdb.DuckDBPyConnection, mixed: duckdb.DuckDBPyConnection, workflow: Callable
):
    (alone,), (both,) = _suggested(same_process, workflow), _suggested(mixed, workflow)
    assert alone.quantity == both.quantity == "step_time_s"
    assert alone.effect is not None
    assert both.effect == pytest.approx(alone.effect, rel=0.3)
    assert both.effect_high is not None
    assert both.effect_high < 0


def test_a_common_overhead_turns_the_effect_and_is_caught(
    mixed: duckdb.DuckDBPyConnection, workflow: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    effects: list[Effect] = []

    def seen(now_policy: Any, best: Any, step_time_s: float) -> Effect | None:
        effects.append(bootstrap("step_time_s", best.lost_s - now_policy.lost_s, 0))
        return worthwhile(now_policy, best, step_time_s)

    worthwhile = retry_policy._worthwhile
    monkeypatch.setattr(retry_policy, "_worthwhile", seen)
    assert len(_suggested(mixed, workflow)) == 1
    monkeypatch.setattr(retry_policy, "prepare", _with_common_overhead)
    with caplog.at_level(logging.INFO, logger=retry_policy.__name__):
        assert _suggested(mixed, workflow) == []
    assert "its simulation loses" in caplog.text
    # and without that check
    monkeypatch.setattr(retry_policy, "_calibration", lambda *_: None)
    _suggested(mixed, workflow)
    own, common = effects
    assert own.high < 0 < common.mean


@pytest.mark.parametrize("name", ["same_process", "mixed"])
def test_the_policy_in_force_is_simulated_to_lose_what_it_lost(name: str, workflow: Callable, request: pytest.FixtureRequest):
    con = request.getfixturevalue(name)
    world = _world(con, prepare)
    found = calibrate(simulate(Retry.model_validate(RETRY), world, frozenset(world.error_class))[5], world)
    assert found is not None
    assert found.reproduces
    assert found.simulated_s == pytest.approx(found.observed_s, rel=0.15)
    (suggestion,) = _suggested(con, workflow)
    assert json.loads(suggestion.evidence)["simulation"]["calibration"]["observed_s"] == pytest.approx(found.observed_s)


def test_a_common_overhead_does_not_reproduce_the_loss(mixed: duckdb.DuckDBPyConnection):
    world = _world(mixed, _with_common_overhead)
    found = calibrate(simulate(Retry.model_validate(RETRY), world, frozenset(world.error_class))[5], world)
    assert found is not None
    assert not found.reproduces


def test_the_simulation_is_held_only_against_the_version_in_force(mixed: duckdb.DuckDBPyConnection):
    world = _world(mixed, prepare)
    other = replace(world, same_version=np.zeros_like(world.same_version))
    assert calibrate(simulate(Retry.model_validate(RETRY), world, frozenset(world.error_class))[5], other) is None
