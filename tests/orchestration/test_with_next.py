"""A measurement is stored with the next event of its run: in order, once, and without costing that event anything."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage, SqliteEventLogStorage

from workflows_pkg.orchestration import with_next
from workflows_pkg.orchestration.with_next import stored_with_next

RUN = "a_run"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        made.report_engine_event("first", run_id=RUN, job_name="job")
        yield made
    with_next._waiting.clear()


def event(message: str) -> dg.DagsterEvent:
    return dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ENGINE_EVENT.value,
        job_name="job",
        message=message,
        event_specific_data=EngineEventData(),
    )


def stored(instance: dg.DagsterInstance) -> list[str]:
    """The messages in the run's file, read from beside Dagster."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    with sqlite3.connect(storage.path_for_shard(RUN)) as file:
        rows = file.execute("select json_extract(event, '$.dagster_event.message') from event_logs order by id").fetchall()
    file.close()
    return [message for (message,) in rows]


def commits(instance: dg.DagsterInstance) -> int:
    """The file's change counter, which each write-back raises: how often the disk was waited for."""
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    return int.from_bytes(Path(storage.path_for_shard(RUN)).read_bytes()[24:28], "big")


def test_it_goes_with_the_next_event_and_before_it(instance: dg.DagsterInstance) -> None:
    assert stored_with_next(instance, RUN, event("measured"))
    assert stored(instance) == ["first"]
    instance.report_engine_event("of another run", run_id="another", job_name="job")
    assert stored(instance) == ["first"]
    before = commits(instance)
    instance.report_engine_event("next", run_id=RUN, job_name="job")
    together = commits(instance) - before
    assert stored(instance) == ["first", "measured", "next"]
    instance.report_engine_event("alone", run_id=RUN, job_name="job")
    assert commits(instance) - before == 2 * together  # control: one event alone costs as much as the two


def test_who_reads_the_run_finds_it(instance: dg.DagsterInstance) -> None:
    assert stored_with_next(instance, RUN, event("measured"))
    found = [entry.dagster_event for entry in instance.all_logs(RUN)]
    assert [it.message for it in found if it is not None] == ["first", "measured"]


def test_rolled_back_it_goes_with_the_one_after(instance: dg.DagsterInstance) -> None:
    assert stored_with_next(instance, RUN, event("measured"))
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    with pytest.raises(OSError, match="disk"), storage.run_connection(RUN):
        raise OSError("the disk is gone")
    assert stored(instance) == ["first"]
    instance.report_engine_event("next", run_id=RUN, job_name="job")
    assert stored(instance) == ["first", "measured", "next"]


def test_one_that_cannot_be_stored_leaves_the_next_as_it_is(instance: dg.DagsterInstance) -> None:
    assert stored_with_next(instance, RUN, event("bad"))
    entries: list[Any] = with_next._waiting[RUN]
    entries[0] = entries[0]._replace(timestamp="no time")
    instance.report_engine_event("next", run_id=RUN, job_name="job")
    assert stored(instance) == ["first", "next"]


def test_other_storages_are_left_alone(tmp_path: Path) -> None:
    with dg.instance_for_test(
        overrides={
            "event_log_storage": {
                "module": ConsolidatedSqliteEventLogStorage.__module__,
                "class": ConsolidatedSqliteEventLogStorage.__name__,
                "config": {"base_dir": str(tmp_path)},
            }
        }
    ) as instance:
        assert not stored_with_next(instance, RUN, event("measured"))
        assert type(instance.event_log_storage) is ConsolidatedSqliteEventLogStorage
    assert not stored_with_next(dg.DagsterInstance.ephemeral(), RUN, event("measured"))


def test_what_this_names_of_dagsters_private_parts_is_still_there() -> None:
    assert callable(SqliteEventLogStorage.run_connection)
    assert callable(SqliteEventLogStorage.prepare_insert_event)
