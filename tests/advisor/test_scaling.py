"""The replay pays and waits as one would by hand; a forecast beats reactive scaling where there is something to forecast, only there."""

from __future__ import annotations

import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workflows_pkg.advisor.scaling.fleet import HOLD_S, Policy, fixed, perfect, replay
from workflows_pkg.advisor.scaling.plan import LEAST_DAYS, make_plan, workers_now
from workflows_pkg.advisor.scaling.ways import Way, all_ways, spares, train
from workflows_pkg.advisor.scaling.weeks import REACTIVE_WAY, choose, ours_and_others, replay_weeks
from workflows_pkg.prediction.demand.work import Work

demand: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "prediction" / "test_demand.py"))
nightly, swapped_future = demand["nightly"], demand["swapped_future"]
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
START = MONDAY.timestamp()
REACTIVE = Policy("reactive", hold_s=HOLD_S)


def work_of(*pairs: tuple[float, float]) -> Work:
    asked = np.array([START + at for at, _ in pairs])
    busy = np.array([took for _, took in pairs], dtype=float)
    return Work.of(asked, asked + busy, busy)


def by_chance(days: int, seed: int = 0, an_hour: float = 4.0) -> Work:
    """Runs that come at any time, alike at all hours."""
    rng = np.random.default_rng(seed)
    asked = START + rng.uniform(0, 86_400 * days, rng.poisson(24 * an_hour * days))
    busy = rng.lognormal(5.5, 0.8, len(asked))
    return Work.of(asked, asked + busy, busy)


def test_a_run_waits_for_its_worker_which_is_paid_from_asking_to_going():
    # asked at 10 s, seen at 15 s, there at 135 s, done at 735 s; kept for 300 s after it was last needed
    found = replay(work_of((10, 600)), REACTIVE, 120, START, START + 3600)
    assert found.waits.tolist() == [125.0]
    assert found.worker_hours == pytest.approx((735 + 300 - 15) / 3600, abs=31 / 3600)


def test_workers_come_as_a_horizontal_pod_autoscaler_lets_them():
    # none to one, one to five, five to ten, ten to twelve: a look apart each
    found = replay(work_of(*[(0, 3000)] * 12), REACTIVE, 60, START, START + 3600)
    assert sorted(found.waits.tolist()) == [60.0] + [75.0] * 4 + [90.0] * 5 + [105.0] * 2


def test_enough_fixed_workers_let_nothing_wait_and_cost_what_they_cost():
    found = replay(work_of((0, 60), (0, 60), (30, 60)), fixed(3), 120, START, START + 7200)
    assert found.waits.tolist() == [0.0, 0.0, 0.0]
    assert found.worker_hours == pytest.approx(6.0)


def test_too_few_fixed_workers_serve_in_the_order_of_asking():
    found = replay(work_of((0, 100), (10, 100), (20, 100)), fixed(1), 120, START, START + 3600)
    assert found.waits.tolist() == [0.0, 90.0, 180.0]


def test_perfect_knowledge_keeps_a_worker_only_where_another_would_cost_more():
    assert perfect(work_of((0, 100), (150, 100)), 120, START, START + 3600).worker_hours == pytest.approx((120 + 250) / 3600)
    assert perfect(work_of((0, 100), (500, 100)), 120, START, START + 3600).worker_hours == pytest.approx((240 + 200) / 3600)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_pays_less_than_perfect_knowledge(seed: int):
    work = by_chance(2, seed)
    least = perfect(work, 120, START, START + 2 * 86_400).worker_hours
    ways = [Policy("none", hold_s=hold) for hold in (0.0, 300.0, 1800.0)]
    ways += [Policy("spare", floor=lambda minute, present: present + 2.0), fixed(6)]
    # a look lasts 15 s, which is what a way may seem to save on each run
    slack = 15 * len(work.asked) / 3600
    assert all(replay(work, way, 120, START, START + 2 * 86_400).worker_hours >= least - slack for way in ways)


@pytest.fixture(scope="module")
def regular() -> list[Any]:
    return replay_weeks(nightly(42), 120, (MONDAY + timedelta(days=42)).timestamp(), 6)


