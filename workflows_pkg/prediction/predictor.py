"""What is a predictor? Something that is shown attempts as they finish, and asked about attempts as they are submitted.

The same protocol serves forecasts of what comes next, their evaluation on recorded traces, and the simple rules they have to beat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Submitted:
    """An attempt as far as it is known when it is submitted; NaN and None: unknown.

    `id` joins it to its outcome; negative for a question that nothing will follow. `at`: seconds since 1970 UTC, or the place in the
    order where a trace has no times. `tag`: sample or partition, the same over runs. `kind`: what performs the step, shared by steps of
    several workflows. `size`: bytes read, as far as known before. `retry`: failed attempts of the same step instance that had ended by
    then. `figures` and `words`: whatever else is known before, by the name of its column. `machine_factor`: how many times as long as usual
    it takes on the machine it is known to go to, as far as that is known before, from benchmarks; `machine_spread`: the standard deviation
    of the factor's logarithm.
    """

    id: int
    workflow: str
    step: str
    run_id: str
    at: float
    tag: str | None = None
    kind: str | None = None
    size: float = math.nan
    retry: int = 0
    memory_requested_bytes: float = math.nan
    figures: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    words: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    machine_factor: float = 1.0
    machine_spread: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Whose history it continues: workflow and step."""
        return self.workflow, self.step


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt that has ended at `at`, and what it took; NaN: unknown.

    `value`: the quantity of a duration predictor (seconds, or USD where it forecasts cost) if the attempt succeeded, else NaN: how long
    a failed attempt took says little about a good one. `run_time_s`: how long it ran, however it ended. `failed`: None where the
    outcome is neither success nor failure.
    """

    submitted: Submitted
    at: float
    value: float = math.nan
    run_time_s: float = math.nan
    peak_memory_bytes: float = math.nan
    failed: bool | None = False


class Predictor(Protocol):
    """Answers about attempts from those that have finished; learns incrementally, and knows nothing it was not shown."""

    @property
    def columns(self) -> Sequence[str]:
        """What `predict` answers, in order."""
        ...

    def observe(self, finished: Sequence[Finished]) -> None:
        """Learns from attempts that have ended, in the order in which they did."""
        ...

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """One row per attempt, one column per name in `columns`; NaN where it abstains.

        None of these attempts sees another. What it answered is kept until the attempt is observed, so that a predictor can learn from
        its own errors as they were at submission.
        """
        ...

    def card(self) -> dict[str, Any]:
        """What it rests on and how it is set, in JSON's types."""
        ...
