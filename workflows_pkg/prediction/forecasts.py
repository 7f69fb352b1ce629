"""What will the next run of every job, and each of its steps, take and cost?

The moment of a forecast is the launch of the run: the replay behind it shows the predictors only what had finished
before each past run was asked for, so the error beside a forecast is the error of such forecasts.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.course import COURSE, courses
from workflows_pkg.prediction.duration.predictor import FLOOR, DurationPredictor
from workflows_pkg.prediction.failure import FAILURE, KEEP
from workflows_pkg.prediction.live.attempts import newest_runs
from workflows_pkg.prediction.live.basis import moved, text
from workflows_pkg.prediction.live.choosing import RULE_OF_CHOICE, Choice, Switch, called, carried, others_before
from workflows_pkg.prediction.live.choosing import summary as choice_summary
from workflows_pkg.prediction.live.failures import AGAIN, FIRST, RATE, Choices, risks, risks_by_try
from workflows_pkg.prediction.live.memory import LEARNED as SIZED
from workflows_pkg.prediction.live.memory import PEAK, REQUEST, RETRY, requests
from workflows_pkg.prediction.live.times import LEARNED as WEIGHED
from workflows_pkg.prediction.live.times import TIMES
from workflows_pkg.prediction.lookup import BLOCK, FORMAT, LONGEST_LINE
from workflows_pkg.prediction.picks import PER_STEP_TIME, is_picked, pick_name
from workflows_pkg.prediction.rows import (
    Column,
    Connection,
    Frame,
    attempt_observations,
    attempts,
    memory_limits,
    run_observations,
    runs,
)
from workflows_pkg.prediction.rules import RULES
from workflows_pkg.prediction.serving import COST_FLOOR, REPLAYED, predictions_and_choices

RUN_QUANTITIES = ("queue_time_s", "start_time_s", "run_time_s", "cost_usd")
STEP_QUANTITIES = ("run_time_s", "cost_usd")
MOST_PICKS = 500
"""Sets of assets that ran together of which the time is forecast; the table is read at every launch, and stays small."""
_NOT_PUBLISHED = frozenset({RETRY, FIRST, AGAIN})
"""What no launch asks for; a line of the table holds about a thousand steps."""
SCORED_FROM = 5
"""Outcomes with a forecast before them from which its error is told."""


def train(con: Connection, now: datetime, partitions: Mapping[str, str] | None = None) -> list[Forecast]:
    """Forecasts for the next run of every job asked for at `now`: the whole run in five quantities, each step in three,
    and from five successful runs on in those of `COURSE`.

    `partitions` names, by job, the partition that run will have, where the caller knows it; the others are forecast
    without one. Runs and attempts of trials, and everything after `now`, are not looked at. Times rest on successful
    runs and attempts, queue and start times on every run that has them, the risk of failure on every run and step that
    succeeded or failed; canceled ones say nothing of it. What has no history gets no forecast. The time of a whole run, and how it
    proceeds, rest on runs that came through the queue where the job has any that succeeded.
    The same history and moment give the same forecasts.
    """
    return train_with_card(con, now, partitions)[0]


def train_with_card(
    con: Connection, now: datetime, partitions: Mapping[str, str] | None = None, before: Mapping[str, Any] | None = None
) -> tuple[list[Forecast], dict[str, Any]]:
    """`train`, and the predictors' card: data window, features, settings, scores beside the simple rules, and which predictor serves what.

    `before`: the card of the last training: this one tells what was promoted and withdrawn since, and keeps what was promoted until it is
    beaten. The same history, moment and card give the same forecasts.
    """
    moment = now.astimezone(UTC)
    known_runs = runs(con)
    known_runs = known_runs[known_runs["created_at"] < moment]
    timed = attempts(con)
    known_attempts = _placed(timed, known_runs)
    known_attempts = known_attempts[known_attempts["started_at"] < moment]
    asked = known_attempts[["run_id", "started_at"]].merge(known_runs[["run_id", "created_at"]], on="run_id", how="left")
    asked = asked["created_at"].fillna(asked["started_at"]).set_axis(known_attempts.index)
    lived = known_attempts.assign(
        submitted_at=asked, retry=known_attempts["attempt"] - 1, memory_limit_mib=memory_limits(con, known_attempts, known_runs)
    )
    known_attempts = known_attempts.assign(submitted_at=asked, attempt=1)
    ahead = dict(partitions or {})
    last = before or {}
    forecasts: list[Forecast] = []
    timed_choices: dict[tuple[str, str, str], Choice] = {}
    kept = {question: carried(last, question) for question in (TIMES, REQUEST, FAILURE)}

    def forecast(observations: Frame, quantity: str) -> list[Forecast]:
        found, made = _forecast(observations, quantity, moment, ahead, kept[TIMES])
        timed_choices.update(made)
        return found

    summary: dict[str, Any] = {}
    alike = _launched_alike(known_runs)
    picked = _picked(alike, known_attempts)
    whole = pd.concat([alike[~alike["job_name"].map(is_picked).astype(bool)], _by_pick(picked)])
    for quantity, rows in (
        *((name, whole if name == "run_time_s" else known_runs) for name in RUN_QUANTITIES),
        (PER_STEP_TIME, picked),
    ):
        found = forecast(run_observations(rows, quantity), quantity)
        forecasts += found
        summary[f"run {quantity}"] = _summary(found)
    for quantity in STEP_QUANTITIES:
        found = forecast(attempt_observations(known_attempts, quantity), quantity)
        forecasts += found
        summary[f"step {quantity}"] = _summary(found)
    peaks = attempt_observations(known_attempts, PEAK)
    metered = peaks["value"].notna().groupby([peaks["job_name"], peaks["step"]]).transform("any").astype(bool)
    found = forecast(peaks[metered].reset_index(drop=True), PEAK)
    sized, choices = requests(lived[(lived["outcome"] != "skipped") & lived["started_at"].notna()], moment, ahead, kept[REQUEST])
    forecasts += found + sized
    summary |= {f"step {PEAK}": _summary(found)} | {
        f"step {quantity}": _summary([item for item in sized if item.quantity == quantity]) for quantity in (REQUEST, RETRY)
    }
    last_tries = known_attempts[~known_attempts["will_retry"].fillna(False).astype(bool)]
    lived_last = lived.loc[last_tries.index]
    risked: Choices = {}
    calibration: dict[str, Any] = {}
    of_runs = known_runs.assign(step="", submitted_at=known_runs["created_at"])
    for name, of_what in (
        (f"run {FAILURE}", risks(of_runs, moment, ahead, kept[FAILURE])),
        (f"step {FAILURE}", risks(lived_last, moment, ahead, kept[FAILURE])),
        ("step tries", risks_by_try(lived, moment, ahead, kept[FAILURE])),
    ):
        found, made, calibration[name] = of_what
        forecasts += found
        risked |= made
        for quantity in dict.fromkeys(item.quantity for item in found):
            summary[f"{name.split()[0]} {quantity}"] = _summary([item for item in found if item.quantity == quantity])
    # what goes on after a step of a picked run depends on what else was picked
    whole_jobs = alike[~alike["job_name"].map(is_picked).astype(bool)]
    found = courses(whole_jobs, known_attempts[known_attempts.index.isin(timed.index[timed["started_at"].notna()])], moment)
    forecasts += found
    summary |= {f"step {quantity}": _summary([item for item in found if item.quantity == quantity]) for quantity in COURSE}
    card = _card(known_runs, known_attempts, moment, summary)
    return forecasts, card | {"choices": _choices(timed_choices, choices, risked, before), "calibration": calibration}


def _choices(
    timed: Mapping[tuple[str, str, str], Choice],
    memory: Mapping[tuple[str, str], Choice],
    failure: Choices,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Which predictors serve what, and what changed since the card `before`."""
    by_question: dict[str, tuple[str, dict[str, Choice]]] = {
        TIMES: (WEIGHED, {called(*key): choice for key, choice in timed.items()}),
        REQUEST: (SIZED, {called(*key): choice for key, choice in memory.items()}),
        FAILURE: (RATE, {called(*key): choice for key, choice in failure.items()}),
    }
    found: dict[str, Any] = {"how": RULE_OF_CHOICE}
    for question, (usual, made) in by_question.items():
        found[question] = choice_summary(made, usual, others_before(before or {}, question))
    return found


