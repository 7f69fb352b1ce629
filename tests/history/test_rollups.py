"""Answers from the rollups equal a plain scan of the rows, whatever happened to them; and a rollup that is wrong is caught."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.full_scan import FULL_SCANS, full_scan
from workflows_pkg.history import questions, rollups
from workflows_pkg.history.bins import ERROR_SHARE, LEAST_S, bin_of, seconds_of
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Run, StepAttempt
from workflows_pkg.history.rollup_records import ROLLUPS
from workflows_pkg.history.store import open_history, writer

BEGIN = datetime(2025, 1, 30, 21, 30, tzinfo=UTC)
NOW = datetime(2025, 2, 20, tzinfo=UTC)
KEYS = {
    "workflow", "step", "day", "outcome", "hour", "month", "owner", "begins_on", "begins_at", "failure_cause", "error_class",
}  # fmt: skip
CLOSE = {"p05_s", "p50_s", "p95_s", "max_s"}


def made_up(rng: random.Random, run_id: str) -> tuple[Run, list[StepAttempt]]:
    """A run that may be anything a run can be, and its attempts."""
    own = random.Random(run_id)  # a run is asked for once: what comes of it later may change all but that instant, which files it
    created = BEGIN + timedelta(hours=own.choice([0, 1, 2, 3, 30, 70, 200]), seconds=own.random() * 3600)
    workflow = rng.choice(["etl", "etl", "hourly", None])
    outcome = rng.choice(["success", "success", "failure", "canceled", None])
    trial = rng.choice([None, None, None, "t1"])
    started = rng.choice([None, created + timedelta(seconds=rng.choice([0.5, 61, 7200]))])
    ended = None if outcome is None else rng.choice([None, created + timedelta(seconds=rng.choice([70.25, 4000, 90_000]))])
    run = Run(
        run_id=run_id, source_id="here", job_name="job", workflow=workflow, trial_id=trial, outcome=outcome,
        owner=rng.choice([None, "ann", "bob"]), created_at=created, started_at=started, ended_at=ended,
        deadline_at=rng.choice([None, created + timedelta(seconds=3000)]),
        queue_time_s=rng.choice([None, 0.0, 0.0004, rng.expovariate(0.01)]), cost_usd=rng.choice([None, rng.random()]),
    )  # fmt: skip
    rows: list[StepAttempt] = []
    for step in rng.sample(["load", "clean", "score[1]", "score[2]"], rng.randint(0, 4)):
        at, count = started or created, rng.choice([1, 1, 2, 3])
        for attempt in range(1, count + 1):
            last = attempt == count
            took = rng.choice([0.0, rng.lognormvariate(3, 2), 0.001])
            how = (rng.choice(["success", "failure", "skipped", "canceled", None])) if last else "failure"
            begun = rng.choice([None, at, at, at])
            rows.append(
                StepAttempt(
                    run_id=run_id, step_key=step, attempt=attempt, job_name="job", workflow=workflow, trial_id=trial,
                    step=step.split("[")[0], outcome=how, will_retry=not last, started_at=begun,
                    ended_at=rng.choice([None, at + timedelta(seconds=took)]), run_time_s=rng.choice([None, took, took]),
                    retry_wait_s=None if last else rng.choice([None, 2.5]), cost_usd=rng.choice([None, took * 1e-5]),
                    failure_cause=rng.choice([None, "data", "timeout"]) if how == "failure" else None,
                    error_class=rng.choice([None, "E"]) if how == "failure" else None,
                    error_message=rng.choice([None, "a", "b"]) if how == "failure" else None,
                )
            )  # fmt: skip
            at += timedelta(seconds=took + rng.random() * 30_000)
    return run, rows


def put(history, *runs: tuple[Run, list[StepAttempt]]) -> None:
    """The runs in place of what was known of them, as `derive` would."""
    ids = [run.run_id for run, _ in runs]
    with history.transaction():
        given_ids = f"select unnest({ids!r}) as run_id"
        with rollups.kept(history.con, history.files, given_ids):
            history.con.execute(f"insert into store.replaced_runs {given_ids}")
            for table in ("runs", "step_attempts"):
                history.con.execute(f"delete from live.{table} where run_id in ({given_ids})")
        history.upsert(Run, [run for run, _ in runs])
        history.upsert(StepAttempt, [row for _, rows in runs for row in rows])


def put_and_roll_back(history, run: tuple[Run, list[StepAttempt]]) -> None:
    with suppress(KeyboardInterrupt), history.transaction():
        put(history, run)
        raise KeyboardInterrupt


def asked(rng: random.Random) -> list[tuple[str, dict]]:
    """Each question, narrowed somehow."""
    narrow = [
        {}, {"workflow": "etl"}, {"exclude_trials": False}, {"since": date(2025, 1, 31), "until": "2025-02-02"},
        {"since": "2025-01-31"}, {"until": date(2025, 2, 2)}, {"since": "2025-01-01", "until": "2025-02-05"},
    ]  # fmt: skip
    return [
        *((name, rng.choice(narrow)) for name in FULL_SCANS if name not in ("concurrency", "duration_quantiles")),
        ("queue_time_by_hour", {"by": "hour"}),
        ("duration_quantiles", {"step": "score", "by": rng.choice(["day", "week", "month"])}),
        (
            "concurrency",
            rng.choice(
                [{"since": "2025-01-30", "until": "2025-02-02"}, {"by": "day", "since": "2025-01-31", "until": "2025-02-12"}]
            ),
        ),
    ]


def wrong(con, rng: random.Random) -> list[str]:
    """Which answers differ from the plain scan's."""
    return [f"{name} {filters}" for name, filters in asked(rng) if not same(con, name, dict(filters))]


