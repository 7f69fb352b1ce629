"""What did one attempt use? Processor seconds and peak memory, written as one engine event of its run.

The reader turns these events into `usage`. What cannot be told for this attempt alone is left out of the event, so that
history says unknown and never something wrong:

- Processor seconds are those of the process and of the children it has waited for. In a process that ran several attempts at
  once they cannot be told apart.
- Peak memory belongs to the process (`VmHWM` on Linux, which unlike `ru_maxrss` does not survive an exec), so it is given
  only where the process was made for this one attempt: a child of Dagster's multiprocess executor.

What is measured is the body: from the call of the function to its end, retried attempts and raised errors included. Loading inputs
and storing outputs are Dagster's and happen around it. Peak memory is read at the end of the body, and is the process's up to there.

With it goes what only this process knows of what the step told itself (`spec.used`): what a step kind of ours counted, and the metadata of
outputs that no materialization carries, as those of ops and of attempts that fail.

Measuring never fails a step: what goes wrong here is logged at debug level. One event is what it costs, stored on Dagster's default
SQLite with the one that follows it (`orchestration.with_next`): what is left is measured in benchmarks/metering.py.
"""

from __future__ import annotations

import functools
import inspect
import logging
import multiprocessing
import os
import platform
import resource
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Protocol

import dagster as dg

# No public name builds an engine event or tells a parent; tests/orchestration/test_metering.py fails when one of these moves.
from dagster._core.events import EngineEventData
from dagster._core.executor.child_process_executor import ChildProcessEvent

from workflows_pkg.orchestration.budget import stop_where_spent
from workflows_pkg.orchestration.waiting import own_peak_memory_mib, peak_memory_mib_of
from workflows_pkg.orchestration.with_next import stored_with_next
from workflows_pkg.spec.used import EXPECTED, OWN, added, mistaken, told

METERED_TAG = "workflows/metered"
"""Op tag; the value `body` says that the op's own function reports its use."""

CPU, PEAK_MEMORY = "workflows/cpu_s", "workflows/peak_memory_mib"
PROCESS_ID, HOST = "workflows/process_id", "workflows/host"
ATTEMPT, DEDICATED = "workflows/attempt", "workflows/dedicated"
POOL = "workflows/pool"

# What Dagster's multiprocess executor runs in a step's own process (dagster/_core/executor/child_process_executor.py).
_STEP_WORKER = "_execute_command_in_child_process"
_MARKER = "__workflows_metered__"

_log = logging.getLogger(__name__)


First = Callable[[dg.OpExecutionContext], None]


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
_lock = threading.Lock()


def _begin_anew() -> None:
    """A forked process has metered nothing, and none of its parent's threads."""
    global _lock
    _lock = threading.Lock()
    _open.clear()
    _metered.clear()


os.register_at_fork(after_in_child=_begin_anew)


def metered(function: Callable[..., Any], first: First | None = None) -> Callable[..., Any]:
    """`function` as the body of an op that reports its use: same signature, same sort (plain, generator, async, async generator).

    Only an attempt of a step is measured: called directly, as tests of ops do, it is `function`. A metered function is returned as it is.
    `first` is called before each attempt; what it raises is logged and does not reach the step.
    """
    if is_metered(function):
        return function
    sort = next((make for matches, make in _SORTS if matches(function)), _around_call)
    made = sort(function, first)
    functools.update_wrapper(made, function)  # Dagster reads names, annotations and source through `__wrapped__`
    setattr(made, _MARKER, True)
    return made


def is_metered(function: Callable[..., Any]) -> bool:
    """Whether `metered` made this function."""
    return getattr(function, _MARKER, False) is True


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
    if mark.cpu_s is not None:
        _tell_parent(mark.cpu_s)
    return mark


