"""Which are the twelve questions, by name, for whoever asks by name: the command line and the reference."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from workflows_pkg.history.questions.of_runs import (
    concurrency,
    cost_by_owner_and_month,
    deadline_misses,
    queue_time_by_hour,
    runs_by_outcome_per_day,
)
from workflows_pkg.history.questions.of_steps import duration_quantiles, failures_by_cause, retry_cost, slowest_steps
from workflows_pkg.history.questions.one_run import critical_path, run_timeline
from workflows_pkg.history.questions.running import running_now


@dataclass(frozen=True)
class Question:
    """One question. `ask` takes a connection and, by name, any of `filters`; `required` of these it must be given."""

    ask: Callable[..., pd.DataFrame]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.ask.__name__

    @property
    def title(self) -> str:
        """What it answers, in a sentence."""
        return " ".join((inspect.getdoc(self.ask) or "").split("\n\n")[0].split())

    @property
    def answer(self) -> str:
        """Grain, columns, units and what a missing value means."""
        return "\n\n".join((inspect.getdoc(self.ask) or "").split("\n\n")[1:])

    @property
    def filters(self) -> Mapping[str, inspect.Parameter]:
        """What the question can be narrowed by."""
        return {name: found for name, found in inspect.signature(self.ask).parameters.items() if name != "con"}

    @property
    def required(self) -> tuple[str, ...]:
        """Filters without a default."""
        return tuple(name for name, found in self.filters.items() if found.default is inspect.Parameter.empty)


QUESTIONS: Mapping[str, Question] = {
    ask.__name__: Question(ask)
    for ask in (
        runs_by_outcome_per_day,
        slowest_steps,
        duration_quantiles,
        queue_time_by_hour,
        retry_cost,
        failures_by_cause,
        cost_by_owner_and_month,
        critical_path,
        deadline_misses,
        concurrency,
        run_timeline,
        running_now,
    )
}
"""The twelve, in the order of the reference."""
