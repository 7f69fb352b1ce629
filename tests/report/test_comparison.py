"""The forecasts' errors stand beside those of every simple rule, on the same attempts."""

from __future__ import annotations

import pytest

from workflows_pkg.prediction.rules import RULES
from workflows_pkg.report.comparison import comparison_table, most_wrong, readable, replayed, rule_comparison, step_comparison


def test_every_rule_is_compared_on_the_same_attempts(con) -> None:
    found = rule_comparison(con)
    assert list(found["predictor"]) == ["served", *RULES]
    assert found["row_count"].nunique() == 1
    assert found["error_share"].between(0, 10).all()
    assert len(comparison_table(found).splitlines()) == len(found) + 1


def test_an_empty_history_compares_nothing(empty) -> None:
    assert rule_comparison(empty).empty
    assert step_comparison(replayed(empty)).empty
    assert most_wrong(replayed(empty)).empty
    assert readable(most_wrong(replayed(empty))).empty


def test_steps_are_compared_where_being_wrong_cost_most_first(con) -> None:
    table = replayed(con)
    found = step_comparison(table)
    assert list(found["off_s"]) == sorted(found["off_s"], reverse=True)
    assert found["attempts"].sum() == rule_comparison(con)["row_count"].iloc[0]
    first = found.iloc[0]
    mine = table[(table["job_name"] == first["job_name"]) & (table["step"] == first["step"]) & (table["count"] > 0)]
    mine = mine[mine["value"] >= 0.01]
    assert first["off_s"] == pytest.approx((mine["p50"] - mine["value"]).abs().sum())
    errors = {rule: ((mine[rule] - mine["value"]).abs() / mine["value"]).median() for rule in RULES}
    assert first["best_rule_error_share"] == pytest.approx(min(errors.values()))


def test_the_most_wrong_attempts_are_told_as_people_say_times(con) -> None:
    worst = most_wrong(replayed(con), 3)
    assert len(worst) == 3
    assert list(worst["off_s"].abs()) == sorted(worst["off_s"].abs(), reverse=True)
    assert (worst["off_s"] - (worst["took_s"] - worst["forecast_s"])).abs().max() < 1e-9
    shown = readable(worst)
    assert list(shown.columns) == [
        "job",
        "step",
        "partition",
        "asked for (UTC)",
        "forecast",
        "from",
        "to",
        "took",
        "off",
        "predictor",
    ]
    assert shown["off"].str.match(r"[+-][\d.]+ (s|ms)").all()
