"""Are the checks of a file real asset checks, and does a failed one stop what comes after?"""

from __future__ import annotations

from typing import Any

import dagster as dg
import pandas as pd
import pytest

from workflows_pkg.errors import DataProblem
from workflows_pkg.orchestration.checks import check_names, evaluate
from workflows_pkg.spec.model import Check

TABLE = pd.DataFrame({"id": [1, 2, 2], "name": ["a", None, "c"], "share": [0.1, 0.5, 1.5], "text": ["1", "x", None]})


def _check(**fields: Any) -> Check:
    return Check.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "passed", "violations"),
    [
        ({"rows": {"min": 3}}, True, None),
        ({"rows": {"min": 4}}, False, None),
        ({"rows": {"max": 2}}, False, None),
        ({"not_null": ["id", "share"]}, True, 0),
        ({"not_null": ["id", "name"]}, False, 1),
        ({"unique": ["id", "share"]}, True, 0),
        ({"unique": ["id"]}, False, 1),
        ({"between": {"column": "share", "min": 0, "max": 1.5}}, True, 0),
        ({"between": {"column": "share", "max": 1}}, False, 1),
        ({"between": {"column": "text", "min": 0}}, False, 1),
        ({"not_null": ["nothing"]}, False, None),
    ],
)
def test_what_a_check_finds(fields: dict[str, Any], passed: bool, violations: int | None) -> None:
    (outcome,) = evaluate([_check(**fields)], TABLE, "a")
    assert (outcome.passed, outcome.violations) == (passed, violations), outcome.finding


def test_checks_need_a_table() -> None:
    with pytest.raises(DataProblem, match="step 'a', found a JSON object"):
        evaluate([_check(rows={"min": 1})], {"n": 1}, "a")


def test_check_names_are_unique_within_a_step() -> None:
    between = {"column": "Dep Time", "min": 0}
    checks = [_check(rows={"min": 1}), _check(between=between), _check(between=between), _check(not_null=["a", "b"])]
    assert check_names(checks) == ["rows", "between_Dep_Time", "between_Dep_Time_2", "not_null_a_b"]


@pytest.mark.parametrize("partition", [None, "2024-01-02"])
def test_an_error_check_is_recorded_and_stops_what_comes_after(bench: Any, partition: str | None) -> None:
    bench.functions = {"a": lambda c, p: TABLE, "b": lambda c, p: 1}
    checks = [{"rows": {"min": 1}}, {"unique": ["id"]}, {"not_null": ["name"], "severity": "warn"}]
    spec: dict[str, Any] = {"steps": {"a": {"produces": "t/a", "checks": checks}, "b": {"needs": ["a"]}}}
    if partition:
        spec["partitions"] = {"daily": {"start": "2024-01-01", "end": "2024-01-05"}}
    outcome = bench.run(spec, partition)
    assert not outcome.success
    found = {
        event.event_specific_data.check_name: (event.event_specific_data.passed, event.event_specific_data.severity.value)
        for event in outcome.events("ASSET_CHECK_EVALUATION", "a")
    }
    assert found == {"rows": (True, "ERROR"), "unique_id": (False, "ERROR"), "not_null_name": (False, "WARN")}
    assert outcome.materialized() == []
    assert "b" not in outcome.steps("STEP_START")
    assert outcome.error_classes("STEP_FAILURE", "a")[-1] == "DataProblem"
    key = dg.AssetCheckKey(dg.AssetKey(["t", "a"]), "unique_id")
    (record,) = bench.instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
    assert record.status.value == "FAILED"


def test_a_warn_check_is_recorded_only(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: TABLE}
    spec = {"steps": {"a": {"produces": "t/a", "checks": [{"unique": ["id"], "severity": "warn"}]}}}
    outcome = bench.run(spec)
    assert outcome.success
    assert outcome.materialized() == ["t/a", "workflow/bench"]
    (event,) = outcome.events("ASSET_CHECK_EVALUATION", "a")
    assert event.event_specific_data.metadata["violations"].value == 1


def test_checks_of_a_retried_attempt_are_recorded_for_each(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: TABLE if c.attempt == 1 else TABLE.drop_duplicates("id")}
    retry = {"attempts": 2, "delay": "1ms"}
    outcome = bench.run({"steps": {"a": {"produces": "t/a", "checks": [{"unique": ["id"]}], "retry": retry}}})
    assert outcome.success
    assert [event.event_specific_data.passed for event in outcome.events("ASSET_CHECK_EVALUATION", "a")] == [False, True]


def test_checks_of_a_skipped_step_are_not_evaluated(bench: Any) -> None:
    spec = {"steps": {"a": {"if": "${{ run.id == '' }}", "produces": "t/a", "checks": [{"rows": {"min": 1}}]}}}
    outcome = bench.run(spec)
    assert outcome.success
    assert outcome.events("ASSET_CHECK_EVALUATION") == []
