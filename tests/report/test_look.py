"""The page of a first look works offline, in both themes, trusts no text, and says what it did not see."""

from __future__ import annotations

import html
import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
import yaml

from workflows_pkg.history.records import Quarantined, Run, StepAttempt
from workflows_pkg.report.look import Told, look, look_value
from workflows_pkg.report.look_page import look_html
from workflows_pkg.report.look_text import render_look

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HERE = Path(__file__).parent
PAGE = runpy.run_path(str(HERE / "test_page.py"))
FOREIGN = runpy.run_path(str(HERE.parent / "advisor" / "foreign_history.py"))


def seen_of(con, **told):
    found = look(con, Told("run-sharded SQLite at /srv/dagster", **told), NOW)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def crowded():
    return seen_of(FOREIGN["crowded"](120).con(), notes=("7 run logs could not be read",), log_lines=12)


@pytest.fixture(scope="module")
def page(crowded):
    return look_html(crowded)


def test_the_page_is_one_file_that_loads_nothing_and_runs_only_our_scripts(page):
    assert PAGE["faults"](page) == []
    addresses = re.findall(r"(?:src|href|url|@import)\s*[=(]\s*[\"']?([^\"')> ]+)", page.split("<script>")[0])
    assert [address for address in addresses if not address.startswith("#")] == []


def test_control_a_page_that_loads_something_is_caught(page):
    assert PAGE["faults"](page.replace("<main>", '<main><img src="https://example.org/x.png">')) == [
        "loads https://example.org/x.png"
    ]


def test_every_plot_has_its_place_in_both_themes(page):
    ((_, content),) = [(kind, text) for kind, text in PAGE["Page"](page).scripts if kind == "application/json"]
    value = json.loads(content)
    assert set(value["figures"]) == {"p-time", "p-asked", "p-errors"}
    assert set(value["templates"]) == {"light", "dark"}
    for name in value["figures"]:
        assert f'id="{name}"' in page
    assert "prefers-color-scheme: dark" in page


def test_sections_tables_and_headings_are_in_order(page):
    body = page.split("<script")[0]
    assert re.findall(r"<h2>([^<]+)</h2>", body) == [
        "Suggestions", "What stands out", "Where the time goes", "Slowest steps", "Steps that fail most",
        "Runs asked for within the same minute", "Forecast error beside the mean of ten", "What this could not see", "How to go on",
    ]  # fmt: skip
    assert body.count("<table>") == body.count("<caption>") >= 5
    assert body.count("<h1>") == 1
    assert "nan" not in body.lower()


def test_what_was_planted_is_on_the_page_and_on_the_terminal(page, crowded):
    for text in (page, render_look(crowded)):
        assert "clicks_hourly" in text
        assert "Advice only" in text
        assert "mean of" in text
    assert "7 run logs could not be read" in page
    assert "nor the 12 lines that its code logged" in page
    lines = render_look(crowded).splitlines()
    assert 5 <= len(lines) <= 13


def test_what_changed_stands_first_in_at_most_three_lines_and_once():
    made = FOREIGN["Made"]()
    for number, at in enumerate(FOREIGN["hours"](200)):
        slow = 2 if number >= 150 else 1
        made.run("orders", at, {f"step_{place}": 20.0 * slow for place in range(5)}, version=slow)
    seen = seen_of(made.con())
    assert len([found for found in seen.findings if found.kind == "slower_step"]) == 5
    page, lines = look_html(seen), render_look(seen).splitlines()
    assert page.count("became slower: 20 s before, 40 s since") + page.count("became slower: 20 s before, 41 s since") >= 3
    (section,) = re.findall(r"<h2>What changed</h2>(.*?)<h2>What else stands out</h2>", page, re.S)
    assert section.count("became slower") == 3
    assert section.count("It coincides with another workflow version (1 before, 2 since") == 3
    shown = [place for place, line in enumerate(lines) if "became slower" in line]
    assert lines[shown[0]].startswith("what changed")
    assert len({line for line in lines if "became slower" in line}) == len(shown)
    assert "What changed" not in look_html(seen_of(FOREIGN["healthy"]().con()))


