"""How far off are the duration forecasts, beside every simple rule on the same rows?

Replays histories in order of submission; a prediction sees only what had finished by then. On a synthetic history whose best
possible forecast is known, and on the public traces of real workflows where their folder lies beside the project
(`../shared/traces`; they are not redistributed). Figures in percent:

- MdAPE: median absolute error over truth of all rows; MdAPE by step: the mean over steps of each step's median;
- WAPE: sum of absolute errors over sum of truths;
- coverage and width: truths inside the 5 to 95 % interval, and its median width over the truth. The peer's are the quantiles of
  the step's history, from five values on; ours are there from the first.

The macro rows are means over traces; their target is the best single rule on that mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.prediction.evaluation.attempts import SERVED, macro_mean, replay, scores
from workflows_pkg.prediction.rules import RULES

TRACES = Path(__file__).resolve().parents[1].parent / "shared" / "traces"
MEASURES = {"MdAPE": "error_share", "WAPE": "weighted_error_share"}
NOISE = 1.05
"""Up to 5 % above the rule that was best on this trace in hindsight is called a tie; a convention, not measured."""


@dataclass(frozen=True)
class Trace:
    """One history: its name, the file, a workflow to pick from it, the shortest time scored in seconds, whether it is large."""

    name: str
    file: str
    workflow: str | None
    least_s: float
    large: bool = False


ALL = (
    Trace("nextflow2015/nmdp-flow", "nextflow2015/tasks.parquet", "nmdp-flow", 0.1),
    Trace("nextflow2015/rnaseq-toy", "nextflow2015/tasks.parquet", "rnaseq-toy", 0.1),
    Trace("ponder/testruns-rnaseq", "ponder/testruns-rnaseq.parquet", None, 1.0),
    Trace("ponder/testruns-rnaseqDrosophila", "ponder/testruns-rnaseqDrosophila.parquet", None, 1.0),
    Trace("ponder/rnaseq", "ponder/rnaseq.parquet", None, 1.0, large=True),
    Trace("sizey/chipseq", "sizey/chipseq.parquet", None, 1.0),
    Trace("sizey/iwd", "sizey/iwd.parquet", None, 0.1),
    Trace("sizey/rnaseq", "sizey/rnaseq.parquet", None, 1.0),
)


def attempts(trace: Trace) -> pd.DataFrame:
    """The trace in the columns of the history; the sample or partition is the partition key."""
    rows = pd.read_parquet(TRACES / trace.file)
    if trace.workflow:
        rows = rows[rows["workflow"] == trace.workflow]
    return pd.DataFrame(
        {
            "run_id": rows["run_id"],
            "job_name": rows["workflow"],
            "step": rows["step_full"] if "step_full" in rows else rows["step"],
            "attempt": 1,
            "partition_key": rows["tag"].where(rows["tag"] != "-"),
            "submitted_at": rows["submitted_at"],
            "started_at": rows["submitted_at"],
            "ended_at": rows["ended_at"],
            "run_time_s": rows["duration_s"].astype(float),
            "outcome": np.where(rows["status"] == "COMPLETED", "success", "failure"),
        }
    ).reset_index(drop=True)


def synthetic(runs: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Ten daily steps of 1 s to 9 min, half of them slower on Mondays, all slower on every third day's machine; and the true medians."""
    rng = np.random.default_rng(11)
    at = pd.Timestamp("2020-01-01 06:00", tz="UTC")
    rows, truth = [], []
    for run in range(runs):
        day = at + pd.Timedelta(days=run)
        clock = day
        for step in range(10):
            middle = 2.0**step * (1.8 if step % 2 and day.day_of_week == 0 else 1.0) * (1.15 if run % 3 == 0 else 1.0)
            took = middle * rng.lognormal(0, 0.05 + 0.03 * (step % 4))
            rows.append((f"r{run}", f"s{step}", day.date().isoformat(), clock, clock + pd.Timedelta(seconds=took), took))
            truth.append(middle)
            clock += pd.Timedelta(seconds=took + 1)
    frame = pd.DataFrame(rows, columns=["run_id", "step", "partition_key", "started_at", "ended_at", "run_time_s"])
    frame = frame.assign(job_name="daily", attempt=1, submitted_at=frame["started_at"], outcome="success")
    return frame, np.array(truth)


