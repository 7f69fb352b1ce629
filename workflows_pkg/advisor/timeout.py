"""How long should an attempt be let run before it is taken to hang?

The limit stands well above every attempt that succeeded; what it costs is told as the share of good attempts it might
kill, what it brings as the time that hanging attempts would not have wasted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from workflows_pkg.advisor.draft import LEAST_GAIN_S, LEAST_GAIN_SHARE, Effect, bootstrap, draft, with_step
from workflows_pkg.history.records import Suggestion
from workflows_pkg.prediction.recovery import upper_share
from workflows_pkg.prediction.rows import Frame, in_utc
from workflows_pkg.spec.durations import format_duration
from workflows_pkg.spec.model import Workflow

LEAST_SUCCESSES = 20
"""Successful attempts before a limit is learned: with 20 below it, at most 14 % of good attempts lie above (95 % sure)."""

UPPER_QUANTILE = 0.95
QUANTILE_MARGIN = 3.0
MAXIMUM_MARGIN = 1.5
"""The limit is the larger of three times the 95 % quantile and half above the longest success: a slow day is no hang."""

SHORTEST = timedelta(seconds=1)
NEWEST_SUCCESSES = 1000
SEED = 20130102


@dataclass(frozen=True)
class LearnedTimeout:
    """A limit with what it rests on: successes looked at, how many lie above it, and the share that might (one-sided 95 %)."""

    limit: timedelta
    successes: int
    above: int
    false_kill_share_upper: float
    upper_quantile_s: float
    longest_s: float


def learned_timeout(attempts: Frame) -> LearnedTimeout | None:
    """The limit for one attempt of a step, from its attempts in any order; None below `LEAST_SUCCESSES`: unknown."""
    good = in_utc(attempts)
    good = good[(good["outcome"] == "success") & good["run_time_s"].notna()].sort_values(
        ["started_at", "run_id", "step_key", "attempt"]
    )
    seconds = good["run_time_s"].to_numpy(float)[-NEWEST_SUCCESSES:]
    if len(seconds) < LEAST_SUCCESSES:
        return None
    quantile, longest = float(np.quantile(seconds, UPPER_QUANTILE)), float(seconds.max())
    limit = _rounded_up(max(QUANTILE_MARGIN * quantile, MAXIMUM_MARGIN * longest, SHORTEST.total_seconds()))
    above = int((seconds > limit.total_seconds()).sum())
    return LearnedTimeout(limit, len(seconds), above, upper_share(above, len(seconds)), quantile, longest)


def timeout_suggestion(
    attempts: Frame, workflow: Workflow, number: int, step: str, now: datetime, query: str
) -> Suggestion | None:
    """A learned timeout for one step, or None: too few successes, or nothing ever hung and nobody asked.

    An attempt hung that ran beyond the limit and did not succeed. Where `timeout: auto` stands in the spec the number is
    proposed even if nothing hung; its effect is then zero, and the title says so. The effect is on `step_time_s` (per
    run, start of the step's first attempt to the end of its last): what hanging attempts ran beyond the limit.
    """
    if attempts.empty:
        return None
    attempts = in_utc(attempts)
    learned = learned_timeout(attempts)
    if learned is None:
        return None
    current = workflow.steps[step].timeout
    limit_s = learned.limit.total_seconds()
    if isinstance(current, timedelta) and current <= learned.limit:
        return None
    bad = attempts[attempts["outcome"].isin(["failure", "canceled"]) & attempts["run_time_s"].notna()]
    hung = bad[bad["run_time_s"] > limit_s]
    run_ids = sorted(str(run_id) for run_id in attempts.loc[attempts["started_at"].notna(), "run_id"].unique())
    saved = pd.Series(0.0, index=run_ids).add(-(hung["run_time_s"] - limit_s).groupby(hung["run_id"]).sum(), fill_value=0.0)
    by_run = saved.reindex(run_ids).to_numpy(float)
    step_time_s = float(attempts["run_time_s"].fillna(0).groupby(attempts["run_id"]).sum().mean())
    effect = bootstrap("step_time_s", by_run[None, :], SEED) if len(hung) else Effect("step_time_s", 0.0, 0.0, 0.0)
    worthwhile = effect.high < 0 and -effect.mean >= max(LEAST_GAIN_S, LEAST_GAIN_SHARE * step_time_s)
    if current != "auto" and not worthwhile:
        return None
    changed = with_step(workflow, step, workflow.steps[step].model_copy(update={"timeout": learned.limit}))
    return draft(
        kind="timeout", now=now, old=workflow, number=number, new=changed, step=step,
        title=_title(step, learned, len(hung)), effect=effect,
        evidence=_evidence(query, attempts, hung, learned, len(run_ids), step_time_s),
    )  # fmt: skip


def _rounded_up(seconds: float) -> timedelta:
    """`seconds` rounded up to two figures, so that the number reads as a choice and not as a measurement.

    >>> _rounded_up(61.2), _rounded_up(1)
    (datetime.timedelta(seconds=62), datetime.timedelta(seconds=1))
    """
    scale = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return timedelta(seconds=round(math.ceil(round(seconds / scale, 6)) * scale, 3))


def _title(step: str, learned: LearnedTimeout, hung: int) -> str:
    limit = format_duration(learned.limit)
    what = f"Step '{step}': stop an attempt after {limit}"
    if not hung:
        return f"{what}; none of its attempts hung so far, so it saves no time and only bounds a future hang."
    return f"{what}; {hung} of its attempts hung longer, none of {learned.successes} good ones did."


def _evidence(query: str, attempts: Frame, hung: Frame, learned: LearnedTimeout, runs: int, step_time_s: float) -> dict[str, Any]:
    return {
        "query": query,
        "runs": runs,
        "attempts": len(attempts),
        "successes": learned.successes,
        "upper_quantile": UPPER_QUANTILE,
        "upper_quantile_s": learned.upper_quantile_s,
        "longest_success_s": learned.longest_s,
        "limit_s": learned.limit.total_seconds(),
        "successes_above_limit": learned.above,
        "false_kill_share_upper": learned.false_kill_share_upper,
        "step_time_s": step_time_s,
        "hung": [
            {"run_id": row.run_id, "step_key": row.step_key, "attempt": row.attempt, "run_time_s": row.run_time_s}
            for row in hung.tail(60).itertuples()
        ],
        "assumed": [
            "an attempt that ran beyond the limit and did not succeed would have been stopped at it, with the same outcome",
            f"the limit is {QUANTILE_MARGIN:g} times the {UPPER_QUANTILE:.0%} quantile of good attempts, "
            f"or {MAXIMUM_MARGIN:g} times the longest of them where that is more",
            "the share of good attempts killed is bounded by Clopper and Pearson, one-sided 95 %, as if attempts were alike",
        ],
    }
