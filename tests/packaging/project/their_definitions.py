"""A project of somebody who joins: their own assets and jobs, one line that adds the workbench, and one folder of workflow files."""

import os
from pathlib import Path

import dagster as dg

from workflows_pkg.security.allow import Allow
from workflows_pkg.workbench.folder import workflow_definitions
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench


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


nightly = dg.define_asset_job("nightly", selection=[orders, totals])


@dg.definitions
def defs() -> dg.Definitions:
    mine = dg.Definitions(
        assets=[orders, totals],
        asset_checks=[orders_are_there],
        jobs=[nightly],
        executor=dg.in_process_executor,
        schedules=[dg.ScheduleDefinition(job=nightly, cron_schedule="0 3 * * *")],
    )
    flows = workflow_definitions(Path(__file__).parent / "flows", Allow(), Path(os.environ["DAGSTER_HOME"]))
    return dg.Definitions.merge(instrument(mine), flows, workbench())
