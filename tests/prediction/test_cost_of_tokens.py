"""Does a forecast of cost know what attempts told of their tokens, live or imported?"""

from __future__ import annotations

import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from workflows_pkg.history.imports import import_files
from workflows_pkg.history.store import open_history
from workflows_pkg.prediction.forecasts import train

BEGIN = datetime(2025, 3, 1, 2, tzinfo=UTC)


def _forecast(folder: Path, card: str) -> tuple[float, float, float]:
    """What the next run of forty costs: each takes 10 s, and two million tokens give or take a fifth."""
    dice = random.Random(7)
    rows = ["run_id,job_name,step,started_at,run_time_s,outcome,input_tokens"]
    for day in range(40):
        tokens = int(2_000_000 * dice.uniform(0.8, 1.2))
        rows.append(f"{day},nightly,summarise,{(BEGIN + timedelta(days=day)).isoformat()},10,success,{tokens}")
    folder.mkdir()
    (folder / "rates.yaml").write_text(card)
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    import_files(folder, [folder / "t.csv"])
    with closing(open_history(folder)) as con:
        found = {(one.step, one.quantity): one for one in train(con, BEGIN + timedelta(days=40))}
    of_run, of_step = found["", "cost_usd"], found["summarise", "cost_usd"]
    assert of_run.sample_count == of_step.sample_count == 40
    return of_run.p05, of_run.p50, of_run.p95


def test_tokens_are_in_the_forecast_and_its_interval(tmp_path: Path) -> None:
    low, middle, high = _forecast(tmp_path / "with", "rates: [{run_hour: 36, million_input_tokens: 3}]")
    assert middle == pytest.approx(0.1 + 2 * 3, rel=0.1)
    assert 0.1 + 1.5 * 3 < low < middle < high < 0.1 + 2.5 * 3
    assert high - low > 1.0, "as wide as the tokens vary"
    without = _forecast(tmp_path / "without", "rates: [{run_hour: 36}]")  # control: without their price nothing varies
    assert without == pytest.approx((0.1, 0.1, 0.1), rel=0.05)
