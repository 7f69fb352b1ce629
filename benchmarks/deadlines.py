"""What is a warning of a missed deadline worth, beside the rules people use, and how many good attempts does a learned timeout kill?

`--traces DIR` replays every trace in a folder (`workflows evaluate --help` says what a trace is). Without it a generated set is
replayed: its cases are named `synthetic`, say nothing about real workflows, and are not for the README.

Each attempt counts as a run of its own, with four deadlines: the 50, 75, 90 and 95 % quantile of the run times of its step that had
been seen by then, 20 at least. Only those that succeed are scored; cold ones are left out. All is as it was known at the attempt's
submission, and while it runs only how long it has run. Three ways to warn:

- ours: at the first moment at which the forecast says a miss is more likely than not (`workflows_pkg.prediction.deadline`);
- fixed_2x_median: when the attempt has run for twice the median of its step. A warning at or after the deadline is none;
- empirical_quantile: when of the step's past times that were longer than this one by now, half were longer than the deadline.

Per deadline: misses warned of before it, and of those with a tenth of it left; warnings of attempts that then kept it, of all warnings; the
middle lead of the misses warned of, in % of the deadline; and the Brier score of the probability before the start and, of those still
running, at half the deadline. A rule by the clock warns of every miss in its last moment, so the tenth is what to read beside false alarms.
Calibration: mean distance between probability and share in ten bins. Whole runs with steps, where a trace has ten or more: the same, looked
at twenty times per deadline.

Timeouts: after 20, 40, 80, … good attempts of a step the limit is learned, and applied to as many good ones that came next. `stated` is the
mean upper bound beside the limits (95 % sure), which the share really killed should not exceed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.advisor.timeout import LEAST_SUCCESSES, learned_timeout
from workflows_pkg.prediction.course import courses
from workflows_pkg.prediction.deadline import WARN_FROM, miss_before_start, miss_by_clock, miss_while_running
from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.evaluation.replay import replay, turns
from workflows_pkg.prediction.evaluation.traces import Trace, load, read_trace
from workflows_pkg.prediction.lookup import JobForecast, Quantiles
from workflows_pkg.prediction.remaining import SeenStep, remaining
from workflows_pkg.prediction.rows import Frame
from workflows_pkg.prediction.serving import predictions
from workflows_pkg.prediction.spread import Spread

LEVELS = (0.5, 0.75, 0.9, 0.95)
FROM = 20
LOOKS = 20
TENTH = 0.1
WAYS = ("ours", "fixed_2x_median", "empirical_quantile")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Tally:
    """What one way of warning did on one trace at one deadline."""

    missed: list[bool] = field(default_factory=list)
    leads: list[float | None] = field(default_factory=list)
    before: list[float] = field(default_factory=list)
    half: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, missed: bool, lead: float | None, before: float | None = None, half: float | None = None) -> None:
        """`lead`: share of the deadline that was left at the warning, None: not warned."""
        self.missed.append(missed)
        self.leads.append(lead)
        if before is not None:
            self.before.append(before)
        if half is not None:
            self.half.append((half, missed))

    def figures(self) -> dict[str, float | None]:
        missed = np.array(self.missed)
        warned = np.array([lead is not None for lead in self.leads])
        leads = [lead for lead, miss in zip(self.leads, self.missed, strict=True) if miss and lead is not None]
        found: dict[str, float | None] = {
            "misses caught": 100 * float(warned[missed].mean()) if missed.any() else None,
            "misses caught with a tenth left": 100 * sum(lead >= TENTH for lead in leads) / missed.sum()
            if missed.any()
            else None,
            "false alarms of warnings": 100 * float((~missed)[warned].mean()) if warned.any() else None,
            "middle lead of misses caught": 100 * float(np.median(leads)) if leads else None,
        }
        if self.before:
            chance = np.array(self.before)
            found["Brier before the start"] = float(((chance - missed) ** 2).mean())
            found["calibration error before the start"] = 100 * _calibration(chance, missed)
        if self.half:
            late, came = np.array(self.half, dtype=float).T
            found["Brier at half the deadline"] = float(((late - came) ** 2).mean())
        return found


def _calibration(chance: np.ndarray, came: np.ndarray) -> float:
    bins = np.minimum((10 * chance).astype(int), 9)
    return sum(
        abs(float(chance[bins == one].mean() - came[bins == one].mean())) * float((bins == one).mean()) for one in set(bins)
    )


Found = dict[float, dict[str, Tally]]


def _tallies() -> Found:
    return {level: {way: Tally() for way in WAYS} for level in LEVELS}


def _lead(took: float, warned_at: float, due: float) -> float | None:
    """What was left of the deadline at the warning, as a share; None where the attempt had ended, or the deadline had passed."""
    return (due - warned_at) / due if warned_at < min(took, due) else None


def of_attempts(trace: Trace, newest: int) -> Found:
    """Every attempt of a trace as a run of its own; the `newest` are asked about."""
    answers = replay(trace, DurationPredictor(), newest=newest)[["p05", "p50", "p95"]].to_numpy(float)
    keys = list(zip(trace.rows["workflow"], trace.rows["step"], strict=True))
    values = trace.rows["value"].to_numpy(float)
    past: dict[tuple[str, str], list[float]] = defaultdict(list)
    found = _tallies()
    for opened, closed in turns(trace):
        for row in closed:
            if values[row] >= trace.least_s:
                insort(past[keys[row]], float(values[row]))
        for row in opened:
            known, took = past[keys[row]], float(values[row])
            if len(known) < FROM or not took >= trace.least_s or np.isnan(answers[row]).any():
                continue
            past_times = np.array(known)
            low, middle, high = answers[row]
            forecast = Quantiles(float(low), float(middle), float(high), len(known), "")
            for level in LEVELS:
                _score(found[level], forecast, past_times, took, float(np.quantile(past_times, level)))
    return found


def _score(tallies: dict[str, Tally], forecast: Quantiles, past: np.ndarray, took: float, due: float) -> None:
    missed, half = took > due, due / 2
    spread = Spread.of(forecast)
    least = spread.survival(due) / WARN_FROM
    warned_at = 0.0 if least >= 1 else spread.at(least)
    tallies["ours"].add(
        missed,
        _lead(took, warned_at, due),
        miss_by_clock(forecast, 0.0, due),
        miss_by_clock(forecast, half, half) if took > half else None,
    )
    tallies["fixed_2x_median"].add(missed, _lead(took, 2 * float(np.median(past)), due))
    longer = int((past > due).sum())
    share, still = longer / len(past), int((past > half).sum())
    # the moment from which no more than twice as many have lasted as miss the deadline
    place = len(past) - int(longer / WARN_FROM)
    warned_at = 0.0 if place <= 0 else float(past[min(place, len(past)) - 1]) if longer else due
    at_half = None if took <= half else longer / still if still else 1.0
    tallies["empirical_quantile"].add(missed, _lead(took, warned_at, due), share, at_half)


def of_runs(trace: Trace) -> Found | None:
    """Whole runs of a trace with their steps; None where there are too few, or no instants."""
    rows = trace.rows
    if trace.clock != "times" or rows["run_id"].nunique() < FROM // 2 or rows["step"].nunique() < 2:
        return None
    good = rows[rows["value"].notna() & rows["finished_s"].notna()]
    began = (good["finished_s"] - good["value"]).clip(lower=good["submitted_s"])
    good = good.assign(
        began=pd.to_datetime(began, unit="s", utc=True),
        ended=pd.to_datetime(good["finished_s"], unit="s", utc=True),
        asked=pd.to_datetime(good["submitted_s"], unit="s", utc=True),
    )
    spans = good.groupby("run_id").agg(created_at=("asked", "min"), started_at=("began", "min"), ended_at=("ended", "max"))
    spans = spans.sort_values("created_at").reset_index()
    spans["run_time_s"] = (spans["ended_at"] - spans["started_at"]).dt.total_seconds()
    whole: Frame = pd.DataFrame(
        {
            "job_name": "job", "step": "", "run_id": spans["run_id"], "partition_key": None, "attempt": 1,
            "submitted_at": spans["created_at"], "finished_at": spans["ended_at"], "value": spans["run_time_s"],
        }
    )  # fmt: skip
    runs = spans.assign(job_name="job", outcome="success")
    attempts = good.assign(
        job_name="job", started_at=good["began"], ended_at=good["ended"], outcome="success", submitted_at=good["asked"]
    )
    expected = predictions(whole)
    steps = {step: list(one) for step, one in attempts.groupby("step")[["ended_at", "value"]]}
    found = _tallies()
    for place, run in runs.iterrows():
        known = runs[runs["ended_at"] < run["created_at"]]["run_time_s"].to_numpy(float)
        if len(known) < FROM // 2 or np.isnan(expected.loc[place, "p50"]):
            continue
        job = _forecast(run, expected.loc[place], runs, attempts, steps, len(known))
        mine = attempts[attempts["run_id"] == run["run_id"]]
        for level in LEVELS:
            _score_run(found[level], job, run, mine, np.sort(known), float(np.quantile(known, level)))
    return found


def _forecast(
    run: Frame, expected: Frame, runs: Frame, attempts: Frame, steps: dict[str, list[Frame]], count: int
) -> JobForecast:
    """What training had published when the run was asked for; of a step's own time, the quantiles of its newest 50 attempts."""
    at = run["created_at"]
    own = Quantiles(float(expected["p05"]), float(expected["p50"]), float(expected["p95"]), count, "")
    by_key = {("", "run_time_s"): own}
    before = attempts[attempts["ended_at"] < at]
    for step, of_step in before.groupby("step"):
        low, middle, high = of_step.sort_values("ended_at")["value"].tail(50).quantile([0.05, 0.5, 0.95])
        by_key[str(step), "run_time_s"] = Quantiles(float(low), float(middle), float(high), len(of_step), "")
    for item in courses(runs[runs["ended_at"] < at], before, at):
        by_key[item.step, item.quantity] = Quantiles(item.p05, item.p50, item.p95, item.sample_count, "")
    return JobForecast("job", NOW, by_key)


