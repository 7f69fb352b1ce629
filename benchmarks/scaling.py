"""What does scaling by a forecast cost, and how long does work wait, beside reactive scaling, a fixed number and perfect knowledge?

`--traces DIR` replays a folder of public traces: the batch jobs of a machine over three months (pwa/*.parquet: `submitted_at`,
`duration_s`; one job is taken as one slot, however many processors it had), and when builds of five projects were asked for over years
(travis_dlcibuild/builds.parquet: `project`, `submitted_at`). The builds have no durations: drawn ones are ASSUMED, log-normal with a
median of ten minutes, and their cases say so. Without it generated work is replayed: its cases are named `synthetic`, say nothing of
real workflows, and are not for the README.

Each week's way is chosen by the two weeks before it and learned from what was known before it; the first three weeks are not scored.
Reactive scaling is KEDA's with its defaults. A case counts as better where work waits less and workers cost at most 2 % more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from workflows_pkg.advisor.scaling.fleet import Replayed
from workflows_pkg.advisor.scaling.weeks import CHOOSE_BY, ours_and_others, replay_weeks
from workflows_pkg.prediction.demand.hours import LEVELS, covered, forecast_hours, quantile_loss, served
from workflows_pkg.prediction.demand.work import Work, by_minute, hourly_peaks

ALLOWED_S = (None, 60.0, 30.0, 10.0)
"""Mean waits that are asked for; None: the shortest for what reactive scaling costs."""
BEGIN = pd.Timestamp("2024-01-01", tz="UTC").timestamp()
COVERED = 88.0
"""At least: the most at once is a small whole number, so an interval that holds 90 of 100 often holds more."""
WEEK = 7 * 24
LEAST = 200
"""Builds in the newest weeks of a project; with fewer there is nothing to scale."""


def traces(folder: Path, weeks: int) -> Iterator[tuple[str, Work]]:
    for path in sorted((folder / "pwa").glob("*.parquet")):
        rows = pd.read_parquet(path, columns=["submitted_at", "duration_s"]).dropna()
        asked = seconds(rows["submitted_at"])
        yield f"{path.stem}, jobs", Work.of(asked, asked + rows["duration_s"], rows["duration_s"])
    builds = folder / "travis_dlcibuild" / "builds.parquet"
    if builds.exists():
        rows = pd.read_parquet(builds, columns=["project", "submitted_at"])
        for project, of_project in rows.groupby("project"):
            asked = seconds(of_project["submitted_at"])
            asked = asked[asked > asked.max() - weeks * 7 * 86_400]
            if len(asked) < LEAST:
                continue
            took = np.random.default_rng(7).lognormal(np.log(600), 0.6, len(asked))
            yield f"travis {project}, builds, durations assumed", Work.of(asked, asked + took, took)


def seconds(instants: pd.Series) -> np.ndarray:
    return np.sort(pd.to_datetime(instants, utc=True).astype("datetime64[ns, UTC]").astype("int64").to_numpy() / 1e9)


def synthetic(weeks: int) -> Iterator[tuple[str, Work]]:
    """By the clock; people in office hours and a backfill now and then; by chance alike at all hours; the clock moved half way."""
    rng = np.random.default_rng(11)
    days = weeks * 7

    def work(asked: list[float], busy: list[float]) -> Work:
        return Work.of(asked, np.array(asked) + np.array(busy), busy)

    def clock(asked: list[float], busy: list[float], since: int, until: int, hour: float) -> None:
        for day in range(since, until):
            midnight = BEGIN + 86_400 * day
            for at, runs, usual in [(3600.0 * each, 3, 240) for each in range(24)] + [(3600 * hour, 12, 900)]:
                asked += list(midnight + at + rng.uniform(0, 20, runs))
                busy += list(usual * rng.lognormal(0, 0.3, runs))

    def people(asked: list[float], busy: list[float]) -> None:
        for day in range(days):
            count = rng.poisson(60 if day % 7 < 5 else 5)
            asked += list(BEGIN + 86_400 * day + rng.normal(13 * 3600, 2 * 3600, count))
            busy += list(300 * rng.lognormal(0, 0.8, count))
            if rng.uniform() < 1 / 14:
                at = BEGIN + 86_400 * day + rng.uniform(0, 86_400)
                asked += list(at + 5.0 * np.arange(40))
                busy += list(200 * rng.lognormal(0, 0.3, 40))

    asked, busy = [], []
    clock(asked, busy, 0, days, 6)
    yield "synthetic: by the clock", work(asked, busy)
    people(asked, busy)
    yield "synthetic: by the clock and by people", work(asked, busy)
    asked, busy = [], []
    people(asked, busy)
    yield "synthetic: by people", work(asked, busy)
    count = rng.poisson(96 * days)
    yield "synthetic: by chance", work(list(BEGIN + rng.uniform(0, 86_400 * days, count)), list(rng.lognormal(5.5, 0.8, count)))
    asked, busy = [], []
    clock(asked, busy, 0, days // 2, 6)
    clock(asked, busy, days // 2, days, 9.5)
    yield "synthetic: by a clock that is moved", work(asked, busy)


def line(case: str, metric: str, unit: str, ours: float, peers: dict[str, float], size: int, **more: object) -> None:
    def rounded(value: float) -> float:
        return float(f"{value:.4g}")

    shape = {"benchmark": "scaling", "case": case, "metric": metric, "unit": unit, "ours": rounded(ours)}
    shape |= {"peers": {name: rounded(value) for name, value in peers.items()}}
    print(json.dumps(shape | {"target": None, "met": None, "runs": 1} | more | {"size": size}), flush=True)


def hours(work: Work) -> tuple[dict[str, float], float, int] | None:
    """Mean quantile loss of the most at once in an hour, said a day ahead: served (chosen weekly by the two weeks before) and each way."""
    start, peaks = hourly_peaks(by_minute(work, work.asked[0], work.asked[-1]))
    first = WEEK
    if len(peaks) < (2 + CHOOSE_BY) * WEEK:
        return None
    said = forecast_hours(start, peaks, first, len(peaks))
    found = np.empty((len(peaks) - first, len(LEVELS)))
    truth = peaks[first:]
    for begin in range(CHOOSE_BY * WEEK, len(found), WEEK):
        before = slice(begin - CHOOSE_BY * WEEK, begin)
        found[begin : begin + WEEK] = served(truth[before], said, before, slice(begin, begin + WEEK))[1]
    scored = slice(CHOOSE_BY * WEEK, None)
    losses = {name: quantile_loss(truth[scored], one[scored]) for name, one in {"ours": found, **said}.items()}
    return losses, 100 * float(covered(truth[scored], found[scored]).mean()), len(truth[scored])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, metavar="DIR", help="replay the traces in this folder")
    parser.add_argument("--starts-in", type=float, default=120.0, metavar="SECONDS", help="how long a worker takes to start")
    parser.add_argument("--quick", action="store_true", help="seven weeks of each instead of 16")
    asked = parser.parse_args()
    most = 7 if asked.quick else 16
    better: dict[float | None, list[bool]] = {allowed: [] for allowed in ALLOWED_S}
    for case, work in traces(asked.traces, most) if asked.traces else synthetic(most if asked.quick else 13):
        began = time.process_time()
        weeks = replay_weeks(work, asked.starts_in, float(work.asked[-1]), most)
        for allowed in ALLOWED_S:
            found = ours_and_others(weeks, allowed)
            if found:
                # what comes of tuning how long idle workers are kept, in the same way
                held = [replace(week, ways={way: one for way, one in week.ways.items() if way.kind == "held"}) for week in weeks]
                found.insert(2, replace(ours_and_others(held, allowed)[0], name="reactive, tuned alike"))
                better[allowed].append(print_replayed(case, allowed, found))
        told = hours(work)
        if told is not None:
            losses, inside, size = told
            line(case, "most at once in an hour, a day ahead: quantile loss", "slots", losses.pop("ours"), losses, size)
            met = inside >= COVERED
            line(case, "most at once in an hour: within 5 to 95 %", "%", inside, {}, size, target=COVERED, met=met)
        print(f"scaling: {case} took {time.process_time() - began:.0f} s of a processor", file=sys.stderr)
    case = "all traces" if asked.traces else "synthetic, all"
    for allowed, found in better.items():
        if found:
            line(
                case,
                f"cases in which work waits less at no more cost{wanted(allowed)}",
                "%",
                100 * float(np.mean(found)),
                {},
                len(found),
            )


def print_replayed(case: str, allowed: float | None, found: list[Replayed]) -> bool:
    ours, reactive, *_ = found
    peers = found[1:]
    fitting = ours.wait_mean_s < reactive.wait_mean_s and ours.worker_hours <= 1.02 * reactive.worker_hours
    size = len(ours.waits)
    suffix = wanted(allowed)
    line(case, f"worker hours{suffix}", "h", ours.worker_hours, {one.name: one.worker_hours for one in peers}, size)
    line(case, f"mean wait{suffix}", "s", ours.wait_mean_s, {one.name: one.wait_mean_s for one in peers}, size, target=allowed,
         met=None if allowed is None else ours.wait_mean_s <= allowed)  # fmt: skip
    line(case, f"wait of 95 of 100{suffix}", "s", ours.wait_p95_s, {one.name: one.wait_p95_s for one in peers}, size)
    return fitting


def wanted(allowed: float | None) -> str:
    return "" if allowed is None else f", mean wait of {allowed:g} s allowed"


if __name__ == "__main__":
    main()
