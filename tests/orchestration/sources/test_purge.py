"""What is purged is in the archive, Dagster shows the same afterwards, and all of it comes back (dagster-io/dagster#18369)."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, MARKER_EVENTS, PIPELINE_EVENTS, DagsterEventType
from dagster._core.execution.stats import RUN_STATS_EVENT_TYPES, STEP_STATS_EVENT_TYPES

from tests.orchestration.sources.shown import run_page, shown
from workflows_pkg.cli.main import exit_code
from workflows_pkg.errors import BusyError, SetupError
from workflows_pkg.history.archive import Archive
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import RECORDS, Cursor
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration.archiving import alone, archive_runs, restore
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.positions import Position
from workflows_pkg.orchestration.purge import GOES, purge
from workflows_pkg.orchestration.sources import postgres, stored

MONTH = timedelta(days=30)


def archive_at(folder: Path) -> Archive:
    return Archive(archive_files(str(folder)))


def test_old_runs_are_archived_purged_and_come_back_as_they_were(aged: Any) -> None:
    before = aged.logs()
    archive = archive_at(aged.archive)

    archived = archive_runs(aged.home, archive, MONTH)
    assert archived.runs == len(aged.old)
    assert archived.rows == sum(len(before[run_id]) for run_id in aged.old)
    assert aged.logs() == before

    would = purge(aged.home, archive, MONTH, do=False)
    assert aged.logs() == before
    done = purge(aged.home, archive, MONTH, do=True)
    assert done.jobs == would.jobs
    after = aged.logs()
    gone = {run_id: set(before[run_id]) - set(after[run_id]) for run_id in before}
    assert done.total.rows == sum(len(rows) for rows in gone.values()) > 0
    assert {run_id for run_id, rows in gone.items() if rows} <= set(aged.old)
    assert {row[3] for rows in gone.values() for row in rows} <= GOES
    assert all(after[run_id] and set(after[run_id]) <= set(before[run_id]) for run_id in before)
    assert all(after[run_id][-1] == before[run_id][-1] for run_id in before)

    assert purge(aged.home, archive, MONTH, do=True).total.rows == 0
    assert archive_runs(aged.home, archive, MONTH).rows == 0

    back = restore(aged.home, archive)
    assert back.rows == done.total.rows
    assert aged.logs() == before
    assert restore(aged.home, archive).rows == 0
    assert aged.logs() == before
    assert purge(aged.home, archive, MONTH, do=False).jobs == would.jobs


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after.get(name)]


def test_dagster_shows_the_same_of_every_asset_partition_check_and_run(aged: Any) -> None:
    archive = archive_at(aged.archive)
    with aged.place.instance() as instance:
        before = shown(instance)
        assert differences(before, shown(instance)) == []
        archive_runs(aged.home, archive, MONTH)
        assert purge(aged.home, archive, MONTH, do=True).total.rows > 0
        assert differences(before, shown(instance)) == []
    with aged.place.instance() as instance:  # as a webserver that starts now
        assert differences(before, shown(instance)) == []
        for run_id in aged.old:
            kinds = [event["__typename"] for event in run_page(instance, run_id)]
            assert "RunSuccessEvent" in kinds or "RunFailureEvent" in kinds or "RunCanceledEvent" in kinds


def test_control_deleting_the_runs_in_dagster_changes_what_it_shows(aged: Any) -> None:
    with aged.place.instance() as instance:
        before = shown(instance)
        for run_id in aged.old:
            instance.delete_run(run_id)
        changed = differences(before, shown(instance))
    assert {"assets", "python"} <= set(changed)


def history_of(aged: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All of history, without the moment at which a cursor was written, and without when a run that has just ended counts as read."""
    with open_history(aged.home) as con:
        found = {record.table: con.execute(f"select * from {record.table} order by all").fetchall() for record in RECORDS}
        cursors = "select source_id, shard, position, complete and list_contains(?, shard) from cursors order by all"
        found["cursors"] = con.execute(cursors, [list(aged.old)]).fetchall()
    return found


