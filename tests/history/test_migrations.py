"""A history of an older version becomes one of this version, whatever interrupts it; a newer one is refused."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.history import migrations
from workflows_pkg.history.layout import layout
from workflows_pkg.history.migrations import MIGRATIONS, applied, migrate
from workflows_pkg.history.store import open_history, writer


def add_mood(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("alter table live.runs add column if not exists mood varchar")


def add_table(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("create table if not exists live.moods (mood varchar)")


LATER = (*MIGRATIONS, ("add_mood", add_mood), ("add_table", add_table))


def test_each_is_applied_once_and_in_order():
    with duckdb.connect() as con:
        assert migrate(con, "here") == tuple(name for name, _ in MIGRATIONS)
        assert migrate(con, "here", LATER) == ("add_mood", "add_table")
        assert migrate(con, "here", LATER) == ()
        assert applied(con) == tuple(name for name, _ in LATER)


def test_an_interrupted_migration_leaves_no_half_and_is_taken_up_again():
    def interrupted(con: duckdb.DuckDBPyConnection) -> None:
        add_mood(con)
        con.execute("create table live.half (i int)")
        raise KeyboardInterrupt

    with duckdb.connect() as con:
        with pytest.raises(KeyboardInterrupt):
            migrate(con, "here", (*MIGRATIONS, ("add_mood", interrupted), ("add_table", add_table)))
        assert applied(con) == tuple(name for name, _ in MIGRATIONS)
        assert con.execute("select count(*) from duckdb_tables() where table_name = 'half'").fetchone() == (0,)
        assert migrate(con, "here", LATER) == ("add_mood", "add_table")
        assert con.execute("select mood from live.runs").fetchall() == []


def test_a_history_of_a_later_version_is_refused_with_the_command(tmp_path):
    with writer(tmp_path) as history:
        migrate(history.con, "here", LATER)
    expected = r"later version.*'add_table'.*pip install --upgrade agentic-workflows"
    with pytest.raises(SetupError, match=expected), writer(tmp_path):
        pass
    with pytest.raises(SetupError, match=expected):
        open_history(tmp_path)


def test_a_published_copy_of_an_earlier_version_is_refused_until_the_writer_was_there(tmp_path, monkeypatch):
    with writer(tmp_path):
        pass
    monkeypatch.setattr(migrations, "MIGRATIONS", LATER)
    monkeypatch.setattr("workflows_pkg.history.store.MIGRATIONS", LATER)
    with pytest.raises(SetupError, match=r"earlier version.*workflows history sync"):
        open_history(tmp_path)


def test_an_earlier_hot_database_is_migrated_and_its_views_are_made_anew(tmp_path):
    with writer(tmp_path):
        pass
    with duckdb.connect(str(layout(tmp_path).hot)) as con:  # as an earlier version left it
        con.execute("drop view main.runs")
        con.execute("alter table live.runs drop column cost_usd")
        con.execute("drop table live.ledger")
        con.execute("delete from store.migrations")
        con.execute("delete from store.views")
        con.execute("drop table live.runs")
    with writer(tmp_path) as history:
        assert history.con.execute("select cost_usd from runs").fetchall() == []
        assert history.con.execute("select * from ledger").fetchall() == []


HISTORIES = sorted((Path(__file__).parents[1] / "recordings" / "histories").iterdir())
"""Histories of three real runs - retries, failures, a check - as each earlier version wrote them, exported by DuckDB."""


def restored(recorded: Path, home: Path) -> None:
    """The history as it was written, in the folder of an instance."""
    hot = layout(home).hot
    hot.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(hot)) as con:
        con.execute((recorded / "schema.sql").read_text())
        con.execute((recorded / "load.sql").read_text().replace("FOLDER", str(recorded)))


def told(con: duckdb.DuckDBPyConnection) -> list[list[tuple[object, ...]]]:
    """What is asked of a history in this version."""
    queries = (
        "select run_id, job_name, outcome, run_time_s from runs order by run_id",
        "select run_id, step, attempt, outcome, error_class from step_attempts order by all",
        "select asset_key, partition_key from materializations order by all",
        "select check_name, passed from checks order by all",
        "select outcome, sum(runs) from run_days group by all order by all",
        "select step, sum(attempts) from step_days group by all order by all",
        "select * from observations",
        "select * from backfills",
    )
    return [con.execute(query).fetchall() for query in queries]


def test_there_is_a_recorded_history_of_every_earlier_schema():
    assert len(HISTORIES) == len(MIGRATIONS) - 1
    for number, recorded in enumerate(HISTORIES, start=1):
        names = [line.split(",")[0] for line in (recorded / "store_migrations.csv").read_text().splitlines()[1:]]
        assert names == [name for name, _ in MIGRATIONS[:number]]


@pytest.mark.parametrize("recorded", HISTORIES, ids=lambda path: path.name)
def test_a_history_of_every_earlier_version_is_carried_on(recorded, tmp_path, monkeypatch):
    restored(recorded, tmp_path)
    for name, _ in MIGRATIONS[len(applied_in(tmp_path)) :]:  # each interrupted once it has done its work, before it is committed

        def interrupted(con: duckdb.DuckDBPyConnection, done=dict(MIGRATIONS)[name]) -> None:
            done(con)
            raise KeyboardInterrupt

        steps = tuple((each, interrupted if each == name else step) for each, step in MIGRATIONS)
        with monkeypatch.context() as patched:
            patched.setattr(migrations.migrate, "__defaults__", (steps,))
            with pytest.raises(KeyboardInterrupt), writer(tmp_path):
                pass
        assert name not in applied_in(tmp_path)
    with writer(tmp_path) as history:
        carried = told(history.con)
    assert applied_in(tmp_path) == tuple(name for name, _ in MIGRATIONS)
    runs, attempts, made, checks, run_days, step_days, *new = carried
    assert sorted(outcome for _, _, outcome, _ in runs) == ["failure", "success", "success"]
    assert len(attempts) == 9
    assert (made, checks) == ([("orders", "")], [("many", False)])
    assert run_days == [("failure", 1), ("success", 2)]
    assert sum(count for _, count in step_days) == len(attempts)
    assert new == [[], []]
    with open_history(tmp_path) as con:
        assert told(con) == carried


def applied_in(home: Path) -> tuple[str, ...]:
    with duckdb.connect(str(layout(home).hot), read_only=True) as con:
        return applied(con)
