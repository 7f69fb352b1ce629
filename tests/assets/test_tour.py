"""The tour's own decisions: which runs come next, which states a trial replays, and what a reader of a log sees."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from assets.neighbours.weather_service import Entry, State
from assets.tour.console import Progress
from assets.tour.runs import FIRST_TIME, ROOT, planned
from assets.tour.trial import Met, met_by_runs
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import LedgerEntry
from workflows_pkg.history.store import open_history
from workflows_pkg.report.summary import summary


def test_a_first_tour_spreads_the_planned_runs_over_new_partitions() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        runs = planned(instance, FIRST_TIME)
    assert Counter(each.workflow for each in runs) == FIRST_TIME
    assert len({str(each) for each in runs}) == len(runs)
    assert {each.workflow for each in runs[:12]} == set(FIRST_TIME)


def test_a_further_tour_goes_on_with_what_ran_least() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("2013-01-01", "2013-01-02"):
            instance.create_run_for_job(_job(), tags={"dagster/partition": day})
        runs = planned(instance, {"flights_daily": 2})
    assert [each.partition for each in runs] == ["2013-01-03", "2013-01-04"]


def _job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def flights_daily() -> None:
        nothing()

    return flights_daily


def test_a_trial_replays_what_first_requests_met_evenly_spread() -> None:
    requests = [
        Entry(float(day), f"/weather/2013-01-{day:02d}", status, State(tokens, day / 10, False))
        for day in range(1, 9)
        for status, tokens in ((429, 0.5), (200, 1.5))
    ]
    met = met_by_runs(requests, 4)
    assert met == [Met(f"2013-01-{day:02d}", State(0.5, day / 10, False)) for day in (1, 3, 5, 7)]
    assert len(met_by_runs(requests, 16)) == 16
    assert met_by_runs([], 16) == []


def test_progress_in_a_log_is_a_few_plain_lines() -> None:
    out = io.StringIO()
    progress = Progress("runs", 40, out)
    for _ in range(40):
        progress.step("flights_daily 2013-01-01")
    progress.end()
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["runs 0/40", "runs 10/40", "runs 20/40", "runs 30/40", "runs 40/40"]
    assert "\033" not in out.getvalue()


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("part", ["runs in this process", "through daemon, code server"])
def test_ctrl_c_ends_the_tour_and_all_it_started_and_the_next_one_goes_on(part: str, tmp_path: Path) -> None:
    """As a terminal sends it: to every process of the group at once. A trial may not be left applied, and no run recorded as failed."""
    command = [sys.executable, "-u", "-m", "assets.tour", "--home", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env=dict(os.environ),
    ) as tour:  # fmt: skip
        assert tour.stdout is not None
        said = ""
        for line in tour.stdout:
            said += line
            if part in line and line.startswith("["):
                break
        time.sleep(12)
        os.killpg(tour.pid, signal.SIGINT)
        rest, _ = tour.communicate(timeout=300)
    assert tour.returncode == 1, said + rest
    assert "Stopping as soon as what is in progress has ended" in rest
    assert rest.rstrip().endswith("Stopped. The same command goes on from here.")
    assert "Traceback" not in said + rest
    left = subprocess.run(["pgrep", "-af", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert left == "", "a process that it started lives on"
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        going_on = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]))
        assert going_on == []


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_tour_from_nothing_and_again(tmp_path: Path) -> None:
    before = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for tour in (1, 2):
        ended = subprocess.run(
            [sys.executable, "-m", "assets.tour", "--home", str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ),
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        with open_history(tmp_path) as con:
            seen = summary(con)
            entries = read(con, LedgerEntry)
        assert seen.runs - seen.trial_runs >= 60
        assert seen.attempts >= 300
        assert {"dependency", "memory", "data"} <= {cause.cause for cause in seen.causes}
        assert len(entries) >= 1
        assert entries[0].verdict in ("gain", "no gain", "not shown")
        assert (tmp_path / "report.html").stat().st_size > 100_000
        assert "Forecasts of the next runs" in ended.stdout
        assert "predicted" in ended.stdout or tour == 2
    after = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert after == before