def touch(aged: Any) -> None:
    """Makes the row of every old run look as if somebody had added a tag, so that its log is read again."""
    sql = "update runs set update_timestamp = %s where run_id = %s"
    for run_id in aged.old:
        if aged.place.server is not None:
            aged.place.sql(sql, (datetime.now(UTC), run_id))
        else:
            with closing(sqlite3.connect(aged.home / "history" / "runs.db")) as con, con:
                con.execute(sql.replace("%s", "?"), (datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"), run_id))


def test_history_takes_a_purge_for_no_deletion_and_lands_nothing_twice(aged: Any) -> None:
    archive = archive_at(aged.archive)
    known = history_of(aged)
    archive_runs(aged.home, archive, MONTH)
    assert purge(aged.home, archive, MONTH, do=True).total.rows > 0
    assert sync_events(aged.home, aged.home).events == 0
    assert history_of(aged) == known
    touch(aged)
    assert sync_events(aged.home, aged.home).events == 0
    landed = [{name: rows for name, rows in found.items() if name != "cursors"} for found in (known, history_of(aged))]
    assert landed[0] == landed[1]
    assert reached(known) == reached(history_of(aged))
    assert restore(aged.home, archive).rows > 0
    touch(aged)
    assert sync_events(aged.home, aged.home).events == 0
    assert reached(known) == reached(history_of(aged))
    assert {**history_of(aged), "cursors": None} == {**known, "cursors": None}


def reached(history: dict[str, list[tuple[Any, ...]]]) -> dict[str, tuple[int, str]]:
    """Run -> the last event that was read, and its hash."""
    cursors = {shard: position for _, shard, position, _ in history["cursors"] if shard not in ("instance", "runs", "ticks")}
    return {shard: (Position.of(position).event_id, Position.of(position).digest) for shard, position in cursors.items()}


def test_control_a_log_without_its_last_row_is_taken_for_another_one(aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("consolidated")
    known = history_of(aged)
    for run_id in aged.old:
        aged.place.sql("delete from event_logs where id = %s", (aged.log(run_id)[-1][0],))
    touch(aged)
    sync_events(aged.home, aged.home)
    assert reached(history_of(aged)) != reached(known)


def test_a_row_that_the_archive_has_not_keeps_its_run_from_being_purged(aged: Any) -> None:
    archive = archive_at(aged.archive)
    archive_runs(aged.home, archive, MONTH)
    late = aged.old[0]
    add_row(aged, late)
    done = purge(aged.home, archive, MONTH, do=True)
    assert (done.changed, done.total.runs) == (
        1,
        len([r for r in aged.old if r != late and has_something_to_go(aged, archive, r)]),
    )
    assert archive_runs(aged.home, archive, MONTH).rows == 1
    assert sync_events(aged.home, aged.home).events == 0, "history took the run for complete"
    assert purge(aged.home, archive, MONTH, do=True).not_in_history == 1
    assert sync_events(aged.home, aged.home).events == 1, "the purge has told it to look again"
    touched = purge(aged.home, archive, MONTH, do=True)
    assert touched.changed == 0
    assert touched.total.runs == 1
    before = aged.log(late)
    assert restore(aged.home, archive, run_id=late).runs == 1
    assert len(aged.log(late)) == len(before) + touched.total.rows


def has_something_to_go(aged: Any, archive: Archive, run_id: str) -> bool:
    (source,) = archive.sources()
    rows = [row for part in archive.parts(source) for of, some in archive.rows(part) if of == run_id for row in some]
    return any(row.kind in GOES for row in rows[:-1])


def add_row(aged: Any, run_id: str) -> None:
    """Another line of the log, as a worker that says good-bye late would write it."""
    columns = "run_id, event, dagster_event_type, timestamp, step_key"
    given = f"select {columns} from event_logs where run_id = %s and dagster_event_type = 'PIPELINE_START' limit 1"
    sql = f"insert into event_logs ({columns}) {given}"
    if aged.place.kind != "sharded":
        aged.place.sql(sql, (run_id,))
        return
    with closing(sqlite3.connect(aged.home / "history" / "runs" / f"{run_id}.db")) as con, con:
        con.execute(sql.replace("%s", "?"), (run_id,))


def test_what_history_has_not_is_not_purged(aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("sharded")
    archive = archive_at(aged.archive)
    archive_runs(aged.home, archive, MONTH)
    before = aged.logs()
    with writer(aged.home) as history:
        history.con.execute("delete from live.events where run_id = ? and kind = 'step_started'", [aged.old[0]])
        history.upsert(Cursor, [read(history.con, Cursor, "shard = ?", [aged.old[1]])[0].model_copy(update={"complete": False})])
    done = purge(aged.home, archive, MONTH, do=True)
    assert done.not_in_history == 2
    after = aged.logs()
    assert [after[run_id] == before[run_id] for run_id in aged.old[:3]] == [True, True, False]
    shutil.rmtree(aged.home / "history.store")
    (aged.home / "history.duckdb").unlink()
    assert purge(aged.home, archive, timedelta(days=39), do=True).total.rows == 0


def test_runs_that_are_not_over_for_so_long_stay_out_of_it(aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("sharded")
    archive = archive_at(aged.archive)
    assert archive_runs(aged.home, archive, timedelta(days=41)).runs == 0
    assert archive_runs(aged.home, archive, timedelta(days=39)).runs == len(aged.old)
    assert purge(aged.home, archive, timedelta(days=41), do=True).total.rows == 0
    assert purge(aged.home, archive_at(aged.home / "another"), MONTH, do=True).not_archived == len(aged.old)


def test_a_damaged_file_of_the_archive_is_refused_before_anything_goes(aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("sharded")
    archive = archive_at(aged.archive)
    archive_runs(aged.home, archive, MONTH)
    before = aged.logs()
    (file,) = aged.archive.glob("*/*.parquet")
    whole = file.read_bytes()
    (source,) = archive.sources()
    (part,) = archive.parts(source)
    rows = list(archive.rows(part))
    seen = 0
    for at in range(0, len(whole), 512):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            found = list(archive.rows(part))
        except SetupError:
            seen += 1
        else:  # a byte of no account, such as one of a statistic
            assert found == rows, f"byte {at} of {len(whole)}: rows changed and nobody noticed"
    assert seen > 10
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    for change in (lambda: purge(aged.home, archive, MONTH, do=True), lambda: restore(aged.home, archive)):
        with pytest.raises(SetupError, match="is damaged"):
            change()
    assert aged.logs() == before
    file.write_bytes(whole)
    manifest = file.with_suffix(".json")
    told = json.loads(manifest.read_text())
    told["runs"][aged.old[0]]["rows"] += 1
    manifest.write_text(json.dumps(told))
    with pytest.raises(SetupError, match=f"run {aged.old[0]} has not the rows"):
        purge(aged.home, archive, MONTH, do=True)
    told["format"] = 2
    manifest.write_text(json.dumps(told))
    with pytest.raises(SetupError, match="has format 2; this version reads 1"):
        purge(aged.home, archive, MONTH, do=True)
    assert aged.logs() == before


def test_of_two_at_once_the_second_refuses(aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("sharded")
    archive = archive_at(aged.archive)
    with alone(aged.home):
        for another in (archive_runs, restore):
            with pytest.raises(BusyError, match=f"process {os.getpid()} is archiving or purging"):
                another(aged.home, archive, MONTH) if another is archive_runs else another(aged.home, archive)
        with pytest.raises(BusyError, match="archiving or purging"):
            purge(aged.home, archive, MONTH, do=True)
    assert archive_runs(aged.home, archive, MONTH).runs == len(aged.old)


def test_a_database_that_somebody_holds_is_told_in_a_sentence(aged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "PATIENCE_S", 0.2)
    monkeypatch.setattr(postgres, "LOCK_WAIT_S", 1)
    archive = archive_at(aged.archive)
    archive_runs(aged.home, archive, MONTH)
    before = aged.logs()
    with held(aged):
        with pytest.raises(BusyError, match=r"Run the same command again|Try again later"):
            purge(aged.home, archive, MONTH, do=True)
    partly = aged.logs()
    assert all(set(rows) <= set(before[run_id]) for run_id, rows in partly.items())
    assert purge(aged.home, archive, MONTH, do=True).total.rows > 0
    assert purge(aged.home, archive, MONTH, do=False).total.rows == 0


@contextmanager
def held(aged: Any) -> Iterator[None]:
    """Somebody keeps a lock on the rows of the last of the old runs."""
    if aged.place.server is not None:
        with closing(aged.place.server.connect(aged.place.database)) as connection, connection.cursor() as cursor:
            connection.autocommit = False
            cursor.execute("select * from event_logs where run_id = %s for update", (aged.old[-2],))
            yield
        return
    file = f"runs/{aged.old[-2]}.db" if aged.place.kind == "sharded" else "event_log.db"
    with closing(sqlite3.connect(aged.home / "history" / file, isolation_level=None)) as con:
        con.execute("begin immediate")
        yield
        con.execute("rollback")


def test_a_shard_that_somebody_reads_is_rewritten_the_next_time(
    aged_copy: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "PATIENCE_S", 0.2)
    aged = aged_copy("sharded")
    archive = archive_at(aged.archive)
    archive_runs(aged.home, archive, MONTH)
    shard = aged.home / "history" / "runs" / f"{aged.old[0]}.db"
    index = shard.with_name("index.db").read_bytes()
    with closing(sqlite3.connect(shard)) as con:
        con.execute("begin")
        con.execute("select count(*) from event_logs").fetchone()
        done = purge(aged.home, archive, MONTH, do=True)
    assert done.busy == 1
    assert done.file_bytes_after < done.file_bytes_before / 2
    big = shard.stat().st_size
    assert purge(aged.home, archive, MONTH, do=True).busy == 0
    assert shard.stat().st_size < big / 2
    with closing(sqlite3.connect(shard)) as con:
        assert con.execute("pragma journal_mode").fetchone() == ("wal",)
        assert con.execute("pragma integrity_check").fetchone() == ("ok",)
    assert shard.with_name("index.db").read_bytes() == index
    with aged.place.instance() as instance:  # Dagster goes on writing to it
        run = instance.get_run_by_id(aged.old[0])
        assert run is not None
        last = aged.log(run.run_id)[-1][0]
        instance.report_engine_event("something more", run)
        assert aged.log(run.run_id)[-1][0] == last + 1


def test_columns_that_could_not_be_put_back_are_refused(aged: Any) -> None:
    if aged.place.kind == "sharded":
        shards = [aged.home / "history" / "runs" / f"{run_id}.db" for run_id in aged.old]
        for shard in shards:
            with closing(sqlite3.connect(shard)) as con, con:
                con.execute("alter table event_logs add column tenant text")
        assert archive_runs(aged.home, archive_at(aged.archive), MONTH).unreadable == len(aged.old)
        return
    aged.place.sql("alter table event_logs add column tenant text")
    with pytest.raises(SetupError, match="a column tenant that this version does not know"):
        archive_runs(aged.home, archive_at(aged.archive), MONTH)


def test_a_run_that_was_deleted_stays_deleted_and_another_row_is_not_overwritten(aged: Any) -> None:
    archive = archive_at(aged.archive)
    archive_runs(aged.home, archive, MONTH)
    purge(aged.home, archive, MONTH, do=True)
    gone, other = aged.old[0], aged.old[1]
    with aged.place.instance() as instance:
        instance.delete_run(gone)
    change = "update event_logs set event = '{}' where id = %s"
    number = aged.log(other)[0][0]
    if aged.place.kind == "sharded":
        with closing(sqlite3.connect(aged.home / "history" / "runs" / f"{other}.db")) as con, con:
            con.execute(change.replace("%s", "?"), (number,))
    else:
        aged.place.sql(change, (number,))
    before = aged.log(other)
    back = restore(aged.home, archive)
    assert (back.deleted, back.conflicts) == (1, 1)
    assert aged.log(other) == before
    with aged.place.instance() as instance:
        assert instance.get_run_by_id(gone) is None


def test_the_commands_show_then_do_then_undo(
    aged: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")

    def workflows(*arguments: object, code: int = 0) -> str:
        capfd.readouterr()
        assert exit_code(["history", *map(str, arguments), "--home", str(aged.home)]) == code
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return said.out if code == 0 else said.err

    before = aged.logs()
    assert f"{len(aged.old)} runs are not in the archive" in workflows("purge", "--older-than", "30d")
    assert "read back and equal" in workflows("archive", "--older-than", "30d")
    shown = workflows("purge", "--older-than", "30d")
    assert "nothing was changed; add --yes to do it" in shown
    assert "__ASSET_JOB" in shown
    assert aged.logs() == before
    done = json.loads(workflows("purge", "--older-than", "30d", "--yes", "--json"))
    assert done["done"]
    assert done["total"]["rows"] == sum(len(rows) - len(aged.log(run_id)) for run_id, rows in before.items())
    one = json.loads(workflows("restore", "--run", aged.old[0], "--json"))
    assert one["runs"] == 1
    assert aged.log(aged.old[0]) == before[aged.old[0]]
    day = (datetime.now(UTC) - timedelta(days=40)).date()
    assert json.loads(workflows("restore", "--day", day, "--json"))["rows"] == done["total"]["rows"] - one["rows"]
    assert aged.logs() == before
    assert "There is no archived run 'nobody'" in workflows("restore", "--run", "nobody", code=1)
    assert "expected a duration such as" in workflows("purge", "--older-than", "a month", code=2)
    assert "not both" in workflows("restore", "--run", "x", "--day", day, code=2)
    assert "has nothing of this instance" in workflows("restore", "--from", aged.home / "nowhere", code=1)
    assert "An archive lies in a folder or at an s3:// URL" in workflows(
        "archive", "--older-than", "1d", "--to", "ftp://x/y", code=1
    )


def test_the_page_names_the_kinds_that_go() -> None:
    page = (Path(__file__).parents[3] / "docs" / "archive-and-purge.md").read_text()
    (goes,) = re.findall(r"^\| goes \| (.*?) \|", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", goes)) == GOES - {None}
    stays = set(re.findall(r"`([A-Z_]+)`", " ".join(re.findall(r"^\| stays \| (.*?) \|", page, re.MULTILINE))))
    assert stays.isdisjoint(GOES)
    assert stays | GOES - {None} <= {kind.value for kind in DagsterEventType}


def test_no_event_of_an_asset_a_check_or_a_run_goes() -> None:
    kept = {*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *PIPELINE_EVENTS, *RUN_STATS_EVENT_TYPES, *STEP_STATS_EVENT_TYPES - MARKER_EVENTS}
    assert {kind.value for kind in kept}.isdisjoint(GOES)


def test_a_disk_without_room_is_told_in_a_sentence_and_leaves_nothing_that_counts(aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("sharded")
    archive = archive_at(aged.archive)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_048, hard))
    try:
        with pytest.raises(SetupError, match=r"\.parquet could not be written: .*run the same command again"):
            archive_runs(aged.home, archive, MONTH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [parts for source in archive.sources() for parts in archive.parts(source)] == []
    assert archive_runs(aged.home, archive, MONTH).runs == len(aged.old)
    assert len(list(aged.archive.glob("*/*.parquet"))) == 1


DIES_WRITING = """
import os, sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("pragma journal_mode = delete")
con.execute("pragma cache_size = 1")
con.execute("begin immediate")
con.execute("update event_logs set event = hex(zeroblob(20000))")
os._exit(9)
"""


def test_a_shard_whose_rewriting_was_killed_is_read_and_purged(aged_copy: Callable[[str], Any]) -> None:
    aged = aged_copy("sharded")
    archive = archive_at(aged.archive)
    archive_runs(aged.home, archive, MONTH)
    would = purge(aged.home, archive, MONTH, do=False)
    shard = aged.home / "history" / "runs" / f"{aged.old[1]}.db"
    assert subprocess.run([sys.executable, "-c", DIES_WRITING, str(shard)], check=False).returncode == 9
    assert shard.with_name(f"{shard.name}-journal").stat().st_size > 0, "nothing is left to be played back"
    done = purge(aged.home, archive, MONTH, do=True)
    assert (done.jobs, done.busy) == (would.jobs, 0)
    assert purge(aged.home, archive, MONTH, do=False).total.rows == 0
