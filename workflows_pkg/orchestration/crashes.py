"""What did an attempt use whose process died? Told by the process that waited for it, in the same event as any other attempt.

Metering measures a body from inside, so it says nothing where the process ends in the middle: `os._exit`, a segmentation fault, the
kernel's killer of those who take too much memory. The run's own process has one for each step with Dagster's multiprocess executor.
So the executor is wrapped: what it does stays Dagster's, only how its children are waited for is exchanged (`orchestration.waiting`),
its fork server is asked to say what it saw (`orchestration.fork_server`), and a measurement is added where a child died that had
written none.

Processor seconds are those of the child when it was waited for, less those it said it had used when the body began, so that they
are the body's as everywhere else. Children of a fork server that ran before the executor did stay unknown; so does the run that goes
down with its steps.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing.process
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

# No public name builds or wraps what an executor does; tests/orchestration/test_crashes.py fails when one of these moves.
from dagster._core.executor.child_process_executor import ChildProcessCrashException
from dagster._core.executor.multiprocess import MultiprocessExecutor

from workflows_pkg.orchestration.metering import ATTEMPT, PROCESS_ID, before_body_s, write
from workflows_pkg.orchestration.waiting import Wait

_log = logging.getLogger(__name__)

_wrapped: WeakKeyDictionary[dg.ExecutorDefinition, dg.ExecutorDefinition] = WeakKeyDictionary()
_CREATION = "_executor_creation_fn"
_IN_FORK_SERVER = "workflows_pkg.orchestration.fork_server"
_MAPPING_KEY = re.compile(r"\[.*\]$")
_ENDS = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_UP_FOR_RETRY}


def telling_of_crashes(executor: dg.ExecutorDefinition) -> dg.ExecutorDefinition:
    """The executor with its name and settings, which measures steps whose process dies where it starts processes and waits for them.

    The same for the same, and itself for what is one already or does its work in the run's own process.
    """
    creation = executor.executor_creation_fn
    if creation is None or isinstance(creation, _Creation) or executor.name in ("in_process", "execute_in_process_executor"):
        return executor
    if executor not in _wrapped:
        made = copy.copy(executor)
        setattr(made, _CREATION, _Creation(creation))
        _wrapped[executor] = made
    return _wrapped[executor]


class _Creation:
    """Makes an executor and exchanges how it waits, if it is Dagster's multiprocess executor itself and not somebody's own kind."""

    def __init__(self, creation: Callable[[Any], Any]) -> None:
        self._creation = creation

    def __call__(self, context: Any) -> Any:
        made = self._creation(context)
        if type(made) is MultiprocessExecutor:
            made.__class__ = _TellingExecutor
        return made


class _TellingExecutor(MultiprocessExecutor):
    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        children: dict[str, _Child | None] = {}
        attempts: Counter[str] = Counter()
        _tried(lambda: self._measure_in_fork_server(plan_context))
        for event in super().execute(plan_context, execution_plan):
            _tried(lambda: _noticed(plan_context, execution_plan, event, children, attempts))  # noqa: B023 - called here and not kept
            yield event

    def _measure_in_fork_server(self, plan_context: Any) -> None:
        """Has the fork server load `orchestration.fork_server` after what it would have loaded."""
        if self._start_method == "forkserver":
            module = plan_context.reconstructable_job.get_module()
            theirs: Any = self._explicit_forkserver_preload
            if theirs is None:
                theirs = ["dagster"] if module is None else [module]
            self._explicit_forkserver_preload = [*theirs, _IN_FORK_SERVER]


class _Child:
    """A step's process."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self.process_id = process.pid or 0
        self._wait = Wait(process)

    def used(self) -> tuple[float | None, float | None]:
        """Processor seconds since the body began, and peak memory in MiB, once the process was waited for; None: unknown."""
        account, before_s = self._wait.account(), before_body_s.get(self.process_id)
        if account is None:
            return None, None
        return None if before_s is None else max(account.cpu_s - before_s, 0.0), account.peak_memory_mib


def _tried(measure: Callable[[], None]) -> None:
    try:
        measure()
    except Exception:  # noqa: BLE001 - measuring is a courtesy: whatever breaks here, the run goes on
        _log.debug("A process could not be measured.", exc_info=True)


def _noticed(
    plan_context: Any, plan: Any, event: dg.DagsterEvent, children: dict[str, _Child | None], attempts: Counter[str]
) -> None:
    step_key = event.step_key
    if step_key is None:
        return
    if event.event_type == dg.DagsterEventType.STEP_WORKER_STARTING:
        attempts[step_key] += 1
        children.pop(step_key, None)
    elif event.event_type == dg.DagsterEventType.STEP_WORKER_STARTED:
        children[step_key] = _started(event)
    elif (child := children.get(step_key)) is not None and (_is_crash(event) or event.event_type in _ENDS):
        del children[step_key]
        try:
            if _is_crash(event):
                _tell(plan_context, plan, step_key, child, attempts[step_key])
        finally:
            before_body_s.pop(child.process_id, None)  # the id may be given to another


def _started(event: dg.DagsterEvent) -> _Child | None:
    """The child that says it has started; None where it is none of this process's own."""
    metadata: Any = event.event_specific_data
    process_id = int(metadata.metadata["pid"].value)
    # Not active_children(), which waits for those that have ended.
    children: set[Any] = getattr(multiprocessing.process, "_children", set())
    return next((_Child(child) for child in list(children) if child.pid == process_id), None)


def _is_crash(event: dg.DagsterEvent) -> bool:
    error = event.engine_event_data.error if event.is_engine_event else None
    return error is not None and error.cls_name == ChildProcessCrashException.__name__


def _tell(plan_context: Any, plan: Any, step_key: str, child: _Child, attempt: int) -> None:
    instance: dg.DagsterInstance = plan_context.instance
    run: dg.DagsterRun = plan_context.dagster_run
    if _has_told(instance, run.run_id, step_key, child.process_id):
        return  # it died after its body had ended
    cpu_s, peak_memory_mib = child.used()
    write(
        instance, run.run_id, run.job_name, step_key, attempt,
        process_id=child.process_id, dedicated=True, cpu_s=cpu_s, peak_memory_mib=peak_memory_mib, ended=" (its process died)",
        pool=_pool(plan, step_key),
    )  # fmt: skip


def _pool(plan: Any, step_key: str) -> str | None:
    """The pool of a step; in the plan of the whole run the many of one step stand as `name[?]`."""
    steps = plan.step_dict_by_key
    found = steps.get(step_key) or steps.get(_MAPPING_KEY.sub("[?]", step_key))
    return None if found is None else found.pool


def _has_told(instance: dg.DagsterInstance, run_id: str, step_key: str, process_id: int) -> bool:
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=1000)
        for record in page.records:
            event = record.event_log_entry.dagster_event
            if event is not None and event.step_key == step_key:
                metadata = event.engine_event_data.metadata
                if ATTEMPT in metadata and metadata[PROCESS_ID].value == process_id:
                    return True
        if not page.has_more:
            return False
        cursor = page.cursor
