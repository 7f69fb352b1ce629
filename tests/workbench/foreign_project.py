"""A small project of somebody else: it knows nothing of metering. Used by the tests beside it."""

import os
from pathlib import Path

import dagster as dg

from workflows_pkg.orchestration.metering import METERED_TAG, begin, report


@dg.asset
def orders() -> list[int]:
    return [1, 2, 3]


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def totals(context: dg.AssetExecutionContext, orders: list[int]) -> int:
    if context.op_execution_context.retry_number == 0:
        raise ConnectionError("the first try always fails")
    return sum(orders)


@dg.asset_check(asset=orders)
def orders_are_there(orders: list[int]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=len(orders) > 0)


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


@dg.op
def fails(number: int) -> int:
    raise ValueError(f"cannot use {number}")


@dg.graph_asset
def from_a_graph() -> int:
    return double(one())


@dg.asset
def held_by_a_schedule() -> int:
    return 1


@dg.job
def doubling() -> None:
    measures_itself(double(double(one())))


@dg.job
def eating() -> None:
    hungry()
    one()


@dg.job
def failing() -> None:
    fails(one())


@dg.graph
def as_a_graph() -> None:
    double(one())


graph_job = as_a_graph.to_job(name="graph_job")
asset_job = dg.define_asset_job("asset_job", selection=[orders, totals])


@dg.schedule(job=doubling, cron_schedule="0 6 * * *", execution_timezone="Europe/Berlin")
def every_morning() -> dict[str, str]:
    return {}


by_asset_job = dg.ScheduleDefinition(name="by_asset_job", job=asset_job, cron_schedule="@daily")
by_target = dg.ScheduleDefinition(name="by_target", target=[held_by_a_schedule, orders], cron_schedule="@daily")


@dg.sensor(jobs=[failing, graph_job], minimum_interval_seconds=77, default_status=dg.DefaultSensorStatus.RUNNING)
def looks_around(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    return dg.SkipReason("nothing there")


@dg.run_failure_sensor(monitored_jobs=[failing], request_job=doubling)
def after_failure(context: dg.RunFailureSensorContext) -> None:
    return None


@dg.sensor(job_name="doubling")
def by_name(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    return dg.SkipReason("nothing there")


class Greeting(dg.ConfigurableResource[str]):
    text: str = "hello"


def definitions() -> dg.Definitions:
    return dg.Definitions(
        assets=[orders, totals, from_a_graph, dg.AssetSpec("made_elsewhere")],
        asset_checks=[orders_are_there],
        jobs=[doubling, eating, asset_job],
        schedules=[every_morning, by_asset_job, by_target],
        sensors=[looks_around, after_failure, by_name],
        resources={"greeting": Greeting()},
        executor=dg.multiprocess_executor,
        metadata={"team": "somebody else"},
    )


def instrumented() -> dg.Definitions:
    from workflows_pkg.workbench.instrument import instrument

    return instrument(definitions())


def instrumented_eating() -> dg.JobDefinition:
    return instrumented().resolve_job_def("eating")


def plain_eating() -> dg.JobDefinition:
    return definitions().resolve_job_def("eating")


def instrumented_asset_job() -> dg.JobDefinition:
    return instrumented().resolve_job_def("asset_job")


FILE = Path(os.path.abspath(__file__))
