"""The replay scores what is served beside every simple rule, and what is served is worth serving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.prediction.evaluation.attempts import SERVED, macro_mean, replay, scores
from workflows_pkg.prediction.evaluation.duration import pinball
from workflows_pkg.prediction.rules import RULES

Daily = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]


@pytest.fixture(scope="module")
def replayed(daily: Daily) -> pd.DataFrame:
    return replay(daily(300)[1])


def _of(scored: pd.DataFrame, step: str, predictor: str) -> pd.Series:
    return scored[(scored["step"] == step) & (scored["predictor"] == predictor)].iloc[0]


def test_a_weekday_effect_is_learned_that_no_simple_rule_sees(replayed: pd.DataFrame):
    late = replayed[replayed["submitted_at"] > replayed["submitted_at"].quantile(0.5)]
    scored = scores(late)
    ours = _of(scored, "clean", SERVED)["weighted_error_share"]
    best = min(_of(scored, "clean", rule)["weighted_error_share"] for rule in RULES)
    assert ours < 0.5 * best
    assert set(late.loc[late["step"] == "clean", "predictor"]) == {"same_weekday"}


def test_pure_noise_is_left_to_a_simple_rule(replayed: pd.DataFrame):
    """The control of the one above: where nothing can be learned, the weekday seldom counts most, and costs nothing."""
    late = replayed[(replayed["step"] == "score") & (replayed["count"] > 100)]
    assert (late["predictor"] != "same_weekday").mean() > 0.75
    scored = scores(late)
    ours = _of(scored, "score", SERVED)["weighted_error_share"]
    assert ours <= 1.05 * min(_of(scored, "score", rule)["weighted_error_share"] for rule in RULES)


def test_nine_of_ten_truths_fall_inside_the_interval(replayed: pd.DataFrame):
    warm = scores(replayed[replayed["count"] >= 20])
    for step in ("load", "clean", "score"):
        assert 0.85 <= _of(warm, step, SERVED)["coverage_share"] <= 0.96


def test_the_interval_is_as_wide_as_the_noise(replayed: pd.DataFrame):
    """A log-normal with 5 % noise has a 90 % interval of 16 %, with 50 % noise of 1.8 times the median."""
    late = scores(replayed[replayed["count"] >= 100])
    assert 0.12 <= _of(late, "load", SERVED)["relative_width"] <= 0.25
    assert 1.3 <= _of(late, "score", SERVED)["relative_width"] <= 2.6


def test_the_same_history_gives_the_same_predictions(daily: Daily):
    attempts = daily(60)[1]
    pd.testing.assert_frame_equal(replay(attempts), replay(attempts.sample(frac=1, random_state=3)))


def test_scores_are_the_textbook_measures():
    table = pd.DataFrame(
        {
            "job_name": "j",
            "step": "s",
            "value": [1.0, 2.0, 4.0, 9.0],
            "count": [0, 1, 5, 6],
            "p05": [np.nan, 1, 1, 1],
            "p50": [np.nan, 2.0, 3.0, 3.0],
            "p95": [np.nan, 4, 5, 6],
            "rule_p05": [np.nan, np.nan, 1, 1],
            "rule_p95": [np.nan, np.nan, 3, 10],
            **{name: [np.nan, 1.0, 2.0, 3.0] for name in RULES},
        }
    )
    found = scores(table, by=()).set_index("predictor")
    assert found.loc[SERVED, "row_count"] == 4
    assert found.loc[SERVED, "cold_share"] == 0.25
    assert found.loc[SERVED, "error_share"] == 0.25
    assert found.loc[SERVED, "weighted_error_share"] == pytest.approx(7 / 15)
    assert found.loc[SERVED, "coverage_share"] == pytest.approx(2 / 3)
    assert found.loc["median", "coverage_share"] == 0.5
    assert found.loc[SERVED, "answered_share"] == 1.0
    assert pinball(np.array([10.0]), np.array([12.0]), 0.95) == pytest.approx(0.1)


def test_macro_mean_counts_every_step_once(replayed: pd.DataFrame):
    scored = scores(replayed)
    mean = macro_mean(scored).set_index("predictor")
    assert mean.loc["last", "error_share"] == pytest.approx(scored.loc[scored["predictor"] == "last", "error_share"].mean())
    assert mean.loc["last", "row_count"] == 900


def test_a_replay_without_attempts_is_empty(daily: Daily):
    empty = daily(1)[1].iloc[:0]
    assert replay(empty).empty
    assert scores(replay(empty)).empty


SMALL_TRACES = ("nextflow2015/tasks", "ponder/testruns-rnaseq", "ponder/testruns-rnaseqDrosophila", "sizey/chipseq", "sizey/iwd")


def test_no_simple_rule_is_better_on_the_mean_over_real_histories(traces: Path):
    """On the mean over traces no single rule does better; on no trace is the one best there, in hindsight, better by a quarter."""
    by_trace = []
    for trace in SMALL_TRACES:
        rows = pd.read_parquet(traces / f"{trace}.parquet")
        attempts = pd.DataFrame(
            {
                "run_id": rows["run_id"],
                "job_name": rows["workflow"],
                "step": rows.get("step_full", rows["step"]),
                "attempt": 1,
                "partition_key": rows["tag"].where(rows["tag"] != "-"),
                "submitted_at": rows["submitted_at"],
                "started_at": rows["submitted_at"],
                "ended_at": rows["ended_at"],
                "run_time_s": rows["duration_s"].astype(float),
                "outcome": np.where(rows["status"] == "COMPLETED", "success", "failure"),
            }
        )
        by_trace.append(scores(replay(attempts), by=(), least=1.0).set_index("predictor"))
    for measure in ("error_share", "weighted_error_share"):
        found = pd.concat([table[measure] for table in by_trace], axis=1)
        mean = found.mean(axis=1)
        assert mean[SERVED] < mean[list(RULES)].min()
        assert (found.loc[SERVED] <= 1.25 * found.loc[list(RULES)].min()).all()
