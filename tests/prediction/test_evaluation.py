"""Predictors are judged on recorded traces: by what was known, beside every rule, and a look ahead is caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.prediction.baselines.duration import DurationBaselines
from workflows_pkg.prediction.baselines.failure import FailureBaselines
from workflows_pkg.prediction.baselines.memory import MemoryBaselines
from workflows_pkg.prediction.evaluation.evaluate import QUESTIONS, evaluate
from workflows_pkg.prediction.evaluation.leaks import leak
from workflows_pkg.prediction.evaluation.measures import Measure, macro
from workflows_pkg.prediction.evaluation.memory import size
from workflows_pkg.prediction.evaluation.replay import history_counts, replay, submissions, turns
from workflows_pkg.prediction.evaluation.traces import Trace, load, read_trace
from workflows_pkg.prediction.predictor import Finished, Predictor, Submitted

AT = pd.Timestamp("2024-03-01", tz="UTC")


def _table(runs: int = 40, seed: int = 0) -> pd.DataFrame:
    """Overlapping runs of two steps whose time and memory grow with the input; the second fails now and then, and is tried again."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(runs):
        for step, factor in (("load", 1.0), ("fit", 3.0)):
            for tag in "abc":
                size_, at = float(rng.integers(1, 50)) * 1e6, AT + pd.Timedelta(minutes=run, seconds=float(rng.uniform(0, 30)))
                for attempt in (1, 2):
                    took = float(round(factor * size_ / 1e6 * rng.lognormal(0, 0.1) + 1.5, 3))
                    bad = step == "fit" and attempt == 1 and rng.uniform() < 0.2
                    rows.append(
                        {
                            "trace": "made", "workflow": "w", "run_id": f"r{run}", "step": step, "tag": tag, "submitted_at": at,
                            "ended_at": at + pd.Timedelta(seconds=took), "duration_s": took, "input_size": size_,
                            "input_bytes_rchar": size_ * took, "memory_requested_bytes": 8e9, "peak_memory_bytes": 1e9 + 50 * size_,
                            "status": "FAILED" if bad else "COMPLETED", "cpu": run % 2 + 1,
                        }
                    )  # fmt: skip
                    at += pd.Timedelta(seconds=took + 5)
                    if not bad:
                        break
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "made.parquet"
    _table().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def trace(file: Path) -> Trace:
    (found,) = read_trace(file)
    return found


def test_what_is_known_only_afterwards_describes_no_row(trace: Trace):
    assert trace.refused == ("duration_s", "ended_at", "input_bytes_rchar", "peak_memory_bytes", "status")
    assert list(trace.figures.columns) == ["cpu"]
    assert trace.size_from == "input_size"


@pytest.mark.parametrize("column", ["input_bytes_rchar", "rchar", "peak_rss", "cpu_pct", "write_bytes_wchar"])
def test_a_size_known_only_afterwards_is_refused(file: Path, column: str):
    with pytest.raises(SetupError, match="only once an attempt has ended"):
        list(load([file], size=column))


def test_rows_of_one_instant_do_not_see_each_other_and_nobody_sees_what_is_open(tmp_path: Path):
    rows = _table(1).iloc[:4].assign(submitted_at=[AT, AT, AT + pd.Timedelta("10s"), AT + pd.Timedelta("11s")], duration_s=10.0)
    rows = rows.assign(ended_at=rows["submitted_at"], step="s", status="COMPLETED")  # a clock behind: the run time decides
    rows.to_csv(tmp_path / "one.csv", index=False)
    (found,) = read_trace(tmp_path / "one.csv")
    assert history_counts(found, np.ones(4, bool)).tolist() == [0, 0, 0, 2]
    assert [(opened.tolist(), closed.tolist()) for opened, closed in turns(found)] == [([0, 1, 2], []), ([3], [0, 1])]


