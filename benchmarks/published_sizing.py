"""How much memory is wasted, and how many tasks are killed, beside sizing methods that were published?

`--traces DIR` looks for `sizey/*.parquet`: one row per task with the bytes it really read, its resident memory and what its author
asked for.
Two protocols:

- *published*, that of the sizing studies: of every type of task with at least 34 rows a random 30 % are learned from, the others are
  asked about one by one, in random order over all types, and learned from in turn. The size of a task is what it really read, which
  nobody knows before; so its figures compare methods and forecast nothing.
- *online*, that of `workflows evaluate`, on every trace in DIR that tells presets and peaks: in order of submission, with sizes known
  before.

Published methods, each per step, worked out anew here from their descriptions:

- `tovar`: the first request that would have cost least on the past, with one more try at the largest peak (Tovar et al., "A Job Sizing
  Strategy for High-Throughput Scientific Workflows", IEEE TPDS 29(2), 2018);
- `witt_percentile`: the 95 % quantile of the past; `witt_lr_std`, `witt_lr_std_under`: least squares on the size, with one standard
  deviation of all its residuals, or of those above it; `witt_wastage`: the line that would have wasted least on the past (Witt et al.,
  "Learning Low-Wastage Memory Allocations for Scientific Workflows at IceCube", HPCS 2019).

One row per workflow, protocol and metric: ours beside these, the simple rules and the preset. A method that kills many tasks can waste
little, so `best_rare` names the one that wastes least of those that kill at most 3 %, and `met` is said beside that one; `below_all`:
whether ours wastes less than every method, however many it kills. Medians of `--seeds` random orders.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from workflows_pkg.prediction.baselines.memory import BASELINES, MAX_SEEN, MemoryBaselines
from workflows_pkg.prediction.evaluation.memory import PRESET, QUESTION, size
from workflows_pkg.prediction.evaluation.replay import history_counts, replay
from workflows_pkg.prediction.evaluation.traces import load
from workflows_pkg.prediction.memory import MemoryPredictor
from workflows_pkg.prediction.predictor import Finished, Submitted

PUBLISHED = ("tovar", "witt_percentile", "witt_lr_std", "witt_lr_std_under", "witt_wastage")
MOST_KILLED = 3.0
_LEAST_ROWS, _LEARNED = 34, 0.3
_MOST_KEPT, _REFIT = 2000, 50
"""Newest peaks of a step that are fitted to, so many that no step of the public traces has more; a fit is made again when a fiftieth more
has come."""


@dataclass(frozen=True)
class _Fit:
    """What a method knows of a step: Tovar's request, and three lines on the size as (slope, start)."""

    tovar: float
    squares: tuple[float, float]
    spread: float
    spread_under: float
    wastage: tuple[float, float]


@dataclass
class _Step:
    sizes: list[float] = field(default_factory=list[float])
    peaks: list[float] = field(default_factory=list[float])
    hours: list[float] = field(default_factory=list[float])
    until_next_fit: int = 0
    fit: _Fit | None = None


