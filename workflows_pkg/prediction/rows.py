"""Which rows of the history does prediction read, and how does one quantity become a series of observations?"""

from __future__ import annotations

from typing import Any, Protocol

import pandas as pd

Frame = Any
"""A pandas DataFrame. `Any`, because pandas types a column as a union of all it could be, which no operation takes."""

Column = Any
"""A pandas Series; `Any` for the same reason."""


class Connection(Protocol):
    """What prediction and advice need of a database connection: SQL in, a DataFrame out. A DuckDB connection is one."""

    def execute(self, query: str, parameters: Any = ...) -> Any: ...


ATTEMPTS_SQL = "select * from step_attempts where trial_id is null order by started_at, run_id, step_key, attempt"
RUNS_SQL = "select * from runs where trial_id is null order by created_at, run_id"
"""Trial runs are left out: their versions are experiments, and they would teach what is not in force."""
LIMITS_SQL = "select job_snapshot_id, step as path, memory_limit_mib from job_steps where memory_limit_mib is not null"
_MAPPING_KEY = r"\[.*\]$"

_INSTANTS = ("created_at", "started_at", "ended_at", "submitted_at")
OBSERVATION_COLUMNS = (
    "job_name", "step", "run_id", "partition_key", "attempt", "submitted_at", "finished_at", "value",
)  # fmt: skip


def attempts(con: Connection) -> Frame:
    """Every step attempt outside trials, one row per attempt, with the columns of `StepAttempt`; instants in UTC."""
    return in_utc(con.execute(ATTEMPTS_SQL).df())


def runs(con: Connection) -> Frame:
    """Every run outside trials, one row per run, with the columns of `Run`; instants in UTC."""
    return in_utc(con.execute(RUNS_SQL).df())


def memory_limits(con: Connection, attempts: Frame, runs: Frame) -> Column:
    """The memory in MiB that each attempt's step was allowed then, by the structure of its job; missing where none is stated."""
    stated = con.execute(LIMITS_SQL).df()
    if stated.empty or attempts.empty:
        return pd.Series(float("nan"), index=attempts.index)
    structure = runs.drop_duplicates("run_id").set_index("run_id")["job_snapshot_id"]
    asked: Frame = pd.DataFrame(
        {
            "job_snapshot_id": structure.reindex(attempts["run_id"]).to_numpy(),
            "path": attempts["step_key"].str.replace(_MAPPING_KEY, "", regex=True).to_numpy(),
        }
    )
    return asked.merge(stated, how="left", on=["job_snapshot_id", "path"])["memory_limit_mib"].set_axis(attempts.index)


def in_utc(frame: Frame) -> Frame:
    """`frame` with its instants as UTC to the nanosecond, whatever zone and precision the database session used."""
    return frame.assign(**{name: instants(frame[name]) for name in _INSTANTS if name in frame})


def instants(column: Column) -> Column:
    """`column` as UTC instants to the nanosecond; what is missing stays so."""
    converted: Column = pd.to_datetime(column, utc=True)
    return converted.astype("datetime64[ns, UTC]")


def numbers(column: Column) -> Column:
    """`column` as floating-point figures; what is no number is missing."""
    converted: Column = pd.to_numeric(column, errors="coerce")
    return converted.astype(float)


def attempt_observations(attempts: Frame, quantity: str = "run_time_s") -> Frame:
    """One observation per attempt that began, in order of submission; columns `OBSERVATION_COLUMNS`, index 0, 1, 2, …

    `submitted_at` is taken where `attempts` has it, else it is the start less the time spent in the queue and in
    starting a process. `value` is the quantity of a successful attempt and missing for every other: how long a failed
    attempt took says little about how long a good one will. `finished_at` is the later of the recorded end and
    submission plus run time, since the two instants may come from different clocks; missing while the attempt is open.
    """
    if attempts.empty:
        return _observations(attempts.assign(submitted_at=pd.NaT, finished_at=pd.NaT, value=float("nan")))
    frame = in_utc(attempts)
    frame = frame[(frame["outcome"] != "skipped") & frame["started_at"].notna()]
    if "submitted_at" not in frame:
        before = _figures(frame, "queue_time_s").fillna(0) + _figures(frame, "start_time_s").fillna(0)
        frame = frame.assign(submitted_at=frame["started_at"] - pd.to_timedelta(before.clip(lower=0), unit="s"))
    ran = pd.to_timedelta(_figures(frame, "run_time_s").fillna(0).clip(lower=0), unit="s")
    earliest_end = frame["submitted_at"] + ran
    ended = frame["ended_at"].where(frame["ended_at"].isna() | (frame["ended_at"] > earliest_end), earliest_end)
    value = _figures(frame, quantity).where(frame["outcome"] == "success")
    return _observations(frame.assign(finished_at=ended, value=value))


def run_observations(runs: Frame, quantity: str) -> Frame:
    """One observation per run, submitted when it was asked for; columns `OBSERVATION_COLUMNS` with an empty `step`.

    Queue and start time count for every run that has them, since they are over before the outcome is decided; run time
    and cost count for successful runs only.
    """
    if runs.empty:
        return _observations(runs.assign(step="", attempt=1, submitted_at=pd.NaT, finished_at=pd.NaT, value=float("nan")))
    frame = in_utc(runs)
    value = _figures(frame, quantity)
    if quantity not in ("queue_time_s", "start_time_s"):
        value = value.where(frame["outcome"] == "success")
    return _observations(
        frame.assign(step="", attempt=1, submitted_at=frame["created_at"], finished_at=frame["ended_at"], value=value)
    )


def _figures(frame: Frame, name: str) -> Column:
    return numbers(frame[name]) if name in frame else pd.Series(float("nan"), index=frame.index)


def _observations(frame: Frame) -> Frame:
    kept: Frame = pd.DataFrame({name: frame.get(name) for name in OBSERVATION_COLUMNS}, columns=list(OBSERVATION_COLUMNS))
    kept = kept.assign(
        submitted_at=instants(kept["submitted_at"]), finished_at=instants(kept["finished_at"]), value=numbers(kept["value"])
    )
    return kept.sort_values(["submitted_at", "run_id", "step", "attempt"], kind="stable").reset_index(drop=True)
