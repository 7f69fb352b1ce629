"""The same runs give the same history on each of Dagster's storages, event by event as Dagster itself tells it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration import batches
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.sources import open_source
from workflows_pkg.orchestration.translation import KINDS


def rows(history: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(open_history(history)) as con:
        return con.execute(sql).fetchall()


def told_by_dagster(instance: dg.DagsterInstance) -> list[tuple[Any, ...]]:
    """(run, number, kind, microseconds, step, job, process) of each of Dagster's own events; lines of user logs are none."""
    found = []
    for run in instance.get_runs():
        for record in instance.get_records_for_run(run.run_id, limit=None).records:
            entry = record.event_log_entry
            event = entry.dagster_event
            if event is not None:
                kind = KINDS.get(event.event_type_value, "other")
                at = round(entry.timestamp * 1_000_000)
                found.append((run.run_id, record.storage_id, kind, at, entry.step_key, entry.job_name, event.pid))
    return sorted(found, key=lambda row: row[:2])


def landed(history: Path) -> list[tuple[Any, ...]]:
    return rows(
        history,
        """select run_id, event_id, kind, epoch_us("at"), step_key, job_name, process_id from events where run_id <> '' order by 1, 2""",
    )


def test_every_event_is_as_dagster_tells_it(place: Any, tmp_path: Path) -> None:
    result = sync_events(place.where, tmp_path)
    with place.instance() as instance:
        told = told_by_dagster(instance)
        lines = sum(entry.dagster_event is None for run in instance.get_runs() for entry in instance.all_logs(run.run_id))
    assert len(told) > 50
    assert landed(tmp_path) == told
    assert (result.events, result.runs, result.ticks, result.backfills, result.quarantined) == (len(told) + 1, 5, 2, 1, 0)
    assert result.log_lines == lines > 0


def test_the_folder_and_the_url_are_the_same_instance(place: Any, tmp_path: Path) -> None:
    sync_events(place.home, tmp_path)
    again = sync_events(place.where, tmp_path)
    assert (again.events, again.ticks, again.backfills, again.complete) == (0, 0, 0, True)
    assert rows(tmp_path, "select count(distinct source_id) from events") == [(1,)]


def test_the_sensor_s_call_lands_all_and_then_changes_nothing(place: Any) -> None:
    home = place.home
    assert sync_events(home, home, budget_s=5, wait_s=0).events > 50
    while not sync_events(home, home, budget_s=5, wait_s=0).complete:
        pass
    before = (home / "history.duckdb").stat()
    again = sync_events(home, home, budget_s=5, wait_s=0)
    assert (again.events, again.runs, again.ticks, again.complete) == (0, 0, 0, True)
    assert (home / "history.duckdb").stat().st_ino == before.st_ino  # not even published anew


COMPARED = {
    "runs": 'job_name, outcome, attempt_count, workflow, partition_key, "trigger", trigger_name, outcome_conflict',
    "step_attempts": "job_name, step, attempt, outcome, failure_cause, error_class, error_message, will_retry, retry_wait_s, "
    "run_time_s is null, start_time_s is null",
    "materializations": "run_id = '', asset_key, partition_key, \"rows\", bytes",
    "checks": "asset_key, check_name, passed, severity",
    "ticks": "tick_id, name, kind, status, reason, run_ids",
    "backfills": "backfill_id, status, partition_count, launched_by, asked_at is null",
}


@pytest.mark.parametrize("kind", ["consolidated", "postgres"])
def test_the_same_runs_give_the_same_history_as_on_shards(kind: str, recordings: Callable[[str], Any], tmp_path: Path) -> None:
    for name in ("sharded", kind):
        sync_events(recordings(name).where, tmp_path / name)
    for table, columns in COMPARED.items():
        sql = f"select {columns} from {table} order by all"
        assert rows(tmp_path / kind, sql) == rows(tmp_path / "sharded", sql), table
        assert rows(tmp_path / kind, f"select count(*) > 0 from {table}") == [(True,)]
    kinds = (
        "select job_name, step_key, list(kind order by event_id) from events where step_key is not null group by all order by all"
    )
    assert rows(tmp_path / kind, kinds) == rows(tmp_path / "sharded", kinds)


