"""Jobs whose attempts die, raise and end, each of which first writes down what the kernel says that it has used.

Run as a program, in a process of its own: what a parent has taken before, and which fork server it has, are part of what is tested.

    python -m tests.orchestration.dying_project HOME CASE...

prints what was measured in each case, and the events of the run, as JSON.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from workflows_pkg.orchestration.crashes import telling_of_crashes
from workflows_pkg.orchestration.metering import ATTEMPT, metered

NAME = "tests.orchestration.dying_project"
OWN = "DYING_OWN_ACCOUNTS"
"""A file of JSON lines: an environment variable, because a process made for a step has no other way to be told."""
MIB, SECONDS = (90, 50, 20), (0.6, 0.2, 0.2)
"""What each attempt takes."""


def cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_mib() -> float:
    """Of this program: unlike `ru_maxrss` it begins with it."""
    return next(int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


def works(context: dg.OpExecutionContext) -> int:
    before, number = cpu_s(), context.retry_number
    taken = bytearray(MIB[number] * 2**20)
    while cpu_s() - before < SECONDS[number]:
        taken[::4096] = bytes(len(taken[::4096]))
    used = {
        "case": context.job_name,
        "process_id": os.getpid(),
        "attempt": number + 1,
        "cpu_s": cpu_s() - before,
        "peak_mib": peak_mib(),
    }
    with open(os.environ[OWN], "a") as file:
        file.write(json.dumps(used) + "\n")
    if number == 0 and context.job_name != "in_process":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does with who takes too much
    if number < 2:
        raise ConnectionError
    return len(taken)


def job(name: str, executor: dg.ExecutorDefinition, *, plain: bool = False) -> dg.JobDefinition:
    op = dg.op(name="works", pool="dying", retry_policy=dg.RetryPolicy(max_retries=2))(works if plain else metered(works))
    return dg.GraphDefinition(name=name, node_defs=[op]).to_job(name=name, executor_def=executor)


FORKED = dg.ExecutorDefinition(
    name="forked",
    executor_creation_fn=lambda _: MultiprocessExecutor(RetryMode.ENABLED, 1, start_method="fork"),
    requirements=multiple_process_executor_requirements(),
)
SPAWNED = dg.multiprocess_executor.configured({"start_method": {"spawn": {}}}, name="spawned")
SERVED = dg.multiprocess_executor.configured({"start_method": {"forkserver": {}}}, name="served")


def in_process() -> dg.JobDefinition:
    return job("in_process", dg.in_process_executor)


def forked() -> dg.JobDefinition:
    return job("forked", telling_of_crashes(FORKED))


def spawned() -> dg.JobDefinition:
    return job("spawned", telling_of_crashes(SPAWNED))


def served() -> dg.JobDefinition:
    return job("served", telling_of_crashes(SERVED))


def served_before() -> dg.JobDefinition:
    """To be run where a fork server runs already that was not asked to measure."""
    return job("served_before", telling_of_crashes(SERVED))


def plain() -> dg.JobDefinition:
    return job("plain", SERVED, plain=True)


def ran(instance: dg.DagsterInstance, case: str) -> dict[str, Any]:
    with dg.execute_job(ReconstructableJob.for_module(NAME, case), instance) as result:
        events = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event is not None]
        measured = [
            {name.removeprefix("workflows/"): value.value for name, value in event.engine_event_data.metadata.items()}
            for event in events
            if event.is_engine_event and ATTEMPT in event.engine_event_data.metadata
        ]
        kinds = [event.event_type_value for event in events]
        return {"succeeded": result.success, "run_id": result.run_id, "measured": measured, "kinds": kinds}


def main(home: str, *cases: str) -> None:
    found, own = {}, Path(home) / "own.jsonl"
    os.environ[OWN] = str(own)
    with dg.DagsterInstance.from_config(home) as instance:
        for case in cases:
            if case == "served_before":
                getattr(forkserver, "_forkserver")._stop()  # noqa: B009 - private: the one of the cases before
                multiprocessing.set_forkserver_preload([NAME])
                multiprocessing.get_context("forkserver").Process(target=time.time).start()
            started = time.monotonic()
            found[case] = ran(instance, case)
            sys.stderr.write(f"{case}: {time.monotonic() - started:.1f} s\n")
    lines = [json.loads(line) for line in own.read_text().splitlines()]
    sys.stdout.write(
        json.dumps({case: {**ran, "own": [line for line in lines if line["case"] == case]} for case, ran in found.items()})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
