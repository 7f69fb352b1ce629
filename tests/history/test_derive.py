"""What runs and attempts look like after their events were read."""

from __future__ import annotations

import pandas as pd
import pytest

from workflows_pkg.history.derive import derive
from workflows_pkg.history.ingest import land
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import AssetCheck, Materialization, Run, StepAttempt, Usage
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.spec.rates import flat


@pytest.fixture
def derived(tmp_path, translate):
    """Lands the logs, derives their runs, and gives a connection for reading."""
    opened = []

    def make(*logs, causes=None, card=None, **facts):
        with writer(tmp_path) as history:
            for log in logs:
                land(history, log.batch(), translate, [log.cursor()])
            rows = pd.DataFrame([log.facts(**facts) for log in logs])
            assert derive(history, rows, causes=causes, card=card) == len(logs)
        opened.append(open_history(tmp_path))
        return opened[-1]

    yield make
    for con in opened:
        con.close()


def only(con, record_type):
    (row,) = read(con, record_type)
    return row


def test_a_run_has_its_times_apart_and_its_attempts_summed(derived, whole_run):
    run = only(derived(whole_run(), workflow="etl", version=3, status="SUCCESS", card=flat(3600.0)), Run)
    assert (run.outcome, run.outcome_conflict, run.version, run.trigger) == ("success", False, 3, "manual")
    assert (run.queue_time_s, run.start_time_s, run.run_time_s) == (3, 3, 17)
    assert (run.attempt_count, run.retry_wait_s) == (3, 3.0)
    assert run.cost_usd == pytest.approx(2 + 4 + 2)  # at one USD per second of a slot


def test_attempts_are_numbered_by_their_beginnings_and_carry_what_was_metered(derived, whole_run):
    con = derived(whole_run(), workflow="etl", causes={"RateLimited": "dependency"})
    first, second, score = read(con, StepAttempt)
    assert (first.step, first.step_key, first.attempt, first.outcome, first.will_retry) == (
        "load",
        "etl.load",
        1,
        "failure",
        True,
    )
    assert (first.queue_time_s, first.start_time_s, first.run_time_s, first.retry_wait_s) == (1, 2, 2, 3)
    assert (first.failure_cause, first.error_class, first.error_message, first.cpu_s) == (
        "dependency",
        "RateLimited",
        "slow down",
        None,
    )
    assert (second.attempt, second.outcome, second.will_retry, second.failure_cause) == (2, "success", False, None)
    assert (second.queue_time_s, second.start_time_s, second.run_time_s) == (None, 1, 4)
    assert (second.cpu_s, second.peak_memory_mib, second.process_id, second.host) == (1.5, 210.0, 42, "a")
    assert (score.queue_time_s, score.start_time_s) == (None, None), "no process was asked for"


def test_peak_memory_of_a_shared_process_is_unknown(derived, whole_run):
    con = derived(whole_run())
    usage = {(row.step_key, row.attempt): row for row in read(con, Usage)}
    assert set(usage) == {("etl.load", 2), ("etl.score", 1)}
    assert usage["etl.load", 2].peak_memory_mib == 210.0
    assert usage["etl.score", 1].peak_memory_mib is None
    assert usage["etl.score", 1].cpu_s == 0.5


def test_materializations_and_checks_are_taken_from_their_events(derived, whole_run):
    con = derived(whole_run())
    made, check = only(con, Materialization), only(con, AssetCheck)
    assert (made.asset_key, made.partition_key, made.step_key, made.rows, made.bytes) == (
        "raw/flights",
        "2025-01-01",
        "etl.load",
        842,
        9000,
    )
    assert (check.check_name, check.passed, check.severity) == ("rows", True, "warn")


def test_deriving_twice_gives_the_same_rows(derived, whole_run):
    log = whole_run()
    before = {
        table: derived(log).execute(f"select * from {table} order by all").fetchall()
        for table in ("runs", "step_attempts", "usage")
    }
    con = derived(log)
    assert {table: con.execute(f"select * from {table} order by all").fetchall() for table in before} == before


def test_the_first_terminal_event_decides_and_a_later_one_is_a_conflict(derived, new_log):
    log = new_log().say("run_started", 1).say("run_canceled", 5).say("run_succeeded", 9)
    run = only(derived(log, status="SUCCESS"), Run)
    assert (run.outcome, run.outcome_conflict, run.run_time_s) == ("canceled", True, 4)


@pytest.mark.parametrize(("status", "conflict"), [("FAILURE", True), ("SUCCESS", False), ("STARTED", False), (None, False)])
def test_a_status_that_says_another_outcome_is_a_conflict(derived, new_log, status, conflict):
    run = only(derived(new_log().say("run_started", 1).say("run_succeeded", 5), status=status), Run)
    assert (run.outcome, run.outcome_conflict) == ("success", conflict)


def test_a_run_in_process_has_no_queue_and_start_time(derived, new_log):
    run = only(derived(new_log().say("run_started", 1).say("run_succeeded", 5)), Run)
    assert (run.queue_time_s, run.start_time_s, run.run_time_s) == (None, None, 4)
    assert (run.attempt_count, run.cost_usd) == (0, 0)


