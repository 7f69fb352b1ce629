"""Which runs make the history? The days, months and deliveries that ran least; most in this process, six by the daemon."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import dagster as dg

from assets.data import deliver_month
from assets.tour.console import Console
from resources.settings import allowed
from workflows_pkg.errors import SpecError, WorkflowsError
from workflows_pkg.orchestration.compiled import CompiledWorkflow
from workflows_pkg.orchestration.launch import run_in_process, submit
from workflows_pkg.orchestration.partitions import PARTITION_TAG
from workflows_pkg.orchestration.scope import SENSOR_FILE_TAG
from workflows_pkg.orchestration.services import Services
from workflows_pkg.steps.discovery import discover
from workflows_pkg.workbench.folder import compile_folder
from workflows_pkg.workbench.news import LEARNING_JOB

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / "assets" / "workflows"
FIRST_TIME = {"flights_daily": 41, "late_report": 10, "delay_model": 5}
"""Runs in this process where there is no history yet; with the six of the daemon 62 in all."""
FURTHER_TIME = {"flights_daily": 12, "late_report": 3, "delay_model": 1}
"""Runs in this process where an earlier tour has left a history: enough to see something new."""
BY_DAEMON = {"flights_daily": 3, "late_report": 2}
"""Runs put into the daemon's queue. The sixth is asked for by the file sensor, when a month's file arrives in the inbox."""
DELIVERED = "delivered"
"""Folder of the files that runs in this process read; the inbox is left to the sensor."""
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
CANCELING = dg.DagsterRunStatus.CANCELING
CANCELED_WITHIN_S = 10.0
"""Until runs that were told to stop have said that they did."""
ENDS_WITHIN_S = 600.0
"""Of a run in the queue, on a machine that has other work too: each of its steps is a process of its own, and two runs go on at a time."""


@dataclass(frozen=True)
class Asked:
    """One run to make: of which workflow, with its partition, or with the file of a delivery."""

    workflow: str
    partition: str | None = None
    file: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        """What a file sensor would have put on the run."""
        return {} if self.file is None else {SENSOR_FILE_TAG: self.file}

    def __str__(self) -> str:
        return f"{self.workflow} {self.partition or self.file}"


def compiled_workflows(home: Path) -> dict[str, CompiledWorkflow]:
    """The example workflows by name, each in its active version. Raises SpecError where a file has a problem."""
    folder = compile_folder(WORKFLOWS, allowed(), home, discover())
    if folder.problems:
        raise SpecError(folder.problems)
    return {one.workflow.workflow: one for one in folder.workflows}


def planned(instance: dg.DagsterInstance, counts: Mapping[str, int]) -> list[Asked]:
    """So many runs of each workflow, spread evenly; of every workflow the partitions or months that ran least, in order."""
    queues = {
        "flights_daily": [Asked("flights_daily", partition=day) for day in _least_run(instance, "flights_daily", _days())],
        "late_report": [Asked("late_report", partition=month) for month in _least_run(instance, "late_report", _months())],
        "delay_model": [Asked("delay_model", file=file) for file in _least_run(instance, "delay_model", _deliveries())],
    }
    places = [((number + 0.5) / count, queues[name][number]) for name, count in counts.items() for number in range(count)]
    return [asked for _, asked in sorted(places, key=lambda place: (place[0], place[1].workflow))]


def run_all(
    runs: Sequence[Asked], compiled: Mapping[str, CompiledWorkflow], instance: dg.DagsterInstance, data: Path, console: Console
) -> None:
    """Makes the runs in this process, one after the other. Failed runs are part of the history."""
    with console.progress("runs in this process", len(runs)) as progress, console.quiet():
        for asked in runs:
            if asked.file is not None:
                deliver_month(data, _month(asked.file), DELIVERED)
            console.undisturbed(partial(run_in_process, compiled[asked.workflow], instance, asked.partition, asked.tags))
            progress.step(str(asked))


def run_by_daemon(instance: dg.DagsterInstance, home: Path, data: Path, console: Console) -> tuple[int, int]:
    """Six runs by a real daemon with a real code server; how many were made, and how many succeeded.

    Five are put into the queue; the sixth is the file sensor's, which sees a month's file arrive.
    """
    queued = planned(instance, BY_DAEMON)
    (arriving,) = planned(instance, {"delay_model": 1})
    with console.progress("runs by the daemon", len(queued) + 1) as progress, console.quiet():
        with Services(home, ROOT) as services, _unfinished_canceled(instance):
            began = time.time()
            deliver_month(data, _month(str(arriving.file)))
            run_ids = [submit(instance, services.workspace_file, each.workflow, partition=each.partition) for each in queued]
            succeeded = 0
            for asked, run_id in zip(queued, run_ids, strict=True):
                succeeded += _succeeded(instance, run_id, console)
                progress.step(str(asked))
            succeeded += _succeeded(instance, _asked_by_sensor(instance, "delay_model", began, console), console)
            progress.step(str(arriving))
            for learning in instance.get_runs(dg.RunsFilter(job_name=LEARNING_JOB, statuses=UNFINISHED)):
                _succeeded(instance, learning.run_id, console)  # its sensor saw the news; it would be cut short
    return len(queued) + 1, succeeded


@contextmanager
def _unfinished_canceled(instance: dg.DagsterInstance) -> Iterator[None]:
    """Whatever cuts the block short: runs that have not ended are canceled, rather than fail or wait in the queue for the next daemon."""
    try:
        yield
    except BaseException:
        for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
            instance.run_coordinator.cancel_run(run.run_id)
        deadline = time.monotonic() + CANCELED_WITHIN_S
        while time.monotonic() < deadline and instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED, CANCELING]), limit=1):
            time.sleep(0.2)
        raise


def _succeeded(instance: dg.DagsterInstance, run_id: str, console: Console) -> bool:
    """Whether the run succeeded, once it has ended."""

    def ended() -> dg.DagsterRun | None:
        run = instance.get_run_by_id(run_id)
        return run if run is not None and run.is_finished else None

    return _found(ended, f"The run {run_id} has not ended", console).is_success


def _asked_by_sensor(instance: dg.DagsterInstance, job: str, since: float, console: Console) -> str:
    """The run of the job that a sensor asked for since that time (seconds since 1970)."""

    def asked() -> str | None:
        for record in instance.get_run_records(dg.RunsFilter(job_name=job), limit=5):
            if "dagster/sensor_name" in record.dagster_run.tags and record.create_timestamp.timestamp() >= since:
                return record.dagster_run.run_id
        return None

    return _found(asked, f"The file sensor has asked for no run of {job}", console)


def _found(look: Callable[[], T | None], otherwise: str, console: Console) -> T:
    """What `look` finds, once it finds something. Raises WorkflowsError, beginning with `otherwise`, where that takes too long."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while time.monotonic() < deadline:
        console.check()
        found = look()
        if found is not None:
            return found
        time.sleep(0.2)
    raise WorkflowsError(f"{otherwise} within {ENDS_WITHIN_S:g} s.")


def _least_run(instance: dg.DagsterInstance, job: str, keys: Sequence[str]) -> list[str]:
    """`keys`, partitions or files, those with the fewest runs of the job first."""
    tags = [run.tags for run in instance.get_runs(dg.RunsFilter(job_name=job))]
    times = Counter(_key(each) for each in tags)
    return sorted(keys, key=lambda key: (times[Path(key).name], keys.index(key)))


def _key(tags: Mapping[str, str]) -> str:
    return tags.get(PARTITION_TAG) or Path(tags.get(SENSOR_FILE_TAG, "")).name


def _days() -> list[str]:
    return [str(date(2013, 1, 1) + timedelta(days=number)) for number in range(365)]


def _months() -> list[str]:
    return [f"2013-{month:02d}-01" for month in range(1, 13)]


def _deliveries() -> list[str]:
    return [f"{DELIVERED}/flights_{month[:7]}.csv" for month in _months()]


def _month(file: str) -> str:
    """YYYY-MM of a delivered file."""
    return Path(file).stem[-7:]
