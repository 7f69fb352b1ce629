"""What does an instance say of the backfills that were asked for, and which of them are news?

Dagster keeps no instant of a backfill's last change, so its history is compared with what the instance says now: a backfill that
is over and stands in history with the same status is left alone, every other one is read whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from workflows_pkg.errors import bounded
from workflows_pkg.history.records import Backfill
from workflows_pkg.orchestration.facts import instant, moment
from workflows_pkg.orchestration.sources import BackfillRow, Source

_OVER = frozenset({"completed", "completed_success", "completed_failed", "failed", "canceled"})
"""Dagster's `BULK_ACTION_TERMINAL_STATUSES`, in small letters."""

_ERROR_LENGTH = 500
_UNREADABLE = "What Dagster stored of it could not be read."


def changed_backfills(source: Source, source_id: str, landed: Iterable[Backfill]) -> list[Backfill]:
    """Backfills that `landed`, those of history, has not or has otherwise."""
    known = {backfill.backfill_id: backfill for backfill in landed if backfill.source_id == source_id}
    settled = {name: backfill.status.upper() for name, backfill in known.items() if backfill.status in _OVER}
    found = (_kept(known.get(row.backfill_id), backfill_record(source_id, row)) for row in source.backfill_rows(settled))
    return [backfill for backfill in found if backfill is not None and known.get(backfill.backfill_id) != backfill]


def _kept(before: Backfill | None, now: Backfill | None) -> Backfill | None:
    """What is known now; what was known before with today's status, where Dagster's row has become unreadable meanwhile."""
    if before is None or now is None or now.error != _UNREADABLE:
        return now
    return before.model_copy(update={"status": now.status, "ended_at": before.ended_at if now.status in _OVER else None})


def backfill_record(source_id: str, row: BackfillRow) -> Backfill | None:
    """The backfill; None where not even its instant can be read. Of a body that is none, the rest stays unknown and says so."""
    try:
        loaded = json.loads(row.body or "")
    except (ValueError, RecursionError):
        loaded = None
    body = _mapping(loaded if isinstance(loaded, dict) else {"error": {"message": _UNREADABLE}})
    asked = moment(body.get("backfill_timestamp")) or instant(row.at or "")
    if asked is None:
        return None
    status = row.status.lower()
    ended = (
        moment(body.get("backfill_end_timestamp")) if status in _OVER else None
    )  # where one is resumed, Dagster leaves its earlier end
    tags = _mapping(body.get("tags"))
    assets = _assets(body.get("asset_selection"))
    error = _mapping(body.get("error")).get("message")
    return Backfill(
        source_id=source_id,
        backfill_id=row.backfill_id,
        status=status,
        title=_text(body.get("title")),
        job_name=_job(body) if not assets else None,
        assets=json.dumps(assets) if assets else None,
        partition_count=_partition_count(body),
        launched_by=_text(tags.get("workflows/launched_by") or tags.get("user")),
        asked_at=asked,
        ended_at=ended,
        error=bounded(str(error), _ERROR_LENGTH) if error else None,
    )


def _job(body: Mapping[str, Any]) -> str | None:
    """The job of a backfill of a job: Dagster names its set of partitions after it."""
    name = _text(_mapping(body.get("partition_set_origin")).get("partition_set_name"))
    return name.removesuffix("_partition_set") if name else None


def _partition_count(body: Mapping[str, Any]) -> int | None:
    """The named partitions of a job, or those of each asset together; None where one asset's are written in a way not known here."""
    names = body.get("partition_names")
    if isinstance(names, list):
        return len(names)
    target = _mapping(_mapping(body.get("asset_backfill_data")).get("target_subset"))
    by_asset = _mapping(target.get("partitions_subsets_by_asset_key")).get("__mapping_items__")
    counts = [_subset_size(item[1]) for item in by_asset if isinstance(item, list) and len(item) == 2] if by_asset else []
    return sum(count for count in counts if count is not None) if counts and None not in counts else None


def _subset_size(stored: Any) -> int | None:
    """How many partitions: Dagster lists them by name, or counts windows of time."""
    subset = _mapping(stored)
    names, count = _mapping(subset.get("subset")).get("__set__"), subset.get("num_partitions")
    return len(names) if isinstance(names, list) else count if isinstance(count, int) else None


def _assets(stored: Any) -> list[str]:
    """Keys of assets as Dagster's serdes writes them, a list of packed `AssetKey`."""
    if not isinstance(stored, list):
        return []
    paths = [_mapping(key).get("path") for key in stored]
    return ["/".join(map(str, path)) for path in paths if isinstance(path, list)]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
