"""A project of somebody else, a shop's numbers: it knows nothing of metering and tuning. Used by the tests beside it.

It holds one of each thing Dagster offers, used as its users do: the same op in several graphs, jobs held only by a schedule or a
sensor, an executor, resources and an IO manager of its own, and steps that fail.
"""

import asyncio
import datetime
import os
import pickle
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from workflows_pkg.orchestration.metering import METERED_TAG, begin, report

FILE = Path(os.path.abspath(__file__))
TWICE = dg.RetryPolicy(max_retries=1)

# Resources, an IO manager and an executor of its own


class Greeting(dg.ConfigurableResource[str]):
    text: str = "hello"


class Folder(dg.ConfigurableIOManager):
    """Keeps every output as a file."""

    base: str

    def _path(self, context: Any) -> Path:
        return Path(self.base) / "_".join(context.get_identifier()).replace(":", "_").replace("/", "_")

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        self._path(context).write_bytes(pickle.dumps(obj))

    def load_input(self, context: dg.InputContext) -> object:
        return pickle.loads(self._path(context.upstream_output).read_bytes())


EXECUTOR = dg.multiprocess_executor.configured({"max_concurrent": 2}, name="two_at_a_time")
RESOURCES = {"greeting": Greeting(), "folder": Folder(base=tempfile.mkdtemp(prefix="foreign_project_"))}


@dg.success_hook(name="cheers")
def cheers(context: dg.HookContext) -> None:
    context.log.info("a step succeeded")


# Assets


@dg.asset(group_name="sales", owners=["team:shop"], code_version="3", kinds={"python"}, op_tags={"cost": "low"}, pool="shop")
def orders() -> list[int]:
    """Every order."""
    return [1, 2, 3]


@dg.asset(retry_policy=TWICE, io_manager_key="folder", metadata={"unit": "USD"})
def totals(context: dg.AssetExecutionContext, orders: list[int]) -> int:
    if context.op_execution_context.retry_number == 0:
        raise ConnectionError("the first try always fails")
    return sum(orders)


@dg.asset(key=["raw", "returns"], automation_condition=dg.AutomationCondition.eager(), deps=[orders])
def returns(greeting: Greeting) -> str:
    return greeting.text


class Limit(dg.Config):
    most: int = 2


@dg.asset(
    partitions_def=dg.StaticPartitionsDefinition(["north", "south"]),
    backfill_policy=dg.BackfillPolicy.single_run(),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=datetime.timedelta(days=2)),
)
def regions(context: dg.AssetExecutionContext, config: Limit) -> int:
    return len(context.partition_keys) * config.most


@dg.asset(partitions_def=dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-02-01"))
def visits(context) -> str:
    return context.partition_key


@dg.multi_asset(
    specs=[dg.AssetSpec("customers", skippable=True), dg.AssetSpec("addresses", skippable=True, deps=[orders])],
    can_subset=True,
    check_specs=[dg.AssetCheckSpec("customers_known", asset="customers")],
)
def people(context: dg.AssetExecutionContext) -> Iterator[Any]:
    for name in ("customers", "addresses"):
        if dg.AssetKey(name) in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=name, metadata={"rows": 1})
    if context.op_execution_context.selected_asset_check_keys:
        yield dg.AssetCheckResult(check_name="customers_known", passed=True)


@dg.asset
async def rates() -> float:
    await asyncio.sleep(0)
    return 1.5


@dg.asset
def always_fails() -> int:
    raise ValueError("this never works")


@dg.asset
def held_by_a_schedule() -> int:
    return 1


@dg.multi_observable_source_asset(specs=[dg.AssetSpec("files_elsewhere")])
def looks_elsewhere() -> Iterator[dg.ObserveResult]:
    yield dg.ObserveResult("files_elsewhere", data_version=dg.DataVersion("7"))


@dg.asset_check(asset=orders)
def orders_are_there(orders: list[int]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=len(orders) > 0)