def report(
    context: MeteredContext, mark: Mark, attempt: int, failed: bool = False, used: Mapping[str, int] | None = None
) -> None:
    """Writes the one engine event of this attempt (1 is the first), whose end is Dagster's to write next; never raises.

    used: figures of `spec.used` that were counted beside what the attempt itself told.
    """
    try:
        step_key = _step_key(context)
        with _lock:
            _metered.add((context.run_id, step_key))
            dedicated = _dedicated()
            _open.discard(mark)
        pool, told_here = _told_only_here(context, failed, used or {})
        write(
            context.instance, context.run_id, context.job_name, step_key, attempt,
            process_id=os.getpid(), dedicated=dedicated, cpu_s=_spent(mark),
            peak_memory_mib=_peak_memory_mib() if dedicated else None, ended=" (failed)" if failed else "", with_next=True,
            pool=pool, used=told_here,
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - measuring is a courtesy: whatever breaks here, the step goes on
        _log.debug("An attempt could not be metered.", exc_info=True)


def write(
    instance: dg.DagsterInstance,
    run_id: str,
    job_name: str,
    step_key: str,
    attempt: int,
    *,
    process_id: int,
    dedicated: bool,
    cpu_s: float | None,
    peak_memory_mib: float | None,
    ended: str,
    pool: str | None = None,
    used: Mapping[str, int] | None = None,
    with_next: bool = False,
) -> None:
    """Writes the event of one attempt; what is None is left out. Raises what the event log raises.

    with_next: another event of the run is sure to be written by this process; where it can be, this one is stored with it.
    """
    metadata: dict[str, dg.MetadataValue] = {
        PROCESS_ID: dg.MetadataValue.int(process_id),
        HOST: dg.MetadataValue.text(platform.node()),
        ATTEMPT: dg.MetadataValue.int(attempt),
        DEDICATED: dg.MetadataValue.bool(dedicated),
    }
    if cpu_s is not None:
        metadata[CPU] = dg.MetadataValue.float(round(cpu_s, 6))
    if peak_memory_mib is not None:
        metadata[PEAK_MEMORY] = dg.MetadataValue.float(round(peak_memory_mib, 3))
    if pool is not None:
        metadata[POOL] = dg.MetadataValue.text(pool)
    for name, figure in (used or {}).items():
        metadata[OWN[name]] = dg.MetadataValue.int(figure)
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ENGINE_EVENT.value,
        job_name=job_name,
        message=f"Metered attempt {attempt}{ended}.",
        step_key=step_key,
        event_specific_data=EngineEventData(metadata=metadata),
    )
    if not with_next or not stored_with_next(instance, run_id, event):
        instance.report_dagster_event(event, run_id=run_id)


class _Attempt:
    """Measures what happens inside it, once, however it ends. A class and not a generator: it adds no frame to a user's traceback."""

    __slots__ = ("_context", "_mark", "goes_on")

    def __init__(self, first: First | None) -> None:
        self._context = _current_step()
        if first is not None and self._context is not None:
            _tried(first, self._context)
        if self._context is not None:
            stop_where_spent(self._context)
        self._mark = begin() if self._context is not None else None
        self.goes_on = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._context is None or self._mark is None or self.goes_on:
            return
        report(self._context, self._mark, self._context.retry_number + 1, failed=error is not None)


def _current_step() -> dg.OpExecutionContext | None:
    """The step that this thread runs; None where the function is called by somebody else."""
    try:
        return dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None


def _tried(first: First, context: dg.OpExecutionContext) -> None:
    try:
        first(context)
    except Exception:  # noqa: BLE001 - a note about the run is a courtesy as well
        _log.debug("What runs before an attempt failed.", exc_info=True)


def _around_generator(function: Callable[..., Generator[Any, Any, Any]], first: First | None) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with _Attempt(first):
            return (yield from function(*args, **kwargs))

    return body


def _around_coroutine(function: Callable[..., Awaitable[Any]], first: First | None) -> Callable[..., Any]:
    async def body(*args: Any, **kwargs: Any) -> Any:
        with _Attempt(first):
            return await function(*args, **kwargs)

    return body


