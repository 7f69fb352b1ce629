"""Which attempts are replayed to judge predictors that answer live, and what is asked about the next ones?

A history of any length costs about the same: every attempt is learned from, but only those of the newest runs of each key are asked about.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.rows import Frame, instants, numbers

RUNS_OF_KEY = 400
"""Newest runs of a key that are asked about: four times those that are compared, so that a choice has a past."""
OF_RUN = 3
"""Attempts of a key in one run that are asked about, where it has more: those of one run count as one, and tell much the same."""
NEWEST = 8_000
"""The newest attempts of all keys that are asked about: 1.2 s for the slowest predictor on one core. Where there are more, each key has
fewer of them, one of a run."""
LEAST_RUNS = 130
"""Newest runs of a key that are asked about however many keys there are: those compared, and three looks."""
MOST = 100_000
"""Attempts of all keys that are asked about at most, some 800 keys; 15 s for the slowest predictor on one core."""


@dataclass(frozen=True)
class Replayed:
    """Past attempts as a trace, with one question per key at the end.

    `rows`: the frame that the trace was made from, in its order. `asked`: which rows of the trace are asked about.
    `ahead`: place in the trace of the question of each key, (job, step, retry).
    """

    trace: Trace
    rows: Frame
    asked: np.ndarray
    ahead: dict[tuple[str, str, int], int]


def replayed(attempts: Frame, moment: datetime, partitions: Mapping[str, str], retries: bool = False) -> Replayed:
    """Attempts up to `moment`, and a question about the next of each key that has an outcome; retries have keys of their own if asked.

    `attempts` has `job_name`, `step`, `run_id`, `outcome`, `submitted_at`, `ended_at`, and where they are known `run_time_s`,
    `peak_memory_mib`, `memory_limit_mib`, `partition_key` and `retry`. What ended after the moment is not known yet. Partitions are looked
    at only of jobs whose next one is in `partitions`: the others' next attempts are forecast without, and so are those replayed.
    """
    rows = attempts.sort_values(["submitted_at", "run_id", "step"], kind="stable").reset_index(drop=True)
    known = rows["ended_at"].notna() & (instants(rows["ended_at"]) < moment)
    failed = rows["outcome"].map({"success": 0.0, "failure": 1.0}).astype(float).where(known)
    retry = rows["retry"].astype(int) if retries else pd.Series(0, index=rows.index)
    table: Frame = pd.DataFrame(
        {
            "workflow": rows["job_name"],
            "step": rows["step"],
            "run_id": rows["run_id"],
            "tag": _tags(rows, partitions),
            "kind": None,
            "size": np.nan,
            "memory_requested_bytes": _figures(rows, "memory_limit_mib") * 2**20,
            "peak_memory_bytes": (_figures(rows, "peak_memory_mib") * 2**20).where(known),
            "submitted_s": _seconds(rows["submitted_at"]),
            "finished_s": _seconds(rows["ended_at"]).where(known),
            "run_time_s": _figures(rows, "run_time_s").where(known),
            "failed": failed,
            "retry": retry,
        }
    )
    table["value"] = table["run_time_s"].where(failed == 0)
    newest = table[failed.notna()].drop_duplicates(["workflow", "step", "retry"], keep="last")
    newest = newest.sort_values(["workflow", "step", "retry"])
    ahead = newest.assign(
        run_id="", tag=[partitions.get(str(job)) for job in newest["workflow"]], finished_s=np.nan, failed=np.nan, value=np.nan,
        peak_memory_bytes=np.nan, run_time_s=np.nan,
    )  # fmt: skip
    # the moment is after every attempt, but a clock that went wrong must not have the question come first
    ahead["submitted_s"] = max(moment.timestamp(), table["submitted_s"].max()) if len(table) else moment.timestamp()
    together: Frame = pd.concat([table, ahead], ignore_index=True) if len(ahead) else table
    asked = newest_runs(table)
    keys = zip(ahead["workflow"], ahead["step"], ahead["retry"], strict=True)
    places = {(str(job), str(step), int(retry)): len(table) + number for number, (job, step, retry) in enumerate(keys)}
    nothing: Frame = pd.DataFrame(index=together.index)
    trace = Trace("history", together, nothing, nothing, "times", 0.0)
    return Replayed(trace, rows, np.append(asked, np.ones(len(ahead), bool)), places)


def newest_runs(table: Frame) -> np.ndarray:
    """Which rows are asked about: of each key (`workflow`, `step`, `retry`) those of its newest runs, in order of submission.

    Of the attempts of one run those at equal distances are taken, from a place that only its id decides: what is asked about a run is the
    same at every training, and no place in a fan-out is preferred.
    """
    if table.empty:
        return np.zeros(0, bool)
    key: Frame = table.groupby(["workflow", "step", "retry"], sort=False).ngroup()
    pairs = pd.DataFrame({"key": key.to_numpy(), "run": table["run_id"].to_numpy()})
    of_run = pairs.groupby(["key", "run"], sort=False)
    place, size = of_run.cumcount().to_numpy(), of_run["run"].transform("size").to_numpy()
    number = (place == 0).astype(int)
    number = pd.Series(number).groupby(pairs["key"]).cumsum().to_numpy()
    # rows of runs that were asked for at one instant may lie between each other
    number = pd.Series(number).groupby([pairs["key"], pairs["run"]]).transform("first").to_numpy()
    age = pd.Series(number).groupby(pairs["key"]).transform("max").to_numpy() - number
    codes, runs = pd.factorize(pairs["run"])
    first = np.array([zlib.crc32(str(run).encode()) for run in runs], dtype=np.int64)[codes] % size
    away = (place - first) % size
    one = away == 0
    found = (age < RUNS_OF_KEY) & np.logical_or.reduce([away == size * part // OF_RUN for part in range(OF_RUN)])
    if found.sum() > NEWEST:
        found &= one
    if found.sum() > NEWEST:
        found &= age < max(LEAST_RUNS, int(np.sort(age[found])[NEWEST]))
    if found.sum() > MOST:
        found[np.flatnonzero(found)[:-MOST]] = False
    return found


def by_key(shown: Replayed, scored: np.ndarray) -> dict[tuple[str, str, int], tuple[np.ndarray, int]]:
    """The rows marked in `scored` of each key, and how many runs of the key had an outcome before them."""
    table = shown.trace.rows
    closed = table["failed"].notna().to_numpy()
    found: dict[tuple[str, str, int], tuple[np.ndarray, int]] = {}
    for (job, step, retry), places in table.groupby(["workflow", "step", "retry"], sort=True).indices.items():
        kept = places[scored[places]]
        if len(kept):
            before = places[(places < kept[0]) & closed[places]]
            found[str(job), str(step), int(retry)] = kept, int(table["run_id"].iloc[before].nunique())
    return found


def _tags(rows: Frame, partitions: Mapping[str, str]) -> Frame:
    found: list[str | None] = [None] * len(rows)
    if partitions and "partition_key" in rows:
        found = [
            part if job in partitions and isinstance(part, str) and part else None
            for job, part in zip(rows["job_name"], rows["partition_key"], strict=True)
        ]
    return pd.Series(found, index=rows.index, dtype=object)


def _figures(rows: Frame, name: str) -> Frame:
    return numbers(rows[name]) if name in rows else pd.Series(np.nan, index=rows.index)


def _seconds(column: Frame) -> Frame:
    found = instants(column)
    return (found.astype("int64") / 1e9).where(found.notna())
