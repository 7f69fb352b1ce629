"""The page of an evaluation shows what its measures say, and says which of it is missing."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.prediction.evaluation.evaluate import QUESTIONS, Evaluation, evaluate
from workflows_pkg.prediction.evaluation.traces import load
from workflows_pkg.report.evaluation_page import write_evaluation

NOW = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Evaluation]:
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(5)
    at = pd.Timestamp("2024-03-01", tz="UTC")
    for name in ("quiet", "<b>loud</b>".replace("/", "_")):
        count = 120
        took = rng.lognormal(3, 0.2, count).round(3)
        begun = [at + pd.Timedelta(minutes=10 * number) for number in range(count)]
        pd.DataFrame(
            {
                "workflow": "w", "step": "load", "run_id": [f"r{number}" for number in range(count)], "submitted_at": begun,
                "ended_at": [one + pd.Timedelta(seconds=took[number]) for number, one in enumerate(begun)], "duration_s": took,
                "status": np.where(rng.uniform(size=count) < 0.2, "FAILED", "COMPLETED"), "memory_requested_bytes": 8e9,
                "peak_memory_bytes": 1e9 * rng.lognormal(0, 0.1, count),
            }
        ).to_parquet(folder / f"{name}.parquet")  # fmt: skip
    return [one for trace in load([folder]) for question in QUESTIONS if (one := evaluate(trace, question)) is not None]


def _figures(page: Path) -> dict[str, Any]:
    content = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page.read_text(), re.S)
    assert content is not None
    return json.loads(content.group(1))["figures"]


def test_every_question_has_its_pictures_and_its_figures(found: list[Evaluation], tmp_path: Path) -> None:
    page = write_evaluation(found, tmp_path / "quality.html", now=NOW)
    drawn = _figures(page)
    assert set(drawn) == {"e-gain", "e-held", "e-below", "e-history", "e-memory", "e-auc", "e-risk"}
    text = page.read_text()
    assert "2 traces; written 2024-05-01" in text
    assert "duration: WAPE by step, %, lower is better" in text
    assert "<b>loud" not in text, "names of traces are nobody's HTML"


def test_a_picture_shows_what_the_measure_says(found: list[Evaluation], tmp_path: Path) -> None:
    drawn = _figures(write_evaluation(found, tmp_path / "quality.html", now=NOW))
    held = [one.ours for each in found for one in each.measures if one.metric == "coverage of the 90 % interval"]
    (ours,) = [line for line in drawn["e-held"]["data"] if line.get("name") == "ours"]
    assert ours["x"] == held
    below = [one for each in found for one in each.measures if one.metric == "below p95"]
    assert [line["y"][2] for line in drawn["e-below"]["data"][1:]] == [one.ours for one in below]
    told = [one for each in found for one in each.measures if one.metric.startswith("failed of those told")]
    assert sum(one.rows for one in told) == sum(one.rows for each in found for one in each.measures if one.metric == "AUC")
    assert sum(len(line["y"]) for line in drawn["e-risk"]["data"][1:]) == len(told)


def test_without_failures_or_presets_only_what_can_be_judged_is_there(found: list[Evaluation], tmp_path: Path) -> None:
    page = write_evaluation([one for one in found if one.question == "duration"], tmp_path / "quality.html", now=NOW)
    assert set(_figures(page)) == {"e-gain", "e-held", "e-below", "e-history"}
