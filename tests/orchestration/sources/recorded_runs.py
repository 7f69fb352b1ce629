"""Records real runs into the Dagster instance at a folder whose dagster.yaml is there: `python recorded_runs.py <home>`.

A retry, a failure with a cause, assets with partitions and checks in a process per step, a cancellation, two ticks, a backfill, and
something reported from outside. The same on every kind of storage.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.scheduler.instigation import InstigatorType, TickData, TickStatus


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=0.05))
def flaky(context: dg.OpExecutionContext) -> int:
    context.log.info("a line of the user's own log")
    if context.retry_number < 1:
        raise ConnectionError("the peer is gone")
    return 1


@dg.op
def after(number: int) -> int:
    return number + 1


@dg.op
def fails() -> int:
    try:
        raise OSError("the line is cut")
    except OSError as error:
        raise ValueError("cannot go on") from error


@dg.job
def works() -> None:
    after(flaky())


@dg.job
def breaks() -> None:
    after(fails())


days = dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-01-05")


@dg.asset(partitions_def=days, key_prefix=["flights"], check_specs=[dg.AssetCheckSpec("late", asset=["flights", "raw"])])
def raw(context: dg.AssetExecutionContext):
    yield dg.Output(3, metadata={"dagster/row_count": 10, "share": float("nan")})
    yield dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, check_name="late")


@dg.asset(partitions_def=days, deps=[raw])
def clean() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"size_bytes": 22})


definitions = dg.Definitions(assets=[raw, clean], jobs=[dg.define_asset_job("flights", selection=[raw, clean])])


def flights_job() -> dg.JobDefinition:
    return definitions.get_repository_def().get_job("flights")  # in words that Dagster 1.9 knows too


def record(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        works.execute_in_process(instance=instance, tags={"dagster/schedule_name": "nightly"})
        breaks.execute_in_process(instance=instance, raise_on_error=False)
        job = ReconstructableJob.for_file(str(Path(__file__).resolve()), "flights_job")
        config = {"execution": {"config": {"multiprocess": {"start_method": {"forkserver": {}}, "max_concurrent": 2}}}}
        with dg.execute_job(
            job, instance, run_config=config, tags={"dagster/partition": "2020-01-02", "workflows/workflow": "flights"}
        ) as result:
            assert result.success
        canceled = instance.create_run_for_job(works)
        instance.report_run_canceling(canceled)
        instance.report_run_canceled(canceled)
        instance.report_runless_asset_event(dg.AssetMaterialization(asset_key=["from", "outside"], metadata={"size_bytes": 7}))
        now = datetime.now(UTC).timestamp()
        for name, status, more in (
            ("nightly", TickStatus.SUCCESS, {"run_ids": ["r1"]}),
            ("looks", TickStatus.SKIPPED, {"skip_reason": "nothing there"}),
        ):
            kind = InstigatorType.SCHEDULE if name == "nightly" else InstigatorType.SENSOR
            instance.create_tick(TickData("origin", name, kind, status, now, selector_id=name, **more))
        instance.add_backfill(
            PartitionBackfill("fill", BulkActionStatus.CANCELED, False, {"user": "ada"}, now, partition_names=["2020-01-02"])
        )


if __name__ == "__main__":
    record(Path(sys.argv[1]))
