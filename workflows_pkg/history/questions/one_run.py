"""Questions about one run: what happened when, and which of its steps decided how long it took."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import duckdb
import pandas as pd

from workflows_pkg.errors import NotFound
from workflows_pkg.history.questions.reading import frame
from workflows_pkg.history.records import StepAttempt
from workflows_pkg.history.sealed import rows_of_day

BY_NEEDS, BY_ORDER = "dependencies", "observed order"
"""How a path was found: by what steps wait for, or, where the history does not know that, by which step ended last before."""

_PATH_COLUMNS = (
    "step",
    "step_key",
    "attempts",
    "outcome",
    "begins_s",
    "ends_s",
    "wait_s",
    "run_time_s",
    "retry_wait_s",
    "share",
    "basis",
)


def run_timeline(con: duckdb.DuckDBPyConnection, run_id: str) -> pd.DataFrame:
    """What happened in one run: its attempts in the order they began.

    One row per attempt: `step`, `step_key`, `attempt`, `outcome` (missing: open), `begins_s` and `ends_s` (seconds from the moment the run
    was asked for), `run_time_s`, `retry_wait_s`, `failure_cause`, `error_class`. Raises NotFound for a run that is not in the history.
    """
    created_at, _ = _run(con, run_id)
    attempts = rows_of_day(con, StepAttempt, created_at.date())
    return frame(
        con,
        f"""
        select step, step_key, attempt, outcome, (epoch_us(started_at) - epoch_us($created_at)) / 1e6 as begins_s,
            (epoch_us(ended_at) - epoch_us($created_at)) / 1e6 as ends_s, run_time_s, retry_wait_s, failure_cause, error_class
        from ({attempts}) where run_id = $run_id order by started_at, step_key, attempt
        """,
        {"created_at": created_at, "run_id": run_id},
    )


def critical_path(con: duckdb.DuckDBPyConnection, run_id: str) -> pd.DataFrame:
    """Which steps decided how long one run took: from the step that ended last back to the one that nothing kept waiting.

    One row per step of the path, in order: `step`, `step_key`, `attempts`, `outcome` (of the last; missing: open), `begins_s` and `ends_s`
    (of all its attempts, seconds from the moment the run was asked for), `wait_s` (from the end of the row before, for the first from being
    asked for, to its begin: queue, start of a process, free slots), `run_time_s` and `retry_wait_s` of its attempts, `share` (wait and
    duration as part of the path, 0 to 1), `basis`: `dependencies`, or `observed order` where the history does not know what the steps of
    this job wait for; then each row follows the step that ended last before it began, which may be chance.

    Empty for a run without attempts. Skipped steps are left out. Raises NotFound for a run that is not in the history.
    """
    created_at, snapshot_id = _run(con, run_id)
    attempts = rows_of_day(con, StepAttempt, created_at.date())
    rows = con.execute(
        f"""
        select step_key, any_value(step), count(*), arg_max(struct_pack(o := outcome), attempt),
            (epoch_us(min(started_at)) - epoch_us($created_at)) / 1e6,
            case when count(*) = count(ended_at) then (epoch_us(max(ended_at)) - epoch_us($created_at)) / 1e6 end,
            sum(run_time_s), coalesce(sum(retry_wait_s), 0)
        from ({attempts}) where run_id = $run_id and outcome is distinct from 'skipped'
        group by step_key having min(started_at) is not null
        """,
        {"created_at": created_at, "run_id": run_id},
    ).fetchall()
    done = [
        _Done(key, step, count, last["o"], begins, ends, ran, waited)
        for key, step, count, last, begins, ends, ran, waited in rows
    ]
    needs = {
        step: json.loads(needed)
        for step, needed in con.execute("select step, needs from job_steps where job_snapshot_id = ?", [snapshot_id]).fetchall()
    }
    return _as_frame(_path(done, needs), BY_NEEDS if needs else BY_ORDER)


class _Done(NamedTuple):
    """All attempts of one step key; seconds from the moment the run was asked for. `ends` None: it is not over."""

    step_key: str
    step: str
    attempts: int
    outcome: str | None
    begins: float
    ends: float | None
    run_time_s: float | None
    retry_wait_s: float

    @property
    def until(self) -> float:
        return float("inf") if self.ends is None else self.ends


def _run(con: duckdb.DuckDBPyConnection, run_id: str) -> tuple[datetime, str | None]:
    found = con.execute("select created_at, job_snapshot_id from runs where run_id = ?", [run_id]).fetchall()
    if not found:
        newest = con.execute("select run_id from runs order by created_at desc limit 1000").fetchall()
        raise NotFound("run", run_id, [name for (name,) in newest])
    return found[0]


def _path(done: Sequence[_Done], needs: Mapping[str, Sequence[str]]) -> list[_Done]:
    """The path in order; without `needs` by the observed order."""
    if not done:
        return []
    before = _by_needs(done, needs) if needs else _by_order(done)
    path = [max(done, key=lambda one: (one.until, one.begins, one.step_key))]
    seen = {path[0].step_key}
    while (
        previous := before(path[-1])
    ) is not None and previous.step_key not in seen:  # clocks that disagree must not make a circle
        seen.add(previous.step_key)
        path.append(previous)
    return path[::-1]


def _by_needs(done: Sequence[_Done], needs: Mapping[str, Sequence[str]]) -> Callable[[_Done], _Done | None]:
    by_name: dict[str, list[_Done]] = defaultdict(list)
    for one in done:
        by_name[_name(one.step_key)].append(one)

    def before(one: _Done) -> _Done | None:
        candidates: list[_Done] = []
        for needed in needs.get(_name(one.step_key), ()):
            copies = by_name.get(needed, [])
            # a mapped copy waits for the copy of its own key, what collects them waits for all
            mine = [
                copy
                for copy in copies
                if _mapping_key(one.step_key) and _mapping_key(copy.step_key) == _mapping_key(one.step_key)
            ]
            candidates += mine or copies
        return max(candidates, key=lambda other: (other.until, other.step_key), default=None)

    return before


def _by_order(done: Sequence[_Done]) -> Callable[[_Done], _Done | None]:
    def before(one: _Done) -> _Done | None:
        earlier = [other for other in done if other.until <= one.begins and other is not one]
        return max(earlier, key=lambda other: (other.until, other.step_key), default=None)

    return before


def _name(step_key: str) -> str:
    return re.sub(r"\[.*\]$", "", step_key)


def _mapping_key(step_key: str) -> str:
    return step_key[len(_name(step_key)) :]


def _as_frame(path: Sequence[_Done], basis: str) -> pd.DataFrame:
    whole = path[-1].ends if path else None
    rows: list[tuple[object, ...]] = []
    previous = 0.0
    for one in path:
        share = (one.ends - previous) / whole if one.ends is not None and whole else None
        rows.append((
            one.step, one.step_key, one.attempts, one.outcome, one.begins, one.ends, one.begins - previous, one.run_time_s,
            one.retry_wait_s, share, basis,
        ))  # fmt: skip
        previous = one.until
    return pd.DataFrame(rows, columns=list(_PATH_COLUMNS))
