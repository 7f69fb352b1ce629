"""How far off are forecasts of what an attempt costs, beside the simple rules, among them the mean of the last ten?

`--traces DIR` replays every trace in a folder (`workflows evaluate --help` says what a trace is). Without it a generated set is
replayed: its cases are named `synthetic`, say nothing about real workflows, and are not for the README.

An attempt costs what AWS Fargate asks for one vCPU for its run time, and for its peak memory where the trace has that (elsewhere for 2 GiB,
so that cost follows from run time alone; `memory` of a row says which). Forecast as the product does: by the same predictor as durations,
from the costs of what had finished. Error: mean over steps of the sum of absolute errors over the sum of truths, warm successful attempts;
every rule on the same rows, the median of the step where it has no answer yet. Beside it, how many truths lie in the 90 % interval.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.prediction.baselines.duration import DurationBaselines
from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.evaluation.replay import history_counts, replay
from workflows_pkg.prediction.evaluation.traces import Trace, load, read_trace
from workflows_pkg.prediction.serving import COST_FLOOR
from workflows_pkg.spec.rates import FARGATE_USD_PER_GIB_HOUR, FARGATE_USD_PER_VCPU_HOUR

COVERED = (88.0, 92.0)


def priced(trace: Trace) -> tuple[Trace, bool] | None:
    """The trace with costs in USD as its values, and whether memory is in them; None where it has no run times."""
    run_time = trace.rows["value"]
    if not run_time.notna().any():
        return None
    peak = trace.rows["peak_memory_bytes"]
    measured = bool(peak[run_time.notna()].notna().mean() > 0.5)
    gib = peak / 2**30 if measured else 2.0
    usd = run_time / 3600 * (FARGATE_USD_PER_VCPU_HOUR + gib * FARGATE_USD_PER_GIB_HOUR)
    rows = trace.rows.assign(value=usd.where(run_time >= trace.least_s))
    return replace(trace, rows=rows), measured


def scores(trace: Trace, newest: int) -> tuple[dict[str, float], float, int] | None:
    """Error by name, ours and every rule's, share inside our interval, and how many attempts; None where nothing is warm."""
    ours = replay(trace, DurationPredictor(COST_FLOOR), newest=newest)
    rules = replay(trace, DurationBaselines(), newest=newest)
    truth = trace.rows["value"]
    names = [name for name in rules if not name.startswith("rule_")]
    # a rule that has no answer yet gets the median of the step
    rules = rules.assign(**{name: rules[name].fillna(rules["median"]) for name in names})
    known = history_counts(trace, truth.notna().to_numpy()) > 0
    warm = known & truth.notna().to_numpy() & ours["p50"].notna().to_numpy() & rules[names].notna().all(axis=1).to_numpy()
    if warm.sum() < 10:
        return None
    keys = [trace.rows["workflow"][warm], trace.rows["step"][warm]]
    total = truth[warm].groupby(keys).sum()
    guesses = {"ours": ours["p50"], **{name: rules[name] for name in names}}
    errors = {
        name: 100 * float(((guess[warm] - truth[warm]).abs().groupby(keys).sum() / total).mean())
        for name, guess in guesses.items()
    }
    inside = 100 * float(((truth >= ours["p05"]) & (truth <= ours["p95"]))[warm].mean())
    return errors, inside, int(warm.sum())


def synthetic(folder: Path, runs: int) -> Iterator[Trace]:
    """Four steps whose memory grows with their time, and a fifth of which one in ten costs five times as much."""
    rng = np.random.default_rng(13)
    rows = []
    for run in range(runs):
        for step in range(5):
            at = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(hours=run, minutes=10 * step)
            took = round(float(60 * (step + 1) * rng.lognormal(0, 0.2) * (5 if step == 4 and rng.uniform() < 0.1 else 1)), 3)
            peak = float(2e7 * took * rng.lognormal(0, 0.1))
            rows.append(("generated", f"r{run}", f"s{step}", at, at + pd.Timedelta(seconds=took), took, peak, "COMPLETED"))
    names = ["workflow", "run_id", "step", "submitted_at", "ended_at", "duration_s", "peak_memory_bytes", "status"]
    place = folder / "generated"
    place.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=names).to_parquet(place / "costs.parquet")
    yield from read_trace(place / "costs.parquet")


def line(case: str, metric: str, ours: float, peers: dict[str, float], size: int, **more: object) -> None:
    def rounded(value: float) -> float:
        return float(f"{value:.4g}")

    shape = {"benchmark": "cost", "case": case, "metric": metric, "unit": "%", "ours": rounded(ours)}
    shape |= {"peers": {name: rounded(value) for name, value in peers.items()}}
    print(json.dumps(shape | {"target": None, "met": None, "runs": 1} | more | {"size": size}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, metavar="DIR", help="replay the traces in this folder")
    parser.add_argument(
        "--quick", action="store_true", help="traces of at most 5,000 rows, their newest 1,000; a smaller generated set"
    )
    asked = parser.parse_args()
    by_name: dict[str, list[float]] = {}
    covered: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for trace in load([asked.traces]) if asked.traces else synthetic(Path(folder), 100 if asked.quick else 1000):
            if asked.quick and len(trace.rows) > 5_000:
                continue
            began = time.perf_counter()
            found = priced(trace)
            scored = scores(found[0], 1_000 if asked.quick else 20_000) if found else None
            if found is None or scored is None:
                continue
            errors, inside, size = scored
            for name, value in errors.items():
                by_name.setdefault(name, []).append(value)
            covered.append(inside)
            case = trace.name if asked.traces else trace.name.replace("generated", "synthetic")
            mine = errors.pop("ours")
            memory = "measured" if found[1] else "assumed"
            line(case, "cost: WAPE by step", mine, errors, size, memory=memory)
            line(
                case,
                "cost: coverage of the 90 % interval",
                inside,
                {},
                size,
                target=list(COVERED),
                met=COVERED[0] <= inside <= COVERED[1],
            )
            print(f"cost: {trace.name} took {time.perf_counter() - began:.1f} s", file=sys.stderr)
    if not covered:
        return
    case = "all traces" if asked.traces else "synthetic, all"
    means = {name: float(np.mean(values)) for name, values in by_name.items()}
    mine = by_name["ours"]
    better = 100 * float(np.mean([ours < theirs for ours, theirs in zip(mine, by_name["mean_of_10"], strict=True)]))
    line(case, "cost: WAPE by step", means.pop("ours"), means, len(covered))
    line(case, "cost: traces with less error than the mean of ten", better, {}, len(covered))
    line(case, "cost: coverage of the 90 % interval", float(np.mean(covered)), {}, len(covered))


if __name__ == "__main__":
    main()