def line(case: str, metric: str, unit: str, ours: float, peers: dict[str, float], size: int, **more: object) -> None:
    shape = {"benchmark": "forecast_error", "case": case, "metric": metric, "unit": unit, "ours": round(ours, 2)}
    peers = {name: round(value, 2) for name, value in peers.items()}
    print(json.dumps(shape | {"peers": peers} | {"target": None, "met": None, "runs": 1} | more | {"size": size}), flush=True)


def percent(value: float) -> float:
    return 100 * float(value)


def figures(replayed: pd.DataFrame, least_s: float) -> Iterator[tuple[str, pd.Series]]:
    """Each measure with its values by predictor, in percent."""
    rows = scores(replayed, by=(), least=least_s).set_index("predictor")
    steps = macro_mean(scores(replayed, least=least_s)).set_index("predictor")
    for name, column in MEASURES.items():
        yield name, 100 * rows[column]
    yield "MdAPE by step", 100 * steps["error_share"]
    yield "coverage", 100 * rows["coverage_share"]
    yield "width", 100 * rows["relative_width"]


def report(case: str, replayed: pd.DataFrame, least_s: float) -> dict[str, pd.Series]:
    found = dict(figures(replayed, least_s))
    size = int((replayed["value"] >= least_s).sum())
    for name in (*MEASURES, "MdAPE by step"):
        values = found[name]
        best = float(values[list(RULES)].min())
        met = bool(values[SERVED] <= NOISE * best)
        line(case, name, "%", values[SERVED], values.drop(SERVED).to_dict(), size, target=round(NOISE * best, 2), met=met)
    covered = {"quantiles of history": float(found["coverage"]["median"])}
    line(case, "coverage of the 90 % interval", "%", found["coverage"][SERVED], covered, size, target=90)
    line(
        case,
        "interval width over truth",
        "%",
        found["width"][SERVED],
        {"quantiles of history": float(found["width"]["median"])},
        size,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter synthetic history, without the largest trace")
    quick = parser.parse_args().quick

    history, truth = synthetic(300 if quick else 2000)
    seconds = []
    for number in range(3):
        print(f"forecast_error: synthetic replay {number + 1} of 3, {len(history)} attempts", file=sys.stderr)
        started = time.perf_counter()
        replayed = replay(history)
        seconds.append(time.perf_counter() - started)
    report("synthetic", replayed, 0.1)
    late = replayed[replayed["count"] >= 100]
    oracle = np.abs(truth[late.index] - late["value"]).sum() / late["value"].sum()
    ours = scores(late, by=()).set_index("predictor").loc[SERVED, "weighted_error_share"]
    line("synthetic, 100 values known", "WAPE", "%", percent(ours), {"the true median": percent(oracle)}, len(late))
    line(
        "synthetic",
        "replay",
        "s",
        statistics.median(seconds),
        {},
        len(history),
        target=60,
        met=None if quick else statistics.median(seconds) <= 60,
        runs=3,
    )

    if not TRACES.is_dir():
        print(f"forecast_error: the public traces are not at {TRACES}; only the synthetic history was measured", file=sys.stderr)
        return
    found: dict[str, list[pd.Series]] = {}
    for trace in ALL:
        if quick and trace.large:
            continue
        print(f"forecast_error: {trace.name}", file=sys.stderr)
        for name, values in report(trace.name, replay(attempts(trace)), trace.least_s).items():
            found.setdefault(name, []).append(values)
    for name, by_trace in found.items():
        mean = pd.concat(by_trace, axis=1).mean(axis=1)
        if name in ("coverage", "width"):
            line("mean over traces", name, "%", mean[SERVED], {"quantiles of history": float(mean["median"])}, len(by_trace))
            continue
        best = float(mean[list(RULES)].min())
        met = None if quick else bool(mean[SERVED] <= best)
        line(
            "mean over traces",
            name,
            "%",
            mean[SERVED],
            mean.drop(SERVED).to_dict(),
            len(by_trace),
            target=round(best, 2),
            met=met,
        )


if __name__ == "__main__":
    main()
