"""Does a run end between two steps before more than its budget is spent, and say why; and is every other run left alone?"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from workflows_pkg.orchestration import budget
from workflows_pkg.orchestration.budget import SAID_TAG, STEP_COSTS, budget_usd
from workflows_pkg.orchestration.instance import create_instance
from workflows_pkg.orchestration.metering import metered
from workflows_pkg.orchestration.run_tags import SAID

HOUR = 3600.0


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An hour of a step costs 3600 USD, so a second one USD."""
    create_instance(tmp_path)
    (tmp_path / "rates.yaml").write_text(f"rates: [{{run_hour: {HOUR}}}]\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def _job(begun: list[str], said: Mapping[str, Any] | None = None) -> dg.JobDefinition:
    """Three steps in a row, the first of 300 ms; it may write into the log what the run coordinator says before a run."""

    def first(context: dg.OpExecutionContext) -> None:
        begun.append("first")
        if said is not None:
            data = EngineEventData({SAID: dg.MetadataValue.json(dict(said))})
            event = dg.DagsterEvent("ENGINE_EVENT", context.job_name, message="said", event_specific_data=data)
            context.instance.report_dagster_event(event, run_id=context.run_id)
        time.sleep(0.3)

    def second() -> None:
        begun.append("second")

    def third() -> None:
        begun.append("third")

    after = {"before": dg.In(dg.Nothing)}
    one, two, three = (
        dg.op(name=body.__name__, ins={} if body is first else after)(metered(body)) for body in (first, second, third)
    )

    @dg.job
    def in_a_row() -> None:
        three(two(one()))

    return in_a_row


def _run(
    instance: dg.DagsterInstance, tags: dict[str, str], said: Mapping[str, Any] | None = None
) -> tuple[list[str], dg.ExecuteInProcessResult]:
    begun: list[str] = []
    return begun, _job(begun, said).execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def _failures(result: dg.ExecuteInProcessResult) -> list[str]:
    found = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return [data.user_failure_data.description for data in found if data.user_failure_data is not None]


def test_a_run_is_stopped_between_steps_and_says_why(instance: dg.DagsterInstance) -> None:
    begun, result = _run(instance, {SAID_TAG: "0.25"})
    assert not result.success
    assert begun == ["first"]
    (reason,) = _failures(result)
    assert reason.startswith("Budget: $")
    assert reason.endswith("of $0.25 are spent. Step 'second' is not begun.")
    assert [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"] == []


@pytest.mark.parametrize("tags", [{}, {SAID_TAG: "100"}, {SAID_TAG: "much"}, {SAID_TAG: "nan"}])
def test_other_runs_are_left_alone(instance: dg.DagsterInstance, tags: dict[str, str]) -> None:
    begun, result = _run(instance, tags)
    assert result.success
    assert begun == ["first", "second", "third"]


def test_a_step_that_is_sure_to_cost_more_than_is_left_is_not_begun(instance: dg.DagsterInstance) -> None:
    """What the run coordinator said of the steps is read from the run's own log."""
    said = {"said": "expected", STEP_COSTS: {"first": 0.1, "second": 50.0}}
    begun, result = _run(instance, {SAID_TAG: "20"}, said)
    assert begun == ["first"]
    (reason,) = _failures(result)
    assert "and this step costs at least $50 in 95 of 100 cases. Step 'second' is not begun." in reason
    begun, result = _run(instance, {SAID_TAG: "60"}, said)  # control
    assert result.success


def test_a_workflow_with_a_budget_stops_too(bench: Any) -> None:
    called: list[str] = []
    bench.functions = {name: lambda c, p, name=name: called.append(name) or {} for name in "ab"}
    steps = {"a": {}, "b": {"needs": ["a"], "retry": {"attempts": 3, "delay": "0s"}}}
    outcome = bench.run({"budget": {"usd_per_run": 1e-12}, "steps": steps})
    assert not outcome.success
    assert called == ["a"]
    assert outcome.steps("STEP_FAILURE") == ["b"], "and no further attempt"
    assert bench.run({"budget": {"usd_per_run": 1.0}, "steps": steps}).success  # control


def test_what_cannot_be_read_stops_nothing(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("the log is gone")

    monkeypatch.setattr(budget, "_attempts", broken)
    begun, result = _run(instance, {SAID_TAG: "0.0000001"})
    assert result.success
    assert len(begun) == 3


def test_the_hidden_tag_counts_before_the_visible_one() -> None:
    assert budget_usd({SAID_TAG: "1", ".dagster/workflows_budget_usd": "2"}) == 2.0
    assert budget_usd({SAID_TAG: "-1"}) is None
    assert budget_usd({}) is None
