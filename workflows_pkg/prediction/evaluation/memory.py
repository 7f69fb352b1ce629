"""How much memory would have been wasted, and how many attempts killed, had a rule sized them?

One retry rule for every method: a request is capped at what the user asked for (the preset); the first retry takes the largest size
seen by then, each later one doubles; steps without history take the preset. Wasted is what was allocated and not used, times the run
time, and everything allocated to killed attempts, counted to their end and once more to half way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from workflows_pkg.prediction.baselines.memory import BASELINES, MAX_SEEN, MemoryBaselines
from workflows_pkg.prediction.evaluation.measures import Measure, Question
from workflows_pkg.prediction.evaluation.replay import history_counts
from workflows_pkg.prediction.evaluation.traces import Trace
from workflows_pkg.prediction.memory import MemoryPredictor
from workflows_pkg.prediction.rows import Frame

NAME = "memory"
PRESET = "preset"
_GB = 1e9
_MOST_RETRIES = 64


@dataclass(frozen=True)
class Sized:
    """What became of every attempt under one rule: GB hours wasted with kills at the end and half way, kills, bytes times hours."""

    wasted_gbh: np.ndarray
    wasted_half_gbh: np.ndarray
    kills: np.ndarray
    request: np.ndarray


def measures(trace: Trace, ours: Frame | None, baselines: Frame) -> Iterator[Measure]:
    """Every figure of one trace; nothing where it tells no presets or no peaks. `ours` has the column request_bytes."""
    rows = trace.rows
    usable = _usable(trace)
    count = history_counts(trace, ((rows["failed"] == 0) & rows["peak_memory_bytes"].notna()).to_numpy())
    peak, preset = (rows[name].to_numpy(float)[usable] for name in ("peak_memory_bytes", "memory_requested_bytes"))
    hours = rows["run_time_s"].to_numpy(float)[usable] / 3600
    most = baselines[MAX_SEEN].to_numpy(float)[usable]
    warm = count[usable] > 0
    sized = {PRESET: size(preset, peak, preset, most, hours)}
    sized |= {name: size(baselines[name].to_numpy(float)[usable], peak, preset, most, hours) for name in BASELINES}
    mine = None if ours is None else size(ours["request_bytes"].to_numpy(float)[usable], peak, preset, most, hours)

    def measure(metric: str, unit: str, better: str, figure: Callable[[Sized], float], count: int) -> Measure:
        others = {name: float(figure(one)) for name, one in sized.items()}
        return Measure(trace.name, NAME, metric, unit, better, None if mine is None else float(figure(mine)), others, count)

    used = (peak * hours).sum()
    yield Measure(trace.name, NAME, "cold rows", "%", "", 100 * float(1 - warm.mean()), {}, len(warm))
    yield measure("wasted", "GBh", "low", lambda one: one.wasted_gbh.sum(), len(warm))
    yield measure("wasted, killed half way", "GBh", "low", lambda one: one.wasted_half_gbh.sum(), len(warm))
    yield measure("killed", "attempts", "low", lambda one: one.kills.sum(), len(warm))
    yield measure("wasted, warm", "GBh", "low", lambda one: one.wasted_gbh[warm].sum(), int(warm.sum()))
    yield measure(
        "tasks killed, warm",
        "%",
        "low",
        lambda one: 100 * (one.kills[warm] > 0).mean() if warm.any() else np.nan,
        int(warm.sum()),
    )
    yield measure("MAQ", "%", "high", lambda one: 100 * used / (used + one.wasted_gbh.sum() * _GB), len(warm))


def _usable(trace: Trace) -> np.ndarray:
    known = trace.rows[["peak_memory_bytes", "memory_requested_bytes", "run_time_s"]].notna().all(axis=1)
    return ((trace.rows["failed"] == 0) & known).to_numpy()


def size(request: np.ndarray, peak: np.ndarray, preset: np.ndarray, most: np.ndarray, hours: np.ndarray) -> Sized:
    """What becomes of attempts that need `peak` bytes for `hours` when `request` bytes are asked for; NaN: the preset.

    A preset that is itself too small is doubled as the user would have to.
    """
    allocated = np.fmin(np.where(np.isnan(request), preset, request), preset)
    asked = allocated.copy()
    wasted, half, kills = np.zeros(len(peak)), np.zeros(len(peak)), np.zeros(len(peak), int)
    waiting = np.ones(len(peak), bool)
    for retry in range(_MOST_RETRIES):
        killed = waiting & (allocated < peak)
        done = waiting & ~killed
        spent = allocated * hours / _GB
        wasted += np.where(killed, spent, 0.0) + np.where(done, spent - peak * hours / _GB, 0.0)
        half += np.where(killed, spent / 2, 0.0) + np.where(done, spent - peak * hours / _GB, 0.0)
        kills += killed
        if not killed.any():
            break
        waiting = killed
        larger = np.where(most > allocated, most, 2 * allocated) if retry == 0 else 2 * allocated
        allocated = np.where(allocated < preset, np.fmin(larger, preset), 2 * allocated)
    return Sized(wasted, half, kills, asked)


QUESTION = Question(
    NAME,
    asks=lambda trace: bool(_usable(trace).any()),
    ours=MemoryPredictor,
    baselines=MemoryBaselines,
    measures=measures,
    headline=("wasted, warm", "wasted", "tasks killed, warm", "MAQ"),
)
