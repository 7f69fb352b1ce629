"""Whatever leaves a step is a table, plain JSON or bytes, and JSON that any reader takes."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from enum import Enum

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows_pkg.errors import CodeProblem, DataProblem
from workflows_pkg.steps.values import as_table, is_tabular, kind_of, step_value


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (float("nan"), None),
        (np.float64("inf"), None),
        (pd.NaT, None),
        (pd.NA, None),
        (np.datetime64("2013-01-01"), "2013-01-01"),
        (pd.Timestamp("2013-01-01T05:00Z"), "2013-01-01T05:00:00+00:00"),
        (dt.date(2013, 1, 1), "2013-01-01"),
        (Decimal("1.5"), 1.5),
        (Decimal("NaN"), None),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ((1, (2,)), [1, [2]]),
        ({np.int64(1): {"a": np.nan}, dt.date(2013, 1, 1): 1}, {"1": {"a": None}, "2013-01-01": 1}),
    ],
)
def test_scalars_become_json_s_own(value, plain):
    result = step_value(value, "it")
    assert result == plain
    assert type(result) is type(plain)


@pytest.mark.parametrize("value", [{"a": [1, object()]}, {"a": [1, {2}]}, {"a": [0, pd.Series([1])]}, {"a": [0, b"x"]}])
def test_the_place_of_what_cannot_travel_is_named(value):
    with pytest.raises(CodeProblem, match=r"at 'a\[1\]'"):
        step_value(value, "it")


def test_values_that_contain_themselves_and_odd_keys_are_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CodeProblem, match="contains itself"):
        step_value(loop, "it")
    with pytest.raises(CodeProblem, match="two keys"):
        step_value({1: "a", "1": "b"}, "it")
    with pytest.raises(CodeProblem, match="keys are text"):
        step_value({("a", "b"): 1}, "it")


def test_tables_need_distinct_text_columns():
    good = pd.DataFrame({"a": [1]})
    assert step_value(good, "it") is good
    with pytest.raises(CodeProblem, match="column name 0"):
        step_value(pd.DataFrame([[1]]), "it")
    with pytest.raises(CodeProblem, match="two columns named 'a'"):
        step_value(pd.DataFrame([[1, 2]], columns=["a", "a"]), "it")


def test_bytes_travel_as_bytes_and_records_as_tables():
    assert step_value(bytearray(b"x"), "it") == b"x"
    assert as_table([{"a": 1}, {"a": 2, "b": "x"}], "s").shape == (2, 2)
    for other in ([], [1], {"a": 1}, "text", b"", None, 1.5, True):
        assert not is_tabular(other)
        with pytest.raises(DataProblem, match=f"found {kind_of(other)}"):
            as_table(other, "s")


numbers = (
    st.integers() | st.floats() | st.decimals(-(10**300), 10**300) | st.sampled_from([Decimal("sNaN"), Decimal("-Infinity")])
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text() | st.dates() | st.uuids(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.dictionaries(st.integers(), inner) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(anything)
def test_the_result_is_strict_json_and_stays_the_same(value):
    plain = step_value(value, "it")
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert step_value(plain, "it") == plain
