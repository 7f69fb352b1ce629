"""Forecasts that have stopped being right are noticed, ones that are right are not, at the stated rate."""

from __future__ import annotations

import runpy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.advisor.findings import findings
from workflows_pkg.advisor.forecasts_off import FALSE_ALARMS, evidence_against, forecasts_off
from workflows_pkg.history.records import Forecast
from workflows_pkg.history.schema import names

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "foreign_history.py"))
NOW: datetime = made["NOW"]
START: datetime = made["START"]


def history(slower_from: int, trained_again: int | None = None) -> Any:
    """150 runs of about 42 s with a forecast of the first hour, that double from one run on; and a second forecast, right after that."""
    runs = made["Made"]()
    for number, at in enumerate(made["hours"](150)):
        runs.run("orders", at, {"load": 80.0 if number >= slower_from else 40.0})
        runs.run("stock", at, {"read": 10.0})
    con = runs.con()
    told = [("orders", 0, 34.0, 48.0), ("stock", 0, 8.0, 14.0)]
    told += [] if trained_again is None else [("orders", trained_again, 68.0, 100.0)]
    rows = pd.DataFrame(
        [
            {"job_name": job, "step": "", "quantity": "run_time_s", "p05": low, "p50": (low + high) / 2, "p95": high, "sample_count": 50,
             "predictor": "median", "as_of": START + timedelta(hours=hour)}
            for job, hour, low, high in told
        ]
    )  # fmt: skip
    con.register("rows", rows)
    con.execute(f"insert into {Forecast.table} ({names(rows.columns)}) select {names(rows.columns)} from rows")
    return con


def test_forecasts_that_stopped_being_right_are_noticed_with_their_runs() -> None:
    con = history(slower_from=130)
    (off,) = forecasts_off(con, NOW)
    assert (off.job, off.runs, off.outside, off.above) == ("orders", 20, 20, 20)
    assert off.since == START + timedelta(hours=130, minutes=3)
    (found,) = [item for item in findings(con, NOW) if item.kind == "forecasts_off"]
    assert "20 of its 20 good runs since 2026-01-10 10:03 ended outside" in found.sentence
    assert len(con.execute(found.query).fetchall()) == 100


def test_forecasts_that_are_right_or_right_again_are_no_finding() -> None:
    assert forecasts_off(history(slower_from=150), NOW) == []
    assert forecasts_off(history(slower_from=60, trained_again=70), NOW) == []
    assert forecasts_off(history(slower_from=60), NOW), "control: not trained again"


def test_what_is_known_later_is_not_seen() -> None:
    con = history(slower_from=130)
    assert forecasts_off(con, START + timedelta(hours=133)) == []


@pytest.mark.parametrize(("share", "alarms"), [(0.1, False), (0.2, False), (0.6, True)])
def test_forecasts_are_called_off_at_most_at_the_stated_rate(share: float, alarms: bool) -> None:
    rng = np.random.default_rng(3)
    told = np.mean([evidence_against(rng.random(100) < share)[1] >= 1 / FALSE_ALARMS for _ in range(2000)])
    assert (told > 0.95) if alarms else (told <= FALSE_ALARMS)
