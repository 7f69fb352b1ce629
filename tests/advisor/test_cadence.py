"""What would a job have cost less often? Against histories whose answer is known."""

from __future__ import annotations

import runpy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workflows_pkg.advisor.cadence import less_often

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "foreign_history.py"))
NOW: datetime = made["NOW"]
HOUR = timedelta(hours=1)


def _history(gaps_h: Any, cost: Any, trigger: str = "schedule") -> Any:
    """Runs so many hours apart, each costing what `cost` makes of the gap before it."""
    history = made["Made"]()
    at = NOW - timedelta(days=20)
    for gap in gaps_h:
        at += gap * HOUR
        history.run("orders", at, {"load": 1.0})
        history.runs[-1] |= {"trigger": trigger, "cost_usd": cost(float(gap)), "created_at": at}
    return history.con()


def test_hourly_to_two_hourly_leaves_out_every_other_run_and_says_what_is_not_known() -> None:
    found = less_often(_history([1.0] * 100, lambda _: 0.5), "orders", 2 * HOUR, NOW)
    assert found is not None
    assert (found.runs, found.kept) == (100, 50)
    assert (found.cost_usd, found.same_usd, found.carried_usd) == pytest.approx((50.0, 25.0, 50.0))
    assert found.between_usd is None, "all gaps were alike"


@pytest.mark.parametrize(
    ("cost", "expected"), [(lambda _: 0.5, 0.0), (lambda gap: 0.5 * gap, 1.0), (lambda gap: 0.25 + 0.125 * gap, 0.5)]
)
def test_what_longer_gaps_did_to_the_cost_says_where_between_the_ends_it_lies(cost: Any, expected: float) -> None:
    gaps = np.random.default_rng(3).choice([1.0, 2.0, 3.0], 120)
    found = less_often(_history(gaps, cost), "orders", 4 * HOUR, NOW)
    assert found is not None
    assert found.between_usd is not None
    low, middle, high = found.between_usd
    assert low <= middle <= high
    share = (middle - found.same_usd) / (found.carried_usd - found.same_usd)
    assert share == pytest.approx(expected, abs=0.05)


def test_only_scheduled_runs_before_now_and_inside_the_window_count() -> None:
    assert less_often(_history([1.0] * 100, lambda _: 0.5, trigger="manual"), "orders", 2 * HOUR, NOW) is None
    con = _history([1.0] * 100, lambda _: 0.5)
    assert less_often(con, "other", 2 * HOUR, NOW) is None
    assert less_often(con, "orders", 2 * HOUR, NOW - timedelta(days=21)) is None
    some = less_often(con, "orders", 2 * HOUR, NOW, days=16.5)
    assert some is not None
    assert some.runs < 100
    unchanged = less_often(con, "orders", HOUR, NOW)  # control: as often as it runs
    assert unchanged is not None
    assert unchanged.kept == unchanged.runs
    assert unchanged.same_usd == pytest.approx(unchanged.cost_usd)
