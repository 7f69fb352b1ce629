"""What changed? The steps that became slower, faster or fail more or less often, since when, and what coincides with it.

Three things are watched: the run time of every step (the median of a run's successful attempts), whether an attempt of it failed, and
the time of every job's successful runs from being asked for to their end. All tests of one look share one rate of false alarms, whatever
the steps have to do with each other (Bonferroni's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd

from workflows_pkg.advisor.asking import literal
from workflows_pkg.advisor.change_points import LEAST_SIDE, Split, Worth, failure_splits, time_splits
from workflows_pkg.advisor.coincidence import Coincidence, Judged, Verdict, judge_figures, judge_words, sharpened
from workflows_pkg.advisor.step_runs import Names, Series, series, step_runs, whole_runs, with_sizes
from workflows_pkg.prediction.picks import is_picked
from workflows_pkg.prediction.rows import Connection, Frame

FALSE_ALARMS = 0.01
"""Share of histories in which nothing changes of which one look at all steps together tells any change, at most."""

LEAST_RATIO = 1.2
LEAST_S = 1.0
"""Slower or faster by less than a fifth, or than a second, is not worth anybody's attention."""

LEAST_FAILED_SHARE = 0.05
LEAST_FAILURES = 3
"""Nor is a share of failures that differs by less than one in twenty, or rests on fewer failures."""

NEWEST = 4000
"""Runs of each step looked at."""

EVIDENCE_RUNS = 5
"""Runs on either side that stand as evidence."""

Quantity = Literal["run_time_s", "failed_share", "whole_time_s"]
"""run_time_s of a step, failed_share of a step's runs, whole_time_s of a job's runs."""

_PARTS = ("queue_time_s", "start_time_s", "retry_wait_s", "step_time_s")


@dataclass(frozen=True)
class Change:
    """One change of level of one step, or of a job's runs where `step` is ''.

    since: begin of the first run after it; earliest, latest: the begins of the runs between which it lies in 95 of 100 cases, `between`
    runs in all. until: since the next change; None: it lasts. before, after: medians in seconds, or shares of failed runs, with 95 %
    intervals, over `runs_before` and `runs_after` runs: from the change before, until the next one. p_value: chance of such a change where
    nothing changes, of this test; `tests` were made. coincides: what changed with it, what accounts for it first. undecided, ruled_out,
    unchanged, unrecorded: names of what changed there but too often to say anything, of what changed but cannot be why, of what did not
    change, and of what the history does not hold: see `Judged`. run_ids_before, run_ids_after: runs on either side as evidence, the nearest
    first. query: SQL that gives every run looked at.
    """

    job: str
    step: str
    quantity: Quantity
    since: datetime
    earliest: datetime
    latest: datetime
    between: int
    until: datetime | None
    before: float
    before_low: float
    before_high: float
    after: float
    after_low: float
    after_high: float
    runs_before: int
    runs_after: int
    p_value: float
    tests: int
    coincides: tuple[Coincidence, ...]
    undecided: tuple[str, ...]
    ruled_out: tuple[str, ...]
    unchanged: tuple[str, ...]
    unrecorded: tuple[str, ...]
    run_ids_before: tuple[str, ...]
    run_ids_after: tuple[str, ...]
    query: str

    @property
    def worse(self) -> bool:
        """Slower, or failing more often."""
        return self.after > self.before

    @property
    def ratio(self) -> float:
        """After over before; infinite where there was nothing before."""
        return self.after / self.before if self.before else math.inf


def what_changed(
    con: Connection, now: datetime, job: str | None = None, step: str | None = None, since: datetime | None = None
) -> list[Change]:
    """Every change in the history before `now`, the newest first; none where nothing changed, at the rate `FALSE_ALARMS`.

    job, step: look at these only, with a rate of their own. since: tell only changes at or after it. Trials are left out.
    """
    of_steps, of_runs = (
        series(con, step_runs(now), 2 * LEAST_SIDE, job, step),
        series(con, whole_runs(now), 2 * LEAST_SIDE, job, step),
    )
    of_runs = [] if step is not None else [one for one in of_runs if not is_picked(one.job)]
    watched = [
        *(_Watched(one, "run_time_s", one.values, time_splits, slower_or_faster) for one in of_steps),
        *(_Watched(one, "failed_share", one.failed, failure_splits, more_or_less) for one in of_steps),
        *(_Watched(one, "whole_time_s", one.values, time_splits, slower_or_faster) for one in of_runs),
    ]
    watched = [item for item in watched if _can_change(item)]
    found = [(item, item.splits(FALSE_ALARMS / len(watched))) for item in watched]
    found = [(item, at) for item, at in found if at]
    if not found:
        return []
    told = _told(con, now, found, len(watched))
    known = [change for change in told if since is None or change.since >= since]
    return sorted(known, key=lambda change: (-change.since.timestamp(), change.job, change.step, change.quantity))


