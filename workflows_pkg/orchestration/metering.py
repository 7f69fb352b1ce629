"""What did one attempt use? Processor seconds and peak memory, written as one engine event of its run.

The reader turns these events into `usage`. What cannot be told for this attempt alone is left out of the event, so that
history says unknown and never something wrong:

- Processor seconds are those of the process and of the children it has waited for. In a process that ran several attempts at
  once they cannot be told apart.
- Peak memory belongs to the process (`VmHWM` on Linux, which unlike `ru_maxrss` does not survive an exec), so it is given
  only where the process was made for this one attempt: a child of Dagster's multiprocess executor.

Measuring never fails a step: what goes wrong here is logged at debug level.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import resource
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import dagster as dg

# No public name builds an engine event; tests/orchestration/test_metering.py fails when this one moves.
from dagster._core.events import EngineEventData

METERED_TAG = "workflows/metered"
"""Op tag; the value `body` says that the op's own function reports its use."""

CPU, PEAK_MEMORY = "workflows/cpu_s", "workflows/peak_memory_mib"
PROCESS_ID, HOST = "workflows/process_id", "workflows/host"
ATTEMPT, DEDICATED = "workflows/attempt", "workflows/dedicated"

# What Dagster's multiprocess executor runs in a step's own process (dagster/_core/executor/child_process_executor.py).
_STEP_WORKER = "_execute_command_in_child_process"

_log = logging.getLogger(__name__)


class MeteredContext(Protocol):
    """What metering needs of a Dagster context; an op's, an asset's and a hook's context have it."""

    @property
    def instance(self) -> dg.DagsterInstance: ...
    @property
    def run_id(self) -> str: ...
    @property
    def job_name(self) -> str: ...


@dataclass(eq=False)
class Mark:
    """Where an attempt began. `cpu_s` is None where it could not be read; `shared` once another attempt ran beside it."""

    cpu_s: float | None
    thread_id: int
    shared: bool = False


_open: weakref.WeakSet[Mark] = weakref.WeakSet()
_metered: set[tuple[str, str]] = set()
_last: tuple[str, Mark] | None = None
_lock = threading.Lock()


def begin() -> Mark:
    """A mark at the start of an attempt, for `report` at its end."""
    mark = Mark(cpu_s=_cpu_s(), thread_id=threading.get_ident())
    with _lock:
        for other in list(_open):
            if other.thread_id == mark.thread_id:
                _open.discard(other)  # its attempt ended without a report: one thread runs one attempt at a time
            else:
                other.shared = mark.shared = True
        _open.add(mark)
    return mark


def report(context: MeteredContext, mark: Mark | None, attempt: int, failed: bool = False) -> None:
    """Writes the one engine event of this attempt (1 is the first); never raises.

    Without a mark the seconds are those of the whole process where it is dedicated, else those since the run's previous
    attempt in this process ended, else unknown.
    """
    global _last
    try:
        step_key = _step_key(context)
        with _lock:
            _metered.add((context.run_id, step_key))
            dedicated = _dedicated()
            since = mark or _earlier(context.run_id, dedicated)
            if mark is not None:
                _open.discard(mark)
        cpu_s = _spent(since)
        metadata: dict[str, dg.MetadataValue] = {
            PROCESS_ID: dg.MetadataValue.int(os.getpid()),
            HOST: dg.MetadataValue.text(platform.node()),
            ATTEMPT: dg.MetadataValue.int(attempt),
            DEDICATED: dg.MetadataValue.bool(dedicated),
        }
        if cpu_s is not None:
            metadata[CPU] = dg.MetadataValue.float(cpu_s)
        peak_memory_mib = _peak_memory_mib() if dedicated else None
        if peak_memory_mib is not None:
            metadata[PEAK_MEMORY] = dg.MetadataValue.float(peak_memory_mib)
        context.instance.report_engine_event(
            f"Metered attempt {attempt}{' (failed)' if failed else ''}.",
            engine_event_data=EngineEventData(metadata=metadata),
            run_id=context.run_id,
            job_name=context.job_name,
            step_key=step_key,
        )
        with _lock:
            _last = (context.run_id, Mark(cpu_s=_cpu_s(), thread_id=threading.get_ident()))
    except Exception:  # noqa: BLE001 - measuring is a courtesy: whatever breaks here, the step goes on
        _log.debug("An attempt could not be metered.", exc_info=True)


def _dedicated() -> bool:
    """Whether Dagster made this process for one step, and it has metered nothing else."""
    target = getattr(multiprocessing.current_process(), "_target", None)
    return getattr(target, "__name__", "") == _STEP_WORKER and len(_metered) <= 1


def _earlier(run_id: str, dedicated: bool) -> Mark | None:
    """Where an attempt without a mark began, as far as this process knows."""
    if dedicated:
        return Mark(cpu_s=0.0, thread_id=0)
    if _last is not None and _last[0] == run_id and _last[1].thread_id == threading.get_ident() and not _open:
        return _last[1]
    return None


def _spent(since: Mark | None) -> float | None:
    now = _cpu_s()
    if since is None or since.shared or since.cpu_s is None or now is None:
        return None
    return round(max(0.0, now - since.cpu_s), 6)


def _cpu_s() -> float | None:
    """User and system seconds of this process and of the children it has waited for."""
    try:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    except OSError:
        return None
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _peak_memory_mib() -> float | None:
    """Largest resident memory of this process, or of one of its children where that was larger."""
    per_mib = 1024 * 1024 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / per_mib
    own = _high_water_mark_mib()
    if own is None:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / per_mib
    return round(max(own, children), 3)


def _high_water_mark_mib() -> float | None:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:")), None)
    except OSError:
        return None


def _step_key(context: MeteredContext) -> str:
    """The step; the context of an op or asset keeps it on its step execution context."""
    given: Any = context
    key = getattr(given, "step_key", None)
    return key if isinstance(key, str) else given.op_execution_context.get_step_execution_context().step.key
