"""A setting that was not tried before is told from those that were; a repeated one is not mistaken for a new one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from workflows_pkg.prediction.duration.mixing import Mixer
from workflows_pkg.prediction.duration.opinions import EXPERTS, PRECEDENTS, precedent
from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.duration.settings import Settings
from workflows_pkg.prediction.predictor import Finished, Submitted

REPEATS = 5


def _submitted(number: int, workers: int, size: float, method: str) -> Submitted:
    return Submitted(
        number,
        "etl",
        "fit",
        f"r{number}",
        float(number),
        size=size,
        figures={"workers": float(workers)},
        words={"method": method},
    )


def _sweep(seed: int = 0) -> Iterator[tuple[Submitted, float]]:
    """Each setting five times in a row, in the order in which somebody tries them; the noise is 2 %."""
    rng = np.random.default_rng(seed)
    number = 0
    for workers in (2, 4, 6, 8, 10):
        for method in ("exact", "quick"):
            for size in (1e8, 2e8, 3e8, 4e8, 5e8):
                took = 10 + size / 1e6 / workers * (4 if method == "exact" else 1)
                for _ in range(REPEATS):
                    yield _submitted(number, workers, size, method), took * float(rng.lognormal(0, 0.02))
                    number += 1


def _errors() -> np.ndarray:
    predictor = DurationPredictor()
    errors = []
    for one, took in _sweep():
        errors.append(abs(predictor.predict([one])[0, 1] - took) / took)
        predictor.observe([Finished(one, one.at + 0.5, took)])
    return np.array(errors).reshape(-1, REPEATS)[15:]


def test_new_settings_of_a_sweep_are_forecast_as_well_as_repeats_nearly(monkeypatch: pytest.MonkeyPatch):
    found = _errors()
    assert np.median(found[:, 0]) < 0.06, "the first of each setting"
    assert np.median(found[:, 1:]) < 0.03, "its repeats"
    monkeypatch.setattr(Settings, "opinion", lambda *_: math.nan)
    assert np.median(_errors()[:, 0]) > 0.08, "control: without the process"


def test_a_precedent_is_told_by_who_has_a_basis():
    said = dict.fromkeys(EXPERTS, 0.0)
    kinds = [
        precedent([math.nan if name in missing else value for name, value in said.items()])
        for missing in (("same_figures", "same_size", "same_tag"), ("same_figures", "same_size"), ("same_tag",))
    ]
    assert kinds == [0, 1, 2]
    assert max(kinds) < PRECEDENTS


def test_losses_at_another_precedent_count_less_the_more_there_are_at_the_own():
    mixer = Mixer([[0.0, 0.0]] * 5, PRECEDENTS)
    opinions, known = np.array([[1.0, 1.0]]), np.array([9])

    def trusted(precedent: int) -> float:
        return float(mixer.weights(["k"], known, opinions, np.array([precedent]))[0, 0])

    for _ in range(30):
        mixer.learn("k", 9, [1.0, 2.0], 1.0, precedent=2)
    assert trusted(2) > 0.9
    assert trusted(0) > 0.6, "nothing of its own yet: what is known elsewhere is the best guess"
    for _ in range(10):
        mixer.learn("k", 9, [2.0, 1.0], 1.0, precedent=0)
    assert trusted(0) < 0.1
    assert trusted(2) > 0.9
    alike = Mixer([[0.0, 0.0]] * 5)
    for losses in [[1.0, 2.0]] * 30 + [[2.0, 1.0]] * 10:
        alike.learn("k", 9, losses, 1.0)
    assert alike.weights(["k"], known, opinions)[0, 0] > 0.5, "control: the many repeats outvote the few new ones"


def test_the_process_interpolates_between_settings_and_says_nothing_of_one_that_was_tried():
    settings = Settings(_submitted(0, 2, 1e8, "exact"))
    for number, (one, took) in enumerate(_sweep()):
        if number % REPEATS == 0:
            settings.add(one, math.log(took))
    expected = 10 + 250 / 6 * 4
    assert settings.opinion(_submitted(-1, 6, 2.5e8, "exact")) == pytest.approx(math.log(expected), abs=0.1)
    assert math.isnan(settings.opinion(_submitted(-1, 6, 3e8, "exact")))


@pytest.mark.parametrize("took", [0.0, 1.0])
def test_settings_that_do_not_differ_and_values_that_do_not_vary_are_no_error(took: float):
    settings = Settings(Submitted(0, "etl", "fit", "r", 0.0, figures={"workers": math.nan}))
    for number in range(40):
        one = Submitted(number, "etl", "fit", "r", 0.0, size=float(number), figures={"workers": math.nan})
        settings.add(one, took)
    assert settings.opinion(Submitted(-1, "etl", "fit", "r", 0.0, size=100.5)) == pytest.approx(took, abs=0.05)
    same = Settings(Submitted(0, "etl", "fit", "r", 0.0, words={"day": "mon"}))
    for number in range(40):
        same.add(Submitted(number, "etl", "fit", "r", 0.0, words={"day": f"day {number}"}), took)
    assert math.isnan(same.opinion(Submitted(-1, "etl", "fit", "r", 0.0, words={"day": "another"})))
