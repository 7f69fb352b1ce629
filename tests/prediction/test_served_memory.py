"""Steps are told what memory to ask for, from what had been measured by then, and a simple rule where that would have cost less."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.history.records import Forecast, JobStep
from workflows_pkg.prediction.forecasts import train
from workflows_pkg.prediction.live.memory import LEARNED, PEAK, REQUEST, RETRY, requests

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 6, 2, 12, tzinfo=UTC)


def _metered(peak: Callable[[int, np.random.Generator], float], runs: int = 400, steps: int = 6, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    at = [START + timedelta(hours=run) for run in range(runs)]
    rows = [
        {
            "job_name": "etl", "step": f"s{step}", "run_id": f"r{run}", "outcome": "success", "submitted_at": at[run],
            "ended_at": at[run] + timedelta(minutes=10), "run_time_s": 600.0, "retry": 0, "memory_limit_mib": float("nan"),
            "peak_memory_mib": float(peak(run, rng)),
        }
        for run in range(runs)
        for step in range(steps)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _steady(run: int, rng: np.random.Generator) -> float:
    return 500 * rng.lognormal(0, 0.02)


def _of(forecasts: list[Forecast], quantity: str) -> dict[str, Forecast]:
    return {one.step: one for one in forecasts if one.quantity == quantity}


def test_training_tells_peak_request_and_retry_of_metered_steps_only(daily: Callable, holding: Callable) -> None:
    runs, attempts = daily(60)
    rng = np.random.default_rng(0)
    peaks = 300 * rng.lognormal(0, 0.05, len(attempts))
    metered = attempts.assign(peak_memory_mib=np.where(attempts["step"] == "load", peaks, np.nan))
    found = train(holding(runs, metered), NOW)
    (request,), (retry,), (peak,) = (_of(found, name).values() for name in (REQUEST, RETRY, PEAK))
    assert request.step == "load"
    assert peak.p05 < 300 < peak.p95
    assert peak.p50 == pytest.approx(300, rel=0.05)
    assert peak.p50 < request.p05 == request.p50 == request.p95 < 2 * peak.p50
    assert request.p50 < retry.p50
    assert request.sample_count == 60
    assert request.best_rule_error_share is not None
    assert json.loads(request.basis or "{}")["as_served"].keys() == {"wasted_gib_h", "killed_share"}
    assert not {one.quantity for one in train(holding(*daily(60)), NOW)} & {PEAK, REQUEST, RETRY}, "control: nothing measured"


def test_a_limit_that_the_author_stated_is_kept_and_none_is_invented(daily: Callable, holding: Callable) -> None:
    runs, attempts = daily(60)
    metered = attempts.assign(peak_memory_mib=300 * np.random.default_rng(0).lognormal(0, 0.05, len(attempts)))
    con = holding(runs.assign(job_snapshot_id="s1"), metered)
    free = _of(train(con, NOW), REQUEST)
    con.execute("insert into job_steps values ('s1', 'daily.load', '[]', 310.0)")
    assert list(JobStep.model_fields) == ["job_snapshot_id", "step", "needs", "memory_limit_mib"]
    capped = train(con, NOW)
    assert _of(capped, REQUEST)["load"].p50 == _of(capped, RETRY)["load"].p50 == 310.0
    assert json.loads(_of(capped, REQUEST)["load"].basis or "{}")["limit_mib"] == 310.0
    assert free["load"].p50 > 310, "control: it would ask for more"
    assert "limit_mib" not in json.loads(_of(capped, REQUEST)["clean"].basis or "{}")


def test_what_is_not_known_yet_changes_nothing() -> None:
    attempts = _metered(_steady, 80)
    moment = START + timedelta(hours=50)
    later = attempts["ended_at"] >= moment
    changed = attempts.assign(peak_memory_mib=attempts["peak_memory_mib"].mask(later, 9e5))
    known = attempts[attempts["submitted_at"] < moment], changed[changed["submitted_at"] < moment]
    assert requests(known[0], moment, {})[0] == requests(known[1], moment, {})[0]
    earlier = attempts.assign(peak_memory_mib=attempts["peak_memory_mib"].mask(attempts["run_id"] == "r49", 9e5))
    assert requests(earlier[earlier["submitted_at"] < moment], moment, {})[0] != requests(known[0], moment, {})[0], "control"


def test_a_rule_that_has_cost_less_is_served_and_withdrawn_when_memory_halves() -> None:
    halved = _metered(lambda run, rng: _steady(run, rng) / (2 if run >= 250 else 1), seed=3)
    found, choices = requests(halved, NOW, {})
    changed = [one.switches for one in choices.values() if one.switches]
    assert len(changed) >= 3
    for first, *_, last in changed:
        assert (first.before, last.after) == (LEARNED, LEARNED)
        assert first.runs <= 250 < last.runs <= 350
    assert {one.predictor for one in found} == {LEARNED}
    steady, still = requests(_metered(_steady), NOW, {})
    assert "max_seen" in {one.predictor for one in steady}, "control: without the shift the rule stays"
    assert all(len(one.switches) <= 1 for one in still.values())


def test_on_stationary_peaks_the_choice_does_not_flap() -> None:
    count = back = 0
    for spread in (0.1, 0.3):
        _, choices = requests(_metered(lambda run, rng, spread=spread: 500 * rng.lognormal(0, spread), seed=2), NOW, {})
        count += sum(len(one.switches) for one in choices.values())
        back += sum(one.after == LEARNED for choice in choices.values() for one in choice.switches)
    assert count <= 8, "of 4,800 runs of steps"
    assert back <= 1


def test_what_is_served_seldom_differs_from_one_training_to_the_next() -> None:
    attempts = _metered(lambda run, rng: 500 * rng.lognormal(0, 0.1), runs=700, steps=3, seed=3)
    served: list[list[str]] = []
    for hour in range(450, 700, 10):  # the oldest runs are no longer asked about, so each training begins its replay elsewhere
        moment = START + timedelta(hours=hour)
        _, choices = requests(attempts[attempts["submitted_at"] < moment], moment, {})
        served.append([choice.served for choice in choices.values()])
    changes = sum(a != b for before, after in pairwise(served) for a, b in zip(before, after, strict=True))
    assert changes <= 4, "of 72"
