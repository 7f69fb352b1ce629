"""Assets of every kind whose state Dagster tells from its event log, and runs of them: `python archived_assets.py <home>`.

The runs whose ids are printed are to be made old; the others are of today.
"""

import json
import logging
import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg

days = dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-01-06")
colours = dg.DynamicPartitionsDefinition(name="colours")
BROKEN = "2020-01-03"


@dg.asset(partitions_def=days, code_version="1", check_specs=[dg.AssetCheckSpec("full", asset="orders")])
def orders(context: dg.AssetExecutionContext):
    context.log.info("a line of the user's own log, é")
    if context.partition_key == BROKEN and context.run.tags.get("broken"):
        raise ValueError("no orders")
    yield dg.Output(len(context.partition_key), metadata={"rows": 3}, data_version=dg.DataVersion(context.partition_key))
    yield dg.AssetCheckResult(passed=context.partition_key != "2020-01-02", check_name="full")


@dg.asset(partitions_def=days, automation_condition=dg.AutomationCondition.eager())
def totals(orders: int) -> int:
    return orders


@dg.asset(partitions_def=colours)
def paint(context: dg.AssetExecutionContext) -> str:
    return context.partition_key


@dg.asset(freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=2)))
def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log_event(dg.AssetObservation(asset_key="feed", metadata={"lines": 7}))
    return dg.MaterializeResult(metadata={"score": 0.5}, tags={"kind": "linear"})


@dg.asset_check(asset=model, blocking=False)
def sane() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, metadata={"seen": 1})


feed = dg.AssetSpec("feed")


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def never(context: dg.AssetExecutionContext) -> None:
    raise RuntimeError("never works")


defs = dg.Definitions(assets=[orders, totals, paint, model, feed, never], asset_checks=[sane])


def record(home: Path) -> list[str]:
    logging.disable(logging.CRITICAL)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions("colours", ["red", "blue"])
        job = defs.resolve_implicit_global_asset_job_def()

        def run(names: list[str], partition: str | None = None, **tags: str) -> str:
            keys = [dg.AssetKey(name) for name in names]
            return job.execute_in_process(
                instance=instance, asset_selection=keys, partition_key=partition, tags=tags, raise_on_error=False
            ).run_id

        old = [run(["orders"], "2020-01-01"), run(["orders", "totals"], "2020-01-02"), run(["orders"], BROKEN)]
        old += [run(["orders"], BROKEN, broken="yes"), run(["paint"], "red"), run(["model"]), run(["never"])]
        canceled = instance.create_run_for_job(job, asset_selection=frozenset({dg.AssetKey("model")}))
        instance.report_run_canceling(canceled)
        instance.report_run_canceled(canceled)
        old.append(canceled.run_id)
        run(["orders"], "2020-01-04")
        run(["paint"], "blue")
        return old


if __name__ == "__main__":
    sys.stdout.write(json.dumps(record(Path(sys.argv[1]))) + "\n")
