"""What changed: planted changes found in a real history and their cause named, nothing named that is not there, and honest words."""

from __future__ import annotations

import runpy
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workflows_pkg.advisor.change_text import looked_for, sentence
from workflows_pkg.advisor.changes import EVIDENCE_RUNS, Change, changes_frame, evidence, what_changed

BENCHMARK: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "what_changed.py"))
planted, named_cause, LATER = BENCHMARK["planted"], BENCHMARK["named_cause"], BENCHMARK["NOW"]
made: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "foreign_history.py"))
NOW: datetime = made["NOW"]


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def worse(con: Any) -> Change:
    (change,) = [change for change in what_changed(con, LATER) if change.worse]
    return change


@pytest.mark.parametrize("cause", BENCHMARK["CAUSES"])
def test_the_planted_cause_is_named(cause: str) -> None:
    """Deployments, machines, sizes and partitions that change all the time around it are not."""
    answers = Counter(named_cause(planted(rng(seed), cause)) for seed in range(4))
    assert answers[cause] >= 3, answers


def test_control_versions_of_other_runs_explain_nothing() -> None:
    answers = Counter(named_cause(planted(rng(seed), "version", shuffled=True)) for seed in range(4))
    assert answers == {"nothing": 4}


def test_a_change_is_told_with_its_runs_and_recomputes() -> None:
    con = planted(rng(), "version")
    change = worse(con)
    assert (change.job, change.step, change.quantity, change.until) == ("orders", "work", "run_time_s", None)
    assert change.earliest <= change.since <= change.latest
    assert 1.3 < change.ratio < 2
    assert change.before_low <= change.before <= change.before_high < change.after_low <= change.after <= change.after_high
    assert len(change.run_ids_before) == len(change.run_ids_after) == EVIDENCE_RUNS
    runs = evidence(con, change)
    assert len(runs) == change.runs_before + change.runs_after == 300
    before, after = runs[~runs["after"]], runs[runs["after"]]
    assert before["value"].median() == pytest.approx(change.before)
    assert after["value"].median() == pytest.approx(change.after)
    assert tuple(before["run_id"][::-1][:EVIDENCE_RUNS]) == change.run_ids_before
    assert tuple(after["run_id"][:EVIDENCE_RUNS]) == change.run_ids_after
    assert {"job_snapshot_id", "host", "rows_read"} <= set(runs.columns)
    assert what_changed(con, LATER) == what_changed(con, LATER)


def test_words_claim_no_more_than_was_seen() -> None:
    told = sentence(worse(planted(rng(), "version")))
    assert "'work' of 'orders' became slower" in told
    assert "It coincides with another structure of the job" in told
    told = sentence(worse(planted(rng(), "input")))
    assert "A change of rows read accounts for" in told
    change = worse(planted(rng(), "nothing"))
    assert sentence(change).endswith("Nothing recorded explains it.")
    assert "machine" in looked_for(change)


def test_what_is_not_recorded_is_said_to_be_so() -> None:
    (change,) = what_changed(made["slower"]().con(), NOW)
    assert sentence(change).endswith("Nothing recorded explains it.")
    assert "not recorded: version, machine, partitions, input size" in looked_for(change)


def test_waiting_is_told_of_the_run_and_not_of_its_steps() -> None:
    change = worse(planted(rng(), "queue"))
    assert (change.step, change.quantity) == ("", "whole_time_s")
    assert change.coincides[0].kind == "queue"
    assert change.coincides[0].accounts


def test_a_slower_step_is_told_once_and_not_again_of_its_runs() -> None:
    con = planted(rng(), "version")
    assert [change.step for change in what_changed(con, LATER)] == ["work"]


def test_a_machine_is_ruled_out_where_runs_on_the_same_one_changed_as_much() -> None:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](300)):
        history.run("orders", at, {"load": 60.0 if number >= 200 else 40.0})
    for number, row in enumerate(history.attempts):
        row["host"] = "b" if number % 5 == 0 or (number >= 200 and number % 5 < 3) else "a"
    (change,) = what_changed(history.con(), NOW)
    assert change.coincides == ()
    assert change.ruled_out == ("machine",)


def test_a_version_that_changes_all_the_time_is_not_blamed() -> None:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](300)):
        history.run("orders", at, {"load": 60.0 if number >= 200 else 40.0}, version=number // 4)
    (change,) = what_changed(history.con(), NOW)
    assert change.coincides == ()
    assert change.undecided == ("version",)


def test_more_failures_coincide_with_the_version_that_brought_them() -> None:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](400)):
        fails = "load" if number >= 300 and number % 3 == 0 else ""
        history.run("orders", at, made["STEPS"], fails=fails, version=3 if number >= 300 else 2)
    (change,) = [found for found in what_changed(history.con(), NOW) if found.quantity == "failed_share"]
    assert (change.step, round(change.before, 2), round(change.after, 2)) == ("load", 0, 0.34)
    assert change.coincides[0].kind == "version"
    assert "fails more often" in sentence(change)


def test_a_change_that_ended_says_until_when() -> None:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](300)):
        history.run("orders", at, {"load": 80.0 if 100 <= number < 200 else 40.0})
    later, earlier = what_changed(history.con(), NOW)
    assert earlier.worse
    assert not later.worse
    assert earlier.until == later.since
    assert f"until {later.since:%Y-%m-%d %H:%M}" in sentence(earlier)


def test_it_can_be_narrowed() -> None:
    con = planted(rng(), "version")
    change = worse(con)
    assert what_changed(con, LATER, job="stock") == []
    assert what_changed(con, LATER, step="read") == []
    assert [found.step for found in what_changed(con, LATER, "orders", "work")] == ["work"]
    assert what_changed(con, LATER, since=change.since + timedelta(seconds=1)) == []
    assert what_changed(con, LATER, since=change.since)


def test_nothing_is_found_in_healthy_and_in_empty_histories() -> None:
    assert what_changed(made["healthy"]().con(), NOW) == []
    assert what_changed(made["Made"]().con(), NOW) == []
    assert changes_frame([]).empty


def test_changes_as_a_frame() -> None:
    found = what_changed(planted(rng(), "input"), LATER)
    frame = changes_frame(found)
    assert len(frame) == len(found)
    assert frame["coincides_with"].iloc[0] == "input"
    assert frame["accounted_share"].iloc[0] > 0.6


def test_names_that_look_like_sql_stay_names() -> None:
    history = made["Made"]()
    for number, at in enumerate(made["hours"](300)):
        history.run("o'rders; drop table runs", at, {"l'oad": 60.0 if number >= 200 else 40.0})
    con = history.con()
    (change,) = what_changed(con, NOW, job="o'rders; drop table runs")
    assert len(evidence(con, change)) == 300
