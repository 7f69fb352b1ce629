"""Is every attempt of any Dagster job charged for the tokens, bytes and calls that it told, once, and for nothing that is no figure?"""

import math
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.api import create_execution_plan

from workflows_pkg.history.questions import cost_by_owner_and_month, read
from workflows_pkg.history.records import Quarantined, Run, StepAttempt, Usage
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.budget import SAID_TAG
from workflows_pkg.orchestration.crashes import _pool
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.instance import create_instance
from workflows_pkg.orchestration.metering import metered

CARD = """\
rates:
  - {pools: models, million_input_tokens: 2, million_output_tokens: 8, call: 0.5}
  - {million_input_tokens: 1, moved_gib: 4}
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    create_instance(tmp_path)
    (tmp_path / "rates.yaml").write_text(CARD)
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def _attempts(instance: dg.DagsterInstance) -> list[StepAttempt]:
    home = Path(instance.root_directory)
    sync_events(home, home)
    with closing(open_history(home)) as con:
        return sorted(read(con, StepAttempt), key=lambda one: (one.step_key, one.attempt))


def _figures(one: StepAttempt | Usage) -> tuple[int | None, ...]:
    return one.input_tokens, one.output_tokens, one.moved_bytes, one.calls


def _as_dagster_openai_does(context: dg.AssetExecutionContext, calls: int) -> None:
    """What `with_usage_metadata` of dagster-openai writes after each call: the sum so far."""
    for so_far in range(1, calls + 1):
        context.add_output_metadata(
            {
                "openai.calls": so_far,
                "openai.total_tokens": 1_100_000 * so_far,
                "openai.prompt_tokens": 1_000_000 * so_far,
                "openai.completion_tokens": 100_000 * so_far,
            }
        )


def test_what_the_library_for_openai_tells_of_an_asset_is_charged(instance: dg.DagsterInstance) -> None:
    @dg.asset(pool="models")
    def summaries(context: dg.AssetExecutionContext) -> None:
        _as_dagster_openai_does(context, calls=2)

    @dg.asset
    def silent() -> None: ...

    assert dg.materialize([summaries, silent], instance=instance).success
    silence, told = _attempts(instance)
    assert _figures(told) == (2_000_000, 200_000, None, 2)
    assert told.pool is None, "nobody measured it: of the second rate, as its pool is not known"
    assert told.cost_usd == pytest.approx(2.0)
    assert _figures(silence) == (None, None, None, None)
    assert silence.cost_usd is None, "a rate of figures that are not told says nothing"


def test_a_metered_step_has_its_pool_and_its_prices(instance: dg.DagsterInstance) -> None:
    @dg.asset(pool="models")
    @metered
    def summaries(context: dg.AssetExecutionContext) -> None:
        _as_dagster_openai_does(context, calls=2)

    result = dg.materialize([summaries], instance=instance)
    (told,) = _attempts(instance)
    assert _figures(told) == (2_000_000, 200_000, None, 2), "and the output's metadata does not count a second time"
    assert told.pool == "models"
    assert told.cost_usd == pytest.approx(2 * 2 + 0.2 * 8 + 2 * 0.5)
    (said,) = [entry for entry in instance.all_logs(result.run_id) if "Metered" in (entry.dagster_event.message or "")]
    assert "workflows/calls" not in said.dagster_event.engine_event_data.metadata


def test_every_attempt_is_charged_also_those_that_fail(instance: dg.DagsterInstance) -> None:
    @dg.op(retry_policy=dg.RetryPolicy(max_retries=2), pool="models")
    @metered
    def ask(context: dg.OpExecutionContext) -> None:
        context.add_output_metadata({"workflows/input_tokens": 1_000_000, "workflows/calls": 1})
        if context.retry_number < 2:
            raise ConnectionError("the model is away")

    @dg.job
    def asking() -> None:
        ask()

    assert asking.execute_in_process(instance=instance).success
    tries = _attempts(instance)
    assert [(one.attempt, one.outcome, one.input_tokens, one.calls) for one in tries] == [
        (1, "failure", 1_000_000, 1),
        (2, "failure", 1_000_000, 1),
        (3, "success", 1_000_000, 1),
    ]
    assert [one.cost_usd for one in tries] == [pytest.approx(2.5)] * 3
    with closing(open_history(Path(instance.root_directory))) as con:
        (run,) = read(con, Run)
        usage = read(con, Usage)
    assert run.cost_usd == pytest.approx(7.5)
    assert sorted(map(_figures, usage)) == sorted(map(_figures, tries))


@pytest.mark.parametrize("with_metering", [True, False])
def test_all_that_a_step_tells_in_several_places_is_added_up(instance: dg.DagsterInstance, with_metering: bool) -> None:
    body: Callable[[Any], Any] = metered if with_metering else (lambda function: function)

    @dg.multi_asset(specs=[dg.AssetSpec("one"), dg.AssetSpec("two")])
    @body
    def several(context: dg.AssetExecutionContext) -> Any:
        context.add_output_metadata({"workflows/calls": 1}, output_name="one")
        for _ in range(2):  # alike, but told twice of what happened twice
            context.log_event(dg.AssetObservation("seen", metadata={"workflows/moved_bytes": 2**29}))
        yield dg.MaterializeResult("one", metadata={"workflows/input_tokens": 5})
        yield dg.MaterializeResult("two", metadata={"workflows/input_tokens": 7, "workflows/calls": 2})

    assert dg.materialize([several], instance=instance).success
    (told,) = _attempts(instance)
    assert _figures(told) == (12, None, 2**30, 3)


def test_what_a_failed_attempt_had_stored_already_counts_once(instance: dg.DagsterInstance) -> None:
    @dg.multi_asset(specs=[dg.AssetSpec("one"), dg.AssetSpec("two")])
    @metered
    def breaks(context: dg.AssetExecutionContext) -> Any:
        context.add_output_metadata({"workflows/calls": 1}, output_name="one")
        context.add_output_metadata({"workflows/calls": 10}, output_name="two")
        yield dg.MaterializeResult("one")
        raise ValueError("no rows")

    assert not dg.materialize([breaks], instance=instance, raise_on_error=False).success
    (told,) = _attempts(instance)
    assert told.calls == 11


@pytest.mark.filterwarnings("ignore:Parameter `backfill_policy`")
def test_what_one_step_told_of_several_partitions_counts_once(instance: dg.DagsterInstance) -> None:
    days = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])

    @dg.asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def weekdays(context: dg.AssetExecutionContext) -> None:
        context.add_output_metadata({"workflows/calls": 4})

    tags = {"dagster/asset_partition_range_start": "mon", "dagster/asset_partition_range_end": "wed"}
    result = dg.materialize([weekdays], instance=instance, tags=tags)
    made = result.get_asset_materialization_events()
    assert sorted(str(event.partition) for event in made) == ["mon", "tue", "wed"], "Dagster wrote it three times"
    (told,) = _attempts(instance)
    assert told.calls == 4


@pytest.mark.filterwarnings("ignore")  # Dagster's own, of what its Pipes call
def test_what_an_external_process_reports_through_pipes_is_charged(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from dagster_pipes import open_dagster_pipes\n"
        "with open_dagster_pipes() as pipes:\n"
        "    pipes.report_asset_materialization(metadata={'workflows/output_tokens': 40, 'workflows/moved_bytes': 7})\n"
    )

    @dg.asset
    @metered
    def outside(context: dg.AssetExecutionContext) -> Any:
        return dg.PipesSubprocessClient().run(command=[sys.executable, str(script)], context=context).get_materialize_result()

    assert dg.materialize([outside], instance=instance).success
    (told,) = _attempts(instance)
    assert _figures(told) == (None, 40, 7, None)


SECRET = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (-5, "-5"),
        (0.5, "0.5"),
        (10**15 + 1, "1000000000000001"),
        (dg.MetadataValue.float(math.nan), "NaN"),
        (dg.MetadataValue.float(math.inf), "NaN"),
        (SECRET, "no number"),
        ("12", "no number"),
        (True, "no number"),
    ],
)
def test_what_is_no_figure_is_put_aside_with_the_reason(instance: dg.DagsterInstance, value: Any, found: str) -> None:
    @dg.asset
    def odd() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"workflows/calls": value, "workflows/input_tokens": 3})

    assert dg.materialize([odd], instance=instance).success
    for _ in range(2):  # once, however often it is read
        (told,) = _attempts(instance)
        assert _figures(told) == (3, None, None, None), "what is a figure counts, and the other one is unknown, not zero"
        with closing(open_history(Path(instance.root_directory))) as con:
            (aside,) = read(con, Quarantined)
        assert (
            aside.reason
            == f"workflows/calls: expected a whole number from 0 to 1,000,000,000,000,000, found {found}; not counted"
        )
        assert SECRET not in aside.reason
        instance.add_run_tags(told.run_id, {"touched": "yes"})


def _told_again(home: Path, times: int) -> int:
    """Writes each observation of the instance's log so many times more; how many there are then."""
    count = 0
    for file in home.rglob("*.db"):
        with closing(sqlite3.connect(file)) as log:
            columns = [name for _, name, *_ in log.execute("pragma table_info(event_logs)") if name != "id"]
            if columns:
                row = (
                    f"select {', '.join(columns)} from event_logs where dagster_event_type = 'ASSET_OBSERVATION' and run_id <> ''"
                )
                log.executemany(
                    f"insert into event_logs ({', '.join(columns)}) {row} and ? >= 0 limit 1", [(n,) for n in range(times)]
                )
                log.commit()
                count += log.execute(f"select count(*) from ({row})").fetchone()[0]
    return count


