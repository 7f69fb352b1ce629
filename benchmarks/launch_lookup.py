"""What does a launch pay for its forecast? The lookup in published files of several sizes, and submitting a run beside Dagster.

Lookup: of a random job among 10, 1,000 and 10,000, each with a run and eight steps. `replaced`: the first lookup after the file was
replaced; `disk`: the file was also dropped from the page cache; `warm`: the file stayed as it was. The peer reads the whole document, as
one would without its index. Submitting: `submit_run` of Dagster's queue and of ours on an instance each, in turn, on SQLite
with the largest file; ours writes one more event, and tags in one edit.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator import SubmitRunContext

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.forecasts import publish_table
from workflows_pkg.prediction.lookup import FILE, job_forecast

TARGET_MS = 20.0
"""The issue's figure for the 95 % quantile of a lookup."""

STEPS = 8
BASIS = '{"usual": 10.0, "outcomes": 50, "ratio": 1.2, "moved": [["weekday", 1.25, 7], ["newest", 1.2, 10]]}'
OURS = "run_coordinator: {module: workflows_pkg.instance.coordinator, class: ForecastingRunCoordinator}\n"


@dg.op
def extract() -> None: ...


@dg.job
def job_0() -> None:
    extract()


def forecasts(jobs: int) -> Iterator[Forecast]:
    now = datetime.now(UTC)
    for job in range(jobs):
        for step in ("", *(f"step_{number}" for number in range(STEPS))):
            of_it = ("time_left_s", "peak_memory_mib", "memory_request_mib") if step else ("queue_time_s",)
            for quantity in ("run_time_s", "cost_usd", "failure_share", *of_it):
                p50 = random.lognormvariate(3, 1)
                yield Forecast(
                    job_name=f"job_{job}", step=step, quantity=quantity, p05=p50 * 0.7, p50=p50, p95=p50 * 1.6, sample_count=48,
                    predictor="median_of_10", as_of=now, basis=BASIS,
                )  # fmt: skip


def dropped(file: Path) -> None:
    """Has the system forget the file's content, so that the next read is from the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def milliseconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def quantile(values: list[float], level: float) -> float:
    return sorted(values)[min(int(level * len(values)), len(values) - 1)]


def say(case: str, metric: str, ours: list[float], peers: dict[str, list[float]], size: str, target: float | None) -> None:
    for name, level in (("p50", 0.5), ("p95", 0.95)):
        value = quantile(ours, level)
        aim = target if name == "p95" else None
        line = {"benchmark": "launch_lookup", "case": case, "metric": f"{metric}, {name}", "unit": "ms", "ours": round(value, 3)}
        line |= {"peers": {peer: round(quantile(found, level), 3) for peer, found in peers.items()}, "target": aim}
        print(json.dumps(line | {"met": None if aim is None else value < aim, "runs": len(ours), "size": size}), flush=True)


def lookups(jobs: int, rounds: int, folder: Path) -> Path:
    fresh, file = folder / "fresh.json", folder / FILE
    publish_table(forecasts(jobs), fresh)
    size = f"{jobs:,} jobs, {fresh.stat().st_size / 1e6:.1f} MB"
    found: dict[str, list[float]] = {"replaced": [], "disk": [], "warm": []}
    whole: list[float] = []
    for number in range(rounds):
        name = f"job_{random.randrange(jobs)}"
        shutil.copyfile(fresh, folder / "next.json")
        os.replace(folder / "next.json", file)
        found["replaced"].append(milliseconds(lambda name=name: job_forecast(file, name)))
        dropped(file)
        found["disk"].append(milliseconds(lambda name=name: job_forecast(file, name)))
        found["warm"].append(milliseconds(lambda name=name: job_forecast(file, name)))
        if number < 5:
            whole.append(milliseconds(lambda: json.loads(file.read_bytes())))
    for case, taken in found.items():
        say(case, "lookup", taken, {"reading all of it": whole}, size, TARGET_MS)
    return file


def submitted(instance: dg.DagsterInstance) -> float:
    location = GrpcServerCodeLocationOrigin(host="localhost", port=1, location_name="here")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job_0.name)
    run = instance.create_run_for_job(job_0, remote_job_origin=origin)
    workspace: Any = None
    return milliseconds(lambda: instance.run_coordinator.submit_run(SubmitRunContext(run, workspace)))


def submissions(file: Path, rounds: int, folder: Path) -> None:
    with ExitStack() as stack:
        instances = {}
        for name, settings in (("ours", OURS), ("stock", "")):
            home = folder / name
            home.mkdir()
            (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n" + settings)
            shutil.copyfile(file, home / FILE)
            instances[name] = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        taken: dict[str, list[float]] = {name: [] for name in instances}
        for number in range(rounds + 1):
            for name, instance in instances.items():
                found = submitted(instance)
                if number:  # the first makes the databases
                    taken[name].append(found)
    say("submit", "submit_run in all", taken["ours"], {"Dagster's queue": taken["stock"]}, f"{rounds} runs each, in turn", None)
    added = [ours - stock for ours, stock in zip(taken["ours"], taken["stock"], strict=True)]
    say("submit", "added to submit_run", added, {}, f"{rounds} runs each, in turn", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under 40 seconds")
    quick = parser.parse_args().quick
    random.seed(7)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for jobs in (10, 1_000, 10_000):
            print(f"launch_lookup: {jobs} jobs", file=sys.stderr)
            file = lookups(jobs, 30 if quick else 300, folder)
        print("launch_lookup: submitting", file=sys.stderr)
        submissions(file, 10 if quick else 100, folder)


if __name__ == "__main__":
    main()
