"""The risk of failing is told by the rate of the key, and by the learned predictor where it has foretold better."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from workflows_pkg.prediction.failure import FAILURE, failure_risk
from workflows_pkg.prediction.forecasts import train
from workflows_pkg.prediction.live.failures import AGAIN, FIRST, LEARNED, risks, risks_by_try

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = START + timedelta(hours=405)
Fails = Callable[[int, np.random.Generator], bool]


def _tried(fails: Fails, runs: int = 400, steps: int = 6, seed: int = 0, cause: str = "timeout") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(runs):
        at = START + timedelta(hours=run)
        for step in range(steps):
            failed = bool(fails(run, rng))
            rows.append(
                {
                    "job_name": "etl", "step": f"s{step}", "run_id": f"r{run}", "outcome": "failure" if failed else "success",
                    "submitted_at": at, "started_at": at, "ended_at": at + timedelta(minutes=10), "run_time_s": 600.0, "retry": 0,
                    "failure_cause": cause if failed else None,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _at_night(run: int, rng: np.random.Generator) -> bool:
    return rng.uniform() < (0.6 if run % 24 < 6 else 0.03)


def test_where_the_hour_tells_the_learned_predictor_takes_over_and_has_the_smaller_error() -> None:
    found, choices, figures = risks(_tried(_at_night), NOW, {})
    served = [one for one in found if one.predictor == LEARNED]
    assert len(served) >= 4
    for one in served:
        scores = json.loads(one.basis or "{}")["scores"]
        assert scores[LEARNED] < scores["failure_rate"]
        assert one.p05 <= one.p50 <= one.p95
    assert all(len(choice.switches) <= 1 for choice in choices.values())
    assert figures["calibration_error"] < 0.05


def test_where_nothing_tells_the_rate_stays() -> None:
    changes = 0
    for seed, share in enumerate((0.02, 0.05, 0.2)):
        _, choices, figures = risks(_tried(lambda run, rng, share=share: rng.uniform() < share, seed=seed), NOW, {})
        changes += sum(len(choice.switches) for choice in choices.values())
        assert figures["calibration_error"] < 0.05
    assert changes <= 2, "of 7,200 runs of steps"


def test_a_planted_shift_changes_what_is_served() -> None:
    def shifted(run: int, rng: np.random.Generator) -> bool:
        return rng.uniform() < (0.1 if run < 200 else 0.9 if run % 24 < 6 else 0.02)

    _, choices, _ = risks(_tried(shifted), NOW, {})
    after = [one.runs for choice in choices.values() for one in choice.switches]
    assert sum(runs > 200 for runs in after) >= 4
    assert sum(runs <= 200 for runs in after) <= 1, "control: before it there was nothing to tell them apart"


def test_the_rate_is_that_of_the_outcomes_known_by_then() -> None:
    tried = _tried(lambda run, rng: rng.uniform() < 0.3, 60, 1)
    moment = START + timedelta(hours=40)
    (found,), _, _ = risks(tried[tried["submitted_at"] < moment], moment, {})
    known = tried[tried["ended_at"] < moment]
    risk = failure_risk((known["outcome"] == "failure").tolist())
    assert risk is not None
    assert (found.p05, found.p50, found.p95, found.sample_count) == (risk.p05, risk.p50, risk.p95, risk.sample_count)


def test_first_tries_and_retries_are_told_apart_and_the_likeliest_cause_is_named(daily: Callable, holding: Callable) -> None:
    runs, attempts = daily(60)
    rng = np.random.default_rng(0)
    first = attempts.assign(attempt=1)
    fails = (first["step"] == "load") & (rng.uniform(size=len(first)) < 0.4)
    first = first.assign(
        outcome=first["outcome"].mask(fails, "failure"), will_retry=fails, failure_cause=np.where(fails, "timeout", None)
    )
    again = attempts[fails].assign(attempt=2, will_retry=False)
    found = {
        (one.step, one.quantity): one for one in train(holding(runs, pd.concat([first, again])), datetime(2025, 6, 2, tzinfo=UTC))
    }
    assert found["load", FIRST].p50 > 0.25
    assert found["load", AGAIN].p50 < 0.1
    assert found["load", FAILURE].p50 < 0.05, "for good none failed"
    assert found["load", AGAIN].sample_count == int(fails.sum())
    assert json.loads(found["load", FIRST].basis or "{}")["causes"] == {
        "failures": min(int(fails.sum()), 20), "by_cause": {"timeout": min(int(fails.sum()), 20)},
    }  # fmt: skip
    assert ("clean", FIRST) not in found, "control: never tried again"


def test_a_history_without_retries_has_no_risks_by_try() -> None:
    assert risks_by_try(_tried(_at_night, 30), NOW, {})[0] == []