def test_a_run_without_events_knows_only_its_facts(derived, new_log):
    run = only(derived(new_log(), status="FAILURE", owner="data-team", trigger="schedule"), Run)
    assert (run.outcome, run.owner, run.trigger) == ("failure", "data-team", "schedule")
    assert (run.ended_at, run.run_time_s, run.attempt_count, run.cost_usd) == (None, None, None, None)


@pytest.mark.parametrize(
    ("end", "outcome", "cause"),
    [("run_canceled", "canceled", None), ("run_failed", "failure", "infrastructure"), ("run_succeeded", None, None)],
)
def test_an_attempt_without_its_own_end_ends_as_its_run_did(derived, new_log, end, outcome, cause):
    log = new_log().say("run_started", 1).say("step_started", 2, step="a").say(end, 6)
    attempt = only(derived(log), StepAttempt)
    assert (attempt.outcome, attempt.failure_cause) == (outcome, cause)
    assert attempt.run_time_s == (4 if outcome else None)


def test_an_open_attempt_of_an_open_run_is_open(derived, new_log):
    attempt = only(derived(new_log().say("run_started", 1).say("step_started", 2, step="a")), StepAttempt)
    assert (attempt.outcome, attempt.ended_at, attempt.cost_usd) == (None, None, None)


def test_a_step_stopped_by_a_cancellation_was_canceled(derived, new_log):
    log = (
        new_log()
        .say("run_started", 1)
        .say("step_started", 2, step="a")
        .say("step_failed", 3, step="b", error="E")
        .say("run_canceling", 4)
    )
    log.say("step_failed", 5, step="a", error="Interrupted").say("run_canceled", 6)
    stopped, failed = read(derived(log), StepAttempt)
    assert (stopped.outcome, stopped.failure_cause, stopped.error_class) == ("canceled", None, None)
    assert (failed.outcome, failed.failure_cause) == ("failure", "unknown")


def test_a_failure_before_the_step_began_is_an_attempt(derived, new_log):
    log = new_log().say("worker_starting", 1, step="a").say("step_retried", 2, step="a", seconds=1.0, error="Crash")
    log.say("worker_starting", 3, step="a").say("step_failed", 4, step="a", error="Crash").say("run_failed", 5)
    first, second = read(derived(log), StepAttempt)
    assert [(a.attempt, a.will_retry, a.started_at, a.outcome) for a in (first, second)] == [
        (1, True, None, "failure"),
        (2, False, None, "failure"),
    ]


def test_a_second_end_does_not_make_an_attempt(derived, new_log):
    log = new_log().say("step_started", 1, step="a").say("step_succeeded", 2, step="a").say("step_failed", 3, step="a", error="E")
    attempt = only(derived(log), StepAttempt)
    assert (attempt.attempt, attempt.outcome, attempt.error_class) == (1, "success", None)


def test_an_attempt_that_was_begun_again_without_an_end_was_lost(derived, new_log):
    log = (
        new_log()
        .say("step_started", 1, step="a")
        .say("step_restarted", 5, step="a")
        .say("step_succeeded", 6, step="a")
        .say("run_succeeded", 7)
    )
    lost, second = read(derived(log), StepAttempt)
    assert (lost.outcome, lost.failure_cause, lost.ended_at) == ("failure", "infrastructure", None)
    assert second.outcome == "success"


def test_a_skipped_step_is_an_attempt_that_took_nothing(derived, new_log):
    attempt = only(derived(new_log().say("step_skipped", 3, step="a").say("run_succeeded", 4)), StepAttempt)
    assert (attempt.attempt, attempt.outcome, attempt.run_time_s, attempt.started_at == attempt.ended_at) == (
        1,
        "skipped",
        0,
        True,
    )


def test_mapped_steps_keep_their_key_and_share_a_step(derived, new_log):
    log = new_log().say("step_started", 1, step="fan.out[de]").say("step_started", 1, step="fan.out[us]")
    assert {a.step for a in read(derived(log), StepAttempt)} == {"fan.out"}
    assert {a.step for a in read(derived(log, workflow="etl"), StepAttempt)} == {"out"}


def test_a_duration_between_clocks_that_disagree_is_unknown(derived, new_log):
    log = new_log().say("step_started", 5, step="a").say("step_succeeded", 4, step="a")
    assert only(derived(log), StepAttempt).run_time_s is None


def test_runs_do_not_mix_and_only_those_named_are_touched(derived, whole_run, tmp_path, translate):
    derived(whole_run("r1"), whole_run("r2"), owner="one")
    con = derived(whole_run("r2"), owner="two")
    assert {run.run_id: (run.owner, run.attempt_count) for run in read(con, Run)} == {"r1": ("one", 3), "r2": ("two", 3)}


def test_an_empty_table_of_facts_derives_nothing(tmp_path, new_log):
    with writer(tmp_path) as history:
        assert derive(history, pd.DataFrame([new_log().facts()]).head(0)) == 0
