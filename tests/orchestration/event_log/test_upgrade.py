"""The next sync brings a history up to date that an earlier version published."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.history import migrations
from workflows_pkg.history.migrations import MIGRATIONS, applied
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration.events import sync_events


@dg.job
def nightly() -> None:
    """Nothing to do."""


def _add_mood(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("alter table live.runs add column if not exists mood varchar")


def test_the_next_sync_migrates_what_an_earlier_version_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "home"
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        assert nightly.execute_in_process(instance=instance).success
        sync_events(str(home), home)
        later = (*MIGRATIONS, ("add_mood", _add_mood))
        monkeypatch.setattr(migrations, "MIGRATIONS", later)
        monkeypatch.setattr("workflows_pkg.history.store.MIGRATIONS", later)
        monkeypatch.setattr(migrations.migrate, "__defaults__", (later,))
        with pytest.raises(SetupError, match="workflows history sync"):
            open_history(home)  # control: what is published is of the version before
        assert nightly.execute_in_process(instance=instance).success
        sync_events(str(home), home)
    with closing(open_history(home)) as con:
        assert con.execute("select count(*) from runs").fetchone() == (2,)
    with writer(home) as history:
        assert "add_mood" in applied(history.con)
