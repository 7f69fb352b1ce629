"""Which tags and metadata carry a run's forecast, and how are they changed while others change the same run?

Dagster's own `add_run_tags` reads the run and writes the whole of it back: a tag that somebody else adds in between is lost. Before a
run is queued nobody else adds any; while its steps run, they may. So an edit here is made only where the run is still what was read.
Since exactly one of several such edits succeeds, an edit is also a claim: whoever makes it tells.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

# No public name changes a run on condition; tests/workbench/test_telling.py fails when one of these moves.
from dagster._core.storage.runs import SqlRunStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._serdes import deserialize_value, serialize_value
from dagster._time import get_current_datetime
from sqlalchemy import and_, select

EXPECTED_TAG = "workflows/expected"
"""The one visible tag: what the run should take, then what it should take by now, then what it took."""

STATE_TAG = ".dagster/workflows_forecast"
"""Hidden by Dagster's pages. `open` and `open 1`, `open 2`, …: forecast, and so often told what is left; `told`: its end was told;
`none`: a copied tag of another run was set aside."""

MISS_TAG = "workflows/deadline_miss_probability"
"""Of a run with a deadline and a forecast: from `0.00` to `1.00`, as of the last look; once it has ended `1` or `0`, what came of it.
`unknown`: a copied tag of another run was set aside."""

OPEN, TOLD, NONE = "open", "told", "none"

SAID = "workflows/said"
"""Metadata of an event that tells of a forecast, as JSON: `said` is expected, left, at risk or took, and beside it all figures by name."""


def change_tags(instance: dg.DagsterInstance, run_id: str, state: str, tags: Mapping[str, str]) -> bool:
    """Changes tags that the run has, if it still is in `state` and nobody changes it at the same moment; whether it did.

    False too for a storage that is not kept in tables. No other tag of the run is added, changed or lost.
    """
    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        return False
    with storage.connect() as connection:
        body = connection.execute(select(RunsTable.c.run_body).where(RunsTable.c.run_id == run_id)).scalar()
        if body is None:
            return False
        run = deserialize_value(body, dg.DagsterRun)
        if run.tags.get(STATE_TAG) != state or not tags.keys() <= run.tags.keys():
            return False
        changed = connection.execute(
            RunsTable.update()
            .where(and_(RunsTable.c.run_id == run_id, RunsTable.c.run_body == body))
            .values(run_body=serialize_value(run.with_tags({**run.tags, **tags})), update_timestamp=get_current_datetime())
        )
        if changed.rowcount != 1:
            return False
        for key, value in tags.items():
            mine = and_(RunTagsTable.c.run_id == run_id, RunTagsTable.c.key == key)
            connection.execute(RunTagsTable.update().where(mine).values(value=value))
        return True