@dg.multi_asset_check(specs=[dg.AssetCheckSpec("positive", asset="totals"), dg.AssetCheckSpec("small", asset="totals")])
def totals_are_good(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    yield dg.AssetCheckResult(check_name="positive", passed=True, asset_key="totals")
    yield dg.AssetCheckResult(check_name="small", passed=True, asset_key="totals")


# Ops


@dg.op
def double(number: int) -> int:
    return 2 * number


@dg.op
def one() -> int:
    return 1


@dg.op(tags={METERED_TAG: "body"})
def measures_itself(context: dg.OpExecutionContext, number: int) -> int:
    mark = begin()
    report(context, mark, context.retry_number + 1)
    return number


@dg.op
def hungry() -> int:
    return len(bytearray(120 * 1024 * 1024))


@dg.op(retry_policy=TWICE)
def dies_first(context: dg.OpExecutionContext) -> int:
    if context.retry_number == 0:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does with who takes too much
    return 1


@dg.op
def fails(number: int) -> int:
    raise ValueError(f"cannot use {number}")


@dg.op(out={"small": dg.Out(int), "large": dg.Out(int, is_required=False)})
def yields_one() -> Iterator[dg.Output[int]]:
    yield dg.Output(1, "small")


@dg.op
async def awaits(context: dg.OpExecutionContext, small: int) -> int:
    await asyncio.sleep(0)
    return small + context.retry_number


@dg.op(out=dg.Out(int))
async def yields_later(number: int) -> AsyncIterator[dg.Output[int]]:
    await asyncio.sleep(0)
    yield dg.Output(number + 1)


@dg.op(out=dg.DynamicOut(int))
def fan(number: int) -> Iterator[dg.DynamicOutput[int]]:
    for name in ("a", "b"):
        yield dg.DynamicOutput(number, mapping_key=name)


@dg.op(retry_policy=TWICE)
def leaf(context, number: int, config: Limit, greeting: Greeting) -> int:
    if context.get_mapping_key() == "b" and context.retry_number == 0:
        raise dg.RetryRequested(max_retries=1)
    return number * config.most * len(greeting.text)


@dg.op(config_schema={"times": dg.Field(int, default_value=3)}, required_resource_keys={"greeting"})
def gather(context: dg.OpExecutionContext, numbers: list[int]) -> int:
    return sum(numbers) * context.op_config["times"]


@dg.op(ins={"after": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def says_done(context) -> None:
    context.log.info("done")


def _without_decorator(context: dg.OpExecutionContext, inputs: dict[str, int]) -> Iterator[dg.Output[int]]:
    yield dg.Output(inputs["number"] + 1)


without_decorator = dg.OpDefinition(
    compute_fn=_without_decorator, name="without_decorator", ins={"number": dg.In(int)}, outs={"result": dg.Out(int)}
)


# Graphs and jobs


@dg.graph
def twice_doubled(number: int) -> int:
    return double(double(number))


@dg.graph_asset
def from_a_graph() -> int:
    return double(one())


@dg.job(hooks={cheers}, tags={"team": "shop"}, description="Doubles.")
def doubling() -> None:
    measures_itself(double(double(one())))


@dg.job
def eating() -> None:
    hungry()
    one()


@dg.job
def dying() -> None:
    double(dies_first())


@dg.job
def failing() -> None:
    fails(one())


@dg.job(op_retry_policy=dg.RetryPolicy(max_retries=0), run_tags={"who": "nightly"})
def nightly() -> None:
    """Everything an op can be."""
    small, _ = yields_one()
    found = fan(without_decorator(yields_later(awaits(small))))
    says_done(gather(found.map(leaf).collect()))


@dg.graph
def as_a_graph() -> None:
    twice_doubled.alias("inner")(one())


graph_job = as_a_graph.to_job(name="graph_job")
graph_job_again = as_a_graph.to_job(
    name="graph_job_again", resource_defs={"greeting": Greeting(text="again").get_resource_definition()}
)
only_double = doubling.get_subset(op_selection=["one", "double"])
asset_job = dg.define_asset_job("asset_job", selection=[orders, totals])
bad_asset_job = dg.define_asset_job("bad_asset_job", selection=[always_fails, orders], tags={"team": "shop"})
visits_job = dg.define_asset_job("visits_job", selection=[visits])
held_asset_job = dg.define_asset_job("held_asset_job", selection=dg.AssetSelection.assets(always_fails))


# Schedules and sensors


@dg.schedule(job=doubling, cron_schedule="0 6 * * *", execution_timezone="Europe/Berlin")
def every_morning() -> dict[str, str]:
    return {}


@dg.schedule(job=failing, cron_schedule="0 7 * * *", tags={"asked": "by schedule"})
def asks_to_fail(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    yield dg.RunRequest(run_key="once", tags={"mine": "1"})


by_asset_job = dg.ScheduleDefinition(name="by_asset_job", job=asset_job, cron_schedule="@daily")
by_target = dg.ScheduleDefinition(name="by_target", target=[held_by_a_schedule, orders], cron_schedule="@daily")
by_partitions = dg.build_schedule_from_partitioned_job(visits_job, name="by_partitions")


@dg.sensor(jobs=[failing, graph_job], minimum_interval_seconds=77, default_status=dg.DefaultSensorStatus.RUNNING)
def looks_around(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    return dg.SkipReason("nothing there")


@dg.sensor(job=held_asset_job)
def finds_files(greeting: Greeting) -> dg.SensorResult:
    return dg.SensorResult([dg.RunRequest(run_key=name, tags={"file": name}) for name in ("a.csv", "b.csv")], cursor="b.csv")


@dg.run_failure_sensor(monitored_jobs=[failing], request_job=doubling)
def after_failure(context: dg.RunFailureSensorContext) -> None:
    return None


@dg.sensor(job_name="doubling")
def by_name(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    return dg.SkipReason("nothing there")


@dg.asset_sensor(asset_key=dg.AssetKey("orders"), job=graph_job)
def on_orders(context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry) -> dg.RunRequest:
    return dg.RunRequest()


by_conditions = dg.AutomationConditionSensorDefinition(
    "by_conditions", target=dg.AssetSelection.all(), run_tags={"by": "condition"}
)


def definitions() -> dg.Definitions:
    return dg.Definitions(
        assets=[
            orders,
            totals,
            returns,
            regions,
            visits,
            people,
            rates,
            always_fails,
            from_a_graph,
            looks_elsewhere,
            dg.AssetSpec("made_elsewhere"),
        ],
        asset_checks=[orders_are_there, totals_are_good],
        jobs=[doubling, eating, dying, nightly, asset_job, bad_asset_job, visits_job, graph_job_again],
        schedules=[every_morning, asks_to_fail, by_asset_job, by_target, by_partitions],
        sensors=[looks_around, finds_files, after_failure, by_name, on_orders, by_conditions],
        resources=RESOURCES,
        executor=EXECUTOR,
        metadata={"team": "somebody else"},
    )


def instrumented() -> dg.Definitions:
    from workflows_pkg.workbench.instrument import instrument

    return instrument(definitions())


def tuned() -> dg.Definitions:
    """With the tuning that FOREIGN_TUNING names: a process of its own for each step has no other way to be told."""
    from workflows_pkg.workbench.instrument import instrument

    return instrument(definitions(), tuning=os.environ["FOREIGN_TUNING"])


def instrumented_eating() -> dg.JobDefinition:
    return instrumented().resolve_job_def("eating")


def plain_eating() -> dg.JobDefinition:
    return definitions().resolve_job_def("eating")


def instrumented_nightly() -> dg.JobDefinition:
    return instrumented().resolve_job_def("nightly")


def plain_nightly() -> dg.JobDefinition:
    return definitions().resolve_job_def("nightly")


def tuned_failing() -> dg.JobDefinition:
    return tuned().resolve_job_def("failing")


def tuned_bad_asset_job() -> dg.JobDefinition:
    return tuned().resolve_job_def("bad_asset_job")


def instrumented_asset_job() -> dg.JobDefinition:
    return instrumented().resolve_job_def("asset_job")
