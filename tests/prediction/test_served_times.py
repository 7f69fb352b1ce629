"""Times are told by the weighing of all opinions, and by a simple rule alone where that has been nearer beyond chance."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.forecasts import publish_table, train_with_card
from workflows_pkg.prediction.live.choosing import Choice
from workflows_pkg.prediction.live.times import LEARNED
from workflows_pkg.prediction.lookup import FILE, job_forecast
from workflows_pkg.prediction.rules import RULES
from workflows_pkg.prediction.serving import as_trace, predictions_and_choices
from workflows_pkg.report.asset_choices import choices_page
from workflows_pkg.report.expectation import maker
from workflows_pkg.report.rests_on import rests_on

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 6, 2, 12, tzinfo=UTC)
RUNS = 400


def _whole_seconds(rng: np.random.Generator, runs: int = RUNS) -> np.ndarray:
    """Times of about half a second by a clock of whole seconds: the learned predictor takes 0 s as half a second, the rules do not."""
    return np.floor(_fine(rng, runs))


def _fine(rng: np.random.Generator, runs: int = RUNS) -> np.ndarray:
    return rng.lognormal(-0.5, 0.8, runs)


def _observed(values: np.ndarray) -> pd.DataFrame:
    at = [START + timedelta(hours=run) for run in range(len(values))]
    return pd.DataFrame(
        {
            "job_name": "etl", "step": "load", "run_id": [f"r{run}" for run in range(len(values))], "partition_key": None, "attempt": 1,
            "submitted_at": at, "finished_at": [one + timedelta(minutes=30) for one in at], "value": values,
        }
    )  # fmt: skip


def _served(values: np.ndarray) -> tuple[pd.DataFrame, Choice]:
    """One step, an hour between runs: the answers beside what came, from the twenty-first outcome on, and the choice."""
    observations = _observed(values)
    found, choices = predictions_and_choices(observations, 1e-3, np.ones(len(values), bool))
    return found.assign(value=values)[20:], choices["etl", "load"]


def _error(found: pd.DataFrame, name: str) -> float:
    return float((found[name] - found["value"]).abs().sum() / found["value"].sum())


def test_where_the_learned_predictor_is_really_worse_a_rule_takes_over() -> None:
    for seed in range(4):
        found, choice = _served(_whole_seconds(np.random.default_rng(seed)))
        assert choice.served in RULES
        assert choice.switches[0].before == LEARNED
        assert choice.switches[0].runs <= 100
        assert _error(found, "p50") < 0.75 * _error(found, "weighed_p50")
        assert found["predictor"].iloc[-1] == f"{choice.served}_alone"
        _, control = _served(_fine(np.random.default_rng(seed)))
        assert control.switches == (), "control: the same times by a finer clock"


def test_a_rule_that_took_over_is_withdrawn_when_the_learned_predictor_has_earned_it() -> None:
    times = np.concatenate([_whole_seconds(np.random.default_rng(0), 200), np.where(np.arange(200) % 2, 1.0, 10.0)])
    found, choice = _served(times)
    assert choice.served == LEARNED
    assert choice.switches[0].before == choice.switches[-1].after == LEARNED
    assert 200 < choice.switches[-1].runs <= 300
    assert not found["predictor"].iloc[-1].endswith("_alone")
    assert found["predictor"].iloc[150].endswith("_alone"), "control: before the change a rule was served"


KINDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "narrow": lambda rng: 10 * rng.lognormal(0, 0.1, RUNS),
    "wide": lambda rng: 10 * rng.lognormal(0, 1.0, RUNS),
    "heavy tail": lambda rng: 1 + rng.pareto(1.5, RUNS),
    "now and then long": lambda rng: np.where(rng.uniform(size=RUNS) < 0.2, 100, 10) * rng.lognormal(0, 0.1, RUNS),
    "wandering": lambda rng: 10 * np.exp(np.cumsum(rng.normal(0, 0.05, RUNS))),
    "two values": lambda rng: np.where(rng.uniform(size=RUNS) < 0.4, 5.0, 10.0),
}


def test_where_nothing_is_to_be_gained_fewer_than_one_change_comes_in_four_thousand_runs() -> None:
    changes = {
        kind: [len(_served(build(np.random.default_rng(seed)))[1].switches) for seed in range(8)] for kind, build in KINDS.items()
    }
    assert sum(map(sum, changes.values())) <= 4, "19,200 runs"
    assert max(map(max, changes.values())) <= 1, "and it does not go back and forth"


def test_the_interval_holds_no_less_where_a_rule_answers() -> None:
    rows, before, served = 0, 0, 0
    for seed in range(4):
        values = _whole_seconds(np.random.default_rng(seed))
        found, _ = _served(values)
        weighed = replay(as_trace(_observed(values)), DurationPredictor())[20:].set_axis(found.index)
        alone = found["predictor"].str.endswith("_alone")
        assert (found["p05"] <= found["p50"]).all()
        assert (found["p50"] <= found["p95"]).all()
        assert found.loc[~alone, ["p05", "p50", "p95"]].equals(weighed.loc[~alone, ["p05", "p50", "p95"]]), (
            "else it is what it was"
        )
        rows += int(alone.sum())
        before += int(((values[20:] >= weighed["p05"]) & (values[20:] <= weighed["p95"]))[alone].sum())
        served += int(((values[20:] >= found["p05"]) & (values[20:] <= found["p95"]))[alone].sum())
    assert rows > 1_000
    assert served >= before
    assert served > 0.88 * rows


def test_what_had_not_ended_by_then_changes_no_choice() -> None:
    times = _whole_seconds(np.random.default_rng(2))
    changed = times.copy()
    changed[300:] = 50.0
    before, after = _served(times)[0], _served(changed)[0]
    columns = ["p05", "p50", "p95", "predictor"]
    assert before[columns].iloc[:280].equals(after[columns].iloc[:280])
    assert not before[columns].equals(after[columns]), "control"


def test_the_same_history_and_card_give_the_same_forecasts_of_memory_and_risk_too(daily: Callable, holding: Callable) -> None:
    runs, attempts = daily(250, failing=0.1)
    rng = np.random.default_rng(0)
    con = holding(runs, attempts.assign(peak_memory_mib=500 * rng.lognormal(0, 0.1, len(attempts))))
    forecasts, card = train_with_card(con, NOW)
    kept = json.loads(json.dumps(card))
    assert any(kept["choices"][question]["others"] for question in ("memory_request_mib", "failure_share")), (
        "control: something took over"
    )
    again, told = train_with_card(con, NOW, before=kept)
    assert again == forecasts
    assert all(one["changed"] == [] for name, one in told["choices"].items() if name != "how")
    assert train_with_card(con, NOW, before=kept)[0] == again


def _history(daily: Callable, holding: Callable, runs: int = 120) -> tuple[object, object]:
    """A year in which the clock of `score` tells whole seconds, and one with a fine clock."""
    of_runs, attempts = daily(runs)
    rough = attempts.assign(
        run_time_s=attempts["run_time_s"].where(attempts["step"] != "score", np.floor(0.7 * attempts["run_time_s"]))
    )
    return holding(of_runs, rough), holding(of_runs, attempts)


def _of(forecasts: list[Forecast], quantity: str) -> dict[str, Forecast]:
    return {one.step: one for one in forecasts if one.quantity == quantity}


def test_the_one_that_took_over_is_served_wherever_the_forecast_is(daily: Callable, holding: Callable, tmp_path: Path) -> None:
    rough, fine = _history(daily, holding)
    forecasts, card = train_with_card(rough, NOW, before={"choices": {}})
    score = _of(forecasts, "run_time_s")["score"]
    assert score.predictor.endswith("_alone")
    assert score.p50 == 0.0
    publish_table(forecasts, tmp_path / FILE)
    table = job_forecast(tmp_path / FILE, "daily")
    assert table is not None
    assert (table.steps("run_time_s")["score"].p50, table.steps("run_time_s")["score"].predictor) == (0.0, score.predictor)
    assert maker(score.predictor).startswith("by the rule")
    assert card["choices"]["run_time_s"]["others"] == {"daily / score: run_time_s": score.predictor.removesuffix("_alone")}
    page = choices_page(card)
    assert "times, cost and peak memory" in page.texts["who serves, who answers in the shadow"]
    assert "daily / score" in page.texts["served by another than usual"]
    said = rests_on(score)
    assert "by the rule" in said
    assert "weighed experts had done worse" in said
    assert "Off on average over the newest" in said
    control, untouched = train_with_card(fine, NOW)
    assert not any(one.predictor.endswith("_alone") for one in control)
    assert untouched["choices"]["run_time_s"]["others"] == {}


def test_training_again_on_the_same_history_changes_nothing_and_tells_of_no_change(daily: Callable, holding: Callable) -> None:
    rough, _ = _history(daily, holding)
    forecasts, card = train_with_card(rough, NOW)
    kept = json.loads(json.dumps(card))
    again, told = train_with_card(rough, NOW, before=kept)
    assert again == forecasts
    assert told["choices"]["run_time_s"]["others"] == card["choices"]["run_time_s"]["others"] != {}
    assert told["choices"]["run_time_s"]["changed"] == []


def test_what_a_card_tells_of_stands_until_it_is_beaten(daily: Callable, holding: Callable) -> None:
    _, fine = _history(daily, holding)
    since = {
        "daily / load: run_time_s": {"at": START.timestamp(), "runs": 40, "before": LEARNED, "after": "median", "faults": False}
    }
    before = {"choices": {"run_time_s": {"others": {"daily / load: run_time_s": "median"}, "since": since}}}
    forecasts, card = train_with_card(fine, NOW, before=before)
    assert _of(forecasts, "run_time_s")["load"].predictor == "median_alone"
    assert card["choices"]["run_time_s"]["since"] == since, "carried on from training to training"
    old = {"choices": {"run_time_s": {"others": {"daily / load: run_time_s": "median"}}}}
    assert _of(train_with_card(fine, NOW, before=old)[0], "run_time_s")["load"].predictor != "median_alone", "control"
