"""Which questions do people ask of their history? Functions from a connection to a DataFrame: the twelve of `catalogue`, and plain rows."""

from workflows_pkg.history.questions.catalogue import QUESTIONS, Question
from workflows_pkg.history.questions.of_runs import (
    concurrency,
    cost_by_owner_and_month,
    deadline_misses,
    queue_time_by_hour,
    runs_by_outcome_per_day,
)
from workflows_pkg.history.questions.of_steps import duration_quantiles, failures_by_cause, retry_cost, slowest_steps
from workflows_pkg.history.questions.one_run import critical_path, run_timeline
from workflows_pkg.history.questions.reading import attempts, cost_by_workflow, frame, read, recent_runs, runs
from workflows_pkg.history.questions.running import running_now

__all__ = [
    "QUESTIONS",
    "Question",
    "attempts",
    "concurrency",
    "cost_by_owner_and_month",
    "cost_by_workflow",
    "critical_path",
    "deadline_misses",
    "duration_quantiles",
    "failures_by_cause",
    "frame",
    "queue_time_by_hour",
    "read",
    "recent_runs",
    "retry_cost",
    "run_timeline",
    "running_now",
    "runs",
    "runs_by_outcome_per_day",
    "slowest_steps",
]
