"""What was known about an attempt or run at the moment it was submitted?

Every feature rests on observations that had finished strictly before that moment, on what was open then, and on what
the submission itself says (partition, hour, attempt). Rows submitted at one instant do not see each other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from workflows_pkg.prediction import rules
from workflows_pkg.prediction.rows import Frame, numbers
from workflows_pkg.prediction.rules import RULES, Past

FLOOR = 1e-3
"""Seconds below which two run times are not told apart: clocks and process start-up are no finer. Logarithms start here."""

COST_FLOOR = 1e-9
"""The same for USD: about a tenth of a millisecond of one slot."""

RULE_PREFIX = "rule_"
MODEL_FEATURES = (
    "last_ratio", "mean_of_2_ratio", "mean_of_10_ratio", "median_ratio", "median_of_10_ratio", "partition_count",
    "weekday_ratio", "weekday_count", "count_log", "spread", "level", "hour", "weekday", "partition_weekday", "partition_month",
    "attempt", "open_log", "open_same_log", "run_drift", "run_drift_count", "recent_drift",
)  # fmt: skip
"""What the learned predictor sees. Ratios are logarithms over the median of the key's same partition, or of the key where the
partition is new (`level` is that median's logarithm), so that keys of any size share one scale."""

_RECENT = 20
"""Newest attempts, of any key, whose common deviation tells that everything is slow or fast just now."""


@dataclass
class _Key:
    past: Past = field(default_factory=Past)
    by_weekday: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    open: int = 0


def feature_table(observations: Frame, floor: float = FLOOR) -> Frame:
    """One row per observation, on the same index: simple rules, their interval, and the features of the learned predictor.

    Columns: `count` (finished values of the key then known), `rule_<name>`, `rule_p05`, `rule_p95`, then `MODEL_FEATURES`.
    All but `count` and the facts of the submission are missing where the key has no history: a cold row.
    """
    keys = [f"{job}\0{step}" for job, step in zip(observations["job_name"], observations["step"], strict=True)]
    partitions = [text if isinstance(text, str) and text else None for text in observations["partition_key"]]
    days = [_day(text) for text in partitions]
    submitted = observations["submitted_at"]
    hours = (submitted.dt.hour + submitted.dt.minute / 60).to_list()
    weekdays = submitted.dt.day_of_week.to_list()
    tries = numbers(observations["attempt"]).fillna(1).to_list()
    values = observations["value"].to_list()
    runs = observations["run_id"].to_list()

    known: dict[str, _Key] = {}
    drift_of_run: dict[object, list[float]] = {}
    recent: deque[float] = deque(maxlen=_RECENT)
    base: dict[int, float] = {}
    open_count = 0
    rows: list[dict[str, float] | None] = [None] * len(observations)
    for row, finishes in timeline(observations):
        key = known.setdefault(keys[row], _Key())
        group = _group(days[row], weekdays[row])
        if finishes:
            open_count -= 1
            key.open -= 1
            if math.isnan(values[row]):
                continue
            key.past.add(values[row], partitions[row])
            key.by_weekday.setdefault(group, []).append(values[row])
            if row in base:
                deviation = max(-1.0, min(1.0, math.log(max(values[row], floor)) - base[row]))
                drift_of_run.setdefault(runs[row], []).append(deviation)
                recent.append(deviation)
            continue
        found = _facts(hours[row], weekdays[row], days[row], tries[row], open_count, key.open)
        found["count"] = len(key.past.values)
        if key.past.values:
            found |= _from_past(key, partitions[row], group, floor)
            base[row] = found["level"]
            in_run = drift_of_run.get(runs[row], [])
            found["run_drift"] = sum(in_run) / (len(in_run) + 1)
            found["run_drift_count"] = len(in_run)
            found["recent_drift"] = sum(recent) / (len(recent) + 2)
        rows[row] = found
        open_count += 1
        key.open += 1
    columns = ["count", *(RULE_PREFIX + name for name in RULES), "rule_p05", "rule_p95", *MODEL_FEATURES]
    return pd.DataFrame(rows, index=observations.index, columns=columns, dtype=float)


def timeline(observations: Frame) -> Iterator[tuple[int, bool]]:
    """Row positions with False at their submission and True at their finish, in order of time.

    At one instant all submissions come before any finish, so a row never sees what ends with its own submission. Rows
    that never finish have no second entry.
    """
    submitted = observations["submitted_at"].astype("int64").to_numpy()
    ends = observations["finished_at"]
    closed = np.flatnonzero(ends.notna().to_numpy())
    finished = np.maximum(ends.iloc[closed].astype("int64").to_numpy(), submitted[closed])
    times = np.concatenate([submitted, finished])
    kinds = np.concatenate([np.zeros(len(submitted), bool), np.ones(len(closed), bool)])
    where = np.concatenate([np.arange(len(submitted)), closed])
    for place in np.lexsort((where, kinds, times)):
        yield int(where[place]), bool(kinds[place])


def _facts(hour: float, weekday: int, day: date | None, attempt: float, open_count: int, open_same: int) -> dict[str, float]:
    return {
        "hour": hour,
        "weekday": weekday,
        "partition_weekday": day.weekday() if day else math.nan,
        "partition_month": day.month if day else math.nan,
        "attempt": attempt,
        "open_log": math.log1p(open_count),
        "open_same_log": math.log1p(open_same),
    }


def _from_past(key: _Key, partition: str | None, group: int, floor: float) -> dict[str, float]:
    past = key.past
    by_rule = {name: rule(past, partition) for name, rule in RULES.items()}
    found = {RULE_PREFIX + name: value for name, value in by_rule.items()}
    bounds = rules.interval(past)
    if bounds is not None:
        found["rule_p05"], found["rule_p95"] = bounds
    level = math.log(max(by_rule["median_of_partition"], floor))
    for name in ("last", "mean_of_2", "mean_of_10", "median", "median_of_10"):
        found[name + "_ratio"] = math.log(max(by_rule[name], floor)) - level
    found["partition_count"] = len(past.by_partition.get(partition, [])) if partition is not None else 0
    alike = key.by_weekday.get(group, [])[-_RECENT:]
    found["weekday_count"] = len(alike)
    if alike:
        found["weekday_ratio"] = math.log(max(rules.quantile(sorted(alike), 0.5), floor)) - level
    low, high = rules.quantile(past.ordered, 0.25), rules.quantile(past.ordered, 0.75)
    found["spread"] = math.log(max(high, floor)) - math.log(max(low, floor))
    found["count_log"] = math.log(len(past.values))
    found["level"] = level
    return found


def _day(partition: str | None) -> date | None:
    """The day a partition is named for; None where its key is no date. Several keys (`a|b`) are not dates."""
    if partition is None or len(partition) < 10 or not partition[:4].isdigit():
        return None
    try:
        return date.fromisoformat(partition[:10])
    except ValueError:
        return None


def _group(day: date | None, weekday: int) -> int:
    return day.weekday() if day else weekday
