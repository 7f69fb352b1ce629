"""How does a changed workflow become a suggestion? Its difference, its canonical spec and a name that depends on nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from workflows_pkg.history.records import Suggestion
from workflows_pkg.spec.canonical import canonical_json
from workflows_pkg.spec.difference import difference
from workflows_pkg.spec.model import Step, Workflow

RESAMPLES = 1000
LEAST_GAIN_SHARE = 0.05
LEAST_GAIN_S = 0.05
"""A gain below 5 % of the step's time or 50 ms a run is not worth anybody's attention."""


@dataclass(frozen=True)
class Effect:
    """An expected change per run with its 90 % interval, in the quantity's unit; below zero is less."""

    quantity: str
    mean: float
    low: float
    high: float


def with_step(workflow: Workflow, name: str, step: Step) -> Workflow:
    """The workflow with one step replaced."""
    return workflow.model_copy(update={"steps": {**workflow.steps, name: step}})


def draft(
    *,
    kind: str,
    now: datetime,
    old: Workflow,
    number: int,
    new: Workflow,
    step: str,
    title: str,
    effect: Effect,
    evidence: Mapping[str, Any],
) -> Suggestion:
    """The suggestion to change version `number` (`old`) into `new`; the same change on the same version has the same id."""
    change = json.dumps(
        [{"path": item.path, "before": item.before, "after": item.after} for item in difference(old, new)],
        sort_keys=True,
        separators=(",", ":"),
    )
    identity = "\0".join([old.workflow, str(number), change])
    return Suggestion(
        suggestion_id=hashlib.sha256(identity.encode()).hexdigest()[:10],
        kind=kind,
        workflow=old.workflow,
        step=step,
        based_on=number,
        title=title,
        change=change,
        spec=canonical_json(new),
        evidence=json.dumps(plain(evidence), sort_keys=True, allow_nan=False),
        quantity=effect.quantity,
        effect=effect.mean,
        effect_low=effect.low,
        effect_high=effect.high,
        created_at=now,
        status="open",
    )


def bootstrap(quantity: str, by_draw_and_run: np.ndarray, seed: int) -> Effect:
    """The mean change per run, with a 90 % interval over draws of what is not known and over resampled runs.

    `by_draw_and_run` has one row per draw and one column per run.
    """
    rng = np.random.default_rng(seed)
    draws, runs = by_draw_and_run.shape
    means = [float(by_draw_and_run[rng.integers(draws), rng.integers(runs, size=runs)].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.05, 0.95])
    return Effect(quantity, float(by_draw_and_run.mean()), float(low), float(high))


def plain(value: Any) -> Any:  # Any: JSON in, JSON out
    """`value` as JSON can carry it: figures rounded to microseconds, not-a-number and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return round(float(value), 6) if math.isfinite(value) else None
    return value if value is None else str(value)
