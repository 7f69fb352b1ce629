"""The functions of the example workflows, on real days and months."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from assets.data import deliver_month
from assets.flights import (
    TRAINING_DAYS,
    delay_features,
    evaluate_model,
    render_report,
    report_figures,
    score_flights,
    summarize_day,
    train_delay_model,
)


@pytest.fixture(scope="module")
def features(data: Path, weather: pd.DataFrame) -> pd.DataFrame:
    return delay_features(pd.read_csv(deliver_month(data, "2013-03")), weather)


def test_a_day_is_summarized_by_its_departures() -> None:
    clean = pd.DataFrame({"origin": ["EWR", "EWR", "JFK"], "dep_delay": [-2.0, 15.0, 14.9], "precip": [0.0, 0.1, np.nan]})
    assert summarize_day(clean) == {
        "departures": 3,
        "late_share": 0.3333,
        "median_delay_minutes": 14.9,
        "worst_origin": "EWR",
        "rainy_hours_share": 0.3333,
    }


def test_every_flight_that_left_has_complete_features(data: Path, features: pd.DataFrame) -> None:
    flights = pd.read_parquet(data / "flights.parquet", filters=[("month_start", "==", "2013-03-01")])
    assert len(features) == int(flights["dep_delay"].notna().sum())
    assert not features.isna().any().any()


def test_features_do_not_hold_what_is_known_only_later(features: pd.DataFrame) -> None:
    assert {"dep_delay", "arr_delay", "dep_time", "air_time"}.isdisjoint(features.columns)


def test_the_model_is_plain_json_and_better_than_a_constant(features: pd.DataFrame) -> None:
    model = json.loads(json.dumps(train_delay_model(features)))
    scored = score_flights(features, model)
    found = evaluate_model(scored)
    assert found["auc"] > 0.65
    assert found["brier"] < found["brier_of_constant"]
    assert scored["late_probability"].between(0, 1).all()
    assert pd.to_datetime(scored["date"]).dt.day.min() == TRAINING_DAYS + 1


def test_control_a_model_of_shuffled_labels_finds_nothing(features: pd.DataFrame) -> None:
    """The figures above are worth something only if a model that cannot know anything shows none."""
    shuffled = features.assign(late=features["late"].sample(frac=1, random_state=0).to_numpy())
    found = evaluate_model(score_flights(shuffled, train_delay_model(shuffled)))
    assert 0.45 < found["auc"] < 0.55


def test_a_carrier_that_was_not_there_in_training_is_scored(features: pd.DataFrame) -> None:
    model = train_delay_model(features[features["carrier"] != "HA"])
    assert score_flights(features, model)["late_probability"].notna().all()


def test_report_figures_weigh_pairs(data: Path) -> None:
    departures = pd.DataFrame({"dep_delay": [20.0, 0.0, np.nan, 16.0]})
    together = pd.DataFrame(
        {"hours_between": [0, 1, 2], "pairs": [1, 3, 100], "delay_correlation": [0.8, 0.4, -1.0]},
    )
    figures = report_figures(departures, together)
    assert figures == {
        "departures": 3,
        "late_share": 0.6667,
        "cancelled_share": 0.25,
        "late_pairs": 104,
        "correlation_within_the_hour": 0.5,
    }
    page = render_report(figures, SimpleNamespace(key="2013-07-01")).decode()
    assert page.startswith("# Late departures from New York, 2013-07\n")
    assert "- late share: 0.6667" in page
