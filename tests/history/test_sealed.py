"""Finished days move into Parquet, and nobody can tell from the answers."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import duckdb
import pandas as pd
import pytest

from workflows_pkg.history.derive import derive
from workflows_pkg.history.ingest import land
from workflows_pkg.history.layout import layout
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import RECORDS, Event, Run, StepAttempt, Tick
from workflows_pkg.history.sealed import KEEP_SUPERSEDED, SEALABLE, days_to_seal, sweep
from workflows_pkg.history.store import open_history, writer

LATER = date(2026, 1, 1)


def contents(con) -> dict[str, list[tuple]]:
    return {
        r.table: con.execute(f"select * from main.{r.table} order by all").fetchall() for r in RECORDS if r.table != "cursors"
    }


def live(con, table) -> int:
    return con.execute(f"select count(*) from live.{table}").fetchone()[0]


@pytest.fixture
def put(translate):
    """Lands and derives the logs."""

    def do(history, *logs, **facts):
        for log in logs:
            land(history, log.batch(), translate, [log.cursor()])
        derive(history, pd.DataFrame([log.facts(**facts) for log in logs]))

    return do


def test_the_views_equal_the_unsealed_history(tmp_path, whole_run, put):
    ticks = [
        Tick(
            source_id="here", tick_id=n, name="daily", kind="schedule", status="success", at=datetime(2025, 1, 1 + n, tzinfo=UTC)
        )
        for n in range(5)
    ]
    with writer(tmp_path) as history:
        put(
            history,
            *[whole_run(f"r{n}", day=1 + n // 3, outcome="run_failed" if n % 4 == 0 else "run_succeeded") for n in range(9)],
        )
        history.upsert(Tick, ticks)
        before = contents(history.con)
        assert history.seal(date(2025, 1, 3)) > 0
        assert live(history.con, "runs") == 3
        assert contents(history.con) == before
        history.seal(LATER)
        for record_type in SEALABLE:
            assert live(history.con, record_type.table) == 0
        assert contents(history.con) == before
        assert history.seal(LATER) == 0, "sealing again moves nothing"
    with open_history(tmp_path) as con:
        assert contents(con) == before


@pytest.mark.parametrize("together", [1, 60, 500_000], ids=["a day at a time", "some days", "all at once"])
def test_a_month_long_over_becomes_one_file_for_its_runs_however_much_is_sealed_at_once(
    tmp_path, whole_run, put, monkeypatch, together
):
    monkeypatch.setattr("workflows_pkg.history.sealed.SEALED_TOGETHER", together)
    with writer(tmp_path) as history:
        put(history, *[whole_run(f"r{day}", day=day) for day in (*range(1, 32, 5), 32, 35, 40)])
        before = contents(history.con)
        history.seal(date(2025, 2, 11))
        assert contents(history.con) == before
        assert [live(history.con, record_type.table) for record_type in SEALABLE] == [0] * len(SEALABLE)
        files = "select day, last_day from store.sealed_files where table_name = ? order by all"
        january, february = date(2025, 1, 1), [date(2025, 2, 1), date(2025, 2, 4), date(2025, 2, 9)]
        assert history.con.execute(files, ["runs"]).fetchall() == [
            (january, date(2025, 1, 31)),
            *((day, day) for day in february),
        ]
        days = [*(date(2025, 1, day) for day in range(1, 32, 5)), *february]
        assert history.con.execute(files, ["events"]).fetchall() == [(day, day) for day in days]


def test_leaving_the_writer_seals_what_is_old_and_keeps_what_is_recent(tmp_path):
    now = datetime.now(UTC)
    old, recent = now - timedelta(days=30), now - timedelta(hours=1)
    rows = [
        Run(run_id=name, source_id="here", job_name="etl", created_at=at, outcome="success", ended_at=at)
        for name, at in [("old", old), ("recent", recent)]
    ]
    with writer(tmp_path) as history:
        history.upsert(Run, [*rows, Run(run_id="open", source_id="here", job_name="etl", created_at=old)])
    with open_history(tmp_path) as con:
        assert {name for (name,) in con.execute("select run_id from live.runs").fetchall()} == {"recent", "open"}
        assert con.execute("select count(*) from runs").fetchone() == (3,)


def test_an_open_run_stays_live_and_is_merged_into_its_day_when_it_ends(tmp_path, new_log, whole_run, put):
    stuck = new_log("stuck", 1).say("run_started", 1).say("step_started", 2, step="a")
    with writer(tmp_path) as history:
        put(history, whole_run("done", 1), stuck)
        history.seal(LATER)
        assert [r.run_id for r in read(history.con, Run, "run_id in (select run_id from live.runs)")] == ["stuck"]
        stuck.say("step_succeeded", 9, step="a").say("run_succeeded", 10)
        put(history, stuck)
        before = contents(history.con)
        history.seal(LATER)
        assert (live(history.con, "runs"), live(history.con, "events")) == (0, 0)
        assert contents(history.con) == before
        assert history.con.execute("select count(*) from store.sealed_files where table_name = 'runs'").fetchone() == (1,)


def test_events_that_are_sealed_are_known_when_they_come_again(tmp_path, whole_run, put, translate):
    log = whole_run("r1", 1)
    with writer(tmp_path) as history:
        put(history, log)
        history.seal(LATER)
        assert land(history, log.batch(), translate, []).events == 0
        assert history.upsert(Event, read(history.con, Event)) == 0
        assert len(read(history.con, Event)) == len(log.rows)


def test_a_run_derived_again_after_sealing_replaces_all_its_rows(tmp_path, whole_run, put):
    log, other = whole_run("r1", 1), whole_run("r2", 1)
    with writer(tmp_path) as history:
        put(history, log, other)
        history.upsert(StepAttempt, [StepAttempt(run_id="r1", step_key="wrong", attempt=1, job_name="etl", step="wrong")])
        history.seal(LATER)
        log.say("run_canceled", 99)
        put(history, log, owner="late")
        runs = {run.run_id: (run.owner, run.outcome_conflict, run.attempt_count) for run in read(history.con, Run)}
        assert runs == {"r1": ("late", True, 3), "r2": (None, False, 3)}
        assert [a.step for a in read(history.con, StepAttempt, "run_id = 'r1'")] == ["etl.load", "etl.load", "etl.score"], (
            "the wrong row is gone"
        )
        before = contents(history.con)
        history.seal(LATER)
        assert contents(history.con) == before
        assert history.con.execute("select count(*) from store.replaced_runs").fetchone() == (0,)


def test_a_live_row_hides_the_sealed_one_of_its_key(tmp_path, whole_run, put):
    with writer(tmp_path) as history:
        put(history, whole_run("r1", 1))
        history.seal(LATER)
        (run,) = read(history.con, Run)
        history.upsert(Run, [run.model_copy(update={"owner": "changed"})])
        assert [row.owner for row in read(history.con, Run)] == ["changed"]
        assert len(read(history.con, StepAttempt)) == 3, "the run's other rows stay visible"
        history.seal(LATER)
        assert [row.owner for row in read(history.con, Run)] == ["changed"]


def test_a_reader_keeps_its_state_while_its_day_is_sealed_again(tmp_path, new_log, whole_run, put):
    with writer(tmp_path) as history:
        put(history, whole_run("r1", 1), new_log("r2", 1).say("run_started", 1))
    held = open_history(tmp_path)
    before = contents(held)
    with writer(tmp_path) as history:
        put(history, new_log("r2", 1).say("run_started", 1).say("run_succeeded", 2), whole_run("r3", 2))
    assert contents(held) == before
    with open_history(tmp_path) as con:
        assert con.execute("select count(*) from runs").fetchone() == (3,)


def test_files_that_nothing_names_are_swept_and_superseded_ones_after_a_day(tmp_path, new_log, whole_run, put):
    with writer(tmp_path) as history:
        put(history, whole_run("r1", 1))
        history.seal(LATER)
        put(history, whole_run("r2", 1))
        history.seal(LATER)
        folder = layout(tmp_path).sealed / "runs"
        (folder / "2025-01-01-9.parquet").write_text("left by a writer that died")
        assert len(list(folder.iterdir())) == 3
        assert sweep(history.con, history.files) == 1
        assert len(list(folder.iterdir())) == 2, "a reader may hold the superseded file"
        sweep(history.con, history.files, datetime.now(UTC) + 2 * KEEP_SUPERSEDED)
        assert len(list(folder.iterdir())) == 1
        assert len(read(history.con, Run)) == 2


def test_a_column_that_came_after_sealing_has_its_default_in_old_days(tmp_path, whole_run, put):
    with writer(tmp_path) as history:
        put(history, whole_run("r1", 1), owner="me")
        history.seal(LATER)
        path = (
            layout(tmp_path).sealed
            / history.con.execute("select file from store.sealed_files where table_name = 'runs'").fetchone()[0]
        )
        with duckdb.connect() as con:  # as a version would have written it that knew neither column
            con.execute(f"copy (select * exclude (owner, outcome_conflict) from '{path}') to '{path}.older' (format parquet)")
        path.with_name(path.name + ".older").replace(path)
        history.con.execute(
            "update store.sealed_files set columns = list_filter(columns, lambda c: c not in ('owner', 'outcome_conflict')) "
            "where table_name = 'runs'"
        )
        put(history, whole_run("r2", 2), owner="me")
        history.seal(LATER)
        assert [(run.run_id, run.owner, run.outcome_conflict) for run in read(history.con, Run)] == [
            ("r1", None, False),
            ("r2", "me", False),
        ]


def test_control_without_the_hiding_condition_a_row_shows_twice(tmp_path, whole_run, put, monkeypatch):
    monkeypatch.setattr("workflows_pkg.history.sealed.visible", lambda record_type: "")
    with writer(tmp_path) as history:
        put(history, whole_run("r1", 1))
        history.seal(LATER)
        history.upsert(Run, read(history.con, Run))
        assert len(read(history.con, Run)) == 2


def test_a_month_long_past_is_sealed_at_once_where_it_has_no_events(tmp_path):
    """An import may bring years: one file a month, and not one a day that becomes a month's afterwards."""
    rows = [
        Run(run_id=f"r{n}", source_id="import:x", job_name="etl", outcome="success", created_at=at, ended_at=at)
        for n, at in enumerate(datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(59))
    ]
    with writer(tmp_path) as history:
        history.upsert(Run, rows)
        (soon,), (later,) = (days_to_seal(history.con, before) for before in (date(2025, 3, 1), LATER))
        assert len(soon) == 1 + 28, "of a month that is just over, late runs may come"
        assert later == [(date(2025, 1, 1), date(2025, 1, 31)), (date(2025, 2, 1), date(2025, 2, 28))]
        before = contents(history.con)
        assert history.seal(LATER) == 59
        assert contents(history.con) == before
        assert [file.name for file in sorted(layout(tmp_path).sealed.glob("runs/*"))] == [
            "2025-01-01-1.parquet",
            "2025-02-01-1.parquet",
        ]