def test_an_attempt_that_tells_more_than_columns_hold_stops_nothing(instance: dg.DagsterInstance) -> None:
    @dg.asset(pool="models")
    @metered
    def much(context: dg.AssetExecutionContext) -> None:
        context.log_event(dg.AssetObservation("much", metadata={"workflows/calls": 10**15}))

    dg.materialize([much], instance=instance)
    count = _told_again(Path(instance.root_directory), 9_300)
    assert count * 10**15 > 2**63, "control: more calls than a column holds, and more billionths of a dollar"
    (told,) = _attempts(instance)
    assert (told.outcome, told.calls, told.cost_usd) == ("success", 2**63 - 1, pytest.approx(2**62))
    with closing(open_history(Path(instance.root_directory))) as con:
        assert cost_by_owner_and_month(con)["cost_usd"].tolist() == [1e6], "of sums one run is no more"


def test_what_is_no_figure_in_a_failed_attempt_is_warned_of(
    instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture
) -> None:
    @dg.op
    @metered
    def ask(context: dg.OpExecutionContext) -> None:
        context.add_output_metadata({"workflows/calls": SECRET, "workflows/moved_bytes": 7})
        raise ValueError("no answer")

    @dg.job
    def asking() -> None:
        ask()

    assert not asking.execute_in_process(instance=instance, raise_on_error=False).success
    (told,) = _attempts(instance)
    assert _figures(told) == (None, None, 7, None)
    warned = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("workflows_pkg"))
    assert "Step 'ask': metadata 'workflows/calls' is not counted: expected a whole number" in warned
    assert SECRET not in warned


