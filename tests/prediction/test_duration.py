"""The predictor of durations believes whom it should, borrows where it must, and never answers wildly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from workflows_pkg.prediction.duration.fitted import Forest
from workflows_pkg.prediction.duration.mixing import Mixer
from workflows_pkg.prediction.duration.predictor import BASES, DurationPredictor
from workflows_pkg.prediction.duration.window import Line, Window
from workflows_pkg.prediction.predictor import Finished, Submitted

ANYWHERE = {"workflow": "etl", "step": "load", "run_id": "next", "at": 1e6}


def _replayed(attempts: Iterable[tuple[Submitted, float]]) -> tuple[DurationPredictor, np.ndarray, np.ndarray]:
    """Attempts one after the other, each asked about before it is seen; the predictor, its answers and the truths."""
    predictor = DurationPredictor()
    answers, truths = [], []
    for one, value in attempts:
        answers.append(predictor.predict([one])[0])
        truths.append(value)
        predictor.observe([Finished(one, one.at + 0.5, value)])
    return predictor, np.array(answers), np.array(truths)


def _asked(predictor: DurationPredictor, **known: object) -> np.ndarray:
    return predictor.predict([Submitted(-1, **{**ANYWHERE, **known})])[0]  # type: ignore[arg-type]


def test_a_size_is_believed_where_it_matters_and_beyond_all_seen_in_proportion_at_most():
    rng = np.random.default_rng(1)
    sizes = rng.uniform(1e6, 1e8, 60)
    predictor, answers, truths = _replayed(
        (Submitted(n, "etl", "load", f"r{n}", float(n), size=float(size)), float(size / 1e6 * rng.lognormal(0, 0.03)))
        for n, size in enumerate(sizes)
    )
    late = slice(20, None)
    assert np.abs(answers[late, 1] - truths[late]).sum() / truths[late].sum() < 0.06
    assert _asked(predictor, size=5e7)[1] == pytest.approx(50, rel=0.1)
    assert _asked(predictor, size=1e9)[1] == pytest.approx(1000, rel=0.3), "ten times beyond all seen"
    for size in (0.0, 1e12):
        low, middle, high = _asked(predictor, size=size)[:3]
        assert truths.min() / 3 < middle < 2.1 * truths.max() * max(1.0, size / sizes.max())
        assert low <= middle <= high


def _settings(count: int, told: bool) -> Iterator[tuple[Submitted, float]]:
    """Jobs with a size, workers and a method, none of which comes twice in the same combination; `told`: whether they are known before."""
    rng = np.random.default_rng(7)
    for n in range(count):
        size, workers, method = float(rng.uniform(1e6, 1e8)), float(rng.integers(2, 40)), str(rng.choice(["exact", "quick"]))
        took = size / 1e5 / workers * (8 if method == "exact" else 1) * float(rng.lognormal(0, 0.05))
        known = {"figures": {"workers": workers}, "words": {"method": method}, "size": size} if told else {}
        yield Submitted(n, "etl", "fit", f"r{n}", float(n), **known), took  # type: ignore[arg-type]


def test_several_figures_and_words_are_taken_together():
    def error(told: bool) -> float:
        _, answers, truths = _replayed(_settings(250, told))
        return float(np.abs(answers[100:, 1] - truths[100:]).sum() / truths[100:].sum())

    assert error(told=True) < 0.25
    assert error(told=False) > 0.5, "control: without them there is nothing to go by"


def test_a_fitted_forest_answers_as_scikit_learn_does():
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(300, 4))
    logs = rows[:, 0] * rows[:, 1] + rng.normal(size=300) * 0.1
    asked = rng.normal(size=(20, 4))
    forest = RandomForestRegressor(40, max_features=0.6, random_state=0).fit(rows, logs)
    assert [Forest(rows, logs).at(row) for row in asked] == pytest.approx(forest.predict(asked).tolist())


def test_a_figure_that_nobody_told_before_changes_nothing_but_its_own_answer():
    predictor, _, _ = _replayed(_settings(60, told=True))
    odd = _asked(predictor, step="fit", size=5e7, figures={"elsewhere": 3.0}, words={"method": "never seen"})
    assert np.isfinite(odd[:3]).all()
    assert odd[0] <= odd[1] <= odd[2]


def test_a_tag_that_was_slow_elsewhere_is_expected_to_be_slow_here():
    rng = np.random.default_rng(2)
    pace = {f"sample{n}": float(rng.lognormal(0, 0.7)) for n in range(40)}

    def attempts():
        for n, (tag, factor) in enumerate(pace.items()):
            for step, usual in (("align", 100.0), ("sort", 20.0)):
                at = 2.0 * n + (step == "sort")
                yield (
                    Submitted(2 * n + (step == "sort"), "seq", step, "only", at, tag),
                    usual * factor * float(rng.lognormal(0, 0.03)),
                )

    _, answers, truths = _replayed(attempts())
    sort = np.arange(len(truths)) % 2 == 1
    late = sort & (np.arange(len(truths)) > 40)
    error = np.abs(answers[late, 1] - truths[late]).sum() / truths[late].sum()
    spread = np.abs(np.median(truths[sort]) - truths[late]).sum() / truths[late].sum()
    assert error < 0.4 * spread


def test_a_change_of_pace_is_followed():
    rng = np.random.default_rng(3)
    values = [float((10 if n < 60 else 30) * rng.lognormal(0, 0.05)) for n in range(120)]
    predictor, answers, _ = _replayed((Submitted(n, "etl", "load", f"r{n}", float(n)), value) for n, value in enumerate(values))
    assert answers[75, 1] == pytest.approx(30, rel=0.15)
    assert _asked(predictor)[1] == pytest.approx(30, rel=0.1)


def test_of_a_step_never_seen_the_same_kind_answers_then_the_workflow():
    predictor = DurationPredictor()
    for n in range(10):
        predictor.observe([Finished(Submitted(n, "etl", "load", f"r{n}", float(n), kind="sql"), n + 0.5, 10.0 + 0.1 * n)])
        predictor.observe([Finished(Submitted(n + 10, "etl", "train", f"r{n}", float(n), kind="python"), n + 0.5, 600.0 + n)])
    same = _asked(predictor, workflow="other", step="read", kind="sql")
    assert (same[1], BASES[int(same[4])], same[3]) == (pytest.approx(10.45, rel=0.01), "borrowed_from_same_kind", 0)
    assert BASES[int(_asked(predictor, step="new")[4])] == "borrowed_from_workflow"
    assert BASES[int(_asked(predictor, workflow="new", step="new")[4])] == "borrowed_from_everything"
    assert np.isnan(DurationPredictor().predict([Submitted(-1, **ANYWHERE)])[0, :3]).all()


def test_nine_of_ten_values_of_pure_noise_lie_inside():
    rng = np.random.default_rng(4)
    _, answers, truths = _replayed(
        (Submitted(n, "etl", "load", f"r{n}", float(n)), float(rng.lognormal(3, 0.4))) for n in range(600)
    )
    late = slice(100, None)
    assert 0.86 <= np.mean((answers[late, 0] <= truths[late]) & (truths[late] <= answers[late, 2])) <= 0.94
    assert np.median(np.log(answers[late, 2] / answers[late, 0])) == pytest.approx(2 * 1.645 * 0.4, rel=0.2)


def test_attempts_that_nobody_asked_about_lengthen_the_history_and_judge_nobody():
    predictor = DurationPredictor()
    predictor.observe([Finished(Submitted(n, "etl", "load", f"r{n}", float(n)), n + 0.5, 10.0 + n % 3) for n in range(50)])
    answer = _asked(predictor)
    assert answer[3] == 50
    assert 9 <= answer[0] <= answer[1] <= answer[2] <= 13
    assert np.array_equal(answer, _asked(predictor)), "asking changes nothing"


def test_an_attempt_that_failed_teaches_no_duration():
    predictor = DurationPredictor()
    one = Submitted(0, "etl", "load", "r", 0.0)
    predictor.predict([one])
    predictor.observe([Finished(one, 1.0, math.nan, run_time_s=1.0, failed=True)])
    assert np.isnan(_asked(predictor)[1])


def test_the_better_expert_gains_weight_and_one_who_says_nothing_has_none():
    mixer = Mixer([[0.0, 0.0, 0.0]] * 5)
    before = mixer.weights(["k"], np.array([9]), np.array([[1.0, 1.0, np.nan]]))[0]
    assert before.tolist() == [0.5, 0.5, 0.0]
    for _ in range(20):
        mixer.learn("k", 9, [1.0, 2.0, math.nan], 1.0)
    after = mixer.weights(["k", "new"], np.array([9, 9]), np.array([[1.0, 1.0, np.nan]] * 2))
    assert after[0, 0] > 0.95
    assert 0.5 < after[1, 0] < after[0, 0], "a step without a past follows the experience of all"


def test_a_window_keeps_the_newest_in_both_orders():
    window = Window(3)
    for value in (5.0, 1.0, 9.0, 2.0):
        window.add(value)
    assert (list(window.newest), list(window.ordered), window.quantile(0.5)) == ([1.0, 9.0, 2.0], [1.0, 2.0, 9.0], 2.0)


def test_a_line_is_least_squares():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 40))
    line = Line()
    for one, other in zip(x, y, strict=True):
        line.add(one, other)
    assert line.at(2.0) == pytest.approx(np.polyval(np.polyfit(x, y, 1), 2.0))


def test_zeros_of_a_clock_of_whole_seconds_stand_for_half_a_second_also_beside_a_stray_fraction():
    """A zero taken for a millisecond would make the logarithms of a step vary by three orders of magnitude."""
    rng = np.random.default_rng(11)
    values = [float(rng.integers(0, 2)) for _ in range(200)]

    def low(fractions: float) -> float:
        shown = [value + 0.004 if rng.uniform() < fractions else value for value in values]
        predictor, _, _ = _replayed((Submitted(n, "etl", "load", f"r{n}", float(n)), value) for n, value in enumerate(shown))
        return float(_asked(predictor)[0])

    assert low(fractions=0.03) > 0.1
    assert low(fractions=0.5) < 0.1, "control: a clock that tells fractions means its zeros"
