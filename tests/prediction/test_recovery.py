"""Failures are read as episodes; recovery is estimated from what retries saw of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows_pkg.prediction.recovery import curve, episodes, error_classes, upper_share

START = pd.Timestamp("2024-01-01", tz="UTC")


def _attempts(
    *tries: tuple[float, float, str], run: str = "r", error: str = "RateLimited", cause: str = "dependency"
) -> pd.DataFrame:
    """Attempts of one step given as (begin, end, outcome) in seconds; the recorded wait leaves 0.1 s of overhead."""
    rows = []
    for number, (begin, end, outcome) in enumerate(tries, 1):
        wait = tries[number][0] - end - 0.1 if number < len(tries) else None
        rows.append(
            {
                "run_id": run,
                "step_key": "w.s",
                "step": "s",
                "version": 1,
                "attempt": number,
                "outcome": outcome,
                "run_time_s": end - begin,
                "started_at": START + pd.Timedelta(seconds=begin),
                "ended_at": START + pd.Timedelta(seconds=end),
                "retry_wait_s": wait,
                "error_class": error if outcome == "failure" else None,
                "failure_cause": cause if outcome == "failure" else None,
            }
        )
    return pd.DataFrame(rows)


def test_an_episode_brackets_the_recovery():
    found = episodes(_attempts((0, 1, "failure"), (3, 4, "failure"), (9, 12, "success"))).iloc[0]
    assert (found["low_s"], found["high_s"]) == (2.0, 8.0)
    assert (found["tries"], found["recovered"], found["lost_s"]) == (2, True, 8.0)
    assert found["overhead_s"] == pytest.approx(0.1)
    assert found["overheads_s"] == pytest.approx((0.1, 0.1))
    assert found["retry_run_time_s"] == 1.0


def test_an_attempt_without_a_recorded_wait_keeps_its_place_among_the_overheads():
    table = _attempts((0, 1, "failure"), (3, 4, "failure"), (9, 12, "success"))
    table.loc[0, "retry_wait_s"] = math.nan
    found = episodes(table).iloc[0]
    assert found["overheads_s"] == pytest.approx((math.nan, 0.1), nan_ok=True)
    assert found["overhead_s"] == pytest.approx(0.1)


def test_giving_up_leaves_the_recovery_open():
    found = episodes(_attempts((0, 1, "failure"), (3, 4, "failure"))).iloc[0]
    assert (found["low_s"], found["high_s"], found["recovered"], found["lost_s"]) == (2.0, math.inf, False, 3.0)


def test_success_at_once_and_cancellation_teach_nothing_of_recovery():
    assert episodes(_attempts((0, 1, "success"))).empty
    found = episodes(_attempts((0, 1, "failure"), (3, 4, "canceled"))).iloc[0]
    assert (found["tries"], found["recovered"]) == (0, False)
    assert curve(episodes(_attempts((0, 1, "failure"), (3, 4, "canceled")))) is None


def _censored(recovery: np.ndarray, delays: np.ndarray, attempts: int = 4) -> pd.DataFrame:
    """Episodes whose true recovery times are known to the test and seen only through retries `delays` apart."""
    tables = []
    for number, (truth, delay) in enumerate(zip(recovery, delays, strict=True)):
        tries: list[tuple[float, float, str]] = [(0, 1, "failure")]
        for again in range(1, attempts):
            begin = 1 + again * delay
            good = begin - 1 >= truth
            tries.append((begin, begin + 0.01, "success" if good else "failure"))
            if good:
                break
        tables.append(_attempts(*tries, run=f"r{number}"))
    return episodes(pd.concat(tables))


def test_the_curve_finds_the_true_distribution_through_the_censoring():
    rng = np.random.default_rng(5)
    found = curve(_censored(rng.exponential(2.0, 400), rng.uniform(0.2, 3.0, 400)), resamples=0)
    assert found is not None
    for wait in (1.0, 2.0, 3.0, 5.0):
        assert found.at(wait) == pytest.approx(1 - math.exp(-wait / 2), abs=0.08)
    # the control: the plain success rate of attempts by wait, which counts hard episodes again and again, is far off
    rng = np.random.default_rng(5)
    recovery, delays = rng.exponential(2.0, 400), rng.uniform(0.2, 3.0, 400)
    tried = [(k * d, k * d >= r) for r, d in zip(recovery, delays, strict=True) for k in (1, 2, 3) if (k - 1) * d < r]
    naive = np.mean([good for wait, good in tried if 2.5 < wait < 3.5])
    assert abs(naive - (1 - math.exp(-1.5))) > 0.1


def test_the_curve_does_not_promise_recovery_to_those_who_never_did():
    rng = np.random.default_rng(6)
    recovery = np.where(rng.uniform(size=200) < 0.4, 1e9, rng.uniform(0, 2, 200))
    found = curve(_censored(recovery, rng.uniform(0.5, 2.0, 200)))
    assert found is not None
    assert found.shares[-1] == pytest.approx(0.6, abs=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 50), st.floats(0.05, 10)), min_size=1, max_size=25))
def test_the_curve_never_falls_and_stays_a_share(pairs: list[tuple[float, float]]):
    found = curve(_censored(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])), resamples=5)
    assert found is not None
    assert found.waits_s[0] == 0 == found.shares[0]
    assert all(a <= b + 1e-9 for a, b in zip(found.shares, found.shares[1:], strict=False))
    assert -1e-9 <= min(found.shares) <= max(found.shares) <= 1 + 1e-9
    assert all(a <= b + 1e-9 for a, b in zip(found.low, found.high, strict=True))
    assert max(found.known) <= found.episodes == len(pairs)


def test_more_episodes_make_a_narrower_band():
    rng = np.random.default_rng(7)
    few = curve(_censored(rng.exponential(2.0, 15), np.full(15, 1.0)))
    many = curve(_censored(rng.exponential(2.0, 300), np.full(300, 1.0)))
    assert few is not None
    assert many is not None
    assert many.high[1] - many.low[1] < (few.high[1] - few.low[1]) / 2


@pytest.fixture
def never() -> Callable[..., pd.DataFrame]:
    def build(count: int, error: str, cause: str) -> pd.DataFrame:
        return pd.concat(
            [_attempts((0, 1, "failure"), (3, 4, "failure"), run=f"{error}{n}", error=error, cause=cause) for n in range(count)]
        )

    return build


def test_a_class_is_hopeless_after_few_failures_only_where_its_cause_says_so(never: Callable[..., pd.DataFrame]):
    def hopeless(*tables: pd.DataFrame) -> dict[str, bool]:
        return {item.name: item.hopeless for item in error_classes(episodes(pd.concat(tables)))}

    assert hopeless(never(3, "MemoryLimit", "memory"), never(3, "PeerUnavailable", "dependency")) == {
        "MemoryLimit": True,
        "PeerUnavailable": False,
    }
    assert hopeless(never(2, "MemoryLimit", "memory")) == {"MemoryLimit": False}
    assert hopeless(never(10, "PeerUnavailable", "dependency")) == {"PeerUnavailable": True}
    once = _attempts((0, 1, "failure"), (3, 4, "success"), run="ok", error="MemoryLimit", cause="memory")
    assert hopeless(never(9, "MemoryLimit", "memory"), once) == {"MemoryLimit": False}


def test_the_upper_bound_is_the_rule_of_three_for_no_hits():
    assert upper_share(0, 1000) == pytest.approx(3 / 1000, rel=0.01)
    assert upper_share(0, 0) == 1.0
    assert upper_share(5, 5) == 1.0
    # one-sided 95 %: with this share, five hits or fewer of fifty come up in 5 of 100 cases
    share = upper_share(5, 50)
    chance = sum(math.comb(50, k) * share**k * (1 - share) ** (50 - k) for k in range(6))
    assert chance == pytest.approx(0.05, abs=1e-9)
