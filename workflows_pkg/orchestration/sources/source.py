"""What does an instance say of its runs, their events and its ticks, whichever storage it has?

Dagster keeps runs, events and ticks in three storages, which may be of different kinds. A `Source` puts the three together and
hands out raw rows; what an event means is the matter of `translation`. Tables are read by the columns they have: an instance of an
older or newer Dagster is read as far as it is known, and `notes` say what is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.orchestration.sources.database import Database, Select, chunks, marks
from workflows_pkg.orchestration.sources.logs import EventLogs
from workflows_pkg.orchestration.sources.notes import Notes
from workflows_pkg.orchestration.sources.rows import BackfillRow, Piece, RunBody, RunRow, TickRow, Wanted

_ENDED = "'SUCCESS', 'FAILURE', 'CANCELED'"


class Source:
    """One instance, only ever read; `description` is one line for a person, without a password. Close it after use."""

    def __init__(self, runs: Database, logs: EventLogs, schedules: Database, notes: Notes, description: str) -> None:
        self.description = description
        self._runs = runs
        self._logs = logs
        self._schedules = schedules
        self._notes = notes
        self._columns: dict[str, set[str]] = {}

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def cancel(self) -> None:
        """Ends the question that another thread is asking, where that may take long."""
        for part in (self._runs, self._logs, self._schedules):
            part.cancel()

    def close(self) -> None:
        """Lets go of connections."""
        for part in (self._runs, self._logs, self._schedules):
            part.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be seen and why, as far as was read by now."""
        return self._notes.sentences

    @property
    def place(self) -> str:
        """Where the table of runs is, the same in every process, without a password."""
        return self._runs.place

    @property
    def out_of_order(self) -> bool:
        """Whether an event may become visible after one with a larger number."""
        return self._logs.out_of_order

    def identity(self) -> str | None:
        """The id that Dagster gave this instance's run storage, None where it has not given one yet."""
        if not self._has("instance_info", "run_storage_id"):
            return None

        def query(select: Select) -> str | None:
            found = list(select("select run_storage_id from instance_info limit 1", ()))
            return found[0][0] if found else None

        return self._runs.read(query)

    def run_rows(self, since: str, known: Mapping[str, bool]) -> tuple[list[RunRow], set[str]]:
        """Runs that may have news, in the order they were asked for, and the ids of all runs there are.

        News may have: runs updated at `since` or later (text as in `RunRow`), runs that are not over, and those that `known` (run id
        -> whether all of it was read) does not have or has as not read to the end.
        """
        updated = f"coalesce({self._instant('update_timestamp')}, '')"
        columns = f"{self._column('runs', 'id', '0')}, run_id, status, {updated}, {self._column('runs', 'end_time')}"
        dated = bool(since) and self._has("runs", "update_timestamp")
        recent = self._runs.not_before("update_timestamp") if dated else "1 = 1"

        def query(select: Select) -> tuple[list[RunRow], set[str]]:
            ids = {row[0] for row in select("select run_id from runs", ())}
            rows = list(
                select(f"select {columns} from runs where {recent} or status not in ({_ENDED})", (since,) if dated else ())
            )
            seen = {row[1] for row in rows}
            for some in chunks(sorted(run_id for run_id in ids - seen if not known.get(run_id, False))):
                rows += select(f"select {columns} from runs where run_id in ({marks(some)})", some)
            return [RunRow(*row) for row in sorted(rows, key=lambda row: row[:2])], ids

        return self._runs.read(query)

    def log_pieces(self, wanted: Sequence[Wanted], limit: int, limit_bytes: int) -> Iterator[Piece]:
        """The events of these runs; pieces of one run follow each other, and each run has at least one.

        A piece has at most `limit` events, and no further one after `limit_bytes` of text.
        """
        return self._logs.pieces(wanted, limit, limit_bytes)

    def log_state(self, run_id: str) -> str:
        """What tells a changed log of one run from an unchanged one; empty where there is no log of its own."""
        return self._logs.state(run_id)

    def run_bodies(self, run_ids: Sequence[str]) -> list[RunBody]:
        """Those of the runs that are (still) there; the tag `dagster/parent_run_id` also where only the body names the parent."""
        names = [self._column("runs", name) for name in ("pipeline_name", "status", "snapshot_id")]
        body = self._column("runs", "run_body")
        created = self._instant("create_timestamp")
        named = f"{body} like '%\"parent_run_id\":%' and {body} not like '%\"parent_run_id\": null%'"
        with_parent = f"case when {named} then {body} end"
        tagged = self._has("run_tags", "value")

        def query(select: Select) -> list[RunBody]:
            found: list[RunBody] = []
            for some in chunks(run_ids):
                tags: dict[str, dict[str, str]] = {}
                if tagged:
                    for run_id, key, value in select(
                        f"select run_id, key, value from run_tags where run_id in ({marks(some)})", some
                    ):
                        tags.setdefault(run_id, {})[key] = value
                for run_id, job, status, snapshot, at, parent_body in select(
                    f"select run_id, {', '.join(names)}, {created}, {with_parent} from runs where run_id in ({marks(some)})", some
                ):
                    parents = _parent(parent_body) if parent_body else {}
                    found.append(RunBody(run_id, job or "", status or "", at, snapshot, {**parents, **tags.get(run_id, {})}))
            return found

        return self._runs.read(query)

    def job_snapshots(self, snapshot_ids: Sequence[str]) -> dict[str, bytes]:
        """What is stored of these structures of jobs, by id; those that are gone, or kept elsewhere, are left out."""
        if not snapshot_ids or not self._has("snapshots", "snapshot_body"):
            return {}

        def query(select: Select) -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            for some in chunks(snapshot_ids):
                rows = select(f"select snapshot_id, snapshot_body from snapshots where snapshot_id in ({marks(some)})", some)
                found |= {snapshot_id: bytes(body) for snapshot_id, body in rows}
            return found

        return self._runs.read(query)

    def tick_rows(self, since: str, after: int, limit: int) -> list[TickRow]:
        """At most `limit` ticks numbered above `after` that were updated at `since` or later (text as in `TickRow`), in order.

        Ticks that cannot be read are a note, and keep nobody from reading the rest.
        """
        try:
            if not self._schedules.exists():
                self._notes.say("ticks: no schedules.db")
                return []
            return self._schedules.read(partial(self._ticks, since, after, limit))
        except (SetupError, BusyError) as error:
            self._notes.say(f"ticks: {error.message}")
            return []

    def _ticks(self, since: str, after: int, limit: int, select: Select) -> list[TickRow]:
        at, updated = self._schedules.utc("timestamp"), f"coalesce({self._schedules.utc('update_timestamp')}, '')"
        rows = select(
            f"select id, status, type, {at}, tick_body, {updated} from job_ticks where id > ? and {updated} >= ? order by id limit ?",
            (after, since, limit),
        )
        return [TickRow(*row) for row in rows]

    def backfill_rows(self, settled: Mapping[str, str]) -> list[BackfillRow]:
        """Backfills in the order they were asked for, without those that have the status `settled` names for them.

        An instance of a Dagster before backfills were kept has none.
        """
        if not self._has("bulk_actions", "body"):
            return []
        at = self._runs.utc("timestamp") if self._has("bulk_actions", "timestamp") else "null"

        def query(select: Select) -> list[BackfillRow]:
            states = select("select key, status from bulk_actions order by id", ())
            wanted = [key for key, status in states if settled.get(key) != status]
            found: dict[str, BackfillRow] = {}
            for some in chunks(wanted):
                rows = select(f"select key, status, {at}, body from bulk_actions where key in ({marks(some)})", some)
                found |= {row[0]: BackfillRow(*row) for row in rows}
            return [found[key] for key in wanted if key in found]

        return self._runs.read(query)

    def _has(self, table: str, column: str) -> bool:
        if table not in self._columns:
            self._columns[table] = self._runs.columns(table)
        return column in self._columns[table]

    def _column(self, table: str, column: str, otherwise: str = "null") -> str:
        """The column, or what stands for it where this instance has none."""
        if self._has(table, column):
            return column
        self._notes.without_column(table, column)
        return otherwise

    def _instant(self, column: str) -> str:
        known = self._column("runs", column)
        return known if known == "null" else self._runs.utc(known)


def _parent(body: str) -> dict[str, str]:
    try:
        loaded: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    parent = loaded.get("parent_run_id") if isinstance(loaded, dict) else None
    return {"dagster/parent_run_id": parent} if isinstance(parent, str) else {}
