"""No feature and no prediction knows what had not happened yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.prediction import serving
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.predictor import Predictor
from workflows_pkg.prediction.rows import attempt_observations
from workflows_pkg.prediction.serving import predictions


def _swap_the_future(observations: pd.DataFrame, moment: pd.Timestamp, seed: int) -> pd.DataFrame:
    """Exchanges among themselves the outcomes of rows that had not finished by `moment`."""
    unfinished = np.flatnonzero(~(observations["finished_at"] < moment).to_numpy())
    mixed = np.random.default_rng(seed).permutation(unfinished)
    changed = observations.copy()
    took = observations["finished_at"] - observations["submitted_at"]
    changed.loc[unfinished, "value"] = observations["value"].to_numpy()[mixed] * 7
    later = observations["submitted_at"].iloc[unfinished] + took.to_numpy()[mixed]
    changed.loc[unfinished, "finished_at"] = later.clip(lower=moment + pd.Timedelta(microseconds=1))
    return changed


@pytest.fixture
def history(daily: Callable[..., tuple[pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    _, attempts = daily(80)
    # submissions that overlap: every attempt lasts as long as four hours of the schedule
    attempts = attempts.assign(ended_at=attempts["started_at"] + pd.to_timedelta(attempts["run_time_s"] * 4000, unit="s"))
    return attempt_observations(attempts)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_changing_the_future_changes_no_prediction(history: pd.DataFrame, share: float):
    moment = history["submitted_at"].quantile(share)
    before = history["submitted_at"] <= moment
    pd.testing.assert_frame_equal(predictions(history)[before], predictions(_swap_the_future(history, moment, 2))[before])


def test_a_leak_would_be_caught(history: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    """The control: a replay that shows outcomes at submission fails the same comparison."""

    def leaking(trace: Trace, predictor: Predictor, asked: object = None):
        return replay(replace(trace, rows=trace.rows.assign(finished_s=trace.rows["submitted_s"])), predictor)

    monkeypatch.setattr(serving, "replay", leaking)
    moment = history["submitted_at"].quantile(0.6)
    before = history["submitted_at"] <= moment
    with pytest.raises(AssertionError):
        pd.testing.assert_frame_equal(predictions(history)[before], predictions(_swap_the_future(history, moment, 1))[before])


def test_rows_of_one_instant_do_not_see_each_other():
    at = pd.Timestamp("2024-01-01", tz="UTC")
    attempts = pd.DataFrame(
        {
            "run_id": ["a", "b"],
            "job_name": "j",
            "step": "s",
            "attempt": 1,
            "partition_key": None,
            "outcome": "success",
            "started_at": at,
            "ended_at": at,
            "run_time_s": [0.0, 0.0],
        }
    )
    assert predictions(attempt_observations(attempts))["count"].to_list() == [0, 0]


def test_an_attempt_counts_as_finished_no_earlier_than_its_run_time_allows():
    at = pd.Timestamp("2024-01-01", tz="UTC")
    attempts = pd.DataFrame(
        {
            "run_id": ["a"],
            "job_name": "j",
            "step": "s",
            "attempt": 1,
            "partition_key": None,
            "outcome": "success",
            "started_at": at,
            "ended_at": at - pd.Timedelta("5s"),
            "run_time_s": [30.0],
        }
    )
    assert attempt_observations(attempts)["finished_at"].iloc[0] == at + pd.Timedelta("30s")


def test_failed_attempts_teach_no_duration():
    at = pd.Timestamp("2024-01-01", tz="UTC")
    attempts = pd.DataFrame(
        {
            "run_id": ["a", "b"],
            "job_name": "j",
            "step": "s",
            "attempt": 1,
            "partition_key": None,
            "outcome": ["failure", "success"],
            "started_at": [at, at + pd.Timedelta("1h")],
            "ended_at": [at + pd.Timedelta("1s"), at + pd.Timedelta("61min")],
            "run_time_s": [1.0, 60.0],
        }
    )
    table = predictions(attempt_observations(attempts))
    assert table["count"].to_list() == [0, 0]
    assert table["p50"].isna().all()
