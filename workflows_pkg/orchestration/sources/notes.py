"""What could not be seen of an instance, and why, in sentences for the person who asked?"""

from __future__ import annotations

from collections.abc import Iterable

from workflows_pkg.errors import bounded

_KINDS = """
ALERT_FAILURE ALERT_START ALERT_SUCCESS ASSET_CHECK_EVALUATION ASSET_CHECK_EVALUATION_PLANNED
ASSET_FAILED_TO_MATERIALIZE ASSET_HEALTH_CHANGED ASSET_MATERIALIZATION ASSET_MATERIALIZATION_PLANNED ASSET_OBSERVATION
ASSET_STORE_OPERATION ASSET_WIPED CODE_LOCATION_UPDATED ENGINE_EVENT FRESHNESS_STATE_CHANGE FRESHNESS_STATE_EVALUATION
HANDLED_OUTPUT HOOK_COMPLETED HOOK_ERRORED HOOK_SKIPPED LOADED_INPUT LOGS_CAPTURED OBJECT_STORE_OPERATION
PIPELINE_CANCELED PIPELINE_CANCELING PIPELINE_DEQUEUED PIPELINE_ENQUEUED PIPELINE_FAILURE PIPELINE_START
PIPELINE_STARTING PIPELINE_SUCCESS RESOURCE_INIT_FAILURE RESOURCE_INIT_STARTED RESOURCE_INIT_SUCCESS RUN_RESUMED
RUN_SUSPENDED STEP_EXPECTATION_RESULT STEP_FAILURE STEP_INPUT STEP_OUTPUT STEP_RESTARTED STEP_SKIPPED STEP_START
STEP_SUCCESS STEP_UP_FOR_RETRY STEP_WORKER_STARTED STEP_WORKER_STARTING
"""
"""Dagster's types of event (`DagsterEventType`), written down since importing them takes seconds; a test compares."""

_KNOWN: frozenset[str | bytes | None] = frozenset({None, *_KINDS.split(), *map(str.encode, _KINDS.split())})
_LISTED = 5


class Notes:
    """Collects while reading; `sentences` is what is known so far. Each thing is told once, however often it is met."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._without_log: set[str] = set()
        self._unknown: set[str] = set()
        self._columns: set[str] = set()
        self._said: dict[str, None] = {}

    def say(self, sentence: str) -> None:
        self._said[sentence] = None

    def held(self, run_id: str) -> None:
        """The run's log is there and somebody else has it; one that is broken is told of in quarantine."""
        self._held.add(run_id)

    def no_log(self, run_id: str) -> None:
        """The run is there and its log is not."""
        if run_id:
            self._without_log.add(run_id)

    def without_column(self, table: str, column: str) -> None:
        """The instance is older or newer than this Dagster, and what the column says is unknown."""
        self._columns.add(f"{table}.{column}")

    def heard(self, kinds: Iterable[str | bytes | None]) -> None:
        """Stored types of event; one that nobody knows is noted. A line logged by user code has none."""
        for kind in set(kinds) - _KNOWN:
            self._unknown.add(kind.decode("utf-8", "replace") if isinstance(kind, bytes) else str(kind))

    @property
    def sentences(self) -> tuple[str, ...]:
        found = list(self._said)
        if self._held:
            found.append(f"{_counted(self._held, 'run log')} held by another program; what is in there was left out")
        if self._without_log:
            found.append(f"{_counted(self._without_log, 'run')} without a log: deleted, or kept elsewhere")
        if self._unknown:
            found.append(f"events of kinds that this version of Dagster does not know: {_listed(self._unknown)}")
        if self._columns:
            found.append(f"columns that this instance does not have: {_listed(self._columns)}")
        return tuple(found)


def _counted(things: set[str], noun: str) -> str:
    return f"1 {noun}" if len(things) == 1 else f"{len(things):,} {noun}s"


def _listed(names: set[str]) -> str:
    shown = ", ".join(bounded(name) for name in sorted(names)[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