def test_the_time_of_a_job_is_the_sum_of_its_runs():
    made = FOREIGN["crowded"](50)
    seen = seen_of(made.con())
    jobs = {job.job: job for job in seen.jobs}
    own = [run for run in made.runs if run["job_name"] == "stock"]
    assert jobs["stock"].runs == len(own)
    assert jobs["stock"].queue_s == pytest.approx(sum(run["queue_time_s"] for run in own))
    assert jobs["stock"].run_s == pytest.approx(sum(run["run_time_s"] for run in own))
    assert jobs["stock"].total_s == pytest.approx(sum(run["queue_time_s"] + 2 + run["run_time_s"] for run in own))
    parts = ("queue_s", "start_s", "run_s", "retry_wait_s")
    assert seen.total_s == pytest.approx(sum(seen.part_s(part) for part in parts))
    assert sum(seen.part_share(part) for part in parts) == pytest.approx(seen.part_share(*parts)) == pytest.approx(1)


def test_a_part_that_is_known_of_no_run_is_not_shown_as_nothing():
    made = FOREIGN["failing"](30)
    for run in made.runs:
        run.update(queue_time_s=None, start_time_s=None)
    seen = seen_of(made.con())
    assert "queue -, start -, run 100 %, retry wait 0 %" in render_look(seen)
    assert seen.part_s("queue_s") is None
    assert "0 % of it waiting" in look_html(seen), "the wait between attempts is known: there was none"
    for run in made.runs:
        run["retry_wait_s"] = None
    assert "- of it waiting" in look_html(seen_of(made.con()))


def test_trials_are_left_out_and_told_of():
    made = FOREIGN["failing"](40)
    before = seen_of(made.con())
    assert before.own_runs == 0
    assert "workbench itself" not in render_look(before) + str(before.unseen)
    for at in FOREIGN["hours"](7):
        made.run("trial_1a2b_v3", at, FOREIGN["STEPS"], trial_id="1a2b", fails="load")
    seen = seen_of(made.con())
    assert seen.own_runs == 7
    for name in ("runs", "jobs", "outcomes", "attempts", "failing", "slowest", "findings", "cost_usd"):
        assert getattr(seen, name) == getattr(before, name), name
    assert "7 runs of the workbench itself left out" in render_look(seen)
    assert "7 runs of the workbench itself are left out" in dict(seen.unseen)


def retried_to_the_end(made, run_id, tries):
    """Turns the run into one in which `tries` attempts of its first step, side by side or after each other, are retried before it fails."""
    run = next(row for row in made.runs if row["run_id"] == run_id)
    (attempt,) = (row for row in made.attempts if row["run_id"] == run_id)
    took = run["run_time_s"] / 2
    for number in range(1, tries + 1):
        again = {**attempt, "attempt": number, "will_retry": True, "run_time_s": took, "retry_wait_s": took / 2}
        made.attempts.insert(0, {**again, "cost_usd": run["cost_usd"] / (2 * tries)})
    attempt.update(attempt=tries + 1)


@pytest.mark.parametrize("seed", range(6))
def test_no_step_loses_more_than_its_runs_took(seed):
    """Failing, retried, retried and failing, canceled and open runs in any mixture."""
    made = FOREIGN["Made"](rng=np.random.default_rng(seed))
    for at in FOREIGN["hours"](40):
        kind = made.rng.choice(["good", "fails", "fails_again", "retried", "canceled", "open"])
        fails, retries = (
            "extract" if kind.startswith("fails") else "",
            "extract" if kind in ("retried", "open", "canceled") else "",
        )
        run_id = made.run("orders", at, FOREIGN["STEPS"], fails=fails, retries=retries)
        if kind == "fails_again":
            retried_to_the_end(made, run_id, int(made.rng.integers(1, 5)))
        if kind == "canceled":
            made.runs[-1].update(outcome="canceled")
        if kind == "open":
            made.runs[-1].update(outcome=None, ended_at=None, run_time_s=None, cost_usd=None)
    seen = seen_of(made.con())
    (step,) = seen.failing
    assert 0 < step.lost_s <= seen.total_s
    assert step.lost_usd is not None
    assert 0 < step.lost_usd <= seen.cost_usd
    failed = sum(run["run_time_s"] for run in made.runs if run["outcome"] == "failure")
    ended = {run["run_id"] for run in made.runs if run["outcome"] in ("success", "canceled")}
    retried = sum(
        row["run_time_s"] + row["retry_wait_s"] for row in made.attempts if row["will_retry"] and row["run_id"] in ended
    )
    assert step.lost_s == pytest.approx(failed + retried)