class Published:
    """The published methods, behind the same protocol as ours."""

    columns = PUBLISHED

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], _Step] = {}

    def observe(self, finished: Sequence[Finished]) -> None:
        """Keeps sizes, peaks and run times of successful attempts."""
        for one in finished:
            if one.failed is not False or not one.peak_memory_bytes > 0:
                continue
            step = self._steps.setdefault(one.submitted.key, _Step())
            step.sizes.append(one.submitted.size)
            step.peaks.append(one.peak_memory_bytes)
            step.hours.append(0.0 if math.isnan(one.run_time_s) else one.run_time_s / 3600)
            for kept in (step.sizes, step.peaks, step.hours):
                del kept[:-_MOST_KEPT]
            step.until_next_fit -= 1

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """Each method's request; a method on sizes takes the largest peak where there is no size, and none asks for less than the least."""
        answers = np.full((len(submitted), len(PUBLISHED)), np.nan)
        for row, one in enumerate(submitted):
            step = self._steps.get(one.key)
            if step is None:
                continue
            peaks = np.array(step.peaks)
            if step.fit is None or step.until_next_fit <= 0:
                step.fit = _fitted(np.array(step.sizes), peaks, np.array(step.hours))
                step.until_next_fit = max(1, len(peaks) // _REFIT)
            fit = step.fit
            line, wastage = (slope * one.size + start for slope, start in (fit.squares, fit.wastage))
            said = np.array([fit.tovar, np.quantile(peaks, 0.95), line + fit.spread, line + fit.spread_under, wastage])
            answers[row] = np.maximum(np.where(np.isnan(said), peaks.max(), said), peaks.min())
        return answers

    def card(self) -> dict[str, Any]:
        """The methods by name."""
        return {"methods": list(PUBLISHED)}


def _fitted(sizes: np.ndarray, peaks: np.ndarray, hours: np.ndarray) -> _Fit:
    tries = np.unique(peaks)
    short = peaks[None, :] > tries[:, None]
    tovar = float(tries[np.argmin((np.where(short, tries[:, None] + peaks.max(), tries[:, None]) * hours).sum(axis=1))])
    nothing = math.nan, math.nan
    known = ~np.isnan(sizes)
    sizes, peaks, hours = sizes[known], peaks[known], hours[known]
    if len(peaks) < 3 or sizes.std() == 0:
        return _Fit(tovar, nothing, math.nan, math.nan, nothing)
    unit = sizes.std()
    slope, start = np.polyfit(sizes / unit, peaks, 1)
    residuals = peaks - (slope * sizes / unit + start)
    above = residuals[residuals > 0]

    def wasted(line: np.ndarray) -> float:
        request = np.maximum(line[0] * sizes / unit + line[1], peaks.min())
        again = np.where(peaks.max() > request, peaks.max(), 2 * request)
        return float((np.where(request < peaks, request + again - peaks, request - peaks) * hours).sum())

    best = minimize(wasted, [slope, start + residuals.max()], method="Nelder-Mead", options={"maxiter": 200})
    return _Fit(
        tovar, (slope / unit, start), float(residuals.std()), float(np.sqrt((above**2).mean())) if len(above) else 0.0,
        (best.x[0] / unit, best.x[1]),
    )  # fmt: skip


def line(
    protocol: str, case: str, metric: str, unit: str, ours: float, peers: dict[str, float], size: int, **more: object
) -> None:
    shape: dict[str, object] = {"benchmark": "published_sizing", "case": f"{protocol}, {case}", "metric": metric, "unit": unit}
    shape |= {"ours": _rounded(ours), "peers": {name: _rounded(value) for name, value in peers.items()}}
    print(json.dumps(shape | more | {"size": size}), flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def told(protocol: str, case: str, wasted: dict[str, float], killed: dict[str, float], size: int, runs: int) -> None:
    """Both figures of one workflow; `ours` is among the methods."""
    rare = {name: value for name, value in wasted.items() if name != "ours" and killed[name] <= MOST_KILLED}
    best = min(rare, key=lambda name: rare[name])
    met = wasted["ours"] <= rare[best] and killed["ours"] <= MOST_KILLED
    peers = {name: value for name, value in wasted.items() if name != "ours"}
    line(
        protocol, case, "wasted, warm", "GBh", wasted["ours"], peers, size,
        best_rare=best, best=min(peers, key=lambda name: peers[name]), below_all=wasted["ours"] < min(peers.values()),
        target=_rounded(rare[best]), met=met, runs=runs,
    )  # fmt: skip
    peers = {name: value for name, value in killed.items() if name != "ours"}
    target = {"target": MOST_KILLED, "met": killed["ours"] <= MOST_KILLED}
    line(protocol, case, "tasks killed, warm", "%", killed["ours"], peers, size, **target, runs=runs)


def published(path: Path, seeds: int) -> None:
    """The protocol of the sizing studies on one workflow."""
    table = pd.read_parquet(path)
    table = table[table.groupby("step_full")["step_full"].transform("size") >= _LEAST_ROWS].reset_index(drop=True)
    found: dict[str, list[tuple[float, float]]] = {}
    count = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        drawn = pd.Series(rng.permutation(len(table)))
        place = drawn.groupby(table["step_full"]).rank(method="first")
        learned = (place <= np.ceil(_LEARNED * table.groupby("step_full")["step_full"].transform("size"))).to_numpy()
        sized = _one_by_one(table, learned, rng)
        count = int((~learned).sum())
        for name, (wasted, killed) in sized.items():
            found.setdefault(name, []).append((wasted, killed))
    middles = {name: np.median(np.array(both), axis=0) for name, both in found.items()}
    told(
        "published", path.stem, {name: float(both[0]) for name, both in middles.items()},
        {name: float(both[1]) for name, both in middles.items()}, count, seeds,
    )  # fmt: skip


def _one_by_one(table: pd.DataFrame, learned: np.ndarray, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """GB hours wasted and share of tasks killed in %, by method."""

    def attempt(row: int, number: int) -> tuple[Submitted, Finished]:
        one = table.iloc[row]
        submitted = Submitted(
            number, "w", one["step_full"], "r", float(number), size=float(one["input_bytes_rchar"]),
            memory_requested_bytes=float(one["memory_requested_bytes"]),
        )  # fmt: skip
        took = float(one["duration_s"])
        return submitted, Finished(submitted, number + 0.5, took, took, float(one["rss_bytes"]))

    predictors = (MemoryPredictor(), Published(), MemoryBaselines())
    number = 0
    for row in rng.permutation(np.flatnonzero(learned)):
        submitted, finished = attempt(int(row), number)
        number += 1
        for predictor in predictors:
            predictor.predict([submitted])
            predictor.observe([finished])
    asked = rng.permutation(np.flatnonzero(~learned))
    requests: list[np.ndarray] = []
    for row in asked:
        submitted, finished = attempt(int(row), number)
        number += 1
        requests.append(np.concatenate([predictor.predict([submitted])[0] for predictor in predictors]))
        for predictor in predictors:
            predictor.observe([finished])
    names = [name for predictor in predictors for name in predictor.columns]
    said = pd.DataFrame(requests, columns=names).rename(columns={"request_bytes": "ours"})
    rows = table.iloc[asked]
    return _wasted(
        {name: said[name].to_numpy(float) for name in ("ours", *PUBLISHED, *BASELINES)}, rows["rss_bytes"].to_numpy(float),
        rows["memory_requested_bytes"].to_numpy(float), said[MAX_SEEN].to_numpy(float), rows["duration_s"].to_numpy(float) / 3600,
    )  # fmt: skip


def _wasted(
    requests: dict[str, np.ndarray], peak: np.ndarray, preset: np.ndarray, most: np.ndarray, hours: np.ndarray
) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name, request in (requests | {PRESET: preset}).items():
        sized = size(request, peak, preset, most, hours)
        found[name] = float(sized.wasted_gbh.sum()), 100 * float((sized.kills > 0).mean())
    return found


def online(folder: Path) -> None:
    """The protocol of `workflows evaluate`, with the published methods besides."""
    for trace in load([folder]):
        if not QUESTION.asks(trace):
            continue
        rows = trace.rows
        usable = (
            (rows["failed"] == 0) & rows[["peak_memory_bytes", "memory_requested_bytes", "run_time_s"]].notna().all(axis=1)
        ).to_numpy()
        teaches = ((rows["failed"] == 0) & rows["peak_memory_bytes"].notna()).to_numpy()
        warm = usable & (history_counts(trace, teaches) > 0)
        rules = replay(trace, MemoryBaselines())
        said = pd.concat([replay(trace, MemoryPredictor()), replay(trace, Published()), rules], axis=1)[warm]
        said = said.rename(columns={"request_bytes": "ours"})
        peak, preset, hours = (
            rows[name].to_numpy(float)[warm] for name in ("peak_memory_bytes", "memory_requested_bytes", "run_time_s")
        )
        found = _wasted(
            {name: said[name].to_numpy(float) for name in ("ours", *PUBLISHED, *BASELINES)}, peak, preset,
            said[MAX_SEEN].to_numpy(float), hours / 3600,
        )  # fmt: skip
        told(
            "online", trace.name, {name: both[0] for name, both in found.items()}, {name: both[1] for name, both in found.items()},
            int(warm.sum()), 1,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR", help="folder of public traces")
    parser.add_argument("--seeds", type=int, default=5, help="random orders of the published protocol")
    parser.add_argument("--only", choices=("published", "online"), help="one of both protocols")
    given = parser.parse_args()
    if given.only != "online":
        paths = sorted((given.traces / "sizey").glob("*.parquet"))
        if not paths:
            parser.error(f"no sizey/*.parquet in {given.traces}")
        for path in paths:
            published(path, given.seeds)
    if given.only != "published":
        online(given.traces)


if __name__ == "__main__":
    main()