def changes_frame(changes: Sequence[Change]) -> Frame:
    """One row per change, the columns of `Change` but for its tuples, and `coincides_with`, `accounted_share` and `chance` of the first."""
    listed = [name for name in Change.__dataclass_fields__ if name not in ("coincides", *_TUPLES)]
    first = [change.coincides[0] if change.coincides else None for change in changes]
    columns: dict[str, Any] = {name: [getattr(change, name) for change in changes] for name in listed}
    columns["ratio"] = [change.ratio for change in changes]
    columns["coincides_with"] = [None if item is None else item.kind for item in first]
    columns["accounted_share"] = [None if item is None else item.accounted for item in first]
    columns["chance"] = [None if item is None else item.chance for item in first]
    return pd.DataFrame(columns)


def evidence(con: Connection, change: Change) -> Frame:
    """One row per run that a change rests on, in order of time: `run_id`, `begun`, `value` (seconds, or 1 for a run in which an attempt
    failed), `after` (whether it is after the change), and what was recorded of it: see `RECORDED`.
    """
    found: Frame = con.execute(change.query).df()
    value = found["failed"] if change.quantity == "failed_share" else found["seconds"]
    found = found.assign(value=value, after=found["begun"] >= change.since)[value.notna()]
    named = [name for name in RECORDED if name in found]
    return found[["run_id", "begun", "value", "after", *named]].reset_index(drop=True)


RECORDED = (
    "code_version", "version", "job_snapshot_id", "host", "partition_key", "bytes_read", "rows_read", "bytes_made", "rows_made", "attempts",
    "copies", "error_class", *_PARTS,
)  # fmt: skip
"""Columns of `evidence`, where the runs are of a step or of a job: versions, machine, partition, sizes of what was read and made, tries."""

_TUPLES = ("undecided", "ruled_out", "unchanged", "unrecorded", "run_ids_before", "run_ids_after")


@dataclass(frozen=True)
class _Watched:
    """One quantity of one series. Runs of which it is unknown are left out, and counted again by `places`."""

    series: Series
    quantity: Quantity
    values: np.ndarray
    all_splits: Callable[[np.ndarray, float, Worth], list[Split]]
    worth: Worth

    def known(self) -> np.ndarray:
        values = self.values[np.isfinite(self.values)]
        return values[-NEWEST:]

    def splits(self, level: float) -> list[Split]:
        return self.all_splits(self.known(), level, self.worth)


def _can_change(item: _Watched) -> bool:
    known = item.known()
    return len(known) >= 2 * LEAST_SIDE and bool(known.min() < known.max())