def test_a_forecast_beats_reactive_scaling_in_cost_and_wait_where_runs_come_by_the_clock(regular: list[Any]):
    ours, reactive, *others = ours_and_others(regular, None)
    assert ours.worker_hours < reactive.worker_hours
    assert ours.wait_mean_s < 0.4 * reactive.wait_mean_s
    by_name = {one.name: one for one in others}
    assert by_name["perfect knowledge"].worker_hours < ours.worker_hours
    assert len(ours.waits) == len(reactive.waits) == len(by_name["perfect knowledge"].waits)


def test_a_shorter_wait_can_be_asked_for_and_costs_more(regular: list[Any]):
    ours, reactive, *_ = ours_and_others(regular, 10)
    cheaper = ours_and_others(regular, 60)[0]
    assert ours.wait_mean_s < 15
    assert ours.worker_hours > cheaper.worker_hours
    # a minute is allowed, less than reactive scaling needs, and a fifth is saved
    assert cheaper.wait_mean_s < 60 < reactive.wait_mean_s
    assert cheaper.worker_hours < 0.8 * reactive.worker_hours


def test_where_nothing_can_be_forecast_it_is_about_as_good_as_reactive_scaling():
    weeks = replay_weeks(by_chance(42), 120, (MONDAY + timedelta(days=42)).timestamp(), 5)
    ours, reactive, *_ = ours_and_others(weeks, None)
    assert ours.worker_hours <= 1.03 * reactive.worker_hours
    assert ours.wait_mean_s <= 1.1 * reactive.wait_mean_s


def test_a_weeks_way_is_chosen_by_the_weeks_before_it(regular: list[Any]):
    chosen = ours_and_others(regular[:3], None)[0]
    way = choose(regular[:2], None)
    assert chosen.worker_hours == regular[2].ways[way].worker_hours


def test_the_future_changes_no_idle_worker():
    work, moment = nightly(42), START + 86_400 * 30.55
    begin, end = START + 86_400 * 28, START + 86_400 * 32
    ways = all_ways(120)

    def asked_for(of: Work) -> dict[Way, np.ndarray]:
        return dict(spares(of, ways, train(of, ways, begin), begin, end))

    before, after = asked_for(work), asked_for(swapped_future(work, moment))
    until = int((moment - begin) // 60) + 1
    assert {way.kind for way in before} == {"held", "always", "rule", "learned"}
    for way, spare in before.items():
        np.testing.assert_array_equal(spare[:until], after[way][:until])
    # the control: afterwards it does change, and so it does when more is known at learning
    assert any((spare[until:] != after[way][until:]).any() for way, spare in before.items())


def test_workers_are_there_before_the_clock_strikes_and_go_when_they_are_done():
    work, now = nightly(42), MONDAY + timedelta(days=38, hours=5, minutes=30)
    plan = make_plan(work, now, 120, None)
    assert plan.why_reactive == ""
    assert plan.hours is not None
    assert plan.replayed[0].name == "ours"

    def at(hour: int, minute: int) -> tuple[int, int]:
        found = workers_now(plan, work, now.replace(hour=hour, minute=minute, second=30))
        return found.workers, found.present

    assert at(5, 45) == (0, 0)
    workers, present = at(5, 58)
    assert (workers >= 13, present) == (True, 0)
    workers, present = at(6, 55)
    assert workers <= present + 3


def test_without_enough_history_it_says_so_and_scales_as_it_would_without_forecast():
    work, now = nightly(42), MONDAY + timedelta(days=LEAST_DAYS - 1, hours=6, minutes=40)
    plan = make_plan(work, now, 120, None)
    assert (plan.way, plan.hours, plan.replayed) == (REACTIVE_WAY, None, ())
    assert plan.why_reactive == "20.3 days of history are known, and 21 are needed"
    minutes = [now - timedelta(seconds=back) for back in range(0, 300, 5)]
    assert workers_now(plan, work, now).workers == max(work.before(now.timestamp()).present(at.timestamp()) for at in minutes)
    nothing = make_plan(Work.of([], [], []), now, 120, None)
    assert nothing.why_reactive == "nothing has asked for a worker yet"
    assert workers_now(nothing, Work.of([], [], []), now).known_until is None
