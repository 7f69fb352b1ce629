"""Forecasts that stop being right: they are right again within ten runs of a step's change, and ones that are kept are not."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.prediction.serving import predictions

BENCHMARK: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "what_changed.py"))
AT = BENCHMARK["CHANGED_AT"]


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_forecasts_are_right_again_ten_runs_after_a_change(factor: float) -> None:
    known = BENCHMARK["changing_steps"](BENCHMARK["np"].random.default_rng(1), 6, factor)
    told = predictions(known).assign(run=known["run"], value=known["value"], job_name=known["job_name"])
    kept = told["job_name"].map(told[told["run"] == AT].set_index("job_name")["p50"])

    def error(forecast: Any, first: int, last: int) -> float:
        part = told["run"].between(AT + first, AT + last)
        return float((forecast / told["value"] - 1).abs()[part].mean())

    before = error(told["p50"], -50, -1)
    assert error(told["p50"], 0, 4) > 1.5 * before
    assert error(told["p50"], 10, 40) < 1.3 * before
    assert error(kept, 10, 40) > 2 * before, "control: what was right before, kept"
    part = told[told["run"].between(AT + 10, AT + 40)]
    assert 0.8 < part["value"].between(part["p05"], part["p95"]).mean() < 0.97