def test_runs_without_times_see_earlier_runs_only(tmp_path: Path):
    rows = pd.DataFrame(
        {
            "run_id": ["b", "b", "a"], "step": "s", "duration_s": [1.0, 2.0, 3.0],
            "run_started_at": ["2024-02-01T00:00:00Z"] * 2 + ["01-01-24T00:00:00Z"],
            "parents": "[]",
        }
    )  # fmt: skip
    rows.to_csv(tmp_path / "dag.csv", index=False)
    (found,) = read_trace(tmp_path / "dag.csv")
    assert found.rows["run_id"].tolist() == ["a", "b", "b"]
    assert history_counts(found, np.ones(3, bool)).tolist() == [0, 1, 1]
    assert found.figures["siblings"].tolist() == [1.0, 2.0, 2.0]


def test_a_further_attempt_is_known_as_one_once_the_first_has_failed(trace: Trace):
    rows = trace.rows
    again = rows[rows["retry"] > 0]
    assert len(again) == int((rows["failed"] == 1).sum()) > 5
    assert (again["failed"] == 0).all()


def test_labelled_rows_are_learned_on_the_machine_at_hand_and_asked_about_every_machine(tmp_path: Path):
    rows = pd.DataFrame(
        {
            "label": ["train-1", "train-1", "train-2", "test", "test"], "machine": ["local", "far", "local", "local", "far"],
            "workflow": "w", "step": "s", "duration_s": [1.5, 2.5, 3.5, 4.5, 5.5],
        }
    )  # fmt: skip
    rows.to_csv(tmp_path / "labelled.csv", index=False)
    found = {one.name.rpartition("/")[2]: one for one in read_trace(tmp_path / "labelled.csv")}
    assert {name: one.rows["value"].tolist() for name, one in found.items()} == {
        "train-1": [1.5, 4.5, 5.5],
        "train-2": [3.5, 4.5, 5.5],
    }
    assert history_counts(found["train-1"], np.ones(3, bool)).tolist() == [0, 1, 1]


