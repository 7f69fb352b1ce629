"""What do Dagster's rows of runs and ticks say in the words of history?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from workflows_pkg.errors import bounded
from workflows_pkg.history.records import Tick
from workflows_pkg.orchestration.deadline_tags import due_at
from workflows_pkg.orchestration.sources.rows import RunBody, TickRow

_TRIGGERS: tuple[tuple[str, str, str | None], ...] = (
    ("workflows/trial", "trial", "workflows/trial"),
    ("dagster/parent_run_id", "retry", None),
    ("dagster/backfill", "backfill", "dagster/backfill"),
    ("dagster/schedule_name", "schedule", "dagster/schedule_name"),
    ("dagster/sensor_name", "sensor", "dagster/sensor_name"),
)
"""Tag -> trigger and the tag with its name. The first that is there counts: a re-execution keeps the tags of the run it repeats."""

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
"""An instant outside of these is a mistake of whoever wrote it, and is taken for unknown: pandas, by which history is read, counts
nanoseconds in 64 bits, which end in April 2262, and Python's own instants end with the year 9999."""

_REASON_LENGTH = 500

_FACTS = pa.schema(
    [(name, pa.string()) for name in ("run_id", "source_id", "job_name", "status")]
    + [("created_at", pa.timestamp("us", tz="UTC")), ("version", pa.int64())]
    + [(name, pa.string()) for name in ("workflow", "digest", "trial_id", "partition_key", "trigger", "trigger_name")]
    + [(name, pa.string()) for name in ("launched_by", "owner", "parent_run_id", "job_snapshot_id")]
    + [("deadline_at", pa.timestamp("us", tz="UTC"))]
)


def run_facts(source_id: str, bodies: Sequence[RunBody]) -> pa.Table:
    """One row per run, as `history.derive` takes them. Runs whose time of creation cannot be read are left out."""
    rows: list[dict[str, object]] = []
    for body in bodies:
        created = instant(body.created or "")
        if created is None:
            continue
        tags = body.tags
        trigger, name = _trigger(tags)
        rows.append(
            {
                "run_id": body.run_id,
                "source_id": source_id,
                "job_name": body.job_name,
                "status": body.status.lower(),
                "created_at": created,
                "version": _number(tags.get("workflows/version")),
                "workflow": _hidden(tags, "workflow"),
                "digest": _hidden(tags, "digest"),
                "trial_id": tags.get("workflows/trial"),
                "partition_key": tags.get("dagster/partition"),
                "trigger": trigger,
                "trigger_name": name,
                "launched_by": tags.get("workflows/launched_by") or tags.get("user"),
                "owner": _hidden(tags, "owner"),
                "parent_run_id": tags.get("dagster/parent_run_id"),
                "job_snapshot_id": body.snapshot_id,
                "deadline_at": due_at(tags, created),
            }
        )
    return pa.Table.from_pylist(rows, schema=_FACTS)


def _hidden(tags: Mapping[str, str], name: str) -> str | None:
    """A tag that Dagster's pages do not show; the runs of earlier versions have it in sight."""
    return tags.get(f".dagster/workflows_{name}") or tags.get(f"workflows/{name}")


def tick_record(source_id: str, row: TickRow) -> Tick | None:
    """The tick, None where its row cannot be read."""
    try:
        body = json.loads(row.body or "")
    except ValueError:
        return None
    at = instant(row.at)
    if at is None or not isinstance(body, dict):
        return None
    run_ids = [str(run_id) for run_id in body.get("run_ids") or []]
    error = body.get("error") or {}
    reason = body.get("skip_reason") or (error.get("message") if isinstance(error, dict) else None)
    return Tick(
        source_id=source_id,
        tick_id=row.number,
        name=str(body.get("job_name") or body.get("instigator_name") or "unknown"),
        kind={"SCHEDULE": "schedule", "SENSOR": "sensor", "AUTO_MATERIALIZE": "automation"}.get(row.kind, "sensor"),
        status=row.status.lower(),
        at=at,
        run_ids=json.dumps(run_ids) if run_ids else None,
        reason=bounded(reason, _REASON_LENGTH) if reason else None,
    )


def instant(text: str) -> datetime | None:
    """An instant as SQLite keeps it, UTC without saying so; None where it is none, or one that cannot be meant.

    >>> str(instant("2026-01-02 03:04:05.678")), instant("9026-01-02 03:04:05")
    ('2026-01-02 03:04:05.678000+00:00', None)
    """
    try:
        found = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None
    return found if EARLIEST <= found < LATEST else None


def moment(seconds: object) -> datetime | None:
    """An instant as Dagster keeps the start and end of runs, seconds since 1970; None where it is none, or one that cannot be meant.

    >>> str(moment(86_400.5)), moment(1e300), moment("soon"), moment(None)
    ('1970-01-02 00:00:00.500000+00:00', None, None, None)
    """
    if not isinstance(seconds, int | float) or not EARLIEST.timestamp() <= seconds < LATEST.timestamp():
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _trigger(tags: Mapping[str, str]) -> tuple[str, str | None]:
    for tag, trigger, name in _TRIGGERS:
        if tag in tags:
            return trigger, tags.get(name) if name else None
    return "manual", None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
