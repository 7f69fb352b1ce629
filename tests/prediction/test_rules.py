"""Simple rules say what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows_pkg.prediction.rules import RULES, Past, interval, quantile

values = st.lists(st.floats(0.001, 1e5), min_size=1, max_size=40)


@given(values)
def test_rules_agree_with_numpy_on_the_same_values(past: list[float]):
    known = Past.of(past)
    assert RULES["last"](known, None) == past[-1]
    assert RULES["mean_of_2"](known, None) == pytest.approx(np.mean(past[-2:]))
    assert RULES["mean_of_10"](known, None) == pytest.approx(np.mean(past[-10:]))
    assert RULES["median"](known, None) == pytest.approx(np.median(past))
    assert RULES["median_of_10"](known, None) == pytest.approx(np.median(past[-10:]))


@given(values, st.floats(0, 1))
def test_quantile_interpolates_as_numpy_does(past: list[float], level: float):
    assert quantile(sorted(past), level) == pytest.approx(np.quantile(past, level), rel=1e-6, abs=1e-9)


@given(values)
def test_every_rule_stays_within_what_was_seen(past: list[float]):
    known = Past.of(past, ["a"] * len(past))
    for rule in RULES.values():
        assert min(past) * (1 - 1e-12) <= rule(known, "a") <= max(past) * (1 + 1e-12)


def test_partition_rule_looks_at_its_own_partition_and_else_at_all():
    past = Past.of([1, 9, 1, 11, 2], ["a", "b", "a", "b", "c"])
    assert RULES["median_of_partition"](past, "b") == 10
    assert RULES["median_of_partition"](past, "new") == 2
    assert RULES["median_of_partition"](past, None) == 2


def test_interval_is_unknown_below_five_values():
    assert interval(Past.of([1, 2, 3, 4])) is None
    assert interval(Past.of([1, 1, 1, 1, 1])) == (1, 1)