def test_a_step_that_always_fails_after_its_retries_loses_its_runs_once():
    made = FOREIGN["Made"]()
    for at in FOREIGN["hours"](2):
        retried_to_the_end(made, made.run("orders", at, FOREIGN["STEPS"], fails="extract"), 3)
    (step,) = seen_of(made.con()).failing
    assert (step.failures, step.retried) == (8, 6)
    assert step.lost_s == pytest.approx(sum(run["run_time_s"] for run in made.runs))
    assert step.lost_usd == pytest.approx(sum(run["cost_usd"] for run in made.runs))


def test_retries_side_by_side_cost_a_run_no_more_than_it_took():
    made = FOREIGN["Made"]()
    retried_to_the_end(made, made.run("orders", FOREIGN["START"], FOREIGN["STEPS"], fails="extract"), 4)
    made.runs[0]["outcome"] = "success"
    (step,) = seen_of(made.con()).failing
    assert step.lost_s == pytest.approx(made.runs[0]["run_time_s"])


def test_a_healthy_history_gets_no_suggestion_and_is_told_so():
    seen = seen_of(FOREIGN["healthy"](150).con())
    assert seen.suggestions == ()
    assert "None: no change of retries" in look_html(seen)
    assert "none is supported by the evidence" in render_look(seen)


def test_forecasts_are_compared_with_the_mean_of_ten_on_the_same_runs():
    seen = seen_of(FOREIGN["healthy"](150).con())
    row = next(row for row in seen.forecast.jobs if row.job == "orders")
    assert row.outcomes == 148, "150 runs, one failed, the first has no history"
    assert row.best_rule_share <= row.mean_of_ten_share
    assert 0 < row.error_share < 0.3
    assert seen.forecast.of_runs is not None
    assert seen.forecast.of_runs.compared == 3


def test_nothing_ran_is_told_apart_from_a_look(empty):
    assert look(empty, Told("x"), NOW) is None


def test_an_instance_whose_only_run_is_still_open_gets_a_page():
    made = FOREIGN["Made"]()
    made.run("orders", FOREIGN["START"], FOREIGN["STEPS"])
    made.runs[0].update(outcome=None, ended_at=None, run_time_s=None, cost_usd=None)
    made.attempts.clear()
    seen = seen_of(made.con())
    assert seen.jobs == ()
    page = look_html(seen)
    assert "No run with a known time has ended yet." in page
    assert "nan" not in page.split("<script")[0].lower()
    assert "1 open" in render_look(seen)


def test_open_runs_without_events_and_quarantine_are_told(sample):
    records = [
        record.model_copy(update={"outcome": None, "ended_at": None, "run_time_s": None, "attempt_count": None})
        if isinstance(record, Run) and record.run_id.startswith("00000003")
        else record
        for record in sample["records"]()
    ]
    records.append(
        Quarantined(source_id="main", run_id="r", event_id=1, event_hash="h", reason="Its text is not JSON.", found_at=NOW)
    )
    made = FOREIGN["Made"]()
    con = made.con()
    by_kind = {kind: [record for record in records if isinstance(record, kind)] for kind in (Run, StepAttempt, Quarantined)}
    for kind, rows in by_kind.items():
        names = list(kind.model_fields)
        quoted = ", ".join(f'"{name}"' for name in names)
        marks = ", ".join("?" * len(names))
        con.executemany(
            f"insert into {kind.table} ({quoted}) values ({marks})", [[getattr(row, name) for name in names] for row in rows]
        )
    told = dict(seen_of(con).unseen)
    assert told["1 event could not be read"] == "Its text is not JSON."
    work = {record.run_id for record in records if isinstance(record, Run) and record.trial_id is None}
    assert f"The steps of 1 run out of {len(work)}" in told
    assert any(what.startswith("How 1 run will end") for what in told)


