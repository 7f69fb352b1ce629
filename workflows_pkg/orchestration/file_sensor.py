"""Which files start a workflow? Each new or changed one that matches the pattern, once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from workflows_pkg.errors import Refused, SetupError, bounded
from workflows_pkg.orchestration.scope import SENSOR_FILE_TAG
from workflows_pkg.security.allow import Allow
from workflows_pkg.spec.model import Workflow

QUIET_S = 1.0
"""A file changed less than a second ago may still be growing and is left for the next tick."""
MOST_REQUESTS = 25
"""Runs asked for in one tick; the rest follows with the next ones."""
MOST_REMEMBERED = 2000
"""Files that the cursor holds one by one, the newest ones. Beyond them, a file that arrives with an older date is not noticed."""


@dataclass(frozen=True)
class Arrival:
    """One file as it is now: its path below the data folder, and when it was changed (nanoseconds) with which size (bytes)."""

    path: str
    changed_ns: int
    size: int

    @property
    def run_key(self) -> str:
        """The same for the same content at the same place, as far as the file system tells."""
        return f"{self.path}:{self.changed_ns}:{self.size}"

    @property
    def mark(self) -> str:
        """A short hash of the run key, for the cursor."""
        return hashlib.sha256(self.run_key.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Memory:
    """Which files were asked for before: those with a mark, and all that were last changed at `floor_ns` or earlier."""

    marks: tuple[str, ...] = ()
    floor_ns: int = 0

    @classmethod
    def read(cls, cursor: str | None) -> Memory:
        """The memory that a cursor holds; a cursor that cannot be read is an empty one, and run keys prevent second runs."""
        try:
            kept = json.loads(cursor or "{}")
            return cls(tuple(map(str, kept["marks"])), int(kept["floor_ns"]))
        except (ValueError, KeyError, TypeError):
            return cls()

    def write(self) -> str:
        """The memory as a cursor."""
        return json.dumps({"marks": self.marks, "floor_ns": self.floor_ns})

    def fresh(self, found: list[Arrival], quiet_since_ns: int) -> list[Arrival]:
        """The files among `found` that were not asked for before and have been at rest since then."""
        known = set(self.marks)
        return [file for file in found if self.floor_ns < file.changed_ns <= quiet_since_ns and file.mark not in known]

    def with_asked(self, found: list[Arrival], asked_for: list[Arrival]) -> Memory:
        """The memory after these were asked for. Files that are gone are forgotten; of too many the oldest become the floor."""
        known = {*self.marks, *(file.mark for file in asked_for)}
        kept = [file for file in found if file.mark in known]
        beyond, kept = kept[:-MOST_REMEMBERED], kept[-MOST_REMEMBERED:]
        floor_ns = max([self.floor_ns, *(file.changed_ns for file in beyond)])
        return Memory(tuple(file.mark for file in kept), floor_ns)


def file_sensor(workflow: Workflow, job: object, allow: Allow) -> dg.SensorDefinition:
    """The workflow's file sensor, on from the start: the file that asks for it is the switch."""
    asked = workflow.sensor
    assert asked is not None, "the caller asks only for workflows with a sensor"  # noqa: S101
    pattern, name = asked.file_arrival.path, workflow.workflow

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        found = sorted(arrivals(pattern, allow), key=lambda file: (file.changed_ns, file.path))
        memory = Memory.read(context.cursor)
        fresh = memory.fresh(found, time.time_ns() - int(QUIET_S * 1e9))[:MOST_REQUESTS]
        if not fresh:
            return dg.SkipReason(f"None of the {len(found)} files that match '{pattern}' is new and at rest.")
        requests = [dg.RunRequest(run_key=file.run_key, tags={SENSOR_FILE_TAG: file.path}) for file in fresh]
        return dg.SensorResult(run_requests=requests, cursor=memory.with_asked(found, fresh).write())

    return dg.SensorDefinition(
        name=f"{name}__files",
        evaluation_fn=evaluate,
        job=job,  # pyright: ignore[reportArgumentType]  an unresolved asset job, whose class is private
        minimum_interval_seconds=max(1, round(asked.file_arrival.every.total_seconds())),
        description=f"Runs {name} for every new or changed file that matches '{pattern}'.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )


def arrivals(pattern: str, allow: Allow) -> Iterator[Arrival]:
    """The files that match `pattern` below the data folder; a link that leads out of it is passed over.

    Raises SetupError where the code location grants no files, Refused for a pattern that leads out of the folder.
    """
    if allow.files is None:
        raise SetupError("The file sensor has no data folder to look at.", fix="Grant one: Allow(files=...).")
    parts = Path(pattern).parts
    if not parts or Path(pattern).is_absolute() or ".." in parts:
        raise Refused(f"'{bounded(pattern)}' is not a pattern below the data folder.", fix="Write it relative to it.")
    root = allow.files.resolve()
    for path in root.glob(pattern):
        relative = path.relative_to(root).as_posix()
        try:
            status = allow.path(relative).stat()
        except (Refused, OSError):
            continue
        if path.is_file():
            yield Arrival(relative, status.st_mtime_ns, status.st_size)