def _launched_alike(known_runs: Frame) -> Frame:
    """The runs whose time says how long the next one takes: of a job whose runs came through the queue, those that did.

    One in the caller's own process (`dagster job execute`, a test) starts no process for itself and for its steps, which may be most of
    the time of a run of short steps. What a step takes, what it costs and whether it fails is learned from both.
    """
    queued = known_runs["queue_time_s"].notna()
    jobs = known_runs.loc[queued & (known_runs["outcome"] == "success"), "job_name"].unique()
    return known_runs[queued | ~known_runs["job_name"].isin(jobs)]


def _picked(known_runs: Frame, known_attempts: Frame) -> Frame:
    """The successful runs of picked assets, with `pick`, the name of what ran together, and `PER_STEP_TIME`."""
    ours = known_runs[known_runs["job_name"].map(is_picked).astype(bool) & (known_runs["outcome"] == "success")]
    steps = known_attempts[known_attempts["run_id"].isin(ours["run_id"]) & (known_attempts["outcome"] == "success")]
    by_run = steps.groupby("run_id", as_index=False)
    found = ours.merge(
        by_run.agg(steps=("step", lambda names: tuple(sorted(set(names)))), step_s=("run_time_s", "sum")), on="run_id"
    )
    per_step_time = found["run_time_s"] / found["step_s"].where(found["step_s"] > 0)
    names = [pick_name(job, steps) for job, steps in zip(found["job_name"], found["steps"], strict=True)]
    return found.assign(pick=names, **{PER_STEP_TIME: per_step_time})


