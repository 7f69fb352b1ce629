"""The pages tell who serves, what was promoted and withdrawn since the last training, and what memory to ask for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.live.choosing import RULE_OF_CHOICE, Candidates, Choice, choose, summary
from workflows_pkg.report.asset_choices import choices_page, memory_page, reasons

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _choice(better_from: int) -> Choice:
    rng = np.random.default_rng(0)
    losses = rng.lognormal(0, 0.2, (300, 2))
    losses[better_from:, 0] += 1.0
    places = np.arange(300.0)
    return choose(Candidates(("failure_rate", "failure_regression"), losses, None, list(map(str, places)), places, places + 0.5))


def _card(before: dict[str, str] | None) -> dict[str, Any]:
    choices = {"etl / load: failure_share": _choice(100), "etl / clean: failure_share": _choice(300)}
    nothing = summary({}, "sized_by_cost", None)
    return {
        "choices": {
            "how": RULE_OF_CHOICE,
            "memory_request_mib": nothing,
            "failure_share": summary(choices, "failure_rate", before),
        },
        "calibration": {"step failure_share": {"outcomes": 9, "brier": 0.1, "calibration_error": 0.02}, "step tries": {}},
    }


def _forecast(quantity: str, value: float, basis: dict[str, Any] | None = None, **more: Any) -> Forecast:
    given: dict[str, Any] = {
        "job_name": "etl", "step": "load", "quantity": quantity, "p05": value, "p50": value, "p95": value, "sample_count": 48,
        "predictor": "median", "as_of": NOW, "basis": json.dumps(basis) if basis else None,
    }  # fmt: skip
    return Forecast(**given | more)


def test_what_was_promoted_since_the_last_training_is_told_once() -> None:
    page = choices_page(_card({}))
    assert page.figures["promoted since the last training"] == 1
    told = page.texts["promoted and withdrawn since the last training"]
    assert "etl / load: failure_share" in told.replace("\\", "")
    assert "failure regression" in told
    assert "etl / clean" not in told
    assert "2" in page.texts["who serves, who answers in the shadow"]
    assert page.figures["calibration error, steps"] == 0.02
    again = choices_page(_card({"etl / load: failure_share": "failure_regression"}))
    assert again.figures["promoted since the last training"] == 0
    assert "promoted and withdrawn since the last training" not in again.texts
    first = choices_page(_card(None))
    assert first.figures["promoted since the last training"] == 0, "nothing to compare with"
    assert "etl / load" in first.texts["served by another than usual"], "control: it is told that another serves"


def test_what_was_withdrawn_is_told() -> None:
    (change,) = summary({"k": _choice(300)}, "failure_rate", {"k": "failure_regression"})["changed"]
    assert (change["promoted"], change["withdrawn"]) == ("failure_rate", "failure_regression")


def test_memory_is_told_with_what_it_would_have_cost() -> None:
    basis = {
        "outcomes": 40, "used_gib_h": 10.0, "as_served": {"wasted_gib_h": 2.0, "killed_share": 0.025},
        "scores": {"sized_by_cost": {"wasted_gib_h": 2.0, "killed_share": 0.025}, "max_seen": {"wasted_gib_h": 3.0, "killed_share": 0.0}},
    }  # fmt: skip
    request = _forecast(
        "memory_request_mib",
        512.0,
        basis,
        predictor="sized_by_cost",
        error_share=0.2,
        best_rule="max_seen",
        best_rule_error_share=0.3,
    )
    told = memory_page([request, _forecast("peak_memory_mib", 400.0), _forecast("memory_retry_mib", 1024.0)])
    text = told.texts["memory of steps"].replace("\N{NO-BREAK SPACE}", " ")
    for part in ("512 MiB", "400 MiB", "1,024 MiB", "2.5 %", "20 %", "max seen", "30 %"):
        assert part in text
    assert memory_page([_forecast("run_time_s", 1.0)]).texts == {}, "control: nothing metered"
    said = reasons(
        [_forecast("run_time_s", 12.0, {"usual": 10.0, "outcomes": 30, "ratio": 1.2, "moved": [["newest", 1.25, 10]]}), request]
    )
    assert "20 % above its usual 10 s: its newest 10 were 25 % above it" in said
    assert "2.5 % killed, 20 % of what was used wasted" in said
