"""Records real runs into a Dagster instance: `python recorded_jobs.py <home>`. Used by the tests beside it.

Success, retry, failure with a chain of causes, skip, crash of a step's process, cancellation, assets with checks and partitions; in one
process and in a process per step.
"""

import os
import sys
from pathlib import Path

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob

from workflows_pkg.errors import RateLimited
from workflows_pkg.orchestration.metering import begin, report


@dg.op(retry_policy=dg.RetryPolicy(max_retries=2, delay=0.05))
def flaky(context: dg.OpExecutionContext) -> int:
    mark = begin()
    if context.retry_number < 1:
        report(context, mark, context.retry_number + 1, failed=True)
        raise ConnectionError("the peer is gone")
    context.log.info("a line of the user's own log")
    report(context, mark, context.retry_number + 1)
    return 1


@dg.op(out=dg.Out(int, is_required=False))
def maybe(number: int):
    if number > 1:
        yield dg.Output(number)


@dg.op
def after(number: int) -> int:
    return number


@dg.op
def fails_deep() -> int:
    try:
        raise OSError("the line is cut " * 300)
    except OSError as error:
        raise ValueError("cannot go on") from error


@dg.op
def limited() -> int:
    try:
        raise OSError("429")
    except OSError as error:
        raise RateLimited("too many requests", retry_after_s=3) from error


@dg.op
def dies() -> int:
    os._exit(7)


@dg.job
def works() -> None:
    after(maybe(flaky()))


@dg.job
def breaks() -> None:
    after(fails_deep())
    limited()


@dg.job
def everything() -> None:
    flaky()
    dies()


days = dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-01-05")


@dg.asset(partitions_def=days, key_prefix=["flights"], check_specs=[dg.AssetCheckSpec("late", asset=["flights", "raw"])])
def raw(context: dg.AssetExecutionContext):
    metadata = {
        "dagster/row_count": 10,
        "size_bytes": 22,
        "share": float("nan"),
        "note": "x",
        "page": dg.MetadataValue.md("#" * 5000),
    }
    yield dg.Output(3, metadata=metadata)
    yield dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, check_name="late", metadata={"late": 1})


flights = dg.define_asset_job("flights", selection=[raw])
definitions = dg.Definitions(assets=[raw], jobs=[flights])


def everything_job() -> dg.JobDefinition:
    return everything


def record(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        works.execute_in_process(instance=instance, tags={"dagster/schedule_name": "nightly"})
        breaks.execute_in_process(instance=instance, raise_on_error=False)
        definitions.resolve_job_def("flights").execute_in_process(
            instance=instance,
            partition_key="2020-01-02",
            tags={"workflows/workflow": "flights", "workflows/version": "4", "workflows/owner": "ops"},
        )
        canceled = instance.create_run_for_job(works)
        instance.report_run_canceling(canceled)
        instance.report_run_canceled(canceled)
        job = ReconstructableJob.for_file(str(Path(__file__).resolve()), "everything_job")
        config = {"execution": {"config": {"multiprocess": {"start_method": {"forkserver": {}}, "max_concurrent": 2}}}}
        with dg.execute_job(job, instance, run_config=config, raise_on_error=False):
            pass
        instance.report_runless_asset_event(dg.AssetMaterialization(asset_key=["from", "outside"], metadata={"size_bytes": 7}))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
