"""A small code location whose jobs are asked for in every way there is."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg


@dg.op
def waits() -> None: ...


@dg.job(executor_def=dg.in_process_executor)
def by_hand() -> None:
    waits()


@dg.job(executor_def=dg.in_process_executor)
def by_sensor() -> None:
    waits()


@dg.job(executor_def=dg.in_process_executor)
def by_schedule() -> None:
    waits()


@dg.job(executor_def=dg.in_process_executor)
def never_run() -> None:
    waits()


@dg.job(executor_def=dg.in_process_executor, partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def by_backfill() -> None:
    waits()


@dg.asset
def picked() -> None: ...


@dg.asset
def never_made() -> None: ...


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
def filled() -> None: ...


@dg.sensor(job=by_sensor, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def asks_once(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    return dg.RunRequest(run_key="once") if Path(os.environ["LAUNCH_FLAG"]).exists() else dg.SkipReason("not yet")


every_minute = dg.ScheduleDefinition(job=by_schedule, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)

defs = dg.Definitions(
    assets=[picked, never_made, filled],
    jobs=[by_hand, by_sensor, by_schedule, by_backfill, never_run],
    sensors=[asks_once],
    schedules=[every_minute],
    executor=dg.in_process_executor,
)