def slower_or_faster(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether medians of seconds differ by enough to be told."""
    low, high = sorted((float(np.median(before)), float(np.median(after))))
    return high - low >= LEAST_S and high >= LEAST_RATIO * low


def more_or_less(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether shares of failed runs differ by enough to be told."""
    more = max((before, after), key=lambda part: part.mean())
    return abs(float(after.mean() - before.mean())) >= LEAST_FAILED_SHARE and more.sum() >= LEAST_FAILURES


def _told(con: Connection, now: datetime, found: Sequence[tuple[_Watched, list[Split]]], tests: int) -> list[Change]:
    """The changes with what coincides; those of whole runs only where no step's change is the better answer."""
    of_steps = [(item, at) for item, at in found if item.quantity != "whole_time_s"]
    of_runs = [(item, at) for item, at in found if item.quantity == "whole_time_s"]
    changes = [*_explained(con, lambda only: with_sizes(now, only), of_steps, tests)]
    slower = [change for change in changes if change.quantity == "run_time_s"]
    whole = _explained(con, lambda only: whole_runs(now, only), of_runs, tests)
    return [*changes, *(change for change in whole if not _made_by_steps(change, slower))]


def _made_by_steps(of_run: Change, of_steps: Sequence[Change]) -> bool:
    """Whether changes of its steps, at the same runs as far as can be told, make at least half of that of a job's runs."""
    grown = sum(
        step.after - step.before
        for step in of_steps
        if step.job == of_run.job and of_run.earliest <= step.latest and step.earliest <= of_run.latest
    )
    return grown / (of_run.after - of_run.before) >= 0.5


def _explained(
    con: Connection, runs_of: Callable[[Names], str], found: Sequence[tuple[_Watched, list[Split]]], tests: int
) -> Iterator[Change]:
    if not found:
        return
    named = sorted({(item.series.job, item.series.step) for item, _ in found})
    table: Frame = con.execute(f"select * from ({runs_of(named)}) order by begun, run_id").df()
    groups = {key: group.reset_index(drop=True) for key, group in table.groupby(["job_name", "step"], sort=False)}
    for item, at in found:
        runs = groups[item.series.job, item.series.step]
        value = runs["failed"] if item.quantity == "failed_share" else runs["seconds"]
        runs = runs.assign(value=value.astype(float))[value.notna()].tail(NEWEST).reset_index(drop=True)
        ends = [0, *(split.at for split in at), len(runs)]
        query = " ".join(runs_of([(item.series.job, item.series.step)]).split())
        for number, split in enumerate(at):
            low, high = ends[number], ends[number + 2]
            until = pd.to_datetime(runs["begun"].iloc[high], utc=True).to_pydatetime() if high < len(runs) else None
            yield _change(item, runs.iloc[low:high].reset_index(drop=True), split.moved(-low), until, tests, query)


def _change(item: _Watched, runs: Frame, split: Split, until: datetime | None, tests: int, query: str) -> Change:
    """One change from the `runs` between its neighbours; `query` gives these, and others of the same step."""
    values = runs["value"].to_numpy(float)
    before, after = values[: split.at], values[split.at :]
    middle = _share if item.quantity == "failed_share" else _median
    (old, old_low, old_high), (new, new_low, new_high) = middle(before), middle(after)
    begun = [stamp.to_pydatetime() for stamp in pd.to_datetime(runs["begun"], utc=True)]
    judged = _judged(item, runs, values, split)
    coincides = sorted(
        (one.coincidence for one in judged.values() if one.coincidence is not None),
        key=lambda one: (not one.accounts, -(one.accounted or 0.0), one.chance),
    )
    ids = runs["run_id"].to_list()
    first, last = max(split.first, 0), min(split.last, len(runs) - 1)
    return Change(
        job=item.series.job, step=item.series.step, quantity=item.quantity,
        since=begun[split.at], earliest=begun[first], latest=begun[last], between=last - first + 1,
        until=until,
        before=old, before_low=old_low, before_high=old_high, after=new, after_low=new_low, after_high=new_high,
        runs_before=len(before), runs_after=len(after), p_value=split.p_value, tests=tests, coincides=tuple(coincides),
        undecided=_names(judged, "too often"), ruled_out=_names(judged, "ruled out"), unchanged=_names(judged, "unchanged"),
        unrecorded=_names(judged, "unrecorded"),
        run_ids_before=tuple(ids[: split.at][: -EVIDENCE_RUNS - 1 : -1]), run_ids_after=tuple(ids[split.at :][:EVIDENCE_RUNS]),
        query=f"select * from ({query}) where begun >= {literal(begun[0])} and begun <= {literal(begun[-1])} order by begun, run_id",
    )  # fmt: skip


def _names(judged: Mapping[str, Judged], verdict: Verdict) -> tuple[str, ...]:
    return tuple(name for name, one in judged.items() if one.verdict == verdict)


def _judged(item: _Watched, runs: Frame, values: np.ndarray, split: Split) -> Mapping[str, Judged]:
    """By name, what may have changed with the step, and whether it did."""
    if item.quantity == "whole_time_s":
        return {**_parts(runs, values, split), **_of_words(runs, values, split, ("version", "partitions"))}
    sizes, size = _sizes(runs, values, split)
    partitions = _of_words(runs, values, split, ("partitions",))
    if item.quantity == "run_time_s":
        values, split = sharpened(values, split, size, _texts(runs["partition_key"]))
    judged = _of_words(runs, values, split, ("version", "machine")) | partitions | {"input size": sizes}
    if item.quantity == "run_time_s":
        tried = np.where(runs["attempts"].to_numpy(float) > 1, "tried again", "first try")
        judged["retries"] = judge_words("retries", "tries", list(tried), values, split)
        judged["copies"] = judge_figures("input", "copies of the mapped step", runs["copies"].to_numpy(float), values, split)
        if float(runs["copies"].max()) <= 1:
            del judged["copies"]
    return judged


_WORDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "version": (("code_version", "code version"), ("version", "workflow version"), ("job_snapshot_id", "structure of the job")),
    "machine": (("host", "machine"),),
    "partitions": (("partition_key", "partitions"),),
}
"""Columns by what they tell, the most telling first, with their names."""

