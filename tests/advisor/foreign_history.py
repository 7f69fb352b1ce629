"""Histories of jobs without a spec of ours, in a real DuckDB: healthy ones, and ones with one planted trouble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from workflows_pkg.history.records import RECORDS, Run, StepAttempt, Tick
from workflows_pkg.history.schema import create_table, names

START = datetime(2026, 1, 5, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
USD_PER_S = 0.00002


@dataclass
class Made:
    """Rows under construction; `run` adds one run, `con` gives them as a database."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))
    runs: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    ticks: list[dict[str, Any]] = field(default_factory=list)

    def run(
        self,
        job: str,
        at: datetime,
        steps: Mapping[str, float],
        *,
        fails: str = "",
        error: str = "ConnectionError",
        cause: str = "dependency",
        retries: str = "",
        queue_s: float | None = None,
        asked_by: str = "",
        kind: str = "schedule",
        partition: str | None = None,
        hangs_s: float = 0.0,
        trigger: str = "",
        **more: Any,
    ) -> str:
        """`fails`: step that fails for good; `retries`: step with one retry; `hangs_s`: canceled in its last step after so long."""
        run_id = f"r{len(self.runs):05d}"
        queue_s = float(self.rng.uniform(0.5, 3)) if queue_s is None else queue_s
        began = clock = at + timedelta(seconds=queue_s + 2)
        shared = {"run_id": run_id, "job_name": job, "workflow": None, "trial_id": None, "partition_key": partition, **more}
        outcome, waited = "success", 0.0
        for step, usual in steps.items():
            took = usual * float(self.rng.lognormal(0, 0.1))
            if step == retries:
                self._attempt(shared, step, 1, clock, 0.3 * took, "failure", error, cause, wait_s=20.0)
                clock += timedelta(seconds=0.3 * took + 20)
                waited = 20.0
            number = 2 if step == retries else 1
            if step == fails:
                took, outcome = 0.3 * took, "failure"
            if hangs_s and step == list(steps)[-1]:
                took, outcome = hangs_s, "canceled"
            self._attempt(shared, step, number, clock, took, outcome, error, cause)
            clock += timedelta(seconds=took)
            if outcome != "success":
                break
        self.runs.append(
            {
                **shared, "source_id": "theirs", "outcome": outcome, "outcome_conflict": False,
                "trigger": trigger or (kind if asked_by else "manual"), "trigger_name": asked_by or None, "created_at": at,
                "started_at": began, "ended_at": clock, "queue_time_s": queue_s, "start_time_s": 2.0,
                "run_time_s": (clock - began).total_seconds(), "retry_wait_s": waited, "attempt_count": len(steps),
                "cost_usd": (clock - began).total_seconds() * USD_PER_S,
            }
        )  # fmt: skip
        if asked_by:
            minute = at.replace(second=0, microsecond=0)
            tick = {"source_id": "theirs", "tick_id": len(self.ticks), "name": asked_by, "kind": kind, "status": "success"}
            self.ticks.append({**tick, "at": minute, "run_ids": json.dumps([run_id]), "reason": None})
        return run_id

    def _attempt(
        self, shared: Mapping[str, Any], step: str, number: int, begun: datetime, took: float, outcome: str, error: str, cause: str,
        wait_s: float | None = None,
    ) -> None:  # fmt: skip
        failed = outcome == "failure"
        self.attempts.append(
            {
                **shared, "step_key": step, "step": step, "attempt": number, "outcome": outcome, "will_retry": wait_s is not None,
                "started_at": begun, "ended_at": begun + timedelta(seconds=took), "run_time_s": took, "retry_wait_s": wait_s,
                "error_class": error if failed else None, "failure_cause": cause if failed else None, "cost_usd": took * USD_PER_S,
            }
        )  # fmt: skip

    def con(self) -> duckdb.DuckDBPyConnection:
        """The rows as tables, beside empty ones of every other record."""
        con = duckdb.connect()
        con.execute("set TimeZone = 'UTC'")
        for record in RECORDS:
            con.execute(create_table(record, "main"))
        for record, found in ((Run, self.runs), (StepAttempt, self.attempts), (Tick, self.ticks)):
            if found:
                frame = pd.DataFrame(found)
                con.register("rows", frame)
                con.execute(f"insert into {record.table} ({names(frame.columns)}) select {names(frame.columns)} from rows")
                con.unregister("rows")
        return con


STEPS = {"extract": 20.0, "load": 40.0}


def hours(count: int) -> Sequence[datetime]:
    return [START + timedelta(hours=number, minutes=3) for number in range(count)]


def healthy(count: int = 400) -> Made:
    """Two schedules that do not meet, a sensor that sometimes meets one, one failure, nothing slow, nothing waiting."""
    made = Made()
    for number, at in enumerate(hours(count)):
        made.run(
            "orders", at, STEPS, asked_by="orders_hourly", fails="load" if number == 77 else "", cause="code", error="KeyError"
        )
        made.run("stock", at + timedelta(minutes=30), {"read": 5.0, "price": 8.0}, asked_by="stock_hourly")
        if number % 3 == 0:
            at += timedelta(minutes=(number * 7) % 60)
            made.run("files", at, {"copy": 9.0}, asked_by="files_sensor", kind="sensor")
    return made


def crowded(count: int = 300, extra_s: float = 40.0) -> Made:
    """Three schedules at the full hour whose runs wait for each other, and a sensor whose runs are asked for alone."""
    made = Made()
    for at in hours(count):
        at = at.replace(minute=0)
        for place, name in enumerate(("clicks", "orders", "stock")):
            made.run(name, at, STEPS, asked_by=f"{name}_hourly", queue_s=2 + place * extra_s)
        made.run("files", at + timedelta(minutes=23), {"copy": 9.0}, asked_by="files_sensor", kind="sensor")
    return made


def failing(
    count: int = 300, *, every: int = 20, soon_s: float = 3600.0, again: bool = False, again_s: float = 0.0, first_only: int = 0,
    **failure: Any,
) -> Made:  # fmt: skip
    """`orders` every `soon_s` seconds; its first step fails in every `every`-th run.

    again: the next runs fail too. again_s: somebody starts a failed run again so many seconds after it was asked for, `first_only`: only
    the first so many of them.
    """
    made = Made()
    failures = 0
    for number in range(count):
        bad = number % every == 5 or (again and number % every in (6, 7))
        at = START + timedelta(seconds=soon_s * number)
        made.run("orders", at, STEPS, fails="extract" if bad else "", **failure)
        failures += bad
        if bad and again_s and (not first_only or failures <= first_only):
            fails = "extract" if again else ""
            made.run("orders", at + timedelta(seconds=again_s), STEPS, fails=fails, trigger="retry", **failure)
    return made


def hanging(count: int = 120, hung: int = 8) -> Made:
    made = Made()
    for number, at in enumerate(hours(count * 8)[::8]):
        made.run("nightly", at, STEPS, hangs_s=20_000.0 if number % (count // hung) == 5 else 0.0)
    return made


def slower(count: int = 300) -> Made:
    """`load` takes half as long again in the newest 60 runs."""
    made = Made()
    for number, at in enumerate(hours(count)):
        made.run("orders", at, {"extract": 20.0, "load": 60.0 if number >= count - 60 else 40.0})
    return made
