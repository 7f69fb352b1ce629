"""What does a Nextflow trace file say? One run: a row per try of a task, as `-with-trace` writes it.

Format: docs.seqera.io/nextflow/reports and .../reference/config/trace; which fields are there is the user's choice. `trace.raw`
writes milliseconds and bytes where there are texts such as `6m 44s` and `2.4 GB` otherwise; a bare number is always the former.
Instants are local times without a zone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import duckdb

from workflows_pkg.history.imports.reading import Reading, Source, finished, try_table
from workflows_pkg.history.imports.units import instant, nextflow_duration, nextflow_memory

OUTCOMES: dict[str, str | None] = {
    "COMPLETED": "success",
    "FAILED": "failure",
    "ABORTED": "canceled",
    "CACHED": "skipped",  # done by an earlier run; the times beside it are that run's
    "NEW": None,
    "SUBMITTED": None,
    "RUNNING": None,
}

OUT_OF_MEMORY = 137
"""128 + SIGKILL: what is left of a task that the kernel or the scheduler killed, nearly always for its memory."""

UNKNOWN = ("", "-", "null")
_INSTANTS = ("submit", "start", "complete")
_MARKS = {"task_id", "hash", "native_id", "submit", "realtime", "peak_rss", "%cpu"}


def is_header(fields: list[str]) -> bool:
    """Whether a first line with these fields begins a trace."""
    named = {name.strip() for name in fields}
    return bool(named & {"name", "process"}) and "status" in named and len(named & _MARKS) >= 2


def separator(line: str) -> str:
    """What stands between the fields of a trace's first line; a tab unless `trace.sep` says otherwise."""
    return max("\t,;|", key=line.count)


def read(con: duckdb.DuckDBPyConnection, source: Source) -> Reading:
    """The run in a trace file. Raises WorkflowsError with the line where it is not one."""
    with source.file.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline()
        header = [name.strip() for name in first.rstrip("\r\n").split(separator(first))]
        if not is_header(header):
            raise source.refuse(
                "is no Nextflow trace: its first line has no columns 'name' (or 'process'), 'status' and two of "
                + f"{', '.join(sorted(_MARKS))}."
            )
        reader = csv.reader(file, delimiter=separator(first), quoting=csv.QUOTE_NONE)
        lines = [
            _Line(source, number, dict(zip(header, values, strict=True)))
            for number, values in enumerate(reader, 2)
            if _is_row(source, number, header, values)
        ]
    if not lines:
        raise source.refuse("has a header and no task: Nextflow wrote nothing into it.")
    con.register("tries", try_table([_try(line) for line in lines]))
    local = any(not (line.text(name) or "0").isdecimal() for line in lines for name in _INSTANTS)
    remarks = [f"its times have no zone and are taken as {source.zone.key}"] if local else []
    return finished(con, source, "tries", remarks=remarks)


class _Line:
    """The values of one line, each understood or the reason why not."""

    def __init__(self, source: Source, number: int, values: Mapping[str, str]) -> None:
        self.source, self.number, self.values = source, number, values

    def text(self, name: str) -> str | None:
        value = self.values.get(name, "").strip()
        return None if value in UNKNOWN else value

    def understood(self, name: str, how: Callable[[str], Any], expected: str) -> Any:
        value = self.text(name)
        if value is None:
            return None
        found = how(value)
        if found is None:
            raise self.source.refuse(f"{name} is '{value}'; expected {expected}.", line=self.number)
        return found

    def instant(self, name: str) -> datetime | None:
        zone = self.source.zone
        return self.understood(name, lambda text: instant(text, zone), "a time such as 2024-02-09 14:44:43.053")

    def duration(self, name: str) -> float | None:
        return self.understood(name, nextflow_duration, "a duration such as 6m 44s")

    def memory(self, name: str) -> float | None:
        return self.understood(name, nextflow_memory, "an amount of memory such as 2.4 GB")

    def number_of(self, name: str) -> float | None:
        return self.understood(name, _number, "a number")


def _try(line: _Line) -> dict[str, Any]:
    status = line.text("status") or ""
    if status not in OUTCOMES:
        raise line.source.refuse(f"status is '{status}'; expected one of {', '.join(OUTCOMES)}.", line=line.number)
    name = line.text("name")
    process = line.text("process") or (name or "").partition(" (")[0]
    if not process:
        raise line.source.refuse("names no task: 'name' and 'process' are empty.", line=line.number)
    attempt = line.number_of("attempt")
    row: dict[str, Any] = {
        "run": line.source.digest,
        "n": line.number,
        "job_name": line.source.name or line.source.stem,
        "step": process,
        "step_key": name or (f"{process} ({tag})" if (tag := line.text("tag")) else process),
        "attempt": None if attempt is None else int(attempt),
        "outcome": OUTCOMES[status],
        "host": line.text("hostname"),
    }
    if OUTCOMES[status] == "skipped":
        return row | {"host": None, "submitted_at": None}
    return row | _times(line) | _use(line) | _failure(line, OUTCOMES[status])


def _times(line: _Line) -> dict[str, Any]:
    """A trace has submit and duration (submit to complete), realtime (start to complete) or the instants, or both."""
    submitted, began, ended = line.instant("submit"), line.instant("start"), line.instant("complete")
    duration, realtime = line.duration("duration"), line.duration("realtime")
    if ended is None and submitted is not None and duration is not None:
        ended = submitted + timedelta(seconds=duration)
    if began is None and ended is not None and realtime is not None:
        began = ended - timedelta(seconds=realtime)
    if realtime is None and began is not None and ended is not None and ended >= began:
        realtime = (ended - began).total_seconds()
    waited = (began - submitted).total_seconds() if began is not None and submitted is not None and began >= submitted else None
    return {"submitted_at": submitted, "started_at": began, "ended_at": ended, "run_time_s": realtime, "start_time_s": waited}


def _use(line: _Line) -> dict[str, Any]:
    """Of a task too short to be looked at Nextflow writes zeros: unknown."""
    peak = line.memory("peak_rss")
    share = line.understood("%cpu", lambda text: _number(text.removesuffix("%")), "a percentage such as 72.6%")
    seconds = line.duration("realtime")
    looked_at = peak is None or peak > 0
    return {
        "peak_memory_mib": peak if looked_at else None,
        "cpu_s": share / 100 * seconds if looked_at and share is not None and seconds is not None else None,
    }


def _failure(line: _Line, outcome: str | None) -> dict[str, Any]:
    status = line.number_of("exit") if outcome == "failure" else None
    if status is None:
        return {"failure_cause": None, "error_message": None}
    return {
        "failure_cause": "memory" if status == OUT_OF_MEMORY else None,
        "error_message": f"exit status {int(status)}" if status else None,
    }


def _is_row(source: Source, number: int, header: list[str], values: list[str]) -> bool:
    if not any(value.strip() for value in values):
        return False
    if len(values) != len(header):
        raise source.refuse(f"has {len(values)} fields; expected {len(header)} as in the first line.", line=number)
    return True


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