@pytest.mark.parametrize(("budget", "begun"), [("4.4", 1), ("4.6", 2)])
def test_a_budget_counts_what_was_told(instance: dg.DagsterInstance, budget: str, begun: int) -> None:
    """The first step costs 4.5 USD in all: 2.5 and 2, each told in its own way."""
    ran: list[str] = []

    @dg.op(pool="models")
    @metered
    def first(context: dg.OpExecutionContext) -> None:
        ran.append("first")
        context.add_output_metadata({"workflows/input_tokens": 1_000_000, "workflows/calls": 1})
        context.log_event(dg.AssetMaterialization("seen", metadata={"openai.prompt_tokens": 1_000_000}))

    @dg.op(ins={"before": dg.In(dg.Nothing)})
    @metered
    def second() -> None:
        ran.append("second")

    @dg.job
    def in_a_row() -> None:
        second(first())

    result = in_a_row.execute_in_process(instance=instance, tags={SAID_TAG: budget}, raise_on_error=False)
    assert len(ran) == begun
    assert result.success == (begun == 2)
    told = _attempts(instance)[0]
    assert told.cost_usd == pytest.approx(4.5), "history says the same"


def test_a_step_kind_of_ours_counts_by_itself(bench: Any) -> None:
    def counts(context: Any, params: Any) -> dict[str, int]:
        context.used("calls", 2)
        context.used("calls", 1)
        context.used("input_tokens", -1)
        if context.attempt == 1:
            raise ConnectionError("the model is away")
        return {}

    def mistaken(context: Any, params: Any) -> dict[str, int]:
        context.used("cals", 1)
        return {}

    bench.functions = {"a": counts, "b": mistaken}
    outcome = bench.run({"steps": {"a": {"retry": {"attempts": 2, "delay": "0s"}}, "b": {"needs": ["a"]}}})
    assert outcome.steps("STEP_FAILURE") == ["b"]
    assert "Did you mean 'calls'?" in outcome.text()
    one, two, wrong = _attempts(bench.instance)
    assert [_figures(tried) for tried in (one, two, wrong)] == [
        (None, None, None, 3),
        (None, None, None, 3),
        (None, None, None, None),
    ]


def test_one_of_many_of_a_step_has_the_pool_of_that_step() -> None:
    """Where its process died: the plan of the whole run names the many as one (`test_crashes` has the others)."""

    @dg.op(out=dg.DynamicOut())
    def split() -> Iterator[dg.DynamicOutput]:
        yield dg.DynamicOutput(1, "a")

    @dg.op(pool="models")
    def ask(number: int) -> int:
        return number

    @dg.job
    def asking() -> None:
        split().map(ask)

    plan = create_execution_plan(asking)
    assert [_pool(plan, key) for key in ("ask[a]", "split", "other")] == ["models", None, None]
