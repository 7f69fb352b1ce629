"""What does metering cost per step? The same job plain and instrumented, run in turn, in one process and in a process for each step.

Ops that do nothing, on Dagster's default SQLite storage in a temporary folder; milliseconds and events per attempt, medians over the
runs. Beside the whole cost stands what is Dagster's price for storing any one event, measured in the same run by storing empty ones:
the rest is metering's own time.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob

from workflows_pkg.orchestration.metering import begin, report
from workflows_pkg.workbench.instrument import instrument

STEPS = "METERING_BENCHMARK_STEPS"
"""Steps of the job: an environment variable, because a process made for a step loads this module again."""
SINGLE = 200
"""Events stored alone, to tell their price from the rest."""


@dg.op(ins={"before": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def step(context) -> None:
    pass


def plain() -> dg.JobDefinition:
    @dg.job(name="chain")
    def job() -> None:
        last = step.alias("s0")()
        for number in range(1, int(os.environ[STEPS])):
            last = step.alias(f"s{number}")(last)

    return job


def instrumented() -> dg.JobDefinition:
    return instrument(dg.Definitions(jobs=[plain()])).resolve_job_def("chain")


@dg.op
def stores_events(context) -> dict[str, float]:
    """Milliseconds of one empty engine event, alone and with the measurement that is stored with it: medians in turn."""
    seconds: dict[str, list[float]] = {"event": [], "event and measurement": []}
    for number in range(2 * SINGLE):
        measured = number % 2 == 1
        started = time.perf_counter()
        if measured:
            report(context, begin(), 1)
        context.instance.report_engine_event("nothing", run_id=context.run_id, job_name=context.job_name)
        seconds["event and measurement" if measured else "event"].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(found) for name, found in seconds.items()}


@dg.job
def storing() -> None:
    stores_events()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs of shorter jobs")
    quick = parser.parse_args().quick
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with dg.DagsterInstance.from_config(folder) as instance:
            for line in in_one_process(instance, *((10, 3) if quick else (40, 9))):
                show(**unmet(line) if quick else line)
            for line in isolated(instance, *((4, 1) if quick else (10, 7))):
                show(**unmet(line) if quick else line)


def in_one_process(instance: dg.DagsterInstance, steps: int, runs: int) -> Iterator[dict[str, Any]]:
    os.environ[STEPS] = str(steps)
    jobs = {"plain": plain(), "instrumented": instrumented()}

    def execute(name: str) -> str:
        return jobs[name].execute_in_process(instance=instance).run_id

    yield from compared("in process", instance, execute, steps, runs, target=1.0)
    price = storing.execute_in_process(instance=instance).output_for_node("stores_events")
    own = round(price["event and measurement"] - price["event"], 3)
    peers = {"storing one event": round(price["event"], 3)}
    yield {"case": "in process", "metric": "added to the next event", "unit": "ms", "ours": own, "peers": peers,
           "target": 1.0, "met": own <= 1.0, "runs": SINGLE, "size": "1 event"}  # fmt: skip


def isolated(instance: dg.DagsterInstance, steps: int, runs: int) -> Iterator[dict[str, Any]]:
    os.environ[STEPS] = str(steps)
    config = {"execution": {"config": {"multiprocess": {"start_method": {"forkserver": {}}, "max_concurrent": 1}}}}

    def execute(name: str) -> str:
        job = ReconstructableJob.for_file(str(Path(__file__).resolve()), name)
        with dg.execute_job(job, instance, run_config=config, raise_on_error=True) as result:
            return result.run_id

    yield from compared("isolated", instance, execute, steps, runs, target=3.0)


def compared(
    case: str, instance: dg.DagsterInstance, execute: Any, steps: int, runs: int, target: float
) -> Iterator[dict[str, Any]]:
    seconds: dict[str, list[float]] = {"plain": [], "instrumented": []}
    events: dict[str, list[float]] = {"plain": [], "instrumented": []}
    for number in range(runs + 1):
        names = ["plain", "instrumented"] if number % 2 else ["instrumented", "plain"]  # neither is always the second
        for name in names:
            print(f"metering: {case}, run {number} of {runs}, {name}", file=sys.stderr)
            started = time.perf_counter()
            run_id = execute(name)
            took = time.perf_counter() - started
            if number:  # the first warms up
                seconds[name].append(took)
            events[name].append(sum(entry.dagster_event is not None for entry in instance.all_logs(run_id)) / steps)
    per_step = {name: 1000 * statistics.median(found) / steps for name, found in seconds.items()}
    added = statistics.median(
        1000 * (ours - theirs) / steps for ours, theirs in zip(seconds["instrumented"], seconds["plain"], strict=True)
    )
    said = {"case": case, "runs": runs, "size": f"{steps} steps"}
    yield said | {"metric": "added per attempt", "unit": "ms", "ours": round(added, 2),
                  "peers": {"plain Dagster step": round(per_step["plain"], 2)}, "target": target, "met": added <= target}  # fmt: skip
    more = statistics.median(events["instrumented"]) - statistics.median(events["plain"])
    yield said | {"metric": "events added per attempt", "unit": "events", "ours": round(more, 3),
                  "peers": {"plain Dagster step": round(statistics.median(events["plain"]), 3)}, "target": 1, "met": more <= 1}  # fmt: skip


def unmet(line: dict[str, Any]) -> dict[str, Any]:
    """A run so short shows that the benchmark works; only counts can be held against the target."""
    return line if line["unit"] == "events" else line | {"met": None}


def show(**line: Any) -> None:
    order = ("case", "metric", "unit", "ours", "peers", "target", "met", "runs", "size")
    print(json.dumps({"benchmark": "metering"} | {name: line[name] for name in order}))


if __name__ == "__main__":
    main()
