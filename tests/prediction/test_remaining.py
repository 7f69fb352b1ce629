"""Is what is said to be left of a run true: never below zero, in order, narrower as steps end, and right as often as is told?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows_pkg.prediction.lookup import JobForecast, Quantiles
from workflows_pkg.prediction.remaining import Remaining, SeenStep, remaining

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)
Step = tuple[str, float, float]
"""A step of one run: its name, and when it began and ended, in seconds since the run began."""


def _job(by_key: dict[tuple[str, str], tuple[float, float, float]]) -> JobForecast:
    return JobForecast("job", AS_OF, {key: Quantiles(*sorted(ends), 20, "median") for key, ends in by_key.items()})


def _told(job: JobForecast, elapsed: float, *seen: SeenStep) -> Remaining:
    found = remaining(job, elapsed, seen)
    assert found is not None
    return found


CHAIN = {
    ("", "run_time_s"): (24.0, 30.0, 42.0),
    ("a", "run_time_s"): (8.0, 10.0, 13.0),
    ("b", "run_time_s"): (11.0, 15.0, 22.0),
    ("c", "run_time_s"): (4.0, 5.0, 8.0),
    ("a", "time_left_s"): (16.0, 20.0, 28.0),
    ("b", "time_left_s"): (4.2, 5.2, 8.5),
    ("c", "time_left_s"): (0.1, 0.2, 0.4),
}

seconds = st.floats(0, 1e6, allow_nan=False)
quantiles = st.tuples(seconds, seconds, seconds)
names = st.sampled_from("abcd")
jobs = st.builds(
    lambda run, steps: _job({("", "run_time_s"): run, **steps}),
    quantiles,
    st.dictionaries(st.tuples(names, st.sampled_from(("run_time_s", "time_left_s", "whole_time_s"))), quantiles, max_size=8),
)
states = st.lists(st.builds(SeenStep, names, seconds, st.booleans()), max_size=4, unique_by=lambda one: one.step)


@given(job=jobs, elapsed=seconds, seen=states)
def test_whatever_was_published_and_seen_the_answer_is_in_order_and_not_below_zero(
    job: JobForecast, elapsed: float, seen: list[SeenStep]
) -> None:
    left = _told(job, elapsed, *seen)
    assert 0 <= left.p05 <= left.p50 <= left.p95 < float("inf")
    run = job.run("run_time_s")
    assert run is not None
    assert left.late == (elapsed > run.p95)
    assert left.done <= left.steps


@given(elapsed=st.floats(42.1, 1e6), seen=states)
def test_a_late_run_is_never_said_to_end_at_once(elapsed: float, seen: list[SeenStep]) -> None:
    """Also where the steps are not known: what is late has been late for longer than it takes."""
    left = _told(_job({("", "run_time_s"): CHAIN["", "run_time_s"]}), elapsed, *seen)
    assert left.late
    assert left.p95 > left.p50 > 0.03 * elapsed


@given(first=st.floats(0, 41.9), later=st.floats(0, 41.9))
def test_while_nothing_is_seen_the_end_comes_no_nearer_than_the_clock_says(first: float, later: float) -> None:
    """Surviving only ever moves the expected end away: elapsed plus what is left does not shrink."""
    first, later = sorted((first, later))
    job = _job({("", "run_time_s"): CHAIN["", "run_time_s"]})
    assert later + _told(job, later).p50 >= first + _told(job, first).p50 - 1e-6


def test_before_anything_is_seen_it_is_the_forecast_of_the_run() -> None:
    left = _told(_job(CHAIN), 0.0)
    assert (left.p05, left.p50, left.p95) == pytest.approx((24, 30, 42), rel=1e-6)
    assert (left.late, left.done, left.steps, left.by_steps, left.slow) == (False, 0, 3, False, None)


def test_a_step_that_ended_early_or_late_moves_the_end() -> None:
    job = _job(CHAIN)
    early = _told(job, 5, SeenStep("a", 0.0, ended=True), SeenStep("b", 0.0))
    late = _told(job, 25, SeenStep("a", 0.0, ended=True), SeenStep("b", 0.0))
    assert early.p50 == late.p50 == pytest.approx(15 + 5.2)
    assert (early.done, late.done, late.by_steps) == (1, 1, True)


def test_a_step_beyond_its_interval_is_named() -> None:
    left = _told(_job(CHAIN), 60, SeenStep("a", 50, ended=True), SeenStep("b", 44.0))
    assert left.slow is not None
    assert (left.slow.step, left.slow.for_s, left.slow.usual.p95) == ("b", 44.0, 22.0)
    assert left.late
    assert left.p50 > 5.2, "what comes after the slow step is still to come"


def test_side_by_side_the_longest_of_what_runs_decides() -> None:
    beside = {
        ("", "run_time_s"): (18.0, 21.0, 26.0),
        ("short", "run_time_s"): (2.0, 3.0, 4.0), ("short", "time_left_s"): (14.0, 18.0, 23.0),
        ("long", "run_time_s"): (17.0, 20.0, 25.0), ("long", "time_left_s"): (0.5, 1.0, 1.5),
    }  # fmt: skip
    both = _told(_job(beside), 1, SeenStep("short", 1), SeenStep("long", 1))
    assert both.p50 == pytest.approx(20, abs=1)
    assert _told(_job(beside), 15, SeenStep("short", 12, ended=True), SeenStep("long", 15)).p50 == pytest.approx(6, abs=1.5)


def test_without_a_forecast_of_the_run_nothing_is_said() -> None:
    assert remaining(_job({("a", "run_time_s"): (1, 2, 3)}), 1, []) is None


def _quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return float(low), float(middle), float(high)


def _learned(past: Sequence[Sequence[Step]]) -> JobForecast:
    """What training publishes of past runs, without its choice of rules."""
    by_key: dict[tuple[str, str], tuple[float, float, float]] = {("", "run_time_s"): _quantiles([_end(run) for run in past])}
    for name in {step for run in past for step, _, _ in run}:
        with_it = [(run, begin, end) for run in past for step, begin, end in run if step == name]
        if len(with_it) >= 5:
            by_key[name, "run_time_s"] = _quantiles([end - begin for _, begin, end in with_it])
            by_key[name, "time_left_s"] = _quantiles([_end(run) - end for run, _, end in with_it])
    return _job(by_key)


def _end(run: Sequence[Step]) -> float:
    return max(end for _, _, end in run)


def _scores(runs: Sequence[Sequence[Step]], first: int, points: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9)) -> pd.DataFrame:
    """Each run from number `first` on, forecast by those before it, looked at after these shares of its time.

    Columns: at, error and width as shares of the run's time, inside, and `plain_error` of the forecast less the time gone.
    """
    rows = []
    for number in range(first, len(runs)):
        job, run = _learned(runs[max(0, number - 50) : number]), runs[number]
        whole, total = job.run("run_time_s"), _end(run)
        assert whole is not None
        for at in points:
            now = at * total
            seen = [SeenStep(step, now - (end if end <= now else begin), end <= now) for step, begin, end in run if begin <= now]
            left, truth = _told(job, now, *seen), total - now
            rows.append(
                {
                    "at": at, "error": abs(left.p50 - truth) / total, "width": (left.p95 - left.p05) / total,
                    "inside": left.p05 - 1e-6 <= truth <= left.p95 + 1e-6,
                    "plain_error": abs(max(whole.p50 - now, 0) - truth) / total,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _chain(rng: np.random.Generator) -> list[Step]:
    """Five steps one after the other, each started within about a second."""
    clock, run = 0.0, []
    for step, median, noise in (("a", 3, 0.1), ("b", 20, 0.5), ("c", 8, 0.2), ("d", 1, 0.3), ("e", 10, 0.6)):
        clock += rng.lognormal(0, 0.1)
        took = median * rng.lognormal(0, noise)
        run.append((step, clock, clock + took))
        clock += took
    return run


def _fan(rng: np.random.Generator) -> list[Step]:
    """One step, then four side by side, then one."""
    first = 3 * rng.lognormal(0, 0.1)
    middle = [
        (step, first + 1, first + 1 + median * rng.lognormal(0, 0.3))
        for step, median in zip("bcde", (20, 8, 15, 12), strict=True)
    ]
    clock = max(end for _, _, end in middle) + 1
    return [("a", 0.0, first), *middle, ("f", clock, clock + 5 * rng.lognormal(0, 0.2))]


@pytest.mark.parametrize("kind", [_chain, _fan])
def test_simulated_runs_end_inside_the_interval_which_narrows(kind: Callable[[np.random.Generator], list[Step]]) -> None:
    rng = np.random.default_rng(1)
    found = _scores([kind(rng) for _ in range(130)], first=60)
    assert 0.75 < found["inside"].mean() <= 1
    width = found.groupby("at")["width"].mean()
    assert width[0.9] < 0.75 * width[0.1]
    assert found["error"].mean() < found["plain_error"].mean(), "better than the forecast less the time that has gone"


def test_control_another_job_s_history_is_seen_in_the_scores() -> None:
    rng = np.random.default_rng(1)
    runs = [_chain(rng) for _ in range(60)] + [[(step, 3 * begin, 3 * end) for step, begin, end in _chain(rng)] for _ in range(5)]
    assert _scores(runs, first=60)["inside"].mean() < 0.5


@pytest.mark.long
@pytest.mark.parametrize("workflow", ["nmdp-flow", "rnaseq-toy"])
def test_recorded_runs_end_inside_the_interval(traces: Path, workflow: str) -> None:
    """Twenty recorded runs of real workflows each; a step is what began first and ended last under its name."""
    tasks = pd.read_parquet(traces / "nextflow2015" / "tasks.parquet")
    tasks = tasks[(tasks["status"] == "COMPLETED") & (tasks["workflow"] == workflow)]
    runs = []
    for _, rows in sorted(tasks.groupby("run_id"), key=lambda group: group[1]["submitted_at"].min()):
        end = (rows["ended_at"] - rows["submitted_at"].min()).dt.total_seconds()
        spans = pd.DataFrame({"step": rows["step"], "begin": (end - rows["duration_s"]).clip(lower=0), "end": end})
        steps = spans.groupby("step").agg(begin=("begin", "min"), end=("end", "max")).reset_index()
        runs.append(list(steps.itertuples(index=False, name=None)))
    found = _scores(runs, first=8)
    assert found["inside"].mean() > 0.75
    assert found["error"].mean() < found["plain_error"].mean()
