"""Which attempts does a recorded trace hold, and what was known of each before it ran?

A trace is a Parquet or CSV file with one row per attempt, job or build, or a history. Only what was known at submission can describe
the row that is predicted: every column is either known as such, known to be an outcome, or of no known meaning and numeric or a word of
a file whose target says what it is about. Outcomes such as bytes really read are never features, neither ours nor a baseline's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.errors import SetupError, bounded, suggestion
from workflows_pkg.prediction.evaluation.machines import beside
from workflows_pkg.prediction.rows import Connection, Frame, attempts, instants, numbers

SUFFIXES = (".parquet", ".csv")

OUTCOMES = frozenset(
    {
        "duration_s", "wall_s", "wait_s", "started_at", "ended_at", "finished_at", "peak_memory_bytes", "rss_bytes", "cpu_pct", "cpu_s",
        "input_bytes_rchar", "rchar", "wchar", "read_bytes", "written_bytes", "output_bytes", "status", "status_code", "exit_code",
        "error_action", "error_class", "error_message", "failure_cause", "outcome", "failed", "memory_adapted", "runtime",
        "gross_runtime", "memory.max_usage_in_bytes", "cost_usd", "run_time_s", "peak_memory_mib",
    }
)  # fmt: skip
"""Columns known only once an attempt has ended, or, as `memory_adapted`, decided by somebody else's forecast of it."""

_OUTCOME_LIKE = re.compile(
    r"(^|_)([rw]char|syscr|syscw|vmem|rss|vol_ctxt|inv_ctxt)|cpu_pct|realtime|peak_|max_usage|(^|_)output_bytes", re.I
)
"""Names that the same counters have elsewhere: in Linux' `/proc/PID/io` and `status`, and in Nextflow's trace reports."""

AFTER_PLACEMENT = ("machine", "machine_cores", "machine_mhz")
"""Known when an attempt has been placed, so not a feature of one that is submitted; finished attempts may be told apart by it."""

_SIZES = (
    "input_size",
    "input_bytes_uncompressed",
    "input_bytes",
    "workflow_input_bytes_uncompressed",
    "workflow_input_bytes",
    "data_size_MB",
)
"""Sizes known before, the closest to what the attempt itself reads first."""

_IDENTITY = frozenset(
    {
        "trace", "workflow", "strategy", "phase", "run_id", "step", "step_full", "tag", "step_instance", "order_in_run", "file_order",
        "attempt", "submitted_at", "run_started_at", "parents", "engine", "program", "label", "source_file", "row_order", "project",
        "container", "memory_requested_bytes",
    }
)  # fmt: skip
"""Columns that say which attempt a row is; no features."""

_NUMBERED_NAMES = ("user", "group", "app", "queue")
"""Names written as numbers: their order says nothing."""
_TARGETS = ("duration_s", "runtime", "gross_runtime")
_PEAKS = ("peak_memory_bytes", "memory.max_usage_in_bytes")
_AT_HAND = "local"
"""The machine on which somebody learns what other machines will take."""
_MOST_WORDS = 1000
"""Different words from which a column of text names rows rather than describes them."""
_OUTCOME_AFTER_S = 3600.0
"""Seconds after which an outcome is known where a trace holds no durations; a convention of the protocol."""

