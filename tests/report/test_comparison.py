"""The forecasts' errors stand beside those of every simple rule, on the same attempts."""

from __future__ import annotations

from workflows_pkg.prediction.rules import RULES
from workflows_pkg.report.comparison import comparison_table, rule_comparison


def test_every_rule_is_compared_on_the_same_attempts(con) -> None:
    found = rule_comparison(con)
    assert list(found["predictor"]) == ["served", *RULES]
    assert found["row_count"].nunique() == 1
    assert found["error_share"].between(0, 10).all()
    assert len(comparison_table(found).splitlines()) == len(found) + 1


def test_an_empty_history_compares_nothing(empty) -> None:
    assert rule_comparison(empty).empty
