"""Where a level changes: found with its place, silent at the stated rate where nothing does, whatever runs have to do with each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from workflows_pkg.advisor.change_points import Split, failure_splits, inflation, time_split, time_splits

STEPS, LEVEL = 10, 0.01


def differ(before: np.ndarray, after: np.ndarray) -> bool:
    low, high = sorted((float(np.median(before)), float(np.median(after))))
    return high >= 1.2 * low


def differ_in_share(before: np.ndarray, after: np.ndarray) -> bool:
    return abs(float(before.mean() - after.mean())) >= 0.05


def of_times(values: np.ndarray, level: float = LEVEL / STEPS) -> list[Split]:
    return time_splits(values, level, differ)


def alike(rng: np.random.Generator, likeness: float, runs: int) -> np.ndarray:
    noise = rng.standard_normal(runs)
    values = np.zeros(runs)
    for number in range(1, runs):
        values[number] = likeness * values[number - 1] + noise[number]
    return 60 * np.exp(0.3 * values)


def alarms(made: Callable[[np.random.Generator], np.ndarray], level: float, looks: int = 300, steps: int = STEPS) -> int:
    """Looks, of so many at `steps` steps each, in which any change is told."""
    rng = np.random.default_rng(7)
    return sum(any(of_times(made(rng), level) for _ in range(steps)) for _ in range(looks))


@pytest.mark.parametrize(
    "made",
    [
        lambda rng: rng.lognormal(3, 0.5, 100),
        lambda rng: 1 + rng.pareto(1.2, 100),
        lambda rng: alike(rng, 0.6, 100),
        lambda rng: np.round(rng.lognormal(0.5, 0.5, 100)),
    ],
    ids=["lognormal", "heavy tail", "autocorrelated", "whole seconds"],
)
def test_no_change_is_told_more_often_than_stated(made: Callable[[np.random.Generator], np.ndarray]) -> None:
    """1 % of looks at most; of 300, more than 8 would be seen once in 150 times if it were 1 %."""
    assert alarms(made, LEVEL / STEPS) <= 8


def test_control_a_level_that_is_not_divided_among_the_steps_alarms_too_often() -> None:
    """Stated for the looks of 60 steps: one in 20. The tests are on the safe side, so it takes many steps to see it."""
    steps, looks, stated = 60, 40, 0.05

    def made(rng: np.random.Generator) -> np.ndarray:
        return rng.lognormal(3, 0.5, 100)

    assert alarms(made, stated / steps, looks, steps) <= 5
    assert alarms(made, stated, looks, steps) > 5


def test_control_runs_taken_for_unrelated_alarm_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows_pkg.advisor.change_points.inflation", lambda *_: 1.0)
    assert alarms(lambda rng: alike(rng, 0.6, 100), LEVEL / STEPS) > 8


def test_a_change_is_found_with_its_place() -> None:
    rng = np.random.default_rng(2)
    found = inside = 0
    for _ in range(100):
        values = rng.lognormal(3, 0.3, 260)
        values[200:] *= 1.5
        told = of_times(values)
        found += len(told) == 1
        inside += any(split.first <= 200 <= split.last for split in told)
    assert found >= 95
    assert inside >= 90


def test_several_changes_are_found_in_order() -> None:
    rng = np.random.default_rng(3)
    values = rng.lognormal(3, 0.2, 300)
    values[100:200] *= 2
    values[200:] *= 0.7
    assert [round(split.at, -1) for split in of_times(values)] == [100, 200]


def test_small_steps_in_one_direction_count_together() -> None:
    rng = np.random.default_rng(4)
    values = rng.lognormal(3, 0.02, 400) * np.repeat([1.0, 1.1, 1.2, 1.3], 100)
    assert len(of_times(values)) == 1


def test_a_change_that_is_not_worth_telling_is_not_told() -> None:
    rng = np.random.default_rng(5)
    values = rng.lognormal(3, 0.02, 200)
    values[100:] *= 1.1
    whole = time_split(values)
    assert whole is not None
    assert whole.p_value < 1e-6
    assert of_times(values) == []


@pytest.mark.parametrize("period", [7, 24])
def test_what_comes_back_every_week_or_day_is_no_change(period: int) -> None:
    rng = np.random.default_rng(4)
    for end in range(period):
        slow = np.where((np.arange(400) + end) % period == 0, 60.0, 20.0)
        assert of_times(slow * rng.lognormal(0, 0.1, 400)) == []
        smooth = 40 + 20 * np.sin(2 * np.pi * (np.arange(400) + end) / period)
        assert of_times(smooth * rng.lognormal(0, 0.1, 400)) == []


@pytest.mark.parametrize("values", [[], [1.0], [3.0] * 50, [1.0, 2.0] * 5], ids=["none", "one", "all alike", "too few"])
def test_too_little_to_tell_is_no_change(values: list[float]) -> None:
    assert of_times(np.array(values)) == []


def of_failures(failed: np.ndarray, level: float = LEVEL / STEPS) -> list[Split]:
    return failure_splits(failed, level, differ_in_share)


def test_failures_that_become_more_frequent_are_found() -> None:
    rng = np.random.default_rng(6)
    found = inside = 0
    for _ in range(50):
        failed = (rng.random(300) < 0.02).astype(float)
        failed[200:] = rng.random(100) < 0.3
        told = of_failures(failed)
        found += bool(told)
        inside += any(split.first <= 200 <= split.last for split in told)
    assert found >= 45
    assert inside >= 42


def test_failures_that_end_are_found() -> None:
    failed = np.tile([0.0, 0.0, 1.0], 50)
    (told,) = of_failures(np.concatenate([failed, np.zeros(100)]))
    assert told.first <= 150 <= told.last + 1


@pytest.mark.parametrize("again", [0.05, 0.5, 0.8], ids=["alone", "in bursts", "in long bursts"])
def test_failures_at_a_constant_rate_are_no_change_more_often_than_stated(again: float) -> None:
    rng = np.random.default_rng(8)
    told = 0
    for _ in range(200):
        failed = np.zeros((STEPS, 200))
        for number, chances in enumerate(rng.random((200, STEPS))):
            last = failed[:, number - 1] if number else np.zeros(STEPS)
            failed[:, number] = chances < np.where(last > 0, again, 0.05 * (1 - again) / 0.95)
        told += any(of_failures(series) for series in failed)
    assert told <= 6


def test_likeness_of_neighbours_counts_against_a_split() -> None:
    rng = np.random.default_rng(9)
    assert inflation(rng.standard_normal(1000), 500) < 1.3
    assert inflation(np.log(alike(rng, 0.6, 1000)), 500) > 2.5