def _by_pick(picked: Frame) -> Frame:
    """The runs under the names of their picks, of the `MOST_PICKS` that ran last."""
    newest = picked.groupby("pick")["created_at"].max().nlargest(MOST_PICKS).index
    return picked[picked["pick"].isin(newest)].assign(job_name=picked["pick"])


def _placed(attempts: Frame, runs: Frame) -> Frame:
    """`attempts`, those of imports that tell no instants of steps from the begin of their run to its end: what they took was
    not known before the run was over.
    """
    of_run = (
        runs.set_index("run_id")[["created_at", "started_at", "ended_at"]].reindex(attempts["run_id"]).set_axis(attempts.index)
    )
    without = attempts["started_at"].isna() & attempts["ended_at"].isna() & attempts["outcome"].isin(["success", "failure"])
    return attempts.assign(
        started_at=attempts["started_at"].mask(without, of_run["started_at"].fillna(of_run["created_at"])),
        ended_at=attempts["ended_at"].mask(without, of_run["ended_at"]),
    )


def _forecast(
    observations: Frame, quantity: str, moment: datetime, partitions: Mapping[str, str], kept: Mapping[str, Switch]
) -> tuple[list[Forecast], dict[tuple[str, str, str], Choice]]:
    floor = COST_FLOOR if quantity == "cost_usd" else FLOOR
    # what ended after the moment is not known yet; it may still be seen as open
    after = observations["finished_at"] >= moment
    observations = observations.assign(
        finished_at=observations["finished_at"].mask(after),
        value=observations["value"].mask(after | observations["finished_at"].isna()),
    )
    observations = observations.assign(
        partition_key=[
            part if job in partitions else None
            for job, part in zip(observations["job_name"], observations["partition_key"], strict=True)
        ]
    )
    ahead = observations[observations["value"].notna()].drop_duplicates(["job_name", "step"])[["job_name", "step"]]
    if ahead.empty:
        return [], {}
    ahead = ahead.sort_values(["job_name", "step"]).assign(
        run_id="", attempt=1, submitted_at=moment, finished_at=pd.NaT, value=float("nan"),
        partition_key=[partitions.get(job) for job in ahead.sort_values(["job_name", "step"])["job_name"]],
    )  # fmt: skip
    known = len(observations)
    together = pd.DataFrame({name: [*observations[name], *ahead[name]] for name in observations})
    together["finished_at"] = pd.to_datetime(together["finished_at"], utc=True).astype("datetime64[ns, UTC]")
    together["submitted_at"] = together["submitted_at"].astype("datetime64[ns, UTC]")
    asked = np.arange(len(together)) >= len(together) - REPLAYED
    if quantity == PEAK:
        asked = np.append(
            newest_runs(observations.rename(columns={"job_name": "workflow"}).assign(retry=0)), np.ones(len(ahead), bool)
        )
    of_key = {
        (job, step): kept.get(called(job, step, quantity)) for job, step in zip(ahead["job_name"], ahead["step"], strict=True)
    }
    answers, choices = predictions_and_choices(
        together, floor, asked, {key: one for key, one in of_key.items() if one is not None}
    )
    table = pd.concat([together, answers], axis=1)
    past, future = table.iloc[:known], table.iloc[known:]
    by_key = dict(tuple(past[(past["value"] >= floor) & (past["count"] > 0)].groupby(["job_name", "step"])))
    ended = past[past["value"].notna()].sort_values("finished_at", kind="stable")
    values = dict(tuple(ended[["job_name", "step", "value", "submitted_at", "partition_key"]].groupby(["job_name", "step"])))
    keys = list(zip(future["job_name"], future["step"], strict=True))
    found = [
        _record(row, by_key.get(key), values.get(key), choices[key], quantity, moment)
        for key, (_, row) in zip(keys, future.iterrows(), strict=True)
    ]
    return found, {(job, step, quantity): choices[job, step] for job, step in keys}


