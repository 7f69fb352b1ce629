"""How good are the predictors of duration, memory and failure, beside every simple rule on the same rows, and how fast?

`--traces DIR` replays every trace in a folder (Parquet or CSV; `workflows evaluate --help` says what a trace is). Without it a generated
set is replayed: its cases are named `synthetic`, say nothing about real workflows, and are not for the README.

One row per trace and metric, ours beside every baseline; then, per question, the mean over traces, and the shares of traces on which a
target is met. Targets: duration, mean over steps of sum of absolute errors over sum of truths: 10 % below the best baseline; its
interval score (Winkler): no worse than that of the quantiles of history; 90 % intervals: 88 to 92 % of the truths inside.
Of memory and failure: a finished attempt is learnt in less than 1 ms.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.evaluation.evaluate import QUESTIONS, Evaluation, evaluate
from workflows_pkg.prediction.evaluation.measures import Measure, Question, macro
from workflows_pkg.prediction.evaluation.traces import Trace, load, read_trace
from workflows_pkg.prediction.predictor import Finished, Predictor, Submitted
from workflows_pkg.prediction.serving import REPLAYED

WANTED_GAIN = 0.10
WORST_GAIN = -0.03
MOST_MS = 1.0
COVERED = (88.0, 92.0)
GAIN_METRIC, INTERVAL_METRIC, COVERAGE_METRIC = "WAPE by step", "Winkler by step", "coverage of the 90 % interval"


def line(case: str, metric: str, unit: str, ours: float | None, peers: dict[str, float], size: int, **more: object) -> None:
    shape = {"benchmark": "prediction", "case": case, "metric": metric, "unit": unit, "ours": _rounded(ours)}
    shape |= {"peers": {name: _rounded(value) for name, value in peers.items()}}
    print(json.dumps(shape | {"target": None, "met": None, "runs": 1} | more | {"size": size}), flush=True)


class Timed:
    """A predictor that keeps the time for which it learns; seconds of this process, not of the clock on the wall."""

    def __init__(self, predictor: Predictor, spent: list[tuple[float, int]]) -> None:
        self._predictor, self._spent = predictor, spent
        self.columns, self.predict, self.card = predictor.columns, predictor.predict, predictor.card

    def observe(self, finished: Sequence[Finished]) -> None:
        began = time.process_time()
        self._predictor.observe(finished)
        self._spent.append((time.process_time() - began, len(finished)))


def timed(question: Question, spent: list[tuple[float, int]]) -> Question:
    """The question, whose predictor of ours tells `spent` how long it learnt from how many attempts."""
    build = question.ours
    return question if build is None else replace(question, ours=lambda: Timed(build(), spent))


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.5g}")


def measure_line(one: Measure, synthetic: bool) -> None:
    case = one.trace
    if synthetic:
        case = case.replace("generated", "synthetic") if "generated" in case else f"synthetic, {case}"
    more: dict[str, object] = {"best": one.best()[0]} if one.best() else {}
    gain = one.gain()
    if gain is not None:
        more["gain"] = _rounded(gain)
    if one.question == "duration" and one.ours is not None:
        best = one.best()
        if one.metric == GAIN_METRIC and best:
            target = (1 - WANTED_GAIN) * best[1]
            more |= {"target": _rounded(target), "met": bool(one.ours <= target)}
        elif one.metric == INTERVAL_METRIC and best:
            more |= {"target": _rounded(best[1]), "met": bool(one.ours <= best[1])}
        elif one.metric == COVERAGE_METRIC:
            more |= {"target": list(COVERED), "met": COVERED[0] <= one.ours <= COVERED[1]}
    line(case, f"{one.question}: {one.metric}", one.unit, one.ours, dict(one.baselines), one.rows, **more)


def shares(found: list[Evaluation], synthetic: bool) -> None:
    """The shares of traces on which the targets of duration are met, and the worst trace."""
    case = "synthetic/all" if synthetic else "all traces"
    by_metric: dict[str, list[Measure]] = {}
    for evaluation in found:
        for one in evaluation.measures:
            if one.question == "duration" and one.ours is not None:
                by_metric.setdefault(one.metric, []).append(one)
    gains = [gain for one in by_metric.get(GAIN_METRIC, []) if (gain := one.gain()) is not None]
    if not gains:
        return
    share = 100 * float(np.mean([gain >= WANTED_GAIN for gain in gains]))
    line(case, "duration: traces 10 % below the best rule", "%", share, {}, len(gains), target=70, met=share >= 70)
    worst = 100 * min(gains)
    line(
        case,
        "duration: gain on the worst trace",
        "%",
        worst,
        {},
        len(gains),
        target=100 * WORST_GAIN,
        met=worst >= 100 * WORST_GAIN,
    )
    scores = [gain for one in by_metric.get(INTERVAL_METRIC, []) if (gain := one.gain()) is not None]
    share = 100 * float(np.mean([gain >= 0 for gain in scores]))
    line(case, "duration: traces with a better interval score", "%", share, {}, len(scores), target=100, met=share == 100)
    covered = [COVERED[0] <= one.ours <= COVERED[1] for one in by_metric[COVERAGE_METRIC] if one.ours is not None]
    share = 100 * float(np.mean(covered))
    line(case, "duration: traces with 88 to 92 % inside", "%", share, {}, len(covered), target=100, met=share == 100)


def synthetic(folder: Path, runs: int) -> Iterator[Trace]:
    """Three generated traces: sizes that matter, partitions that matter with some failures, and noise alone."""
    rng = np.random.default_rng(7)
    at = pd.Timestamp("2024-01-01", tz="UTC")
    for name, by_size, by_tag in (("sizes", 0.8, 0.0), ("partitions", 0.0, 1.0), ("noise", 0.0, 0.0)):
        rows = []
        for run in range(runs):
            slow = float(rng.lognormal(0, 0.1))
            for step in range(6):
                for tag in range(5):
                    size = float(rng.lognormal(18, 1))
                    middle = 20 * 1.7**step * (size / np.exp(18)) ** by_size * np.exp(by_tag * np.sin(7 * tag + step)) * slow
                    took = round(float(middle * rng.lognormal(0, 0.1 + 0.05 * step)), 3)
                    begun = at + pd.Timedelta(hours=run, seconds=120 * step + float(rng.uniform(0, 5)))
                    bad = step == 5 and rng.uniform() < 0.1
                    rows.append(
                        (name, f"r{run}", f"s{step}", f"t{tag}", begun, begun + pd.Timedelta(seconds=took), took, size,
                         8e9, float(1e9 + 4 * size * rng.lognormal(0, 0.05)), "FAILED" if bad else "COMPLETED")
                    )  # fmt: skip
        names = ["workflow", "run_id", "step", "tag", "submitted_at", "ended_at", "duration_s", "input_size",
                 "memory_requested_bytes", "peak_memory_bytes", "status"]  # fmt: skip
        place = folder / "generated"
        place.mkdir(exist_ok=True)
        pd.DataFrame(rows, columns=names).to_parquet(place / f"{name}.parquet")
        yield from read_trace(place / f"{name}.parquet")


def speed(attempts: int) -> None:
    """How long learning and answering take, on generated attempts of a thousand steps; processor seconds of this one process.

    As in live training, the newest attempts are forecast again to judge the experts, and the older ones only observed.
    """
    rng = np.random.default_rng(0)
    steps, usual, noise = 1000, rng.lognormal(3, 1, 1000), rng.lognormal(0, 0.3, attempts)
    predictor = DurationPredictor()

    def submitted(number: int) -> Submitted:
        step = number % steps
        return Submitted(
            number, f"w{step // 10}", f"s{step}", f"r{number // steps}", float(number), f"t{number // steps % 50}",
            size=1e6 * noise[number],
        )  # fmt: skip

    began = time.process_time()
    for start in range(0, attempts, steps):
        batch = [submitted(number) for number in range(start, min(start + steps, attempts))]
        if start >= attempts - REPLAYED:
            predictor.predict(batch)
        predictor.observe([Finished(one, one.at + 1, float(usual[one.id % steps] * noise[one.id])) for one in batch])
    trained = time.process_time() - began
    ahead = [
        Submitted(attempts + number, f"w{number // 10}", f"s{number}", "next", float(attempts), size=1e6)
        for number in range(steps)
    ]
    asked = []
    for _ in range(5):
        began = time.process_time()
        predictor.predict(ahead)
        asked.append(time.process_time() - began)
    began = time.process_time()
    for one in ahead:
        predictor.observe([Finished(one, one.at + 1, 5.0)])
    learned = (time.process_time() - began) / steps
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    full = attempts >= 1_000_000
    line("synthetic/speed", "attempts trained", "s", trained, {}, attempts, target=60, met=trained <= 60 if full else None)
    line("synthetic/speed", "peak memory of training", "GiB", peak, {}, attempts, target=2, met=peak <= 2 if full else None)
    middle = 1000 * statistics.median(asked)
    line("synthetic/speed", "run of 1,000 steps predicted", "ms", middle, {}, steps, target=50, met=middle <= 50, runs=len(asked))
    line(
        "synthetic/speed", "finished attempt learned", "ms", 1000 * learned, {}, steps, target=1, met=learned <= 1e-3, runs=steps
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, metavar="DIR", help="replay the traces in this folder")
    parser.add_argument("--quick", action="store_true", help="traces of at most 10,000 rows, a smaller generated set")
    asked = parser.parse_args()

    def say(text: str) -> None:
        print(f"prediction: {text}", file=sys.stderr)

    say("speed")
    speed(100_000 if asked.quick else 1_000_000)
    found: list[Evaluation] = []
    with tempfile.TemporaryDirectory() as folder:
        traces = load([asked.traces]) if asked.traces else synthetic(Path(folder), 20 if asked.quick else 100)
        for trace in traces:
            if asked.quick and len(trace.rows) > 10_000:
                continue
            for question in QUESTIONS:
                began = time.perf_counter()
                spent: list[tuple[float, int]] = []
                one = evaluate(trace, timed(question, spent), say)
                if one is None:
                    continue
                found.append(one)
                for measure in one.measures:
                    measure_line(measure, asked.traces is None)
                learnt = sum(count for _, count in spent)
                if learnt:
                    each = 1000 * sum(seconds for seconds, _ in spent) / learnt
                    case = trace.name if asked.traces else trace.name.replace("generated", "synthetic")
                    line(case, f"{question.name}: learnt per attempt", "ms", each, {}, learnt, target=MOST_MS, met=each < MOST_MS)
                if one.leak is not None:
                    case = trace.name if asked.traces else trace.name.replace("generated", "synthetic")
                    changed, checked = one.leak.changed, one.leak.checked
                    line(case, f"{question.name}: leaks", "predictions", changed, {}, checked, target=0, met=changed == 0)
                say(f"{trace.name}: {question.name} took {time.perf_counter() - began:.1f} s")
    for measure in macro(one for evaluation in found for one in evaluation.measures):
        measure_line(measure, asked.traces is None)
    shares(found, asked.traces is None)


if __name__ == "__main__":
    main()
