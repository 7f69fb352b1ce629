"""A history of an older version becomes one of this version, whatever interrupts it; a newer one is refused."""

from __future__ import annotations

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