def _record(row: Column, past: Frame | None, ended: Frame | None, choice: Choice, quantity: str, moment: datetime) -> Forecast:
    best, error, best_error = None, None, None
    if past is not None and len(past) >= SCORED_FROM:
        truth = past["value"]
        by_rule = {name: float(((past[name] - truth).abs() / truth).median()) for name in RULES}
        best = min(by_rule, key=lambda name: (by_rule[name], list(RULES).index(name)))
        best_error = by_rule[best]
        error = float(((past["p50"] - truth).abs() / truth).median())
    return Forecast(
        job_name=row["job_name"], step=row["step"], quantity=quantity,
        p05=float(row["p05"]), p50=float(row["p50"]), p95=float(row["p95"]),
        sample_count=int(row["count"]), predictor=str(row["predictor"]), error_share=error, best_rule=best,
        best_rule_error_share=best_error, as_of=moment, basis=_basis(row, ended, choice, moment),
    )  # fmt: skip


def _basis(row: Column, ended: Frame | None, choice: Choice, moment: datetime) -> str | None:
    if ended is None:
        return None
    tags = [tag if isinstance(tag, str) else None for tag in ended["partition_key"]]
    ahead = row["partition_key"] if isinstance(row["partition_key"], str) else None
    found = moved(float(row["p50"]), ended["value"].to_list(), ended["submitted_at"].to_list(), tags, ahead, moment)
    if choice.switches:
        newest = choice.switches[-1]
        apart = {name: choice.losses[name] for name in (newest.after, newest.before) if name in choice.losses}
        found |= {"since": {"at": newest.at, "after": newest.before}, "runs": choice.runs, "apart": apart}
    return text(found) if found else None


def _summary(forecasts: list[Forecast]) -> dict[str, Any]:
    scored = [item for item in forecasts if item.error_share is not None and item.best_rule_error_share is not None]
    served: dict[str, int] = {}
    for item in forecasts:
        served[item.predictor] = served.get(item.predictor, 0) + 1
    count = len(scored)
    return {
        "forecasts": len(forecasts),
        "scored": count,
        "mean_error_share": sum(item.error_share or 0 for item in scored) / count if count else None,
        "mean_best_rule_error_share": sum(item.best_rule_error_share or 0 for item in scored) / count if count else None,
        "served": served,
    }