def _score_run(tallies: dict[str, Tally], job: JobForecast, run: Frame, mine: Frame, past: np.ndarray, due: float) -> None:
    took, missed = float(run["run_time_s"]), bool(run["run_time_s"] > due)
    begun, own = run["started_at"], job.run("run_time_s")
    assert own is not None
    began = (mine["began"] - begun).dt.total_seconds().to_numpy(float)
    ended = (mine["ended"] - begun).dt.total_seconds().to_numpy(float)
    names = mine["step"].to_numpy()

    def chance(at: float) -> float:
        seen: list[SeenStep] = []
        for step in dict.fromkeys(names[began <= at]):
            of_step = (names == step) & (began <= at)
            is_open = bool((ended[of_step] > at).any())
            since = began[of_step].min() if is_open else ended[of_step].max()
            seen.append(SeenStep(str(step), at - float(since), ended=not is_open))
        left = remaining(job, at, seen)
        assert left is not None
        return miss_while_running(left, due - at)

    start = miss_before_start(job, own, due)
    looks = np.linspace(0, due, LOOKS, endpoint=False)[1:]
    warned = 0.0 if start >= WARN_FROM else next((float(at) for at in looks if at < took and chance(at) >= WARN_FROM), due)
    tallies["ours"].add(missed, _lead(took, warned, due), start, chance(due / 2) if took > due / 2 else None)
    rules = {way: Tally() for way in WAYS}
    _score(rules, own, past, took, due)
    for way in WAYS[1:]:
        one = rules[way]
        before, half = one.before[0] if one.before else None, one.half[0][0] if one.half else None
        tallies[way].add(missed, one.leads[0], before, half)


