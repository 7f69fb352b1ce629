"""What happened: records of runs, attempts, forecasts and suggestions in DuckDB, open to every reader while they grow.

    from workflows_pkg import history

    con = history.connect()                 # the history of $DAGSTER_HOME
    history.slowest_steps(con)              # the twelve questions: DataFrames
    con.sql("select * from runs").df()      # and plain SQL

The names are looked up when they are used: processes that import one of the modules only, such as a run coordinator, load no DuckDB.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflows_pkg.history.questions import (
        QUESTIONS,
        concurrency,
        cost_by_owner_and_month,
        critical_path,
        deadline_misses,
        duration_quantiles,
        failures_by_cause,
        queue_time_by_hour,
        retry_cost,
        run_timeline,
        running_now,
        runs_by_outcome_per_day,
        slowest_steps,
    )
    from workflows_pkg.history.store import connect

__all__ = [
    "QUESTIONS",
    "concurrency",
    "connect",
    "cost_by_owner_and_month",
    "critical_path",
    "deadline_misses",
    "duration_quantiles",
    "failures_by_cause",
    "queue_time_by_hour",
    "retry_cost",
    "run_timeline",
    "running_now",
    "runs_by_outcome_per_day",
    "slowest_steps",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = "store" if name == "connect" else "questions"
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
