"""Do the probabilities of missing a deadline agree with draws from what was forecast, and move as they must?"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from workflows_pkg.prediction.deadline import miss_before_start, miss_by_clock, miss_while_running
from workflows_pkg.prediction.lookup import JobForecast, Quantiles
from workflows_pkg.prediction.remaining import SeenStep, remaining

Z95 = 1.6448536


def _lognormal(middle: float, sigma: float) -> Quantiles:
    return Quantiles(middle * np.exp(-Z95 * sigma), middle, middle * np.exp(Z95 * sigma), 50, "median")


RUN = _lognormal(600.0, 0.3)
JOB = JobForecast(
    "nightly",
    datetime(2026, 1, 1, tzinfo=UTC),
    {
        ("", "run_time_s"): RUN,
        ("", "queue_time_s"): _lognormal(120.0, 0.4),
        ("", "start_time_s"): _lognormal(10.0, 0.1),
        ("load", "run_time_s"): _lognormal(500.0, 0.3),
        ("load", "time_left_s"): _lognormal(100.0, 0.1),
    },
)


@pytest.mark.parametrize("within", [500.0, 700.0, 850.0, 1000.0, 1200.0])
def test_before_the_start_it_is_what_queue_start_and_run_add_up_to(within: float) -> None:
    rng = np.random.default_rng(5)
    drawn = sum(middle * rng.lognormal(0, sigma, 100_000) for middle, sigma in ((600.0, 0.3), (120.0, 0.4), (10.0, 0.1)))
    assert miss_before_start(JOB, RUN, within) == pytest.approx(float((drawn > within).mean()), abs=0.03)


@pytest.mark.parametrize(("elapsed", "within"), [(0.0, 700.0), (500.0, 200.0), (900.0, 50.0)])
def test_by_the_clock_it_is_the_share_of_those_that_lasted_so_long(elapsed: float, within: float) -> None:
    drawn = 600.0 * np.random.default_rng(5).lognormal(0, 0.3, 400_000)
    lasted = drawn[drawn > elapsed]
    assert miss_by_clock(RUN, elapsed, within) == pytest.approx(float((lasted > elapsed + within).mean()), abs=0.03)


def test_waiting_takes_its_toll_and_past_the_deadline_it_is_certain() -> None:
    fresh = miss_before_start(JOB, RUN, 1000.0)
    waited = miss_before_start(JOB, RUN, 700.0, waited_s=300.0)
    assert 0.0 < fresh < waited < 1.0
    left = remaining(JOB, 300.0, [SeenStep("load", 300.0)])
    assert left is not None
    by_within = [miss_while_running(left, within) for within in (2000.0, 600.0, 300.0, 100.0, 1.0, 0.0)]
    assert by_within == sorted(by_within)
    assert by_within[-1] == 1.0
    assert by_within[0] < 0.02
    assert miss_before_start(JOB, RUN, 0.0) == miss_by_clock(RUN, 5.0, -1.0) == 1.0


def test_a_forecast_of_no_width_says_yes_or_no() -> None:
    sure = Quantiles(60.0, 60.0, 60.0, 5, "last")
    alone = JobForecast("sure", datetime(2026, 1, 1, tzinfo=UTC), {("", "run_time_s"): sure})
    assert miss_before_start(alone, sure, 66.0) < 0.02
    assert miss_before_start(alone, sure, 54.0) > 0.98
