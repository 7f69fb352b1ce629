"""Requests of memory waste less than any simple rule where something tells of the peak, and no more where nothing does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.prediction.evaluation import memory
from workflows_pkg.prediction.evaluation.leaks import leak
from workflows_pkg.prediction.evaluation.measures import Measure
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.evaluation.traces import Trace, read_trace
from workflows_pkg.prediction.memory import MemoryPredictor
from workflows_pkg.prediction.predictor import Finished, Submitted

AT = pd.Timestamp("2024-03-01", tz="UTC")
PRESET = 32e9
Peak = Callable[[np.random.Generator, int, int, float], float]


def _trace(folder: Path, peak: Peak, runs: int = 60, seed: int = 0) -> Trace:
    """Runs of three steps over four samples, each a fan-out whose attempts are submitted together; `peak(rng, step, tag, size)`."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(runs):
        for step in range(3):
            for tag in range(4):
                size = float(rng.lognormal(20, 0.7))
                took = float(rng.uniform(600, 900))
                at = AT + pd.Timedelta(hours=run, minutes=20 * step)
                rows.append(
                    {
                        "workflow": "w", "run_id": f"r{run}", "step": f"s{step}", "tag": f"t{tag}", "submitted_at": at,
                        "ended_at": at + pd.Timedelta(seconds=took), "duration_s": took, "input_size": size, "status": "COMPLETED",
                        "memory_requested_bytes": PRESET, "peak_memory_bytes": min(peak(rng, step, tag, size), PRESET),
                    }
                )  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "made.parquet")
    (found,) = read_trace(folder / "made.parquet")
    return found


def _measures(trace: Trace) -> dict[str, Measure]:
    asked = memory.QUESTION
    assert asked.ours is not None
    return {one.metric: one for one in asked.measures(trace, replay(trace, asked.ours()), replay(trace, asked.baselines()))}


def by_size(rng: np.random.Generator, step: int, tag: int, size: float) -> float:
    return 1e9 * (step + 1) * (size / 5e8) ** 1.5 * rng.lognormal(0, 0.03)


def by_tag(rng: np.random.Generator, step: int, tag: int, size: float) -> float:
    return 1e9 * 2.0 ** (tag + step / 2) * rng.lognormal(0, 0.02)


def noise(rng: np.random.Generator, step: int, tag: int, size: float) -> float:
    return 1e9 * rng.lognormal(0, 0.15)


def test_where_the_sample_tells_of_the_peak_less_than_half_is_wasted(tmp_path: Path) -> None:
    found = _measures(_trace(tmp_path, by_tag))
    best = found["wasted, warm"].best()
    assert best is not None
    assert found["wasted, warm"].ours < 0.5 * best[1]
    assert found["tasks killed, warm"].ours <= 4


def test_where_the_size_tells_of_the_peak_it_is_used(tmp_path: Path) -> None:
    """Peaks go with a power of the size: the nearest sizes are the rule to meet; the rules that ignore it waste ten times as much."""
    found = _measures(_trace(tmp_path, by_size))
    wasted = found["wasted, warm"]
    assert wasted.best()[0] == "max_of_5_nearest_x1.1"
    assert wasted.ours < 1.2 * wasted.best()[1]
    assert wasted.ours < 0.2 * min(wasted.baselines[name] for name in ("max_seen", "p95", "p99_x1.05", "last_x1.2"))
    assert found["tasks killed, warm"].ours <= 4


def test_where_nothing_tells_of_it_no_more_is_wasted_than_by_the_best_rule_that_kills_as_rarely(tmp_path: Path) -> None:
    found = _measures(_trace(tmp_path, noise))
    kills, wasted = found["tasks killed, warm"], found["wasted, warm"]
    assert kills.ours is not None
    assert kills.ours <= 5
    rare = [wasted.baselines[name] for name, share in kills.baselines.items() if share <= 3]
    assert wasted.ours is not None
    assert wasted.ours <= 1.05 * min(rare)


def _attempt(number: int, peak: float, step: str = "s", failed: bool = False, hours: float = 1.0) -> Finished:
    submitted = Submitted(number, "w", step, "r", float(number), memory_requested_bytes=PRESET)
    return Finished(submitted, number + 0.5, run_time_s=3600 * hours, peak_memory_bytes=peak, failed=failed)


def _asked(predictor: MemoryPredictor, step: str = "s", preset: float = PRESET) -> Sequence[float]:
    return predictor.predict([Submitted(-1, "w", step, "r", 1e9, memory_requested_bytes=preset)])[0].tolist()


def test_a_step_never_seen_is_left_to_its_preset() -> None:
    assert all(math.isnan(value) for value in _asked(MemoryPredictor()))


def test_no_request_is_above_what_the_user_asked_for() -> None:
    predictor = MemoryPredictor()
    predictor.observe([_attempt(number, 1e9) for number in range(20)])
    request, again = _asked(predictor, preset=0.5e9)
    assert (request, again) == (0.5e9, 0.5e9)
    request, again = _asked(predictor, preset=math.nan)
    assert 1e9 <= request <= 1.2e9, "control: without a preset it asks for what it needs"
    assert again == pytest.approx(2 * request)


def test_a_retry_asks_for_more() -> None:
    predictor = MemoryPredictor()
    rng = np.random.default_rng(0)
    predictor.observe([_attempt(number, float(peak)) for number, peak in enumerate(rng.lognormal(20, 0.5, 60))])
    request, again = _asked(predictor)
    largest = float(np.random.default_rng(0).lognormal(20, 0.5, 60).max())
    assert again == pytest.approx(largest if largest > request else 2 * request)
    assert again > request