ROW_COLUMNS = (
    "workflow", "step", "run_id", "tag", "kind", "size", "memory_requested_bytes", "retry",
    "submitted_s", "finished_s", "value", "peak_memory_bytes", "failed", "machine_factor", "machine_spread",
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """One recorded history. `rows`: one per attempt in order of submission, columns `ROW_COLUMNS`, index 0, 1, 2, …

    `submitted_s` and `finished_s`: seconds since 1970, or places in the order of the runs or rows where `clock` says so; `finished_s` is
    missing while an attempt is open. `value`: run time of a successful attempt in seconds. `failed`: 1, 0 or missing. `machine_factor` and
    `machine_spread`: as in `Submitted`; 1 and 0 but where benchmarks lie beside the trace and rows are labelled train-… and test, since
    only there the machine is part of the question. `figures` and
    `words`: what else was known before, one row per row. `least_s`: the shortest time scored. `refused`: columns that are outcomes.
    """

    name: str
    rows: Frame
    figures: Frame
    words: Frame
    clock: str
    least_s: float
    refused: tuple[str, ...] = ()
    size_from: str | None = None


def load(paths: Sequence[Path], size: str | None = None) -> Iterator[Trace]:
    """The traces of files and folders, in the order of their names; what a folder holds besides traces is passed over.

    `size` names the column that holds the size of an attempt's input. Raises `SetupError` for a file that cannot be read or is no trace,
    where a folder holds none, and where `size` names an outcome.
    """
    if size is not None and is_outcome(size):
        raise SetupError(
            f"'{bounded(size)}' is known only once an attempt has ended; it cannot describe one that is predicted.",
            fix="Name a column that is known at submission.",
        )
    for path in paths:
        if not path.is_dir():
            yield from read_trace(path, size)
            continue
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        traces = [file for file in files if _looks_like_a_trace(file)]
        if not traces:
            raise SetupError(f"{path}: expected traces ({' or '.join(SUFFIXES)}), found none among {len(files)} such files.")
        for file in traces:
            yield from read_trace(file, size)


def read_trace(path: Path, size: str | None = None) -> Iterator[Trace]:
    """The traces of one file: one per workflow or project where it holds several. Raises `SetupError` as `load` does."""
    table = _read(path)
    if table.empty:
        raise SetupError(f"{path}: expected one row per attempt, found none.")
    if not any(name in table for name in (*_TARGETS, *_PEAKS, "failed")):
        names = [str(name) for name in table.columns]
        near = next((text for name in names if (text := suggestion(name, (*_TARGETS, *_PEAKS, "failed")))), "")
        raise SetupError(
            f"{path}: expected an outcome column ({', '.join((*_TARGETS, *_PEAKS, 'failed'))}), found {bounded(', '.join(names), 120)}.",
            fix=near,
        )
    if size is not None and size not in table:
        raise SetupError(f"{path}: there is no column '{bounded(size)}'.", fix=suggestion(size, map(str, table.columns)))
    apart = next((name for name in ("workflow", "project") if name in table and table[name].nunique() > 1), None)
    name = f"{path.parent.name}/{path.stem}"
    if apart is None:
        for label, rows in _by_label(table):
            yield _trace(name + label, rows, path, size)
        return
    for value, part in table.groupby(apart, sort=True):
        for label, rows in _by_label(part.reset_index(drop=True)):
            yield _trace(f"{path.parent.name}/{value}{label}", rows, path, size)


def of_history(con: Connection, name: str = "history") -> Trace:
    """The step attempts of a history as a trace; trials are left out. Raises `SetupError` where it holds none."""
    found = attempts(con)
    found = found[(found["outcome"] != "skipped") & found["started_at"].notna()]
    if found.empty:
        raise SetupError(f"{name}: there is no attempt in this history.", fix="Run something and sync: workflows history sync")
    waits = numbers(found["queue_time_s"]).fillna(0) + numbers(found["start_time_s"]).fillna(0)
    table = pd.DataFrame(
        {
            "workflow": found["job_name"],
            "step": found["step"],
            "run_id": found["run_id"],
            "tag": found["partition_key"],
            "step_instance": found["step_key"],
            "submitted_at": found["started_at"] - pd.to_timedelta(waits.clip(lower=0), unit="s"),
            "ended_at": found["ended_at"],
            "duration_s": numbers(found["run_time_s"]),
            "peak_memory_bytes": numbers(found["peak_memory_mib"]) * 2**20,
            "status": found["outcome"].map({"success": "COMPLETED", "failure": "FAILED"}).fillna("ABORTED"),
        }
    ).reset_index(drop=True)
    return _trace(name, table, Path(name), None)


def is_outcome(column: str) -> bool:
    """Whether a column is known only once an attempt has ended.

    >>> [is_outcome(name) for name in ("input_bytes_rchar", "rchar", "peak_rss", "input_size")]
    [True, True, True, False]
    """
    return column in OUTCOMES or bool(_OUTCOME_LIKE.search(column))


def _read(path: Path) -> Frame:
    if path.suffix not in SUFFIXES:
        raise SetupError(f"{path}: expected a trace ({' or '.join(SUFFIXES)}), found '{bounded(path.suffix or path.name)}'.")
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError as problem:
        raise SetupError(f"{path}: there is no such file.") from problem
    except (OSError, ValueError, pd.errors.ParserError) as problem:  # pyarrow's errors are ValueErrors and OSErrors
        raise SetupError(
            f"{path}: expected a table as {path.suffix[1:]}, found {type(problem).__name__}: {bounded(problem, 120)}."
        ) from problem


def _looks_like_a_trace(path: Path) -> bool:
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import read_schema

            names = set(read_schema(path).names)
        else:
            names = set(pd.read_csv(path, nrows=0).columns)
    except (OSError, ValueError):
        return False
    return bool(names & {*_TARGETS, *_PEAKS, "failed"})


def _trace(name: str, table: Frame, path: Path, size: str | None) -> Trace:
    rows: Frame = pd.DataFrame(index=table.index)
    rows["workflow"] = _text(table, ("workflow", "project", "job"), path.stem)
    rows["step"] = _text(table, ("step",) if _numbered(table) else ("step_full", "step"), "")
    rows["kind"] = _text(table, ("program", "step"), None) if "step" in table else None
    rows["run_id"] = _text(table, ("run_id",), "run")
    tags = _text(table, ("tag",), None)
    rows["tag"] = tags.where(~tags.isin(["-", "", "nan"]), None)
    chosen = size or next((column for column in _SIZES if column in table and table[column].notna().any()), None)
    rows["size"] = numbers(table[chosen]) if chosen else np.nan
    for column in ("memory_requested_bytes",):
        rows[column] = numbers(table[column]) if column in table else np.nan
    target = next((column for column in _TARGETS if column in table), None)
    took = numbers(table[target]) if target else pd.Series(np.nan, index=table.index)
    peak = next((column for column in _PEAKS if column in table), None)
    rows["peak_memory_bytes"] = numbers(table[peak]) if peak else np.nan
    rows["failed"] = _failed(table)
    rows["machine_factor"], rows["machine_spread"] = _machines(rows, table, path)
    rows["value"] = took.where(rows["failed"] == 0)
    rows["run_time_s"] = took
    clock = _times(rows, table, took, target is not None)
    figures, words, refused = _described(table, chosen)
    order = rows.sort_values("submitted_s", kind="stable").index
    rows, figures, words = (frame.loc[order].reset_index(drop=True) for frame in (rows, figures, words))
    rows["retry"] = _retries(rows, table.loc[order].reset_index(drop=True))
    whole = bool((took.dropna() % 1 == 0).mean() > 0.9) if took.notna().any() else True
    return Trace(name, rows, figures, words, clock, 1.0 if whole else 0.1, refused, chosen)


def _by_label(table: Frame) -> Iterator[tuple[str, Frame]]:
    """Where rows are labelled train-… and test: each train label with the test rows, learned on the machine at hand where one is."""
    labels = table["label"].astype(str) if "label" in table else pd.Series("", index=table.index)
    names = sorted(name for name in labels.unique() if name.startswith("train"))
    if not names:
        yield "", table
    for name in names:
        learned = labels == name
        if "machine" in table and (table["machine"] == _AT_HAND).any():
            learned &= table["machine"] == _AT_HAND
        yield f"/{name}", table[learned | (labels == "test")].reset_index(drop=True)


def _machines(rows: Frame, table: Frame, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Factor and spread of every row."""
    ones, zeros = np.ones(len(rows)), np.zeros(len(rows))
    if "machine" not in table or "label" not in table or not (table["machine"] == _AT_HAND).any():
        return ones, zeros
    known = beside(path, _AT_HAND)
    if known is None:
        return ones, zeros
    found = [known.factor(*row) for row in zip(rows["workflow"], rows["step"], table["machine"].astype(str), strict=True)]
    return np.array([factor for factor, _ in found]), np.array([spread for _, spread in found])


def _numbered(table: Frame) -> bool:
    """Whether the long name of a step names one instance of it rather than its path: each occurs once in a run, and there are many."""
    if not {"run_id", "step", "step_full"} <= set(table.columns):
        return False
    once = table.groupby(["run_id", "step_full"]).size().max() == 1
    return bool(once) and table["step_full"].nunique() > 3 * table["step"].nunique()


def _text(table: Frame, names: Iterable[str], default: str | None) -> Frame:
    for name in names:
        if name in table and table[name].notna().any():
            column = table[name]
            return column.astype(str).where(column.notna(), default)
    return pd.Series(default, index=table.index, dtype=object)


def _failed(table: Frame) -> Frame:
    if "failed" in table:
        return numbers(table["failed"])
    if "status" not in table:
        return pd.Series(0.0, index=table.index)
    status = table["status"].astype(str).str.upper()
    good, bad = status.isin(["COMPLETED", "SUCCESS", "SUCCEEDED", "CACHED"]), status.isin(["FAILED", "FAILURE", "ERROR"])
    return pd.Series(np.where(good, 0.0, np.where(bad, 1.0, np.nan)), index=table.index)


def _times(rows: Frame, table: Frame, took: Frame, timed: bool) -> str:
    """Adds `submitted_s` and `finished_s`; what they count."""
    if "submitted_at" in table:
        submitted = _seconds(table["submitted_at"])
        rows["submitted_s"] = submitted
        if not timed:
            rows["finished_s"] = submitted + _OUTCOME_AFTER_S
            return "times"
        # the two instants may come from different clocks: nothing ends before it can have run
        ended = _seconds(table["ended_at"]) if "ended_at" in table else submitted + took
        earliest = submitted + took.fillna(0).clip(lower=0)
        rows["finished_s"] = np.fmax(ended, earliest).where(ended.notna())
        return "times"
    if "run_started_at" in table:
        began = pd.to_datetime(table["run_started_at"], utc=True, format="mixed")
        place = began.rank(method="dense").astype(float)
        rows["submitted_s"], rows["finished_s"] = place, place + 0.5
        return "runs"
    if "label" in table and table["label"].astype(str).str.startswith("train").any():
        place = (~table["label"].astype(str).str.startswith("train")).astype(float)
        rows["submitted_s"], rows["finished_s"] = place, place + 0.5
        return "runs"
    rows["submitted_s"] = np.arange(len(table), dtype=float)
    rows["finished_s"] = rows["submitted_s"] + 0.5
    return "rows"


def _seconds(column: Frame) -> Frame:
    found = instants(column)
    return (found.astype("int64") / 1e9).where(found.notna())


def _described(table: Frame, size: str | None) -> tuple[Frame, Frame, tuple[str, ...]]:
    """Everything else known at submission: figures and words by column, and the names of the outcomes that were left out."""
    figures: dict[str, Frame] = {}
    words: dict[str, Frame] = {}
    refused: list[str] = []
    for name in map(str, table.columns):
        column = table[name]
        if is_outcome(name):
            refused.append(name)
        elif name in _IDENTITY or name in AFTER_PLACEMENT or name == size or column.nunique() < 2:
            continue
        elif name not in _NUMBERED_NAMES and pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            figures[name] = numbers(column)
        elif column.astype(str).nunique() <= _MOST_WORDS:
            words[name] = column.astype(str)
    if "parents" in table and "run_id" in table and "step" in table:
        # how wide a run fans out is written in its graph
        figures["siblings"] = table.groupby(["run_id", "step"])["step"].transform("size").astype(float)
        figures["steps_in_run"] = table.groupby("run_id")["step"].transform("size").astype(float)
    return pd.DataFrame(figures, index=table.index), pd.DataFrame(words, index=table.index), tuple(sorted(refused))


def _retries(rows: Frame, table: Frame) -> Frame:
    """Failed attempts of the same step, tag and run that had ended before each was submitted."""
    found = np.zeros(len(rows), dtype=int)
    failing = rows["failed"] == 1
    if not failing.any() or "tag" not in table:
        return pd.Series(found, index=rows.index)
    names = ["run_id", "step", "tag"]
    troubled = rows.loc[failing, names].drop_duplicates()
    alike = rows.reset_index().merge(troubled, on=names)
    for _, group in alike.groupby(names, dropna=False):
        ends = np.sort(group.loc[group["failed"] == 1, "finished_s"].to_numpy(float))
        found[group["index"].to_numpy()] = np.searchsorted(ends, group["submitted_s"].to_numpy(float), side="left")
    return pd.Series(found, index=rows.index)
