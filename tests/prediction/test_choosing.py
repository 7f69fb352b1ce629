"""The predictor served for a key changes where another is better, soon and once, and stays where none is."""

from __future__ import annotations

import numpy as np
import pytest

from workflows_pkg.prediction.live.choosing import (
    LEAST,
    LOOKED_EVERY,
    WINDOW,
    Candidates,
    Switch,
    carried,
    choose,
    others_before,
)


def _candidates(losses: np.ndarray, **more: object) -> Candidates:
    places = np.arange(len(losses), dtype=float)
    given = {"faults": None, "runs": [f"r{place}" for place in range(len(losses))], "submitted": places, "finished": places + 0.5}
    return Candidates(("usual", "other"), losses, **(given | more))  # type: ignore[arg-type]


def _alike(seed: int, count: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.lognormal(0, 1, (count, 1)) + rng.normal(0, 0.3, (count, 2))


def test_where_both_are_alike_fewer_than_one_change_comes_in_four_thousand_runs() -> None:
    changes = [len(choose(_candidates(_alike(seed))).switches) for seed in range(60)]
    assert sum(changes) <= 6, "24,000 runs"
    assert max(changes) <= 1, "and it does not go back and forth"


def test_after_a_shift_the_better_one_takes_over_within_a_window_and_stays() -> None:
    for seed in range(10):
        losses = _alike(seed)
        losses[200:, 0] += 0.5
        found = choose(_candidates(losses))
        assert found.served == "other"
        (change,) = [one for one in found.switches if one.runs >= 200] or [None]
        assert change is None or 200 + LOOKED_EVERY <= change.runs <= 200 + WINDOW
        back = losses.copy()
        back[200:, 0] -= 1.0
        assert choose(_candidates(back)).served == "usual", "control: the other way round"


def test_one_that_took_over_is_withdrawn_when_it_gets_worse() -> None:
    losses = _alike(3, 600)
    losses[:300, 0] += 0.5
    losses[300:, 1] += 0.5
    found = choose(_candidates(losses))
    assert [(one.before, one.after) for one in found.switches] == [("usual", "other"), ("other", "usual")]
    assert set(found.by_row[:LEAST]) == {0}
    assert found.by_row[299] == 1
    assert found.by_row[-1] == 0


def test_what_was_served_at_a_submission_rests_on_what_had_ended_by_then() -> None:
    losses = _alike(1)
    losses[:, 0] += 2.0
    at_once, late = choose(_candidates(losses)), choose(_candidates(losses, finished=np.arange(400.0) + 100.5))
    assert int(np.argmax(at_once.by_row)) == LEAST
    assert int(np.argmax(late.by_row)) == LEAST + 100


def test_attempts_of_one_run_count_as_one() -> None:
    losses = np.repeat(_alike(5, 20), 20, axis=0)
    losses[:, 0] += 2.0
    runs = [f"r{place // 20}" for place in range(400)]
    assert choose(_candidates(losses, runs=runs)).served == "usual", "twenty runs are too few"
    assert choose(_candidates(losses)).served == "other", "control: as runs of their own"


def test_one_that_kills_does_not_take_over_however_cheap_and_has_to_go_where_it_kills_too_often() -> None:
    rng = np.random.default_rng(0)
    losses = _alike(2)
    losses[:, 0] += 1.0
    kills = np.column_stack([np.zeros(400), rng.uniform(size=400) < 0.15])
    assert choose(_candidates(losses, faults=kills)).served == "usual"
    assert choose(_candidates(losses, faults=np.zeros((400, 2)))).served == "other", "control: without kills"
    kills[:250] = 0
    found = choose(_candidates(losses, faults=kills))
    assert [(one.after, one.faults) for one in found.switches] == [("other", False), ("usual", True)]


def test_where_nothing_has_failed_nobody_takes_over_for_saying_least() -> None:
    losses = np.tile([0.01, 0.001], (400, 1)) + _alike(0) * 1e-6
    assert choose(_candidates(losses, failed=np.zeros(400))).served == "usual"
    assert choose(_candidates(losses, failed=(np.arange(400) % 10 == 0).astype(float))).served == "other", "control"


@pytest.mark.parametrize("count", [0, 1, LEAST - 1])
def test_with_few_outcomes_the_usual_one_is_served(count: int) -> None:
    found = choose(_candidates(_alike(0, count)))
    assert (found.served, found.switches, len(found.by_row)) == ("usual", (), count)


def test_a_victory_that_a_card_tells_of_stands_until_it_is_beaten() -> None:
    before = Switch(-1.0, 40, "usual", "other", False)
    kept = choose(_candidates(_alike(0)), before)
    assert (kept.served, kept.switches, set(kept.by_row)) == ("other", (before,), {1})
    assert choose(_candidates(_alike(0))).served == "usual", "control: without the card"
    worse = _alike(0)
    worse[200:, 1] += 1.0
    assert [one.after for one in choose(_candidates(worse), before).switches] == ["other", "usual"], "control: beaten"
    assert choose(_candidates(_alike(0, 0)), before).served == "other", "also where nothing is replayed"
    gone = Switch(-1.0, 40, "usual", "one of an earlier version", False)
    assert choose(_candidates(_alike(0)), gone).served == "usual"
    from_gone = choose(_candidates(_alike(0)), Switch(-1.0, 40, "one of an earlier version", "other", False))
    assert set(from_gone.at(np.arange(3.0), ("usual", "other"))) == {0}


@pytest.mark.parametrize("wrong", [{"at": None}, {"at": "yesterday"}, {"at": float("nan")}, {"after": ["other"]}, {"more": 1}])
def test_a_card_that_tells_it_in_another_way_tells_nothing(wrong: dict[str, object]) -> None:
    """Else no training would come to write the next one."""
    told = {"at": 5.0, "runs": 40, "before": "usual", "after": "other", "faults": False}
    assert carried({"choices": {"q": {"since": {"etl": told}}}}, "q")["etl"].after == "other", "control"
    assert carried({"choices": {"q": {"since": {"etl": told | wrong}}}}, "q") == {}


@pytest.mark.parametrize("choices", [None, [], {"q": None}, {"q": {}}, {"q": {"others": 3, "since": 3}}])
def test_a_card_without_choices_tells_nothing(choices: object) -> None:
    assert (carried({"choices": choices}, "q"), others_before({"choices": choices}, "q")) == ({}, None)
    assert others_before({"choices": {"q": {"others": {"etl": "other"}}}}, "q") == {"etl": "other"}, "control"


def test_a_victory_among_the_runs_that_are_replayed_is_the_same_with_the_card_and_without() -> None:
    losses = _alike(4)
    losses[150:, 0] += 0.5
    first = choose(_candidates(losses))
    again = choose(_candidates(losses), first.switches[-1])
    assert first.switches == again.switches != ()
    assert np.array_equal(first.by_row, again.by_row)


def test_what_is_served_at_any_moment_can_be_told_from_the_changes() -> None:
    losses = _alike(3, 600)
    losses[:300, 0] += 0.5
    losses[300:, 1] += 0.5
    found = choose(_candidates(losses))
    assert np.array_equal(found.at(np.arange(600.0), ("usual", "other")), found.by_row)
    assert len(set(found.by_row)) == 2, "control"
