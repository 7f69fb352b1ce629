"""What does metering cost per step? The same job plain, instrumented by hooks, and metered in the body of its ops, run in turn.

In one process on the default SQLite storage, ops that do nothing; milliseconds per step and events per step, medians over the runs.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import dagster as dg

from workflows_pkg.orchestration.metering import begin, report
from workflows_pkg.workbench.instrument import instrument


def chain(steps: int, name: str, metered: bool) -> dg.JobDefinition:
    @dg.op(name=f"{name}_step", ins={"before": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
    def step(context) -> None:
        if metered:
            report(context, begin(), context.retry_number + 1)

    @dg.job(name=name)
    def job() -> None:
        last = None
        for number in range(steps):
            last = step.alias(f"s{number}")(last) if last is not None else step.alias(f"s{number}")()

    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs of a shorter job")
    quick = parser.parse_args().quick
    steps, runs = (10, 3) if quick else (40, 7)
    logging.disable(logging.CRITICAL)
    plain = chain(steps, "plain", metered=False)
    hooked = instrument(dg.Definitions(jobs=[chain(steps, "hooked", metered=False)])).resolve_job_def("hooked")
    cases: dict[str, dg.JobDefinition] = {"plain": plain, "hook": hooked, "body": chain(steps, "body", metered=True)}
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    events: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with dg.DagsterInstance.from_config(folder) as instance:
            for number in range(runs + 1):
                for case, job in cases.items():
                    print(f"metering: run {number} of {runs}, {case}", file=sys.stderr)
                    started = time.perf_counter()
                    run_id = job.execute_in_process(instance=instance).run_id
                    if number:  # the first warms up
                        seconds[case].append(time.perf_counter() - started)
                    events[case] = sum(entry.dagster_event is not None for entry in instance.all_logs(run_id)) / steps
    per_step = {case: round(1000 * statistics.median(found) / steps, 2) for case, found in seconds.items()}
    for case in ("hook", "body"):
        added = round(per_step[case] - per_step["plain"], 2)
        show(case, "added per step", "ms", added, {"plain Dagster step": per_step["plain"]}, runs, steps)
        show(
            case,
            "events per step",
            "events",
            round(events[case], 2),
            {"plain Dagster step": round(events["plain"], 2)},
            runs,
            steps,
        )


def show(case: str, metric: str, unit: str, ours: float, peers: dict[str, float], runs: int, steps: int) -> None:
    line = {"benchmark": "metering", "case": case, "metric": metric, "unit": unit, "ours": ours, "peers": peers, "target": None}
    print(json.dumps({**line, "met": None, "runs": runs, "size": f"{steps} steps"}))


if __name__ == "__main__":
    main()