def test_runs_ahead_of_the_clock_are_told_of():
    made = FOREIGN["failing"](again_s=25.0)
    told = dict(seen_of(made.con()).unseen)
    assert not any("of the future" in what for what in told), "control"
    for run in made.runs[-3:]:
        run["created_at"] = NOW + timedelta(days=400)
    told = dict(seen_of(made.con()).unseen)
    assert "the last at 2027-07-06 00:00 UTC" in told["What stands out in 3 runs of the future"]


def test_the_keys_of_the_json_do_not_depend_on_what_was_found(crowded):
    keys = {
        "instance", "time", "slowest_steps", "failing_steps", "same_minute", "forecast", "suggestions", "findings", "unseen",
    }  # fmt: skip
    few = FOREIGN["Made"]()
    few.run("orders", FOREIGN["START"], FOREIGN["STEPS"])
    little = look_value(seen_of(few.con()))
    assert set(look_value(crowded)) == set(little) == keys
    assert little["forecast"]["of_runs"] is None
    assert set(look_value(crowded)["forecast"]) == set(little["forecast"])


def test_hostile_texts_do_not_act(hostile_con, sample):
    seen = seen_of(hostile_con, notes=(sample["HOSTILE"],))
    text = look_html(seen)
    assert PAGE["faults"](text) == []
    assert sample["HOSTILE"] not in text
    assert "&lt;script&gt;" in text
    assert "img" not in PAGE["Page"](text).tags
    assert "\x1b" not in render_look(seen)


def test_a_name_cannot_steer_the_terminal():
    made = FOREIGN["Made"]()
    for at in FOREIGN["hours"](30):
        made.run("evil\x1b[2J\r", at, FOREIGN["STEPS"])
    assert "\x1b" not in render_look(seen_of(made.con()))


def test_a_name_cannot_turn_the_sentence_around_it():
    made = FOREIGN["Made"]()
    for at in FOREIGN["hours"](30):
        made.run("evil\u202egnp", at, {"a\u2067b": 20.0, "load": 5.0}, fails="a\u2067b")
    seen = seen_of(made.con())
    page, text = look_html(seen), render_look(seen)
    for mark in ("\u202e", "\u2067"):
        assert mark not in page + text
        assert json.dumps(mark)[1:-1] not in page.split("<script>")[0]
    assert "'evil?gnp'" in text
    assert "&#x27;evil?gnp&#x27;" in page


def test_dagsters_job_of_assets_has_a_name_for_people():
    made = FOREIGN["failing"](again_s=25.0)
    for row in (*made.runs, *made.attempts):
        row["job_name"] = "__ASSET_JOB"
    seen = seen_of(made.con())
    (suggested,) = seen.suggestions
    assert "__ASSET_JOB" not in render_look(seen)
    assert "materialize (assets) / load" in render_look(seen)
    page = look_html(seen)
    spoken = re.sub(r"<pre>.*?</pre>|<code>.*?</code>", "", page, flags=re.DOTALL)
    assert "__ASSET_JOB" not in spoken
    assert page.count("__ASSET_JOB") >= 3, "a query and an address need the real name"
    assert "job:__ASSET_JOB/step:extract.retry" in suggested.change
    assert look_value(seen)["time"][0]["job"] == "__ASSET_JOB"


def test_the_way_on_can_be_walked(page, tmp_path):
    code, settings = (
        html.unescape(block) for block in re.findall(r"<pre>(.*?)</pre>", page[page.index('id="next"') :], re.DOTALL)
    )
    location = tmp_path / "location.py"
    location.write_text(code)
    dagster = [sys.executable, "-m", "dagster", "definitions", "validate", "-f", str(location)]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    said = subprocess.run(dagster, capture_output=True, text=True, check=False, env=environment, cwd=HERE.parents[1])
    assert said.returncode == 0, said.stdout + said.stderr
    named = yaml.safe_load(settings)["run_coordinator"]
    assert issubclass(getattr(importlib.import_module(named["module"]), named["class"]), dg.QueuedRunCoordinator)
