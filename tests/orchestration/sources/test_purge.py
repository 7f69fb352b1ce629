"""What is purged is in the archive, Dagster shows the same afterwards, and all of it comes back (dagster-io/dagster#18369)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.orchestration.sources.shown import run_page, shown
from workflows_pkg.history.archive import Archive
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.orchestration.archiving import archive_runs, restore
from workflows_pkg.orchestration.purge import GOES, purge

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
