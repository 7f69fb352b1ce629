"""A check of the asset of forecasts warns of deadlines that will probably be missed, or are again and again."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from workflows_pkg.history.records import Run, StepAttempt
from workflows_pkg.history.store import writer
from workflows_pkg.workbench.assets import LEARNING_JOB
from workflows_pkg.workbench.workbench import workbench

FOREIGN: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "advisor" / "foreign_history.py"))


def learn(defs: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(LEARNING_JOB).execute_in_process(instance=instance)


def _due(within_s: Sequence[float]) -> Any:
    """Runs of 'orders' of about a minute, an hour apart, each with a deadline so many seconds after it was asked for."""
    history = FOREIGN["Made"]()
    for at in FOREIGN["hours"](len(within_s)):
        history.run("orders", at, {"load": 60.0})
    for row, seconds in zip(history.runs, within_s, strict=True):
        row["deadline_at"] = row["created_at"] + timedelta(seconds=seconds)
    return history


@pytest.mark.parametrize(
    ("within_s", "passed", "said"),
    [
        ([30.0] * 40, False, "100 of 100 such runs miss that; 20 of the newest 20 missed it."),
        ([600.0] * 39 + [30.0], False, "100 of 100 such runs miss that; 1 of the newest 20 missed it."),
        (
            [600.0] * 30 + [30.0] * 3 + [600.0] * 7,
            False,
            "'orders' is due 10m00s after it is asked for; 3 of the newest 20 missed it.",
        ),
        ([30.0] * 3 + [600.0] * 37, True, "1 with a deadline, and each is likely to keep it."),
        ([600.0] * 40, True, "1 with a deadline, and each is likely to keep it."),
    ],
    ids=["always late", "due sooner now", "again and again", "long ago", "in time"],
)
def test_a_deadline_that_will_probably_be_missed_or_is_again_and_again_fails_a_check(
    instance: dg.DagsterInstance, instance_home: Path, within_s: list[float], passed: bool, said: str
) -> None:
    history = _due(within_s)
    with writer(instance_home) as landed:
        landed.upsert(Run, [Run(**row) for row in history.runs])
        landed.upsert(StepAttempt, [StepAttempt(**row) for row in history.attempts])
    result = learn(workbench(), instance)
    (check,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "deadlines_kept"]
    assert (check.passed, check.severity) == (passed, dg.AssetCheckSeverity.WARN)
    assert said in str(check.description)
    shown_with = {name: value.value for name, value in check.metadata.items()}
    assert shown_with["jobs with a deadline"] == 1
    if passed:
        assert "deadlines" not in shown_with
    else:
        (row,) = [record.data for record in check.metadata["deadlines"].records]  # type: ignore[union-attr]
        assert (row["job"], row["overdue"]) == ("orders", 0)


@pytest.mark.parametrize(("stuck", "passed"), [(3, False), (2, True)])
def test_runs_that_never_end_miss_their_deadlines_too(
    instance: dg.DagsterInstance, instance_home: Path, stuck: int, passed: bool
) -> None:
    history = _due([600.0] * 40)
    for row in history.runs[-stuck:]:
        row["outcome"] = row["ended_at"] = row["run_time_s"] = None
    with writer(instance_home) as landed:
        landed.upsert(Run, [Run(**row) for row in history.runs])
    (check,) = [c for c in learn(workbench(), instance).get_asset_check_evaluations() if c.check_name == "deadlines_kept"]
    assert check.passed is passed, "control: two are no more than chance"
    if not passed:
        assert "0 of the newest 20 missed it, and 3 not ended are past it." in str(check.description)


def test_a_job_without_a_deadline_is_not_judged_by_one_that_it_had(instance: dg.DagsterInstance, instance_home: Path) -> None:
    history = _due([30.0] * 40)
    history.runs[-1]["deadline_at"] = None
    with writer(instance_home) as landed:
        landed.upsert(Run, [Run(**row) for row in history.runs])
    (check,) = [c for c in learn(workbench(), instance).get_asset_check_evaluations() if c.check_name == "deadlines_kept"]
    assert check.passed
    assert check.description == "No job has a deadline."