def test_a_killed_attempt_teaches_no_peak() -> None:
    learnt, other = MemoryPredictor(), MemoryPredictor()
    good = [_attempt(number, 1e9) for number in range(20)]
    learnt.observe(good)
    other.observe([*good, _attempt(99, 9e9, failed=True)])
    assert _asked(learnt) == _asked(other)
    other.observe([_attempt(100, 9e9)])
    assert _asked(learnt) != _asked(other), "control: a successful attempt does"


def test_light_steps_are_given_more_room_than_heavy_ones() -> None:
    predictor = MemoryPredictor()
    rng = np.random.default_rng(3)
    for number in range(200):
        noise_ = float(rng.lognormal(0, 0.2))
        predictor.observe(
            [_attempt(2 * number, 5e9 * noise_, "heavy", hours=10), _attempt(2 * number + 1, 5e7 * noise_, "light")]
        )
    assert _asked(predictor, "light")[0] / 5e7 > 1.2 * _asked(predictor, "heavy")[0] / 5e9


class Peeking(MemoryPredictor):
    """The control: it knows every peak from the start."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._peaks = trace.rows["peak_memory_bytes"].to_numpy(float)

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        return np.array([[self._peaks[one.id]] * 2 for one in submitted])


def test_no_request_looks_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = _trace(tmp_path, by_size, 20)
    found = leak(trace, MemoryPredictor)
    assert found.changed == 0
    assert found.checked > 100
    from workflows_pkg.prediction.evaluation import leaks

    monkeypatch.setattr(leaks, "replay", lambda shown, predictor, until: replay(shown, Peeking(shown), until))
    assert leak(trace, MemoryPredictor).changed > 5


def test_on_recorded_workflows_less_is_wasted_than_by_any_rule_that_kills_as_rarely(traces: Path) -> None:
    """Geometric mean over the traces with submission times; rules that kill more than 3 % of the tasks are no alternative."""
    ratios = []
    for name in ("sizey/chipseq", "sizey/iwd", "sizey/rnaseq", "ponder/testruns-rnaseq", "ponder/testruns-rnaseqDrosophila"):
        (trace,) = read_trace(traces / f"{name}.parquet")
        found = _measures(trace)
        wasted, kills = found["wasted, warm"], found["tasks killed, warm"]
        ratios.append(wasted.ours / min(wasted.baselines[name] for name, share in kills.baselines.items() if share <= 3))
        assert kills.ours < 5, name
    assert np.exp(np.mean(np.log(ratios))) < 0.7
    assert max(ratios) < 1.1


def _beyond_all_seen(grows: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Requests and peaks of twelve steps whose peak is 1 GB and `grows` bytes per byte: ten small inputs each have ended, in any order,
    then forty are asked about together that are two to eight times the largest."""
    predictor = MemoryPredictor()

    def peaks(sizes: np.ndarray) -> np.ndarray:
        return (1e9 + grows * sizes) * rng.lognormal(0, 0.04, len(sizes))

    requests, needed = [], []
    for step in range(12):
        sizes = 1e9 / 2.0 ** rng.permutation(10)
        for number, (size, peak) in enumerate(zip(sizes, peaks(sizes), strict=True)):
            one = Submitted(-1, "w", f"s{step}", f"r{number}", float(number), size=float(size))
            predictor.observe([Finished(one, number + 0.5, 60.0, 60.0, float(peak))])
    for step in range(12):
        sizes = rng.uniform(2e9, 8e9, 40)
        asked = [Submitted(row, "w", f"s{step}", "next", 99.0, size=float(size)) for row, size in enumerate(sizes)]
        requests.append(predictor.predict(asked)[:, 0])
        needed.append(peaks(sizes))
    return np.concatenate(requests), np.concatenate(needed)


@pytest.mark.parametrize("grows", [0.0, 0.3, 2.0])
def test_inputs_larger_than_all_seen_are_not_killed_by_the_dozen(grows: float, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, needed = _beyond_all_seen(grows, np.random.default_rng(0))
    assert (requests < needed).mean() <= 0.03
    assert (requests / needed).mean() <= 1.4, "nor are they given whatever there is"
    if grows == 2.0:
        monkeypatch.setattr("workflows_pkg.prediction.memory.TRIED_AT", frozenset())
        requests, needed = _beyond_all_seen(grows, np.random.default_rng(0))
        assert (requests < needed).mean() > 0.2, "control: errors at sizes within tell nothing of those beyond"


def test_an_input_after_empty_ones_only_is_sized_like_any_other() -> None:
    predictor = MemoryPredictor()

    def asked(step: str, number: int, size: float) -> Submitted:
        return Submitted(number, "w", step, f"r{number}", float(number), size=size)

    for number in range(6):
        for step, size in (("grows", 1e6 * (number + 1)), ("empty", 0.0)):
            one = asked(step, number, size)
            predictor.observe([Finished(one, number + 0.5, 60.0, 60.0, 1e9 + size)])
    assert predictor.predict([asked("empty", 9, 5e6)])[0, 0] >= 1e9
    assert predictor.predict([asked("grows", 9, 5e7)])[0, 0] > 1e9 + 6e6, "control: lines have been tried beyond their sizes"