_TELLING: tuple[Verdict, ...] = ("coincides", "too often", "ruled out", "unchanged", "unrecorded")


def _of_words(runs: Frame, values: np.ndarray, split: Split, kinds: Sequence[Any]) -> dict[str, Judged]:
    found: dict[str, Judged] = {}
    for kind in kinds:
        judged = [
            judge_words(kind, name, _texts(runs[column]), values, split, recurring=kind == "partitions")
            for column, name in _WORDS[kind]
            if column in runs
        ]
        found[kind] = min([*judged, Judged("unrecorded")], key=lambda item: _TELLING.index(item.verdict))
    return found


def _sizes(runs: Frame, values: np.ndarray, split: Split) -> tuple[Judged, np.ndarray]:
    """The size of what the step read, or, where nobody recorded it, of what it made: the first that is known, and its figures."""
    for column, name, unit in (
        ("bytes_read", "bytes read", "bytes"), ("rows_read", "rows read", "rows"), ("bytes_made", "bytes made", "bytes"),
        ("rows_made", "rows made", "rows"),
    ):  # fmt: skip
        size = runs[column].to_numpy(float)
        judged = judge_figures("input", name, size, values, split, lambda figure, unit=unit: f"{figure:,.0f} {unit}")
        if judged.verdict != "unrecorded":
            return judged, size
    return Judged("unrecorded"), np.full(len(runs), np.nan)


def _parts(runs: Frame, values: np.ndarray, split: Split) -> Mapping[str, Judged]:
    """Which part of the time of a run changed with it: its share of the change is the change of its median over that of the whole."""
    grown = float(np.median(values[split.at :]) - np.median(values[: split.at]))
    parts: dict[str, Judged] = {}
    for column, kind, name in (
        ("queue_time_s", "queue", "waiting in the queue"), ("start_time_s", "start", "starting"),
        ("retry_wait_s", "retries", "waiting between attempts"), ("step_time_s", "step", "steps"),
    ):  # fmt: skip
        seconds = runs[column].to_numpy(float)
        known = np.isfinite(seconds)
        if known.mean() < 0.8 or not known[: split.at].any() or not known[split.at :].any():
            parts[name] = Judged("unrecorded")
            continue
        before, after = float(np.nanmedian(seconds[: split.at])), float(np.nanmedian(seconds[split.at :]))
        share = (after - before) / grown
        if share < 0.25:
            parts[name] = Judged("unchanged")
            continue
        say = "{:,.3g} s".format
        parts[name] = Judged("coincides", Coincidence(kind, name, say(before), say(after), share, 0.0))  # type: ignore[arg-type]
    return parts


def _texts(column: Any) -> list[str | None]:
    return [None if text is None or text != text or text == "" else str(text) for text in column]


def _median(values: np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % interval by order statistics, which takes the runs to be alike but for chance."""
    ordered = np.sort(values)
    half = 0.98 * math.sqrt(len(ordered))
    low, high = math.floor(len(ordered) / 2 - half), math.ceil(len(ordered) / 2 + half)
    return float(np.median(ordered)), float(ordered[max(low, 0)]), float(ordered[min(high, len(ordered) - 1)])


def _share(values: np.ndarray) -> tuple[float, float, float]:
    """The share of ones and its 95 % interval (Wilson, Journal of the American Statistical Association 22, 1927)."""
    share, number, z = float(values.mean()), len(values), 1.96
    centre = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number)) / (1 + z * z / number)
    return share, max(centre - half, 0.0), min(centre + half, 1.0)