def same(con, name: str, filters: dict) -> bool:
    if name == "deadline_misses":
        filters["now"] = NOW
    ours, plain = getattr(questions, name)(con, **filters), full_scan(con, name, **filters)
    if list(ours.columns) != list(plain.columns) or len(ours) != len(plain):
        return False
    keys = [column for column in ours.columns if column in KEYS]
    ours, plain = (frame.sort_values(keys).reset_index(drop=True) for frame in (ours, plain))
    for column in ours.columns:
        mine, theirs = ours[column], plain[column]
        if pd.api.types.is_numeric_dtype(theirs) and theirs.dtype != bool:
            share = ERROR_SHARE * 1.0001 if column in CLOSE else 1e-6
            least = LEAST_S if column in CLOSE else 1e-6
            both = mine.astype(float), theirs.astype(float)
            if not (both[0].isna() == both[1].isna()).all() or ((both[0] - both[1]).abs() > both[1].abs() * share + least).any():
                return False
        elif list(mine.astype(object).where(mine.notna(), None)) != list(theirs.astype(object).where(theirs.notna(), None)):
            return False
    return True


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_answers_equal_a_plain_scan_whatever_happens_to_the_runs(tmp_path_factory, seed):
    rng, home = random.Random(seed), tmp_path_factory.mktemp("home")
    with writer(home) as history:
        for _ in range(rng.randint(1, 4)):
            act = rng.choice(["put", "put", "again", "seal", "tidy", "one row", "rolled back"])
            if act == "seal":
                history.seal(date(2025, rng.choice([2, 4]), 1))
            elif act == "tidy":
                with history.transaction():
                    rollups.tidy(history.con, loose_rows=0)
            elif act == "one row" and (rows := read(history.con, StepAttempt)):
                history.upsert(StepAttempt, [rng.choice(rows).model_copy(update={"outcome": "failure", "run_time_s": 7.0})])
            elif act == "rolled back":
                put_and_roll_back(history, made_up(rng, "never"))
            else:
                put(history, *(made_up(rng, f"r{n}") for n in rng.sample(range(12), rng.randint(1, 8))))
        assert wrong(history.con, rng) == []
    with open_history(home) as con:
        assert wrong(con, rng) == []


def two_days(rng: random.Random) -> list[tuple[Run, list[StepAttempt]]]:
    return [made_up(rng, f"r{n}") for n in range(40)]


def test_the_tables_hold_one_row_per_key_after_tidying_and_equal_a_rebuild(tmp_path):
    rng = random.Random(1)
    with writer(tmp_path) as history:
        put(history, *two_days(rng))
        put(history, *two_days(rng))
        with history.transaction():
            rollups.tidy(history.con, loose_rows=0)
        kept = {r.table: history.con.execute(f"select * from {r.table} order by all").fetchall() for r in ROLLUPS}
        with history.transaction():
            rollups.rebuild(history.con)
        for rollup in ROLLUPS:
            assert history.con.execute(f"select * from {rollup.table} order by all").fetchall() == kept[rollup.table]
            assert len({tuple(row[: len(rollup.key)]) for row in kept[rollup.table]}) == len(kept[rollup.table]) > 0


def test_a_history_whose_rollups_are_of_another_definition_is_summed_up_anew(tmp_path):
    rng = random.Random(2)
    with writer(tmp_path) as history:
        put(history, *two_days(rng))
        history.con.execute("update live.run_days set runs = 99")
        history.con.execute("update store.rollups set definition = 'of an earlier version'")
    with writer(tmp_path) as history:
        assert wrong(history.con, rng) == []


def test_control_rollups_that_forget_what_was_there_before_are_caught(tmp_path, monkeypatch):
    collect = rollups._collect
    monkeypatch.setattr(rollups, "_collect", lambda con, files, days, sign: collect(con, files, days, sign) if sign > 0 else None)
    rng = random.Random(3)
    with writer(tmp_path) as history:
        put(history, *two_days(rng))
        put(history, *two_days(rng))
        assert len(wrong(history.con, rng)) >= 8


def test_control_rollups_that_miss_sealed_rows_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(rollups, "_sealed_days", lambda con, files, days: None)
    rng = random.Random(4)
    with writer(tmp_path) as history:
        put(history, *two_days(rng))
        history.seal(date(2025, 4, 1))
        put(history, *two_days(rng))
        assert len(wrong(history.con, rng)) >= 6


@given(seconds=st.floats(0, 1e8))
@settings(max_examples=200, deadline=None)
def test_a_bin_tells_a_duration_within_its_error(bins, seconds):
    told = bins.execute(
        f"select {seconds_of('bin')} from (select {bin_of('s')} as bin from (select ?::double as s))", [seconds]
    ).fetchone()[0]
    assert abs(told - seconds) <= max(LEAST_S, ERROR_SHARE * 1.0001 * seconds)


@pytest.fixture(scope="module")
def bins():
    import duckdb

    with duckdb.connect() as con:
        yield con
