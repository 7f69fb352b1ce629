"""What is a run doing right now? Lines for a person who follows it, read from Dagster's event log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import dagster as dg

from workflows_pkg.errors import NotFound
from workflows_pkg.orchestration.deadline_tags import due_at

_WORDS = {
    "STEP_START": "started",
    "STEP_RESTARTED": "started again",
    "STEP_SUCCESS": "done",
    "STEP_FAILURE": "failed",
    "STEP_SKIPPED": "skipped",
    "STEP_UP_FOR_RETRY": "waits for another attempt",
    "PIPELINE_START": "run started",
    "PIPELINE_SUCCESS": "run succeeded",
    "PIPELINE_FAILURE": "run failed",
    "PIPELINE_CANCELED": "run canceled",
    "PIPELINE_ENQUEUED": "queued",
}


@dataclass(frozen=True)
class Moment:
    """One thing that happened: when (UTC), to which step (None: the run), what, and the reason of a failure."""

    at: datetime
    step: str | None
    what: str
    detail: str = ""


@dataclass
class Follower:
    """Reads a run's log from where it stopped the last time."""

    instance: dg.DagsterInstance
    run_id: str
    _cursor: str | None = field(default=None, init=False)

    def news(self) -> Iterator[Moment]:
        """What happened since the last call; empty while the run does not exist yet."""
        if not self.instance.has_run(self.run_id):
            return
        while True:
            page = self.instance.get_records_for_run(self.run_id, cursor=self._cursor, limit=500)
            for record in page.records:
                moment = _moment(record.event_log_entry)
                if moment is not None:
                    yield moment
            self._cursor = page.cursor
            if not page.has_more:
                return


@dataclass(frozen=True)
class RunState:
    """Where a run stands: its job, status in Dagster's words, tags, and when it started, ended and is due (UTC; None: not yet)."""

    run_id: str
    job: str
    status: str
    finished: bool
    tags: dict[str, str]
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None


def run_state(instance: dg.DagsterInstance, run_id: str | None) -> RunState:
    """The state of a run, given by its id or the beginning of it; None: the newest. Raises NotFound."""
    records = instance.get_run_records(limit=1 if run_id is None else 1000)
    for record in records:
        if run_id is None or record.dagster_run.run_id.startswith(run_id):
            run = record.dagster_run
            return RunState(
                run.run_id,
                run.job_name,
                run.status.value,
                run.is_finished,
                dict(run.tags),
                _instant(record.start_time),
                _instant(record.end_time),
                due_at(run.tags, record.create_timestamp),
            )
    raise NotFound("run", run_id or "newest", [record.dagster_run.run_id for record in records][:50])


def _instant(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _moment(entry: dg.EventLogEntry) -> Moment | None:
    event = entry.dagster_event
    if event is None or event.event_type_value not in _WORDS:
        return None
    detail = ""
    if event.event_type_value in {"STEP_FAILURE", "STEP_UP_FOR_RETRY"}:
        error = getattr(event.event_specific_data, "error", None)
        while error is not None and error.cause is not None:
            error = error.cause
        detail = "" if error is None else " ".join(str(error.message).split())
    step = None if event.step_key is None else event.step_key.rsplit(".", 1)[-1]
    return Moment(
        datetime.fromtimestamp(entry.timestamp, UTC),
        step,
        _WORDS[event.event_type_value],
        detail,
    )