def timeouts(trace: Trace) -> tuple[int, int, float, int] | None:
    """Good attempts after a limit was learned, how many it would have killed, the mean stated bound, and kills at twice the median."""
    tried = killed = doubled = 0
    stated: list[float] = []
    for values in trace.rows.dropna(subset=["value"]).sort_values("finished_s").groupby(["workflow", "step"])["value"]:
        times = values[1].to_numpy(float)
        seen = LEAST_SUCCESSES
        while seen < len(times):
            learned = learned_timeout(_attempts(times[:seen]))
            assert learned is not None
            ahead = times[seen : 2 * seen]
            tried += len(ahead)
            killed += int((ahead > learned.limit.total_seconds()).sum())
            doubled += int((ahead > 2 * np.median(times[:seen])).sum())
            stated += [learned.false_kill_share_upper] * len(ahead)
            seen *= 2
    return (tried, killed, float(np.mean(stated)), doubled) if tried else None


def _attempts(seconds: np.ndarray) -> Frame:
    at = [NOW + timedelta(minutes=number) for number in range(len(seconds))]
    return pd.DataFrame(
        {"run_id": "r", "step_key": "s", "attempt": 1, "started_at": at, "outcome": "success", "run_time_s": seconds}
    )


def synthetic(folder: Path, runs: int) -> Iterator[Trace]:
    """Runs of four steps in a row; one in ten is three times slower in a step, and its size says so of half of those."""
    rng = np.random.default_rng(11)
    rows = []
    for run in range(runs):
        slow_step, told = (int(rng.integers(4)) if rng.uniform() < 0.1 else -1), rng.uniform() < 0.5
        clock = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(hours=run)
        for step in range(4):
            slow = step == slow_step
            size = 1e6 * float(rng.lognormal(0, 0.1)) * (3 if slow and told else 1)
            took = round(float(60 * (step + 1) * rng.lognormal(0, 0.15) * (3 if slow else 1)), 3)
            rows.append(("generated", f"r{run}", f"s{step}", clock, clock + pd.Timedelta(seconds=took), took, size, "COMPLETED"))
            clock += pd.Timedelta(seconds=took)
    place = folder / "generated"
    place.mkdir(exist_ok=True)
    names = ["workflow", "run_id", "step", "submitted_at", "ended_at", "duration_s", "input_size", "status"]
    pd.DataFrame(rows, columns=names).to_parquet(place / "runs.parquet")
    yield from read_trace(place / "runs.parquet")