def _card(known_runs: Frame, known_attempts: Frame, moment: datetime, summary: dict[str, Any]) -> dict[str, Any]:
    first, last = known_runs["created_at"].min(), known_runs["created_at"].max()
    return {
        "as_of": moment.isoformat(),
        "data": {
            "runs": len(known_runs),
            "ended_runs": int(known_runs["outcome"].notna().sum()),
            "attempts": len(known_attempts),
            "first": None if pd.isna(first) else first.isoformat(),
            "last": None if pd.isna(last) else last.isoformat(),
            "left_out": "runs of trials; attempts and runs that did not succeed, for times and cost; canceled ones, for the risk",
        },
        "predictor": DurationPredictor().settings() | {"kept": "nothing: learned again from the history at every training"},
        "rules": list(RULES),
        "risk_of_failure": {
            "posterior": "Beta, with Jeffreys' prior, of discounted outcomes",
            "discounts": list(KEEP),
            "chosen_by": "log loss of one-step-ahead forecasts over the key's own past",
        },
        "served_where": "unless a rule has been nearer; rules are among the experts, weighed by past errors on the key and on all keys",
        "interval": "candidates for either end weighed by their past quantile losses, corrected online; kept where a rule answers",
        "scores": summary,
    }


def publish_table(forecasts: Iterable[Forecast], path: Path) -> None:
    """Writes the forecasts as one JSON file for lookups, replaced in one step: a reader sees the old table or the new one.

    After the index, one line per job in the order of their names, each quantity as [p05, p50, p95, sample count, predictor], the figures to
    six places; the run time of a whole run also with its basis.
    Of a job with so many steps that its line would be longer than a lookup reads, the shortest steps are left out.
    """
    jobs: dict[str, dict[str, dict[str, list[Any]]]] = {}
    as_of: datetime | None = None
    for item in forecasts:
        if item.quantity in _NOT_PUBLISHED:
            continue
        entry: list[Any] = [*(float(f"{end:.6g}") for end in (item.p05, item.p50, item.p95)), item.sample_count, item.predictor]
        if item.basis is not None and (item.step, item.quantity) == ("", "run_time_s"):
            entry.append(json.loads(item.basis))
        jobs.setdefault(item.job_name, {}).setdefault(item.step, {})[item.quantity] = entry
        as_of = max(as_of or item.as_of, item.as_of)
    index: list[tuple[str, int]] = []
    lines: list[str] = []
    place = block = 0
    for name in sorted(jobs):
        lines.append(_job_line(name, jobs[name]))
        if not index or place - block >= BLOCK:
            index.append((name, place))
            block = place
        place += len(lines[-1]) + len(",\n")
    head = {"format": FORMAT, "as_of": as_of.astimezone(UTC).isoformat() if as_of else None, "index": index, "jobs": {}}
    body = ",\n".join(lines) + ("\n" if lines else "")
    _replace(path, f"{json.dumps(head).removesuffix('}}')}\n{body}}}}}\n")


def publish_card(card: Mapping[str, Any], path: Path) -> None:
    """Writes the predictors' card as JSON, replaced in one step."""
    _replace(path, json.dumps(card, indent=1, sort_keys=True, allow_nan=False))


def _job_line(name: str, steps: dict[str, dict[str, list[Any]]]) -> str:
    longest_first = sorted(steps, key=lambda step: (step != "", -steps[step].get("run_time_s", [0, 0])[1], step))
    kept = len(longest_first)
    while True:
        by_step = {step: steps[step] for step in longest_first[:kept]}
        line = f"{json.dumps(name)}: {json.dumps(by_step, allow_nan=False)}"
        size = len(line) + len(",\n")
        if size <= LONGEST_LINE or kept == 0:
            return line
        kept = kept * LONGEST_LINE // size


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