def test_times_are_those_of_the_run(place: Any, tmp_path: Path) -> None:
    sync_events(place.where, tmp_path)
    with place.instance() as instance:
        records = {record.dagster_run.run_id: record for record in instance.get_run_records()}
    found = rows(tmp_path, "select run_id, epoch(created_at), epoch(started_at), epoch(ended_at) from runs")
    assert len(found) == len(records)
    for run_id, created, started, ended in found:
        record = records[run_id]
        assert created == pytest.approx(record.create_timestamp.timestamp(), abs=1e-3)
        if record.start_time is not None:
            assert started == pytest.approx(record.start_time, abs=1e-3)
        assert ended == pytest.approx(record.end_time, abs=1e-3)


@pytest.mark.parametrize("over_for", [timedelta(0), timedelta(days=1)], ids=["long over", "just over"])
def test_a_budget_stops_early_and_the_next_call_goes_on(
    place: Any, over_for: timedelta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BATCH_RUNS", 2), ("BATCH_ROWS", 10), ("PIECE_ROWS", 10), ("RUNS_ASKED", 2), ("GRACE", over_for)):
        monkeypatch.setattr(batches, name, value)
    with place.instance() as instance:
        told = told_by_dagster(instance)
    calls = 1
    while not (result := sync_events(place.where, tmp_path, budget_s=0)).complete:
        assert result.runs_left > 0
        calls += 1
        assert calls < len(told)  # each call lands something: a log longer than a batch must not be begun anew for ever
    assert calls > 3
    assert landed(tmp_path) == told


def test_a_run_that_ends_is_read_anew_in_more_than_one_call(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read while its numbers could still come late, then once more to its end, a batch at a time."""
    sync_events(place.where, tmp_path)
    for name, value in (("BATCH_RUNS", 2), ("BATCH_ROWS", 10), ("PIECE_ROWS", 10), ("GRACE", timedelta(0))):
        monkeypatch.setattr(batches, name, value)
    calls = 1
    while not sync_events(place.where, tmp_path, budget_s=0).complete:
        calls += 1
        assert calls < 50
    assert rows(
        tmp_path, "select count(*) from cursors where shard not in ('instance', 'runs', 'ticks', '') and not complete"
    ) == [(0,)]
    with place.instance() as instance:
        assert landed(tmp_path) == told_by_dagster(instance)


def test_a_run_is_followed_while_it_is_written(place: Any, tmp_path: Path) -> None:
    syncs: list[int] = []

    @dg.op
    def step() -> None:
        syncs.append(sync_events(place.where, tmp_path).events)

    @dg.job
    def busy() -> None:
        step.alias("one")()
        step.alias("two")()

    sync_events(place.where, tmp_path)
    with place.instance() as instance:
        busy.execute_in_process(instance=instance)
        sync_events(place.where, tmp_path)
        assert landed(tmp_path) == told_by_dagster(instance)
    assert all(events > 0 for events in syncs)
    assert len(syncs) == 2


def test_a_deleted_run_stays_in_history(place: Any, tmp_path: Path) -> None:
    sync_events(place.where, tmp_path)
    before = landed(tmp_path)
    with place.instance() as instance:
        run_id = instance.get_runs()[-1].run_id
        instance.delete_run(run_id)
    assert sync_events(place.where, tmp_path).events == 0
    assert landed(tmp_path) == before
    assert rows(tmp_path, f"select position like '%\"deleted\": true%' from cursors where shard = '{run_id}'") == [(True,)]


def test_an_open_source_says_what_it_is_and_is_read_more_than_once(place: Any, tmp_path: Path) -> None:
    with open_source(place.where, untouched=True) as source:
        expected = {"sharded": "run-sharded SQLite at ", "consolidated": "consolidated SQLite at ", "postgres": "PostgreSQL at "}
        assert source.description.startswith(expected[place.kind])
        assert sync_events(source, tmp_path).events > 50
        assert sync_events(source, tmp_path).events == 0
        assert source.notes == ()