UNITS = {"Brier before the start": "", "Brier at half the deadline": ""}


def line(case: str, metric: str, ours: float | None, peers: Mapping[str, float | None], size: int, **more: object) -> None:
    def rounded(value: float | None) -> float | None:
        return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")

    shape = {"benchmark": "deadlines", "case": case, "metric": metric, "unit": UNITS.get(metric.partition(", ")[0], "%")}
    shape |= {"ours": rounded(ours), "peers": {name: rounded(value) for name, value in peers.items()}}
    print(json.dumps(shape | {"target": None, "met": None, "runs": 1} | more | {"size": size}), flush=True)


def print_found(case: str, found: Found, kept: dict[tuple[str, str], dict[str, list[float]]], sort: str) -> None:
    for level, tallies in found.items():
        size = len(tallies["ours"].missed)
        if not size:
            continue
        figures = {way: tally.figures() for way, tally in tallies.items()}
        for metric in figures["ours"]:
            by_way = {way: figures[way][metric] for way in WAYS if metric in figures[way]}
            ours = by_way.pop("ours")
            name = f"{metric}, deadline at the {100 * level:g} % quantile"
            line(f"{case}, {sort}", name, ours, by_way, size)
            for way, value in {"ours": ours, **by_way}.items():
                if value is not None:
                    kept.setdefault((sort, name), {}).setdefault(way, []).append(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, metavar="DIR", help="replay the traces in this folder")
    parser.add_argument(
        "--quick", action="store_true", help="traces of at most 5,000 rows, their newest 500; a smaller generated set"
    )
    asked = parser.parse_args()
    kept: dict[tuple[str, str], dict[str, list[float]]] = {}
    bound: list[tuple[int, int, float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        for trace in load([asked.traces]) if asked.traces else synthetic(Path(folder), 100 if asked.quick else 600):
            if not trace.rows["value"].notna().any() or (asked.quick and len(trace.rows) > 5_000):
                continue
            began = time.perf_counter()
            case = trace.name if asked.traces else trace.name.replace("generated", "synthetic")
            print_found(case, of_attempts(trace, 500 if asked.quick else 10_000), kept, "attempts")
            whole = of_runs(trace) if len(trace.rows) <= 10_000 else None
            if whole is not None:
                print_found(case, whole, kept, "whole runs")
            one = timeouts(trace)
            if one is not None:
                tried, killed, stated, doubled = one
                bound.append(one)
                share = 100 * killed / tried
                peers = {"stated": 100 * stated, "fixed_2x_median": 100 * doubled / tried}
                line(
                    case,
                    "good attempts killed by a learned timeout",
                    share,
                    peers,
                    tried,
                    target=peers["stated"],
                    met=share <= peers["stated"],
                )
            print(f"deadlines: {trace.name} took {time.perf_counter() - began:.1f} s", file=sys.stderr)
    everything = "all traces" if asked.traces else "synthetic, all"
    for (sort, name), by_way in kept.items():
        means = {way: float(np.mean(values)) for way, values in by_way.items()}
        line(f"{everything}, {sort}", name, means.pop("ours", None), dict(means), len(by_way.get("ours", [])))
    if bound:
        killed = [100 * one[1] / one[0] for one in bound]
        peers = {
            "stated": float(np.mean([100 * one[2] for one in bound])),
            "fixed_2x_median": float(np.mean([100 * one[3] / one[0] for one in bound])),
        }
        line(everything, "good attempts killed by a learned timeout", float(np.mean(killed)), dict(peers), len(bound))
        kept_share = 100 * float(np.mean([one[1] / one[0] <= one[2] for one in bound]))
        line(
            everything,
            "traces that keep the stated share of kills",
            kept_share,
            {},
            len(bound),
            target=100,
            met=kept_share == 100,
        )


if __name__ == "__main__":
    main()
