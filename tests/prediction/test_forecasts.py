"""Training turns a history into forecasts of runs and steps, or says nothing where nothing is known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.forecasts import publish_card, publish_table, train, train_with_card
from workflows_pkg.prediction.lookup import FILE, expected, forecasts_of
from workflows_pkg.prediction.picks import PER_STEP_TIME

Daily = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]
NOW = datetime(2025, 6, 2, 12, tzinfo=UTC)


def _by_name(forecasts: list[Forecast]) -> dict[tuple[str, str], Forecast]:
    return {(item.step, item.quantity): item for item in forecasts}


def test_runs_and_steps_are_forecast_near_the_truth(daily: Daily, holding: Callable):
    found = _by_name(train(holding(*daily(80)), NOW))
    assert set(found) == {("", q) for q in ("queue_time_s", "start_time_s", "run_time_s", "cost_usd", "failure_share")} | {
        (step, q) for step in ("load", "clean", "score") for q in ("run_time_s", "cost_usd", "failure_share", "time_left_s")
    }
    assert found["load", "run_time_s"].p50 == pytest.approx(2.0, rel=0.05)
    assert found["score", "run_time_s"].p50 == pytest.approx(1.0, rel=0.4)
    assert found["", "run_time_s"].p50 == pytest.approx(7.2, rel=0.2)
    assert found["load", "cost_usd"].p50 == pytest.approx(2.0 * 0.04937 / 3600, rel=0.05)
    for item in found.values():
        assert item.as_of == NOW
        if item.quantity == "time_left_s":
            assert 0 <= item.p05 <= item.p50 <= item.p95
            assert (item.sample_count, item.error_share) == (50, None)
            continue
        assert 0 < item.p05 <= item.p50 <= item.p95
        assert item.sample_count == 80
        assert (item.best_rule_error_share is None) == (item.quantity == "failure_share")


def test_the_time_of_a_whole_run_is_learned_from_runs_launched_alike(daily: Daily, holding: Callable):
    runs, attempts = daily(80)
    in_process = runs["run_id"].isin(runs["run_id"].iloc[::2])  # half of them had neither queue nor processes of their own
    mixed = runs.assign(
        run_time_s=runs["run_time_s"].where(~in_process, 0.1), queue_time_s=runs["queue_time_s"].where(~in_process),
        start_time_s=runs["start_time_s"].where(~in_process),
    )  # fmt: skip
    found = _by_name(train(holding(mixed, attempts), NOW))
    assert found["", "run_time_s"].p50 == pytest.approx(7.2, rel=0.25)
    assert (found["", "run_time_s"].sample_count, found["load", "run_time_s"].sample_count) == (40, 80)
    assert (found["load", "time_left_s"].sample_count, found["", "failure_share"].sample_count) == (40, 80)
    never = _by_name(train(holding(mixed.assign(queue_time_s=float("nan")), attempts), NOW))
    assert never["", "run_time_s"].sample_count == 80, "control: without a queue all runs are alike"


def test_runs_of_picked_assets_are_forecast_by_what_was_picked(daily: Daily, holding: Callable):
    runs, attempts = daily(80)
    alone = set(runs["run_id"].iloc[::2])  # half of them picked one asset, and took a second
    attempts = attempts[~attempts["run_id"].isin(alone) | (attempts["step"] == "load")].assign(job_name="__ASSET_JOB")
    runs = runs.assign(job_name="__ASSET_JOB", run_time_s=runs["run_time_s"].where(~runs["run_id"].isin(alone), 2.5))
    by_job: dict[str, dict[tuple[str, str], Forecast]] = {}
    for each in train(holding(runs, attempts), NOW):
        by_job.setdefault(each.job_name, {})[each.step, each.quantity] = each
    assert set(by_job) == {"__ASSET_JOB", "__ASSET_JOB: load", "__ASSET_JOB: clean, load, score"}
    assert by_job["__ASSET_JOB: load"]["", "run_time_s"].p50 == pytest.approx(2.5, rel=0.02)
    assert by_job["__ASSET_JOB: clean, load, score"]["", "run_time_s"].p50 == pytest.approx(7.2, rel=0.25)
    of_any = by_job["__ASSET_JOB"]
    assert ("", "run_time_s") not in of_any, "a different job each time"
    assert not any(quantity == "time_left_s" for _, quantity in of_any)
    assert of_any["load", "run_time_s"].p50 == pytest.approx(2.0, rel=0.05)
    assert 1.0 <= of_any["", PER_STEP_TIME].p50 <= 1.3


def test_the_partition_ahead_matters_where_it_is_told(daily: Daily, holding: Callable):
    con = holding(*daily(300))
    monday = _by_name(train(con, NOW, {"daily": "2025-06-02"}))["clean", "run_time_s"]
    tuesday = _by_name(train(con, NOW, {"daily": "2025-06-03"}))["clean", "run_time_s"]
    assert monday.p50 == pytest.approx(12, rel=0.15)
    assert tuesday.p50 == pytest.approx(4, rel=0.1)


def test_no_history_is_no_forecast(daily: Daily, holding: Callable):
    runs, attempts = daily(3)
    assert train(holding(runs.iloc[:0], attempts.iloc[:0]), NOW) == []
    failed = attempts.assign(outcome="failure")
    found = _by_name(train(holding(runs.assign(outcome="failure"), failed), NOW))
    assert {key for key in found if key[1] != "failure_share"} == {("", "queue_time_s"), ("", "start_time_s")}
    assert found["", "failure_share"].p50 > 0.8


def test_error_is_unknown_before_five_outcomes(daily: Daily, holding: Callable):
    few = _by_name(train(holding(*daily(5)), NOW))["load", "run_time_s"]
    assert (few.error_share, few.best_rule, few.best_rule_error_share) == (None, None, None)
    more = _by_name(train(holding(*daily(6)), NOW))["load", "run_time_s"]
    assert more.error_share is not None


def test_trials_skipped_steps_and_the_future_do_not_train(daily: Daily, holding: Callable):
    runs, attempts = daily(30)
    clean = train(holding(runs, attempts), NOW)
    odd_runs = runs.tail(5).assign(run_id=lambda f: "t" + f["run_id"], run_time_s=999.0, queue_time_s=999.0, cost_usd=9.0)
    odd = attempts.tail(15).assign(run_id=lambda f: "t" + f["run_id"], run_time_s=999.0, cost_usd=9.0)
    trial = train(holding(pd.concat([runs, odd_runs.assign(trial_id="x")]), pd.concat([attempts, odd.assign(trial_id="x")])), NOW)
    skipped = train(holding(runs, pd.concat([attempts, odd.assign(outcome="skipped", run_time_s=0.0, cost_usd=0.0)])), NOW)
    later = timedelta(days=400)
    ahead = train(
        holding(
            pd.concat([runs, odd_runs.assign(created_at=NOW + later, started_at=NOW + later, ended_at=NOW + later)]),
            pd.concat([attempts, odd.assign(started_at=NOW + later, ended_at=NOW + later)]),
        ),
        NOW,
    )
    assert trial == skipped == ahead == clean
    # the control: the same rows do change the forecast where they count
    assert train(holding(pd.concat([runs, odd_runs]), pd.concat([attempts, odd])), NOW) != clean


def test_the_expert_counts_that_knows_something_and_nowhere_else(daily: Daily, holding: Callable):
    served = {(item.step, item.quantity): item.predictor for item in train(holding(*daily(200)), NOW, {"daily": "2025-06-02"})}
    weekday = {key for key, predictor in served.items() if predictor == "same_weekday"}
    assert ("clean", "run_time_s") in weekday
    assert weekday <= {(step, quantity) for step in ("clean", "") for quantity in ("run_time_s", "cost_usd")}


def test_training_twice_gives_the_same(daily: Daily, holding: Callable):
    con = holding(*daily(60))
    assert train(con, NOW) == train(con, NOW)


def test_the_published_table_is_read_back_without_heavy_libraries(tmp_path: Path, daily: Daily, holding: Callable):
    forecasts, card = train_with_card(holding(*daily(40)), NOW)
    publish_table(forecasts, tmp_path / FILE)
    publish_card(card, tmp_path / "card.json")
    assert len(forecasts_of(tmp_path / FILE, "daily")) == len(forecasts)
    script = (
        "import sys; from pathlib import Path; from workflows_pkg.prediction.lookup import expected\n"
        f"found = expected(Path({str(tmp_path)!r}), 'daily')\n"
        "heavy = {'sklearn', 'duckdb', 'pandas', 'numpy', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "print(found.p50, sorted(heavy))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split(" ", 1)
    run_time = _by_name(forecasts)["", "run_time_s"].p50
    assert float(answer[0]) == pytest.approx(run_time, rel=1e-5)
    assert answer[1].strip() == "[]"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["card.json", FILE]


def test_the_card_tells_data_features_and_scores(daily: Daily, holding: Callable):
    _, card = train_with_card(holding(*daily(40)), NOW)
    assert card["data"]["runs"] == 40
    assert {"median", "twins"} <= set(card["predictor"]["experts"])
    assert card["scores"]["step run_time_s"]["mean_best_rule_error_share"] > 0
    json.dumps(card, allow_nan=False)


def test_lookup_of_the_unknown_is_none_and_of_a_broken_file_an_error(tmp_path: Path):
    assert expected(tmp_path, "daily") is None
    publish_table([], tmp_path / FILE)
    assert expected(tmp_path, "daily") is None
    for broken in ("{", "[]", '{"format": 99, "jobs": {}}', '{"format": 1, "jobs": {"daily": {"": {"run_time_s": {"p05": 1}}}}}'):
        (tmp_path / FILE).write_text(broken)
        with pytest.raises(SetupError, match="Delete the file"):
            expected(tmp_path, "daily")


def test_a_failed_publication_leaves_the_old_table(tmp_path: Path):
    publish_table([], tmp_path / FILE)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        publish_card({"figure": float("nan")}, tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
