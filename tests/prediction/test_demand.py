"""What will be present is counted right, forecast within what it says, and never by what had not happened yet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from workflows_pkg.prediction.demand.features import minute_features, same_time
from workflows_pkg.prediction.demand.hours import coming_hours
from workflows_pkg.prediction.demand.quantiles import learn
from workflows_pkg.prediction.demand.work import Work, by_minute, growth, hourly_peaks, read_work

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
START = MONDAY.timestamp()


def random_work(seed: int, hours: float = 5.0, count: int = 200) -> Work:
    rng = np.random.default_rng(seed)
    asked = START + rng.uniform(0, hours * 3600, count).round(rng.integers(0, 2))
    busy = rng.lognormal(5, 1, count).round()
    ended = np.where(rng.uniform(size=count) < 0.05, np.nan, asked + busy)
    return Work.of(asked, ended, busy)


def nightly(days: int, seed: int = 0) -> Work:
    """Every hour three runs of four minutes, at 06:00 twelve of 15 minutes, and on weekdays about 60 around 13:00."""
    rng = np.random.default_rng(seed)
    asked, busy = [], []
    for day in range(days):
        midnight = START + 86_400 * day
        for hour in range(24):
            asked += list(midnight + 3600 * hour + rng.uniform(0, 20, 3))
            busy += list(240 * rng.lognormal(0, 0.3, 3))
        asked += list(midnight + 6 * 3600 + rng.uniform(0, 30, 12))
        busy += list(900 * rng.lognormal(0, 0.4, 12))
        people = rng.poisson(60) if day % 7 < 5 else 0
        asked += list(midnight + rng.normal(13 * 3600, 2 * 3600, people))
        busy += list(300 * rng.lognormal(0, 0.8, people))
    return Work.of(asked, np.array(asked) + np.array(busy), busy)


@pytest.mark.parametrize("seed", range(5))
def test_minutes_are_counted_as_one_would_by_hand(seed: int):
    work = random_work(seed)
    minutes = by_minute(work, START + 30, START + 3 * 3600 + 59)
    assert (minutes.start, len(minutes.asked)) == (START, 180)
    for place in (0, 1, 17, 90, 179):
        begin = START + 60 * place
        instants = [begin, *(at for at in work.asked if begin <= at < begin + 60)]
        assert minutes.at_start[place] == work.present(begin)
        assert minutes.highest[place] == max(work.present(at) for at in instants)
        assert minutes.asked[place] == len(instants) - 1


def test_growth_is_the_most_that_comes_on_top_within_the_window():
    minutes = by_minute(random_work(7), START, START + 3 * 3600)
    grown = growth(minutes, 4)
    assert np.isnan(grown[-3:]).all()
    for place in (0, 50, 176):
        assert grown[place] == minutes.highest[place : place + 4].max() - minutes.at_start[place]


def test_hours_begin_where_hours_begin():
    minutes = by_minute(random_work(3), START + 25 * 60, START + 4.5 * 3600)
    start, peaks = hourly_peaks(minutes)
    assert (start, len(peaks)) == (START + 3600, 3)
    assert peaks[0] == minutes.highest[35:95].max()


def test_what_is_over_later_is_open_and_what_is_asked_later_is_not_there():
    known = random_work(1).before(START + 7200)
    assert known.asked.max() < START + 7200
    assert ((known.ended < START + 7200) | np.isinf(known.ended)).all()
    assert (np.isnan(known.busy) == np.isinf(known.ended)).all()


def test_runs_and_steps_are_read_with_what_is_still_open(
    daily: Callable[..., tuple[pd.DataFrame, pd.DataFrame]], holding: Callable[..., duckdb.DuckDBPyConnection]
):
    runs, attempts = daily(10)
    runs.loc[9, ["outcome", "ended_at", "run_time_s"]] = [None, pd.NaT, None]
    attempts.loc[attempts["run_id"] == "r009", "ended_at"] = pd.NaT
    con = holding(runs, attempts)
    work = read_work(con, "runs")
    assert np.isinf(work.ended[-1])
    assert np.isnan(work.busy[-1])
    first = runs.iloc[0]
    assert work.asked[0] == pytest.approx(first["created_at"].timestamp())
    assert work.busy[0] == pytest.approx(first["start_time_s"] + first["run_time_s"])
    steps = read_work(con, "steps")
    assert len(steps.asked) == len(attempts)
    assert np.isinf(steps.ended).sum() == 3


def test_a_run_that_will_not_end_holds_no_worker_for_ever(
    daily: Callable[..., tuple[pd.DataFrame, pd.DataFrame]], holding: Callable[..., duckdb.DuckDBPyConnection]
):
    """Deleted while it ran, or never launched. Control: the newest one, as open as it, is present."""
    runs, attempts = daily(10)
    runs.loc[[3, 9], ["outcome", "ended_at", "run_time_s"]] = [None, pd.NaT, None]
    work = read_work(holding(runs, attempts), "runs")
    assert len(work.asked) == 9
    assert work.present(runs["created_at"].max().timestamp() + 1) == 1


def test_only_the_days_before_the_moment_are_read_and_a_wrong_clock_makes_no_open_run_look_lost(
    daily: Callable[..., tuple[pd.DataFrame, pd.DataFrame]], holding: Callable[..., duckdb.DuckDBPyConnection]
):
    runs, attempts = daily(20)  # one in six hours
    runs.loc[19, ["outcome", "ended_at", "run_time_s"]] = [None, pd.NaT, None]
    now = runs["created_at"].max() + timedelta(minutes=5)
    runs.loc[0, ["created_at", "started_at", "ended_at"]] = [datetime(1970, 1, 2, tzinfo=UTC)] * 3
    runs.loc[1, ["created_at", "started_at", "ended_at"]] = [now + timedelta(days=30 * 365)] * 3
    con = holding(runs, attempts)
    for slots, each in (("runs", 1), ("steps", 3)):
        work = read_work(con, slots, now)
        assert len(work.asked) == 18 * each
        assert work.asked[0] > START
        assert work.present(now.timestamp()) == (1 if slots == "runs" else 0), "the one that is open"
        assert len(read_work(con, slots, now, days=1).asked) == 4 * each
    assert read_work(holding(runs[:0], attempts[:0]), "runs").asked.size == 0


def test_a_level_holds_where_counts_spread_more_than_poisson():
    """Control: the Poisson quantile of the true mean is too low for such counts."""
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 3, (12_000, 2))
    mean = np.exp(features[:, 0])
    counts = rng.negative_binomial(1.0, 1.0 / (1.0 + mean)).astype(float)
    learned = learn(features[:9000], counts[:9000])
    assert learned is not None
    high = learned.at(features[9000:], (0.95,))[:, 0]
    truth = counts[9000:]
    assert 0.93 <= (truth <= high).mean() <= 0.97
    large = mean[9000:] > 10
    assert 0.92 <= (truth <= high)[large].mean() <= 0.98
    assert (truth <= stats.poisson.ppf(0.95, mean[9000:])).mean() < 0.9


def test_of_rare_counts_no_more_is_forecast_than_there_ever_was():
    """Control: the estimator itself forecasts thousands where two came once or twice."""
    rng = np.random.default_rng(0)
    features, counts = rng.uniform(size=(20_000, 6)), np.zeros(20_000)
    counts[rng.choice(12_000, 10, replace=False)] = 2
    features[counts > 0, 0] = 0.5
    learned = learn(features, counts)
    assert learned is not None
    assert learned.estimator.predict(features).max() > 100
    assert learned.at(features, (0.5, 0.95)).max() <= 2


def test_nothing_is_learned_from_little_or_from_nothing():
    features = np.random.default_rng(0).uniform(size=(500, 2))
    assert learn(features[:50], np.ones(50)) is None
    assert learn(features, np.zeros(500)) is None


def test_quantiles_of_the_same_time_know_how_many_days_there_were():
    same = same_time(np.arange(0, 24 * 9.0), np.array([30, 24 * 8]), 24)
    assert same.quantile(0.5, "days").tolist() == [6.0, 24 * 4.0]
    assert np.isnan(same.quantile(0.5, "weeks")[0])


def test_hours_of_a_steady_week_are_told_and_three_weeks_are_needed():
    work = nightly(35)
    found = coming_hours(work, MONDAY + timedelta(days=35, hours=4), 6)
    assert found is not None
    assert [hour.start.hour for hour in found.hours] == [4, 5, 6, 7, 8, 9]
    assert found.hours[2].p95 == pytest.approx(15, abs=1)  # twelve at six, and the three of every hour
    assert found.hours[1].p95 <= 4
    assert found.loss[found.by] == min(found.loss.values())
    assert found.covered_share >= 0.9
    assert coming_hours(work, MONDAY + timedelta(days=20, hours=4), 6) is None
    assert coming_hours(Work.of([], [], []), MONDAY, 6) is None


def swapped_future(work: Work, moment: float) -> Work:
    """Ten times as much asks for workers from `moment` on, and what was present then goes on for a day."""
    later = work.asked >= moment
    asked = np.concatenate([work.asked[~later], *(work.asked[later] + shift for shift in range(10))])
    open_ = (work.ended >= moment) & ~later
    ended = np.concatenate([np.where(open_, work.ended + 86_400, work.ended)[~later], *[work.ended[later] + 3600] * 10])
    return Work.of(asked, ended, ended - asked)


def test_the_future_changes_nothing_of_what_is_said_of_the_hours():
    work, now = nightly(40), MONDAY + timedelta(days=35, hours=13, minutes=10)
    assert coming_hours(work, now, 24) == coming_hours(swapped_future(work, now.timestamp()), now, 24)
    # the control: what had happened before matters
    earlier = swapped_future(work, now.timestamp() - 86_400)
    assert coming_hours(work, now, 24) != coming_hours(earlier, now, 24)


def test_the_future_changes_no_feature_of_a_minute():
    work, moment = nightly(12), START + 86_400 * 9.5
    row = int((moment - START) // 60)

    def features(of: Work) -> np.ndarray:
        minutes = by_minute(of, START, START + 86_400 * 12)
        return minute_features(minutes, growth(minutes, 6), np.array([row - 700, row, row + 1]))

    before, after = features(work), features(swapped_future(work, moment))
    np.testing.assert_array_equal(before[:2], after[:2])
    assert (before[2] != after[2]).any()  # the control: the next minute sees what came
