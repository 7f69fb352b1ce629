"""Histories of failing steps whose true recovery is known, in a real DuckDB, and the workflow they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from workflows_pkg.history.records import Run, StepAttempt
from workflows_pkg.history.schema import create_table, names
from workflows_pkg.spec.model import Step, Workflow

START = datetime(2024, 1, 1, 6, tzinfo=UTC)
OVERHEAD_S = 0.02


@pytest.fixture
def workflow() -> Callable[..., Workflow]:
    """A workflow of one step `fetch` with the given fields."""

    def build(**fields: Any) -> Workflow:
        return Workflow(workflow="daily", steps={"fetch": Step.model_validate({"uses": "http", **fields})})

    return build


@pytest.fixture
def history() -> Callable[..., duckdb.DuckDBPyConnection]:
    """A database with one run per item: the true time to recovery after its first failure, 0 for none, infinite for never.

    `delay_s` and `attempts` are the constant policy under which the history was made; an item may be a pair of that time
    and an error class. `hang_s` are run times of attempts that hung and were stopped by hand, in runs of their own.
    `overhead_s` is what passes before each further attempt beyond the wait, by turns of the runs; `full_jitter` draws the waits
    from 0 to `delay_s`.
    """

    def build(
        runs: Iterable[float | tuple[float, str]],
        *,
        delay_s: float = 1.0,
        attempts: int = 3,
        took_s: float = 0.3,
        seed: int = 0,
        hang_s: Iterable[float] = (),
        trial_id: str | None = None,
        version: int = 1,
        overhead_s: Sequence[float] = (OVERHEAD_S,),
        full_jitter: bool = False,
    ) -> duckdb.DuckDBPyConnection:
        rng = np.random.default_rng(seed)
        run_rows: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        waits = np.random.default_rng(seed + 1)
        for number, item in enumerate(runs):
            overhead = overhead_s[number % len(overhead_s)]
            recovery, error = item if isinstance(item, tuple) else (item, "RateLimited")
            run_id, asked = f"r{number:04d}", START + timedelta(minutes=number)
            clock, failed_at, outcome = asked, None, "failure"
            for attempt in range(1, attempts + 1):
                gone = 0.0 if failed_at is None else (clock - failed_at).total_seconds()
                good = recovery == 0 or (failed_at is not None and gone >= recovery)
                took = took_s * float(rng.lognormal(0, 0.1)) if good else 0.01
                ended = clock + timedelta(seconds=took)
                again = not good and attempt < attempts
                wait_s = delay_s * float(waits.uniform()) if full_jitter else delay_s
                rows.append(
                    _row(
                        run_id,
                        attempt,
                        clock,
                        ended,
                        took,
                        "success" if good else "failure",
                        error,
                        again,
                        wait_s,
                        trial_id,
                        version,
                    )
                )
                failed_at = failed_at or (None if good else ended)
                clock = ended + timedelta(seconds=wait_s + overhead) if again else ended
                if good:
                    outcome = "success"
                    break
            run_rows.append(_run(run_id, asked, clock, outcome, trial_id, version))
        for number, seconds in enumerate(hang_s):
            run_id, asked = f"h{number:04d}", START + timedelta(days=3, minutes=number)
            ended = asked + timedelta(seconds=seconds)
            rows.append(_row(run_id, 1, asked, ended, seconds, "canceled", None, False, None, trial_id, version))
            run_rows.append(_run(run_id, asked, ended, "canceled", trial_id, version))
        con = duckdb.connect()
        for record, found in ((Run, run_rows), (StepAttempt, rows)):
            con.execute(create_table(record, "main"))
            frame = pd.DataFrame(found)
            con.register("rows", frame)
            con.execute(f"insert into {record.table} ({names(frame.columns)}) select {names(frame.columns)} from rows")
            con.unregister("rows")
        return con

    return build


_CAUSES = {"MemoryLimit": "memory", "DataProblem": "data", "ValueError": "code"}


def _row(
    run_id: str,
    attempt: int,
    begun: datetime,
    ended: datetime,
    took: float,
    outcome: str,
    error: str | None,
    again: bool,
    delay_s: float | None,
    trial_id: str | None,
    version: int,
) -> dict[str, Any]:
    failed = outcome == "failure"
    return {
        "run_id": run_id,
        "step_key": "daily.fetch",
        "attempt": attempt,
        "job_name": "daily",
        "workflow": "daily",
        "step": "fetch",
        "version": version,
        "trial_id": trial_id,
        "outcome": outcome,
        "will_retry": again,
        "started_at": begun,
        "ended_at": ended,
        "run_time_s": took,
        "retry_wait_s": delay_s if again else None,
        "error_class": error if failed else None,
        "failure_cause": _CAUSES.get(error or "", "dependency") if failed else None,
    }


def _run(run_id: str, asked: datetime, ended: datetime, outcome: str, trial_id: str | None, version: int) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "source_id": "here",
        "job_name": "daily",
        "workflow": "daily",
        "version": version,
        "trial_id": trial_id,
        "outcome": outcome,
        "outcome_conflict": False,
        "trigger": "manual",
        "created_at": asked,
        "started_at": asked,
        "ended_at": ended,
        "queue_time_s": 0.1,
        "start_time_s": 1.0,
        "run_time_s": (ended - asked).total_seconds(),
    }
