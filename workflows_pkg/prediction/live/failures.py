"""How likely does the next run, step, first try or retry fail? The rate of the key, or the learned predictor where it has foretold better.

Both are replayed with the delay of outcomes: when an attempt was submitted they knew what had ended by then. What is compared is the mean
squared distance of probability and outcome (Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.baselines.failure import BASELINES, FailureBaselines
from workflows_pkg.prediction.evaluation.failure import brier, calibration_error
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.failing import FailurePredictor
from workflows_pkg.prediction.failure import FAILURE, FailureRate, rate_name
from workflows_pkg.prediction.live.attempts import by_key, replayed
from workflows_pkg.prediction.live.basis import text
from workflows_pkg.prediction.live.choosing import NOTHING_CARRIED, Candidates, Choice, Switch, called, choose
from workflows_pkg.prediction.rows import Frame

FIRST, AGAIN = "first_try_failure_share", "retry_failure_share"
RATE, LEARNED = "failure_rate", "failure_regression"
"""The one that is served unless the other has done better, and that one."""

_LEARNED_FROM = 5
"""Failures of a job from which there is something to learn: with fewer the rate alone is asked, which saves most of the time."""
_SCORED_FROM = 20
"""Outcomes with an answer before them from which scores are told; few failures among fewer say nothing."""
_NEWEST_CAUSES = 20

Choices = dict[tuple[str, str, str], Choice]
"""By job, step and quantity."""


def risks(
    tried: Frame, moment: datetime, partitions: Mapping[str, str], carried: Mapping[str, Switch] = NOTHING_CARRIED
) -> tuple[list[Forecast], Choices, dict[str, Any]]:
    """The risk that a run, or a step with all its retries, fails for good, with the choices made and how calibrated it was as served.

    `tried`: one row per run (`step` empty), or per last attempt of a step, as `replayed` takes them. Only success and failure count.
    `carried`: what an earlier training had changed, as `called`.
    """
    return _risks(tried, moment, partitions, carried, {0: FAILURE}, retries=False)


def risks_by_try(
    attempts: Frame, moment: datetime, partitions: Mapping[str, str], carried: Mapping[str, Switch] = NOTHING_CARRIED
) -> tuple[list[Forecast], Choices, dict[str, Any]]:
    """The risks that the first try and that a retry fails, apart, of the steps that were ever tried again."""
    again = attempts.loc[attempts["retry"] > 0, ["job_name", "step"]].drop_duplicates()
    tried = attempts.merge(again, on=["job_name", "step"])
    # a retry is asked about when it begins: what failed before it is known by then
    asked = tried["submitted_at"].where(tried["retry"] == 0, tried["started_at"])
    return _risks(tried.assign(submitted_at=asked), moment, partitions, carried, {0: FIRST, 1: AGAIN}, retries=True)


def _risks(
    tried: Frame, moment: datetime, partitions: Mapping[str, str], carried: Mapping[str, Switch], quantities: Mapping[int, str], *,
    retries: bool,
) -> tuple[list[Forecast], Choices, dict[str, Any]]:  # fmt: skip
    tried = tried[tried["submitted_at"].notna()]
    if retries:
        tried = tried.assign(retry=tried["retry"].clip(upper=1))
    failed = tried.loc[(tried["outcome"] == "failure") & (tried["ended_at"] < moment), "job_name"].value_counts()
    learned = tried["job_name"].isin(failed.index[failed >= _LEARNED_FROM])
    found: list[Forecast] = []
    choices: Choices = {}
    said, came = [np.zeros(0)], [np.zeros(0)]
    for rows, judged in ((tried[~learned], False), (tried[learned], True)):
        if rows.empty:
            continue
        forecasts, made, one_said, one_came = _of(rows, moment, partitions, carried, quantities, retries=retries, judged=judged)
        found += forecasts
        choices |= made
        said.append(one_said)
        came.append(one_came)
    served, truth = np.concatenate(said), np.concatenate(came)
    figures = (
        {"outcomes": len(truth), "brier": brier(truth, served), "calibration_error": calibration_error(truth == 1, served)}
        if len(truth)
        else {}
    )
    return sorted(found, key=lambda one: (one.job_name, one.step, one.quantity)), choices, figures


def _of(
    tried: Frame, moment: datetime, partitions: Mapping[str, str], carried: Mapping[str, Switch], quantities: Mapping[int, str], *,
    retries: bool, judged: bool,
) -> tuple[list[Forecast], Choices, np.ndarray, np.ndarray]:  # fmt: skip
    shown = replayed(tried, moment, partitions, retries)
    rows, places = shown.trace.rows, list(shown.ahead.values())
    asked = shown.asked if judged else np.isin(np.arange(len(rows)), places)
    rate = replay(shown.trace, FailureRate(), asked=asked)
    outcome = rows["failed"].to_numpy(float)
    learned, rules = (
        (replay(shown.trace, one, asked=asked) for one in (FailurePredictor(), FailureBaselines())) if judged else (rate, rate)
    )
    chances = [one["failure_share"].to_numpy(float) for one in (rate, learned)]
    scored = asked & ~np.isnan(outcome) & ~np.isnan(np.column_stack(chances)).any(axis=1)
    kept_of = by_key(shown, scored)
    teaching = rows[rows["failed"].notna()].groupby(["workflow", "step", "retry"]).size().to_dict()
    causes = _causes(shown.rows, rows["failed"].to_numpy(float), rows["retry"].to_numpy(int))
    streaks = _streaks(rows)
    found: list[Forecast] = []
    choices: Choices = {}
    said, came = [np.zeros(0)], [np.zeros(0)]
    for (job, step, retry), place in shown.ahead.items():
        key = (job, step, retry)
        basis: dict[str, Any] = {"newest": streaks[key]}
        if key in causes:
            basis["causes"] = causes[key]
        values, name = rate.loc[place, ["p05", "failure_share", "p95"]].to_numpy(float), rate_name(int(rate.loc[place, "factor"]))
        if judged and key in kept_of:
            kept, before = kept_of[key]
            losses = np.column_stack([(one[kept] - outcome[kept]) ** 2 for one in chances])
            choice = choose(
                Candidates(
                    (RATE, LEARNED), losses, None, rows["run_id"].iloc[kept].tolist(), rows["submitted_s"].to_numpy(float)[kept],
                    rows["finished_s"].to_numpy(float)[kept], before, of=losses[:, 0], failed=outcome[kept],
                ),
                carried.get(called(job, step, quantities[retry])),
            )  # fmt: skip
            choices[job, step, quantities[retry]] = choice
            as_served = np.column_stack([one[kept] for one in chances])[np.arange(len(kept)), choice.by_row]
            said.append(as_served)
            came.append(outcome[kept])
            if choice.served == LEARNED:
                name, values = LEARNED, learned.loc[place, ["p05", "failure_share", "p95"]].to_numpy(float)
            if len(kept) >= _SCORED_FROM:
                basis |= _scores(chances, as_served, outcome, kept, rules)
            if choice.switches:
                newest = choice.switches[-1]
                basis["since"] = {"at": newest.at, "after": newest.before}
        found.append(
            Forecast(
                job_name=job, step=step, quantity=quantities[retry], p05=float(values[0]), p50=float(values[1]), p95=float(values[2]),
                sample_count=int(teaching[key]), predictor=name, error_share=None, best_rule=None, best_rule_error_share=None,
                as_of=moment, basis=text(basis),
            )
        )  # fmt: skip
    return found, choices, np.concatenate(said), np.concatenate(came)


def _scores(
    chances: Sequence[np.ndarray], served: np.ndarray, outcome: np.ndarray, kept: np.ndarray, rules: Frame
) -> dict[str, Any]:
    truth = outcome[kept]
    own = {name: brier(truth, one[kept]) for name, one in zip((RATE, LEARNED), chances, strict=True)}
    others = {name: brier(truth, rules[name].to_numpy(float)[kept]) for name in BASELINES}
    best = min(others, key=lambda name: others[name])
    return {"outcomes": len(kept), "as_served": brier(truth, served), "scores": own | {best: others[best]}, "best_rule": best}


def _causes(tried: Frame, failed: np.ndarray, retry: np.ndarray) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Of each key's newest failures of known cause: how many there are, and how many have each cause, the likeliest first."""
    if "failure_cause" not in tried:
        return {}
    known = tried.assign(retry=retry[: len(tried)])[(failed[: len(tried)] == 1) & tried["failure_cause"].notna().to_numpy()]
    newest = known.sort_values("ended_at", kind="stable").groupby(["job_name", "step", "retry"]).tail(_NEWEST_CAUSES)
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for (job, step, again), rows in newest.groupby(["job_name", "step", "retry"]):
        counts = Counter(map(str, rows["failure_cause"])).most_common()
        found[str(job), str(step), int(again)] = {"failures": len(rows), "by_cause": dict(counts)}
    return found


def _streaks(rows: Frame) -> dict[tuple[str, str, int], dict[str, Any]]:
    """How each key's newest outcome was, and how many in a row ended so."""
    known = rows[rows["failed"].notna()].sort_values("finished_s", kind="stable")
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for (job, step, again), outcomes in known.groupby(["workflow", "step", "retry"])["failed"]:
        values = outcomes.to_numpy()
        differs = np.flatnonzero(values != values[-1])
        in_a_row = len(values) - (int(differs[-1]) + 1 if len(differs) else 0)
        found[str(job), str(step), int(again)] = {
            "outcome": "failure" if values[-1] else "success", "in_a_row": in_a_row, "failed_share": float(values.mean()),
        }  # fmt: skip
    return found
