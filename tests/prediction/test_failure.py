"""Is the risk of failure what the outcomes say: Jeffreys' posterior where failures come by chance, the newest ones after streaks?"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows_pkg.prediction.failure import failure_risk
from workflows_pkg.prediction.forecasts import train

Daily = Callable[..., tuple[pd.DataFrame, pd.DataFrame]]
NOW = datetime(2025, 6, 2, 12, tzinfo=UTC)


def test_no_outcome_is_no_risk_known() -> None:
    assert failure_risk([]) is None


def test_without_streaks_it_is_jeffreys_posterior() -> None:
    """Against the published limits for 10 of 100: 90 % interval of Beta(10.5, 90.5)."""
    risk = failure_risk([number % 10 == 9 for number in range(100)])
    assert risk is not None
    assert (risk.predictor, risk.sample_count) == ("failure_rate", 100)
    from scipy.stats import beta

    assert (risk.p05, risk.p50, risk.p95) == pytest.approx(tuple(beta(10.5, 90.5).ppf([0.05, 0.5, 0.95])))


def test_what_never_failed_may_still_fail_the_less_the_longer_it_went_well() -> None:
    after_five, after_hundred = failure_risk([False] * 5), failure_risk([False] * 100)
    assert after_five is not None
    assert after_hundred is not None
    assert 0 < after_hundred.p50 < 0.005 < after_five.p50 < 0.1
    assert after_five.p95 > 5 * after_hundred.p95


def test_after_streaks_the_newest_outcomes_decide() -> None:
    streaks = ([False] * 20 + [True] * 20) * 3
    failing, mended = failure_risk(streaks), failure_risk([*streaks, *[False] * 15])
    assert failing is not None
    assert mended is not None
    assert failing.predictor.startswith("failure_rate_of_newest_")
    assert failing.p50 > 0.8
    assert mended.p50 < 0.2
    shuffled = list(streaks)
    random.Random(1).shuffle(shuffled)
    by_chance = failure_risk(shuffled)
    assert by_chance is not None
    assert by_chance.p50 == pytest.approx(0.5, abs=0.05), "control: the same outcomes in any order are a rate of one half"


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_interval_is_in_order_within_nought_and_one(outcomes: list[bool]) -> None:
    risk = failure_risk(outcomes)
    assert risk is not None
    assert 0 <= risk.p05 <= risk.p50 <= risk.p95 <= 1


def test_trained_of_runs_and_steps_and_not_from_trials_canceled_runs_or_tries_that_were_repeated(
    daily: Daily, holding: Callable
) -> None:
    runs, attempts = daily(60, failing=0.3)
    found = {(one.step, one.quantity): one for one in train(holding(runs, attempts), NOW)}
    risk = found["", "failure_share"]
    share = float((runs["outcome"] == "failure").mean())
    assert risk.p05 < share < risk.p95
    assert (risk.sample_count, risk.error_share, risk.best_rule) == (60, None, None)
    assert found["clean", "failure_share"].p50 > 0.1 > found["load", "failure_share"].p50
    odd = runs.tail(20).assign(run_id=lambda rows: "odd" + rows["run_id"])
    with_odd = {
        "trials": (pd.concat([runs, odd.assign(outcome="failure", trial_id="x")]), attempts),
        "canceled": (pd.concat([runs, odd.assign(outcome="canceled")]), attempts),
        "retried": (runs, pd.concat([attempts, attempts.tail(20).assign(attempt=0, outcome="failure", will_retry=True)])),
    }
    for name, (more_runs, more_attempts) in with_odd.items():
        again = {(one.step, one.quantity): one for one in train(holding(more_runs, more_attempts), NOW)}
        for step in ("", "load", "clean", "score"):
            assert again[step, "failure_share"] == found[step, "failure_share"], name
    failed = {
        (one.step, one.quantity): one for one in train(holding(pd.concat([runs, odd.assign(outcome="failure")]), attempts), NOW)
    }
    assert failed["", "failure_share"].p50 > risk.p50, "control: the same rows count where they are runs that failed"


@pytest.mark.long
def test_on_recorded_builds_it_is_no_worse_than_the_best_simple_rule(traces: Path) -> None:
    """Five projects' builds in order, forecast from those submitted an hour before: Brier score of some of the later half.

    The rule to meet is the exponentially weighted mean with weight 0.2, the best of five on these records.
    """
    builds = pd.read_parquet(traces / "travis_dlcibuild" / "builds.parquet").sort_values("submitted_at", kind="stable")
    ours, rule, never = [], [], []
    for _, rows in builds.groupby("project"):
        failed, at = rows["failed"].astype(bool).to_list(), rows["submitted_at"].to_list()
        for number in range(len(rows) // 2, len(rows), len(rows) // 240):
            known = failed[: bisect_right(at, at[number] - pd.Timedelta(hours=1))]
            risk = failure_risk(known)
            assert risk is not None
            ewma = known[0] * 1.0
            for outcome in known[1:]:
                ewma = 0.8 * ewma + 0.2 * outcome
            ours.append((risk.p50 - failed[number]) ** 2)
            rule.append((ewma - failed[number]) ** 2)
            never.append((sum(known) / len(known) - failed[number]) ** 2)
    mean = {name: sum(values) / len(values) for name, values in (("ours", ours), ("rule", rule), ("rate", never))}
    assert mean["ours"] <= 1.01 * mean["rule"]
    assert mean["ours"] < mean["rate"]
