"""Enough runs of every step are asked about again to choose by, where steps fan out and where there are many."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from workflows_pkg.prediction.live.attempts import LEAST_RUNS, MOST, NEWEST, OF_RUN, RUNS_OF_KEY, newest_runs
from workflows_pkg.prediction.live.choosing import WINDOW
from workflows_pkg.prediction.live.memory import LEARNED, requests

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 6, 2, 12, tzinfo=UTC)


def _attempts(runs: int, steps: int, wide: int = 1) -> pd.DataFrame:
    run = np.repeat(np.arange(runs), steps * wide)
    step = np.tile(np.repeat(np.arange(steps), wide), runs)
    return pd.DataFrame(
        {"workflow": "etl", "step": [f"s{one}" for one in step], "retry": 0, "run_id": [f"r{one}" for one in run]}
    )


def _asked(table: pd.DataFrame) -> pd.DataFrame:
    return table[newest_runs(table)]


def test_of_a_step_that_fans_out_some_attempts_of_many_runs_are_asked_about() -> None:
    found = _asked(_attempts(500, 1, wide=20))
    assert found["run_id"].nunique() == RUNS_OF_KEY
    assert set(found.groupby("run_id").size()) == {OF_RUN}
    assert set(found["run_id"]) == {f"r{run}" for run in range(100, 500)}, "the newest"


def test_no_place_in_a_fan_out_is_preferred_and_what_is_asked_about_a_run_stays() -> None:
    table = _attempts(300, 1, wide=20)
    places = np.flatnonzero(newest_runs(table)) % 20
    assert np.bincount(places, minlength=20).min() > 0.5 * len(places) / 20
    later = _attempts(301, 1, wide=20)
    assert np.array_equal(newest_runs(later)[: len(table)], newest_runs(table))


def test_where_steps_are_many_each_has_runs_enough_to_choose_by() -> None:
    found = _asked(_attempts(300, 200, wide=2))
    by_step = found.groupby("step")["run_id"].nunique()
    assert by_step.min() == by_step.max() == LEAST_RUNS > WINDOW
    assert len(found) == 200 * LEAST_RUNS > NEWEST
    assert len(_asked(_attempts(300, 50))) <= NEWEST, "control: where that is enough for all, no more"


def test_a_history_of_any_size_costs_no_more_than_that() -> None:
    assert len(_asked(_attempts(140, 900))) == MOST
    assert len(_asked(_attempts(0, 1))) == 0


def test_a_rule_takes_over_memory_of_a_step_that_fans_out() -> None:
    rng = np.random.default_rng(1)
    runs, wide = 300, 20
    at = [START + timedelta(hours=run) for run in range(runs) for _ in range(wide)]
    attempts = pd.DataFrame(
        {
            "job_name": "etl", "step": "map", "run_id": [f"r{run}" for run in range(runs) for _ in range(wide)], "outcome": "success",
            "submitted_at": at, "ended_at": [one + timedelta(minutes=10) for one in at], "run_time_s": 600.0, "retry": 0,
            "memory_limit_mib": float("nan"), "peak_memory_mib": 500 * rng.lognormal(0, 0.1, runs * wide),
        }
    )  # fmt: skip
    _, choices = requests(attempts, NOW, {})
    assert choices["etl", "map"].runs == WINDOW
    assert choices["etl", "map"].served != LEARNED
    _, few = requests(attempts[-20 * wide :], NOW, {})
    assert few["etl", "map"].served == LEARNED, "control: twenty runs, as many as were compared of 400 attempts"