def _around_async_generator(function: Callable[..., Any], first: First | None) -> Callable[..., Any]:
    async def body(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with _Attempt(first):
            async with aclosing(function(*args, **kwargs)) as events:
                async for event in events:
                    yield event

    return body


def _around_call(function: Callable[..., Any], first: First | None) -> Callable[..., Any]:
    def body(*args: Any, **kwargs: Any) -> Any:
        attempt = _Attempt(first)
        with attempt:
            result = function(*args, **kwargs)
            attempt.goes_on = inspect.isgenerator(result) or inspect.isasyncgen(result)
        if inspect.isgenerator(result):
            return _rest(attempt, result)
        return _async_rest(attempt, result) if inspect.isasyncgen(result) else result

    return body


def _rest(attempt: _Attempt, events: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """What a function that only returned a generator has still to do."""
    attempt.goes_on = False
    with attempt:
        return (yield from events)


async def _async_rest(attempt: _Attempt, events: AsyncGenerator[Any, Any]) -> AsyncIterator[Any]:
    attempt.goes_on = False
    with attempt:
        async with aclosing(events):
            async for event in events:
                yield event


_SORTS: tuple[tuple[Callable[[Any], bool], Callable[..., Any]], ...] = (
    (inspect.isasyncgenfunction, _around_async_generator),
    (inspect.iscoroutinefunction, _around_coroutine),
    (inspect.isgeneratorfunction, _around_generator),
)


class Begun(ChildProcessEvent):
    """What a step's process had used when its body began: Dagster hands it to the process that waits for this one, and passes over it.

    That process keeps it in `before_body_s`, for a body that does not come to its end (`orchestration.crashes`).
    """

    def __init__(self, process_id: int, cpu_s: float) -> None:
        self._said = (process_id, cpu_s)

    def __reduce__(self) -> tuple[Callable[[int, float], Begun], tuple[int, float]]:
        """Taken apart and put together again on the other side of the queue, which is all that can be noticed there."""
        return _arrived, self._said


before_body_s: dict[int, float] = {}
"""Processor seconds by process id, of the newest attempt there."""


def _arrived(process_id: int, cpu_s: float) -> Begun:
    before_body_s[process_id] = cpu_s
    return Begun(process_id, cpu_s)


def _tell_parent(cpu_s: float) -> None:
    try:
        if _dedicated():
            queue, *_ = getattr(multiprocessing.current_process(), "_args")  # noqa: B009 - it is private, and has no stub
            _put_now(queue, Begun(os.getpid(), cpu_s))
    except Exception:  # noqa: BLE001 - a courtesy as well
        _log.debug("What came before an attempt could not be told.", exc_info=True)


def _put_now(queue: Any, said: ChildProcessEvent) -> None:
    """What `put` leaves to a thread, done before this returns: that thread may not get to run before the body kills the process."""
    if queue.__class__ is not Queue:
        queue.put(said)
        return
    counted, lock, send, pickled = queue._sem, queue._wlock, queue._writer.send_bytes, ForkingPickler.dumps(said)
    counted.acquire(False)  # what is in the queue is counted, and `get` counts down
    with lock:
        send(pickled)


def _dedicated() -> bool:
    """Whether Dagster made this process for one step, and it has metered nothing else."""
    target = getattr(multiprocessing.current_process(), "_target", None)
    return getattr(target, "__name__", "") == _STEP_WORKER and len(_metered) <= 1


def _spent(since: Mark) -> float | None:
    now = _cpu_s()
    if since.shared or since.cpu_s is None or now is None:
        return None
    return max(0.0, now - since.cpu_s)


def _cpu_s() -> float | None:
    """User and system seconds of this process and of the children it has waited for."""
    try:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    except OSError:
        return None
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _peak_memory_mib() -> float:
    """Largest resident memory of this process, or of one of its children where that was larger."""
    return max(own_peak_memory_mib(), peak_memory_mib_of(resource.getrusage(resource.RUSAGE_CHILDREN)))


def _told_only_here(context: MeteredContext, failed: bool, counted: Mapping[str, int]) -> tuple[str | None, dict[str, int]]:
    """The pool of the step, and the figures of this attempt that no event of its own will carry: `counted`, and the metadata added to
    outputs that are no assets, or that a failed attempt does not come to store.
    """
    total = dict(counted)
    pool: str | None = None
    try:
        given: Any = context
        step: Any = getattr(given, "op_execution_context", given).get_step_execution_context()
        pool = step.step.pool
        for output in step.step.step_outputs:
            if output.properties.is_asset and (not failed or step.has_seen_output(output.name)):
                continue
            _add_told(total, step.step.key, step.get_output_metadata(output.name))
            if output.properties.asset_key is not None:
                _add_told(total, step.step.key, step.get_asset_metadata(output.properties.asset_key))
    except Exception:  # noqa: BLE001 - what was measured is still worth writing
        _log.debug("What an attempt told of its use could not be read.", exc_info=True)
    return pool, total


def _add_told(total: dict[str, int], step_key: str, metadata: Mapping[str, Any] | None) -> None:
    # a value may be given as it is, or as one of Dagster's
    values = {key: getattr(value, "value", value) for key, value in (metadata or {}).items()}
    added(total, told(values))
    for key in mistaken(values):
        _log.warning("Step '%s': metadata '%s' is not counted: expected %s.", step_key, key, EXPECTED)


def _step_key(context: MeteredContext) -> str:
    """The step; the context of an op or asset keeps it on its step execution context."""
    given: Any = context
    key = getattr(given, "step_key", None)
    return key if isinstance(key, str) else given.op_execution_context.get_step_execution_context().step.key
