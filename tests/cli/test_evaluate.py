"""Recorded traces are judged from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

Call = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    at = pd.Timestamp("2024-01-01", tz="UTC")
    for name in ("one", "two"):
        took = rng.lognormal(3, 0.2, 60).round(3)
        pd.DataFrame(
            {
                "run_id": [f"r{number}" for number in range(60)],
                "workflow": name,
                "step": "load",
                "submitted_at": [at + pd.Timedelta(minutes=number) for number in range(60)],
                "duration_s": took,
                "rchar": took * 1e6,
            }
        ).to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "prices.csv").write_text("time,price\n2024-01-01,1\n")
    return tmp_path


def test_traces_are_judged_beside_every_rule(folder: Path, workflows: Call) -> None:
    answer = workflows("evaluate", str(folder), "--json")
    assert answer.code == 0
    assert [one["trace"] for one in answer.value["traces"]] == [f"{folder.name}/one", f"{folder.name}/two"]
    assert all(one["refused"] == ["duration_s", "rchar"] for one in answer.value["traces"])
    wape = [one for one in answer.value["means"] if one["metric"] == "WAPE"]
    assert wape[0]["baselines"]["median"] > 0
    assert "rchar" in answer.err
    text = workflows("evaluate", str(folder / "one.csv")).out
    assert "duration: WAPE by step, %, lower is better" in text
    assert "median of 10" in text


def test_benchmarks_of_machines_are_told_of(tmp_path: Path, workflows: Call) -> None:
    rows = [
        {"step": "sort", "machine": machine, "label": label, "duration_s": took + number / 7}
        for machine, took in (("local", 10.0), ("old", 20.0))
        for label in ("train-1", "test")
        for number in range(6)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "tasks.csv", index=False)
    pd.DataFrame({"task": "sort", "machine": ["local", "old"], "realtime": [1.0, 2.0]}).to_csv(
        tmp_path / "bench.csv", index=False
    )
    answer = workflows("evaluate", str(tmp_path / "tasks.csv"), "--json")
    assert answer.value["traces"][0]["rows_on_benchmarked_machines"] == 6
    assert "6 rows ran on machines of which there are benchmarks" in answer.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv"], "there is no such file"),
        (["prices.csv"], "expected an outcome column"),
        (["one.csv", "--size", "rchar"], "known only once an attempt has ended"),
        (["one.csv", "--size", "sise"], "there is no column 'sise'"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(folder: Path, workflows: Call, arguments: list[str], message: str) -> None:
    answer = workflows("evaluate", str(folder / arguments[0]), *arguments[1:])
    assert answer.code == 1
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_a_page_of_it_is_written_where_one_is_asked_for(folder: Path, tmp_path: Path, workflows: Call) -> None:
    page = tmp_path / "pages" / "quality.html"
    answer = workflows("evaluate", str(folder / "one.csv"), "--page", str(page), "--json")
    assert answer.code == 0
    assert "How good are the forecasts?" in page.read_text()
    assert str(page) in answer.err
    assert workflows("evaluate", str(folder / "one.csv"), "--page", str(folder)).code == 2, "a folder is no page"
