"""What is expected of a run of picked assets, which Dagster runs as one job whatever was picked?

`__ASSET_JOB` is a different job each time: "Materialize" in the UI, a backfill of assets, an automation condition. Its steps are
forecast like those of any job. The time of a whole run is forecast by pick, the set of steps that ran together; a pick that never
ran before is expected to take its steps' times added up, as that sum compared with the time of earlier runs of any picks.

It is imported where runs are launched, so it imports neither pandas nor scikit-learn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import replace
from functools import reduce

from workflows_pkg.prediction.lookup import JobForecast, Quantiles

PER_STEP_TIME = "run_time_per_step_time"
"""Time of a run over the added-up times of its steps: below 1 where steps run side by side, above where starting them costs most."""

_IMPLICIT = "__"
"""What the names of Dagster's own jobs begin with; it allows nobody else such a name."""
_READABLE = 80
"""Characters up to which a pick is named by all its steps."""


def is_picked(job_name: str) -> bool:
    """Whether the job is Dagster's own for whatever was picked.

    >>> is_picked("__ASSET_JOB"), is_picked("nightly")
    (True, False)
    """
    return job_name.startswith(_IMPLICIT)


def pick_name(job_name: str, steps: Collection[str]) -> str:
    """The name under which the whole run of a pick is forecast: the same for the same steps, told by them.

    >>> pick_name("__ASSET_JOB", ["orders", "customers", "orders"])
    '__ASSET_JOB: customers, orders'
    """
    names = sorted(set(steps))
    told = ", ".join(names)
    if len(told) > _READABLE:
        told = f"{names[0][:_READABLE]} and {len(names) - 1} more ({hashlib.sha256(told.encode()).hexdigest()[:12]})"
    return f"{job_name}: {told}"


def picked_forecast(job: JobForecast, steps: Collection[str], together: JobForecast | None) -> JobForecast | None:
    """What is expected of a run of these steps, None where its time is unknown: a step has no forecast, or nothing like it ever ran.

    job: what is known of the implicit job and its steps. steps: names of all steps that the run executes. together: what is known of this
    very pick. The risk is that of any step failing, taken as independent; the cost is the steps' costs added up.
    """
    chosen = set(steps)
    takes = {step: found for step, found in job.steps("run_time_s").items() if step in chosen}
    if not chosen or takes.keys() != chosen:
        return None
    ratio = job.run(PER_STEP_TIME)
    run_time = None if together is None else together.run("run_time_s")
    if run_time is None and ratio is not None:
        whole = math.fsum(found.p50 for found in takes.values())
        run_time = Quantiles(ratio.p05 * whole, ratio.p50 * whole, ratio.p95 * whole, ratio.sample_count, "steps_added_up")
    if run_time is None:
        return None
    by_key = {key: found for key, found in job.by_key.items() if key[0] in chosen and key[1] != "time_left_s"}
    by_key |= {("", name): found for name in ("queue_time_s", "start_time_s") if (found := job.run(name)) is not None}
    by_key["", "run_time_s"] = run_time
    risks = {step: found for step, found in job.steps("failure_share").items() if step in chosen}
    if risks.keys() == chosen:
        by_key["", "failure_share"] = reduce(_either, risks.values())
    costs = {step: found for step, found in job.steps("cost_usd").items() if step in chosen}
    if costs.keys() == chosen:
        by_key["", "cost_usd"] = reduce(_and, costs.values())
    return JobForecast(job.job_name, job.as_of, by_key)


def _either(first: Quantiles, second: Quantiles) -> Quantiles:
    both = {end: 1 - (1 - getattr(first, end)) * (1 - getattr(second, end)) for end in ("p05", "p50", "p95")}
    return replace(first, **both, sample_count=min(first.sample_count, second.sample_count))


def _and(first: Quantiles, second: Quantiles) -> Quantiles:
    both = {end: getattr(first, end) + getattr(second, end) for end in ("p05", "p50", "p95")}
    return replace(first, **both, sample_count=min(first.sample_count, second.sample_count))
