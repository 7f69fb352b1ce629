"""Does a step's table hold what its file promises? Each check of the spec becomes a Dagster asset check of the produced asset."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pandas as pd

from workflows_pkg.errors import bounded
from workflows_pkg.spec.model import Between, Check, RowCount
from workflows_pkg.steps.contract import StepValue
from workflows_pkg.steps.values import as_table

CHECKS_KNOW_PARTITIONS = "partitions_def" in inspect.signature(dg.AssetCheckSpec.__new__).parameters
"""Since Dagster 1.12.13. Without it a check of a partitioned asset is recorded without its partition."""


@dataclass(frozen=True)
class CheckOutcome:
    """One evaluated check.

    finding: a sentence on what was found. violations: rows or values that break it, None: not countable.
    """

    name: str
    passed: bool
    severity: str
    finding: str
    violations: int | None = None


def check_names(checks: Sequence[Check]) -> list[str]:
    """One name for each check, unique within its step, made of what it tests: `rows`, `not_null_carrier_dest`."""
    names: list[str] = []
    for check in checks:
        base = re.sub(r"[^A-Za-z0-9_]+", "_", _subject(check))[:80]
        name, number = base, 2
        while name in names:
            name, number = f"{base}_{number}", number + 1
        names.append(name)
    return names


def check_specs(
    checks: Sequence[Check], asset: dg.AssetKey, partitions: dg.TimeWindowPartitionsDefinition | None
) -> list[dg.AssetCheckSpec]:
    """The checks as Dagster declares them; one of severity error blocks what comes after."""
    with warnings.catch_warnings():
        # Preview in Dagster 1.13. Without the partitions, plan and result of a check are two records, the first open for ever.
        warnings.filterwarnings("ignore", message="Specifying a partitions_def on an AssetCheckSpec")
        sliced: dict[str, Any] = {"partitions_def": partitions} if CHECKS_KNOW_PARTITIONS else {}
        return [  # no name `check` here: Dagster 1.11 compiles the class at its first use, in sight of the caller's names
            dg.AssetCheckSpec(name, asset=asset, description=_promise(each), blocking=each.severity == "error", **sliced)
            for name, each in zip(check_names(checks), checks, strict=True)
        ]


def evaluate(checks: Sequence[Check], value: StepValue, step: str) -> list[CheckOutcome]:
    """Every check on the step's output. Raises DataProblem where the output is not a table."""
    if not checks:
        return []
    table = as_table(value, step)
    return [_evaluate(name, check, table) for name, check in zip(check_names(checks), checks, strict=True)]


def as_results(outcomes: Sequence[CheckOutcome], asset: dg.AssetKey) -> list[dg.AssetCheckResult]:
    """The outcomes as an op yields them."""
    return [
        dg.AssetCheckResult(
            asset_key=asset,
            check_name=outcome.name,
            passed=outcome.passed,
            severity=dg.AssetCheckSeverity.ERROR if outcome.severity == "error" else dg.AssetCheckSeverity.WARN,
            description=outcome.finding,
            metadata={} if outcome.violations is None else {"violations": outcome.violations},
        )
        for outcome in outcomes
    ]


def _evaluate(name: str, check: Check, table: pd.DataFrame) -> CheckOutcome:
    missing = [column for column in _columns(check) if column not in table.columns]
    if missing:
        known = ", ".join(map(str, list(table.columns)[:8]))
        return CheckOutcome(name, False, check.severity, f"There is no column '{bounded(missing[0])}'; there are {known}.")
    if check.rows is not None:
        passed = _within(len(table), check.rows)
        return CheckOutcome(name, passed, check.severity, f"{len(table)} rows; {_promise(check)}")
    if check.not_null is not None:
        counts = {column: int(table[column].isna().to_numpy().sum()) for column in check.not_null}
        worst = max(counts, key=counts.__getitem__, default="")
        broken = sum(counts.values())
        finding = f"{counts[worst]} of {len(table)} values of '{worst}' are missing." if broken else "No value is missing."
        return CheckOutcome(name, broken == 0, check.severity, finding, broken)
    if check.unique is not None:
        broken = int(table.duplicated(list(check.unique)).sum())
        return CheckOutcome(name, broken == 0, check.severity, f"{broken} of {len(table)} rows repeat an earlier one.", broken)
    assert check.between is not None, "the spec has exactly one of the four"  # noqa: S101
    broken = _outside(table, check.between)
    finding = f"{broken} of {len(table)} values of '{check.between.column}' are outside; {_promise(check)}"
    return CheckOutcome(name, broken == 0, check.severity, finding, broken)


def _outside(table: pd.DataFrame, bounds: Between) -> int:
    """Values that are beyond the bounds or no numbers; missing ones are not looked at."""
    numbers = pd.Series(pd.to_numeric(table[bounds.column], errors="coerce"), dtype="float64")
    not_numbers = int((numbers.isna() & table[bounds.column].notna()).sum())
    outside = pd.Series(False, index=table.index)
    if bounds.min is not None:
        outside |= numbers < bounds.min
    if bounds.max is not None:
        outside |= numbers > bounds.max
    return int(outside.to_numpy().sum()) + not_numbers


def _within(count: int, bounds: RowCount) -> bool:
    return (bounds.min is None or count >= bounds.min) and (bounds.max is None or count <= bounds.max)


def _columns(check: Check) -> tuple[str, ...]:
    if check.between is not None:
        return (check.between.column,)
    return (check.not_null or ()) + (check.unique or ())


def _subject(check: Check) -> str:
    if check.rows is not None:
        return "rows"
    if check.not_null is not None:
        return "_".join(("not_null", *check.not_null))
    if check.unique is not None:
        return "_".join(("unique", *check.unique))
    assert check.between is not None, "the spec has exactly one of the four"  # noqa: S101
    return f"between_{check.between.column}"


def _promise(check: Check) -> str:
    if check.rows is not None:
        return f"expected {_range(check.rows.min, check.rows.max)} rows."
    if check.not_null is not None:
        return f"expected no missing values in {', '.join(check.not_null)}."
    if check.unique is not None:
        return f"expected rows to differ in {', '.join(check.unique)}."
    bounds = check.between
    assert bounds is not None, "the spec has exactly one of the four"  # noqa: S101
    return f"expected {bounds.column} {_range(bounds.min, bounds.max)}."


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    return f"at most {high:g}" if high is not None else "any"