class Leaking:
    """The control: it knows every outcome from the start."""

    columns = ("p05", "p50", "p95")

    def __init__(self, trace: Trace) -> None:
        self._values = trace.rows["value"].to_numpy(float)

    def observe(self, finished: Sequence[Finished]) -> None: ...

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        return np.array([[self._values[one.id]] * 3 for one in submitted])

    def card(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("baselines", [DurationBaselines, MemoryBaselines, FailureBaselines])
def test_no_rule_looks_ahead(trace: Trace, baselines: type[Predictor]):
    found = leak(trace, baselines)
    assert found.changed == 0
    assert found.checked > 200


def test_looking_ahead_is_caught(trace: Trace, monkeypatch: pytest.MonkeyPatch):
    """A predictor that reads outcomes out of the trace it is replayed on; and a replay that shows what is not finished."""
    from workflows_pkg.prediction.evaluation import leaks

    def replay_leaking(shown: Trace, predictor: Predictor, until: float):
        return replay(shown, Leaking(shown), until)

    monkeypatch.setattr(leaks, "replay", replay_leaking)
    assert leak(trace, DurationBaselines).changed > 5

    def replay_early(shown: Trace, predictor: Predictor, until: float):
        early = replace(shown, rows=shown.rows.assign(finished_s=shown.rows["submitted_s"]))
        return replay(early, predictor, until)

    monkeypatch.setattr(leaks, "replay", replay_early)
    assert leak(trace, DurationBaselines).changed > 0


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_every_question_is_answered_beside_every_rule(trace: Trace, question):
    found = evaluate(trace, question)
    assert found is not None
    assert found.leak is None or found.leak.changed == 0
    by_metric = {one.metric: one for one in found.measures}
    assert set(question.headline) <= set(by_metric)
    for metric in question.headline:
        assert all(value == value for value in by_metric[metric].baselines.values())


def test_the_rules_are_scored_as_anybody_would(trace: Trace):
    """WAPE of the last value and of a regression, written out again in pandas."""
    found = evaluate(trace, QUESTIONS[0])
    assert found is not None
    wape = next(one for one in found.measures if one.metric == "WAPE")
    rows = trace.rows
    errors, truths = {"last": 0.0, "regression": 0.0}, 0.0
    for _, row in rows[rows["value"].notna()].iterrows():
        known = rows[(rows["step"] == row["step"]) & (rows["finished_s"] < row["submitted_s"]) & rows["value"].notna()]
        if known.empty or row["value"] < trace.least_s:
            continue
        truths += row["value"]
        errors["last"] += abs(known.sort_values("finished_s", kind="stable")["value"].iloc[-1] - row["value"])
        line = known["value"].median()
        if known["size"].nunique() > 1:
            line = max(0.0, np.polyval(np.polyfit(known["size"], known["value"], 1), row["size"]))
        errors["regression"] += abs(line - row["value"])
    for name, error in errors.items():
        assert wape.baselines[name] == pytest.approx(100 * error / truths, rel=1e-6)


def test_a_killed_attempt_wastes_all_it_was_given():
    ones = np.ones(1)
    sized = size(2e9 * ones, 3e9 * ones, 8e9 * ones, 4e9 * ones, ones)
    assert (sized.kills[0], sized.wasted_gbh[0], sized.wasted_half_gbh[0]) == (1, 3.0, 2.0)
    twice = size(1e9 * ones, 5e9 * ones, 8e9 * ones, 2e9 * ones, ones)
    assert (twice.kills[0], twice.wasted_gbh[0]) == (3, 1 + 2 + 4 + 3)
    assert size(9e9 * ones, 3e9 * ones, 8e9 * ones, 4e9 * ones, ones).wasted_gbh[0] == 5.0, "capped at the preset"


def test_the_mean_counts_every_trace_once():
    one = Measure("a", "duration", "WAPE", "%", "low", 9.0, {"last": 10.0, "median": 20.0}, 1)
    other = replace(one, trace="b", ours=6.0, baselines={"last": 30.0, "median": 8.0}, rows=99)
    (mean,) = macro([one, other])
    assert (mean.ours, mean.baselines, mean.best()) == (7.5, {"last": 20.0, "median": 14.0}, ("median", 14.0))
    assert one.gain() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a table as csv"),
        (b"step,duration_s\n", "found none"),
        (b"step,durations\na,1\n", "Did you mean 'duration_s'"),
        (b"\xff\xfe\x00\x01", "expected a table as csv"),
    ],
)
def test_a_file_that_is_no_trace_gets_one_clear_error(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(SetupError, match=message):
        list(load([tmp_path / "bad.csv"]))


def test_the_published_baselines_are_met(traces: Path):
    """Figures of other people's program on the same files: median and last WAPE or MdAPE, preset and rules, to their last digit."""
    (iwd,) = read_trace(traces / "sizey/iwd.parquet")
    memory = {one.metric: one.baselines for one in _measures(iwd, 1)}
    assert round(memory["wasted"]["preset"], 2) == 21.73
    assert (round(memory["wasted"]["max_seen"], 2), memory["killed"]["max_seen"]) == (9.80, 189)
    (blast,) = read_trace(traces / "wfinstances/makeflow-blast.parquet")
    duration = {one.metric: one.baselines for one in _measures(blast, 0)}
    assert (round(duration["MdAPE"]["last"], 1), round(duration["WAPE"]["median"], 1)) == (6.4, 80.0)
    builds = list(read_trace(traces / "travis_dlcibuild/builds.parquet"))
    auc = [next(one.baselines["ewma_0.2"] for one in _measures(build, 2) if one.metric == "AUC") for build in builds]
    assert round(float(np.mean(auc)), 3) == 0.719


def _measures(trace: Trace, question: int) -> Sequence[Measure]:
    asked = QUESTIONS[question]
    return list(asked.measures(trace, None, replay(trace, asked.baselines())))


def test_a_submission_says_nothing_of_its_outcome(trace: Trace):
    shown = submissions(trace)
    other = replace(
        trace, rows=trace.rows.assign(value=-1.0, run_time_s=-1.0, peak_memory_bytes=-1.0, failed=1.0, finished_s=0.0)
    )
    assert shown == submissions(other)
