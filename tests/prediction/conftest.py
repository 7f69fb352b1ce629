"""Synthetic histories with known truth, and a real DuckDB that holds them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from workflows_pkg.history.records import JobStep, Run, StepAttempt
from workflows_pkg.history.schema import create_table, names

START = datetime(2024, 1, 1, 6, tzinfo=UTC)
RATE = 0.04937 / 3600


@pytest.fixture(scope="session")
def traces() -> Path:
    """The folder of public traces beside the project."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
    if not folder.is_dir():
        pytest.skip(f"the public traces are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def daily() -> Callable[..., tuple[pd.DataFrame, pd.DataFrame]]:
    """A year of daily partitions of one workflow, in any order: three steps, the second slow on Mondays, the third noisy.

    True medians: `load` 2 s, `clean` 4 s and 12 s on Mondays, `score` 1 s; noise is log-normal with 5 %, 10 % and 50 %.
    """

    def build(runs: int = 60, seed: int = 0, failing: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
        rng = np.random.default_rng(seed)
        run_rows, attempt_rows = [], []
        for number in range(runs):
            asked = START + timedelta(hours=6 * number)
            day = START + timedelta(days=number)
            queue, start = float(rng.lognormal(-0.5, 0.3)), float(rng.lognormal(0.7, 0.1))
            clock = asked + timedelta(seconds=queue + start)
            ready = clock
            steps = (("load", 2.0, 0.05), ("clean", 12.0 if day.weekday() == 0 else 4.0, 0.1), ("score", 1.0, 0.5))
            ok = True
            for step, median, noise in steps:
                took = float(median * rng.lognormal(0, noise))
                ok = not (failing and step == "clean" and rng.uniform() < failing)
                ended = clock + timedelta(seconds=took)
                attempt_rows.append(
                    {
                        "run_id": f"r{number:03d}",
                        "step_key": f"daily.{step}",
                        "attempt": 1,
                        "job_name": "daily",
                        "workflow": "daily",
                        "step": step,
                        "partition_key": day.date().isoformat(),
                        "version": 1,
                        "outcome": "success" if ok else "failure",
                        "started_at": clock,
                        "ended_at": ended,
                        "queue_time_s": 0.0,
                        "start_time_s": None,
                        "run_time_s": took,
                        "cost_usd": took * RATE,
                        "error_class": None if ok else "ValueError",
                        "failure_cause": None if ok else "code",
                        "will_retry": False,
                    }
                )
                clock = ended
                if not ok:
                    break
            run_rows.append(
                {
                    "run_id": f"r{number:03d}",
                    "source_id": "here",
                    "job_name": "daily",
                    "workflow": "daily",
                    "version": 1,
                    "partition_key": day.date().isoformat(),
                    "outcome": "success" if ok else "failure",
                    "outcome_conflict": False,
                    "trigger": "manual",
                    "created_at": asked,
                    "started_at": ready,
                    "ended_at": clock,
                    "queue_time_s": queue,
                    "start_time_s": start,
                    "run_time_s": (clock - ready).total_seconds(),
                    "cost_usd": (clock - ready).total_seconds() * RATE,
                }
            )
        return pd.DataFrame(run_rows), pd.DataFrame(attempt_rows)

    return build


@pytest.fixture
def holding() -> Callable[[pd.DataFrame, pd.DataFrame], duckdb.DuckDBPyConnection]:
    """A connection to a database in memory whose `runs` and `step_attempts` hold the given rows; `job_steps` is empty."""

    def open_with(runs: pd.DataFrame, attempts: pd.DataFrame) -> duckdb.DuckDBPyConnection:
        con = duckdb.connect()
        con.execute(create_table(JobStep, "main"))
        for record, frame in ((Run, runs), (StepAttempt, attempts)):
            con.execute(create_table(record, "main"))
            if len(frame):
                con.register("rows", frame)
                con.execute(f"insert into {record.table} ({names(frame.columns)}) select {names(frame.columns)} from rows")
                con.unregister("rows")
        return con

    return open_with
