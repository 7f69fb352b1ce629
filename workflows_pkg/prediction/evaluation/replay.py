"""What would a predictor have said at each submission, shown only what had finished strictly before?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.predictor import Finished, Predictor, Submitted
from workflows_pkg.prediction.rows import Frame

Progress = Callable[[int, int], None]
"""Told from time to time how many rows of how many have been submitted."""

_TOLD_EVERY = 1000


def replay(
    trace: Trace,
    predictor: Predictor,
    until: float = math.inf,
    newest: int | None = None,
    progress: Progress | None = None,
    asked: np.ndarray | None = None,
) -> Frame:
    """The predictor's answers for every row submitted no later than `until`, one column per name in its `columns`.

    `newest`: how many of the newest rows are asked about, `asked`: which rows are; the others are only observed, and their answers are
    missing.

    At one instant all submissions come before any finish, so a row sees neither its own outcome nor one of its instant.
    """
    rows = submissions(trace)
    wanted = np.arange(len(rows)) >= (0 if newest is None else len(rows) - newest)
    if asked is not None:
        wanted &= asked
    answers = np.full((len(rows), len(predictor.columns)), np.nan)
    values = {
        name: trace.rows[name].to_numpy(float) for name in ("finished_s", "value", "run_time_s", "peak_memory_bytes", "failed")
    }
    for place, (opened, closed) in enumerate(turns(trace, until)):
        if len(closed):
            predictor.observe([_finished(rows[row], row, values) for row in closed])
        opened = opened[wanted[opened]]
        if len(opened):
            answers[opened] = predictor.predict([rows[row] for row in opened])
            if progress and place % _TOLD_EVERY == 0:
                progress(int(opened[-1]) + 1, len(rows))
    return pd.DataFrame(answers, index=trace.rows.index, columns=list(predictor.columns))


def turns(trace: Trace, until: float = math.inf) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that are submitted together, with those that have finished since the turn before; submissions after `until` are left out."""
    submitted = trace.rows["submitted_s"].to_numpy(float)
    finished = trace.rows["finished_s"].to_numpy(float)
    asked = np.flatnonzero(submitted <= until)
    closed = np.flatnonzero(~np.isnan(finished))
    closed = closed[np.argsort(np.fmax(finished, submitted)[closed], kind="stable")]
    ends = np.fmax(finished, submitted)[closed]
    # how many have ended strictly before each submission
    known = np.searchsorted(ends, submitted[asked], side="left")
    starts = np.flatnonzero(np.diff(known, prepend=-1)) if len(asked) else asked
    before = 0
    for start, stop in zip(starts, [*starts[1:], len(asked)][: len(starts)], strict=True):
        yield asked[start:stop], closed[before : known[start]]
        before = known[start]


def history_counts(trace: Trace, teaches: np.ndarray, by: tuple[str, ...] = ("workflow", "step")) -> np.ndarray:
    """How many attempts of the same key, of those marked in `teaches`, had finished strictly before each row was submitted."""
    found = np.zeros(len(trace.rows), dtype=int)
    submitted = trace.rows["submitted_s"].to_numpy(float)
    finished = np.fmax(trace.rows["finished_s"].to_numpy(float), submitted)
    usable = teaches & trace.rows["finished_s"].notna().to_numpy()
    for group in trace.rows.groupby(list(by), sort=False, dropna=False).indices.values():
        ends = np.sort(finished[group[usable[group]]])
        found[group] = np.searchsorted(ends, submitted[group], side="left")
    return found


def submissions(trace: Trace) -> list[Submitted]:
    """Every row as it was known when it was submitted; its id is its place."""
    # only a recorded trace can ask about other machines than those of its history
    rows = trace.rows if "machine_factor" in trace.rows else trace.rows.assign(machine_factor=1.0, machine_spread=0.0)
    figures = trace.figures.to_dict("records") if len(trace.figures.columns) else [{}] * len(rows)
    words = trace.words.to_dict("records") if len(trace.words.columns) else [{}] * len(rows)
    columns = [
        [text if isinstance(text, str) else None for text in rows[name]] if name in ("tag", "kind") else rows[name].to_list()
        for name in (
            "workflow", "step", "run_id", "submitted_s", "tag", "kind", "size", "retry", "memory_requested_bytes",
            "machine_factor", "machine_spread",
        )
    ]  # fmt: skip
    return [
        Submitted(place, workflow, step, run, at, tag, kind, size, retry, requested, figure, word, factor, spread)
        for place, (workflow, step, run, at, tag, kind, size, retry, requested, factor, spread, figure, word) in enumerate(
            zip(*columns, figures, words, strict=True)
        )
    ]


def _finished(submitted: Submitted, row: int, values: dict[str, np.ndarray]) -> Finished:
    failed = values["failed"][row]
    return Finished(
        submitted,
        float(values["finished_s"][row]),
        float(values["value"][row]),
        float(values["run_time_s"][row]),
        float(values["peak_memory_bytes"][row]),
        None if math.isnan(failed) else bool(failed),
    )
