"""What do the `python` steps of the example workflows compute? Summaries, features, a delay model and report figures.

A departure is late when it leaves 15 minutes or more after schedule, as the US Department of Transportation counts it.
Every function takes and returns tables, JSON values or bytes, so each can be called and tested without an orchestrator.
The model travels as JSON numbers, never as a pickle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

LATE_MINUTES = 15.0
NUMERIC_FEATURES = ("sched_hour", "weekday", "distance", "temp", "wind_speed", "precip", "visib")
TRAINING_DAYS = 21
"""Days of a month, from its first, that the model learns from; the rest of the month shows how good it is."""


def summarize_day(clean: pd.DataFrame) -> dict[str, Any]:
    """Figures of a day's departures: count, share late, median delay in minutes, and the airport with the largest share late."""
    late = clean["dep_delay"] >= LATE_MINUTES
    by_origin = late.groupby(clean["origin"]).mean()
    return {
        "departures": len(clean),
        "late_share": round(float(late.mean()), 4),
        "median_delay_minutes": float(clean["dep_delay"].median()),
        "worst_origin": str(by_origin.idxmax()),
        "rainy_hours_share": round(float((clean["precip"].fillna(0) > 0).mean()), 4),
    }


def delay_features(arrivals: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """One row per flight that left: `NUMERIC_FEATURES`, carrier and origin, the scheduled hour's weather, and `late` (0 or 1).

    Only what is known before departure is a feature. Missing weather is filled with the month's median at that airport, and
    with 0 where an airport has none at all.
    """
    flights = arrivals[arrivals["dep_delay"].notna()].copy()
    flights["sched_hour"] = flights["hour"].astype(float)
    flights["weekday"] = pd.to_datetime(flights["date"]).dt.day_of_week.astype(float)
    flights["late"] = (flights["dep_delay"] >= LATE_MINUTES).astype(int)
    flights["date"] = pd.to_datetime(flights["date"]).dt.strftime("%Y-%m-%d")
    hour = ["origin", "date", "hour"]
    hourly = weather[[*hour, "temp", "wind_speed", "precip", "visib"]].drop_duplicates(hour)
    joined = flights.merge(hourly, on=hour, how="left")
    for column in ("temp", "wind_speed", "precip", "visib"):
        typical = joined.groupby("origin")[column].transform("median")
        joined[column] = joined[column].fillna(typical).fillna(0.0)
    keep = ["date", "carrier", "flight", "origin", "dest", *NUMERIC_FEATURES, "late"]
    return joined[keep].sort_values(["date", "carrier", "flight"], kind="stable").reset_index(drop=True)


def train_delay_model(features: pd.DataFrame) -> dict[str, Any]:
    """A logistic regression for `late`, fitted on the first `TRAINING_DAYS` days of the month, as plain numbers.

    Keys: `columns` (names after one-hot encoding), `mean` and `scale` of each, `weights`, `intercept`, `rows`.
    """
    from sklearn.linear_model import LogisticRegression

    training = features[_day_of_month(features) <= TRAINING_DAYS]
    matrix = _matrix(training)
    mean = matrix.mean()
    scale = matrix.std().replace(0.0, 1.0)
    fitted = LogisticRegression(max_iter=300).fit(((matrix - mean) / scale).to_numpy(), training["late"].to_numpy())
    return {
        "columns": list(matrix.columns),
        "mean": [float(value) for value in mean],
        "scale": [float(value) for value in scale],
        "weights": [float(value) for value in fitted.coef_[0]],
        "intercept": float(fitted.intercept_[0]),
        "rows": len(training),
    }


def score_flights(features: pd.DataFrame, train: dict[str, Any]) -> pd.DataFrame:
    """The flights after the training days with `late_probability` (0 to 1) by the model that step `train` gave."""
    held_out = features[_day_of_month(features) > TRAINING_DAYS]
    matrix = _matrix(held_out).reindex(columns=train["columns"], fill_value=0.0)
    scaled = (matrix - np.asarray(train["mean"])) / np.asarray(train["scale"])
    logit = scaled.to_numpy() @ np.asarray(train["weights"]) + train["intercept"]
    scored = held_out[["date", "carrier", "flight", "origin", "dest", "late"]].copy()
    scored["late_probability"] = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
    return scored.reset_index(drop=True)


def evaluate_model(score: pd.DataFrame) -> dict[str, Any]:
    """How good the probabilities of step `score` are: area under the ROC curve, Brier score, and that of a constant guess."""
    from sklearn.metrics import brier_score_loss, roc_auc_score

    share = float(score["late"].mean())
    return {
        "flights": len(score),
        "auc": round(float(roc_auc_score(score["late"], score["late_probability"])), 4),
        "brier": round(float(brier_score_loss(score["late"], score["late_probability"])), 4),
        "brier_of_constant": round(share * (1 - share), 4),
    }


def report_figures(departures: pd.DataFrame, together: pd.DataFrame) -> dict[str, Any]:
    """Figures of a month: departures, share late and cancelled, and how far two late flights of one airport go together.

    `together` has one row per airport and hours between the two flights, with `pairs` and `delay_correlation`.
    """
    left = departures[departures["dep_delay"].notna()]
    soon = together[together["hours_between"] <= 1]
    return {
        "departures": len(left),
        "late_share": round(float((left["dep_delay"] >= LATE_MINUTES).mean()), 4),
        "cancelled_share": round(float(departures["dep_delay"].isna().mean()), 4),
        "late_pairs": int(together["pairs"].sum()),
        "correlation_within_the_hour": round(float(np.average(soon["delay_correlation"].fillna(0), weights=soon["pairs"])), 4),
    }


def render_report(figures: dict[str, Any], partition: Any) -> bytes:
    """The month's report as Markdown text, UTF-8."""
    lines = [f"# Late departures from New York, {partition.key[:7]}", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in figures.items()]
    return "\n".join([*lines, ""]).encode()


def _day_of_month(features: pd.DataFrame) -> pd.Series:
    return pd.to_datetime(features["date"]).dt.day


def _matrix(features: pd.DataFrame) -> pd.DataFrame:
    """Numbers only: the numeric features, then one column of 0 and 1 per carrier and per origin."""
    categories = pd.get_dummies(features[["carrier", "origin"]], dtype=float)
    return pd.concat([features[list(NUMERIC_FEATURES)].astype(float), categories], axis=1)
