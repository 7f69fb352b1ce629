"""`workflows changed`: what changed, as text and as JSON, on a history that landed; and what a user types wrong."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.history.records import Run, StepAttempt
from workflows_pkg.history.store import writer
from workflows_pkg.orchestration.instance import create_instance

made: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "advisor" / "foreign_history.py"))
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`load` takes twice as long since version 2, in the newest 40 of 120 runs."""
    history = made["Made"]()
    first = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=130)
    for number in range(120):
        new = number >= 80
        steps = {"extract": 20.0, "load": 80.0 if new else 40.0}
        history.run("orders", first + timedelta(hours=number), steps, workflow="orders", version=2 if new else 1)
    folder = tmp_path_factory.mktemp("home")
    create_instance(folder)
    with writer(folder) as landed:
        landed.upsert(Run, [Run(**row) for row in history.runs])
        landed.upsert(StepAttempt, [StepAttempt(**row) for row in history.attempts])
    return folder


def test_it_says_what_changed_since_when_and_with_what(home: Path, workflows: Call) -> None:
    said = workflows("changed", "--home", home)
    assert said.code == 0, said.err
    assert "Step 'load' of 'orders' became slower: 40 s before, 8" in said.out
    assert "It coincides with another workflow version (1 before, 2 since" in said.out
    assert "not recorded: machine, partitions, input size" in said.out
    assert "runs just before: r00079, " in said.out
    assert "; just after: r00080, " in said.out


def test_json_has_every_run_behind_it(home: Path, workflows: Call) -> None:
    (change,) = workflows("changed", "orders", "--step", "load", "--json", "--home", home).value
    assert (change["job"], change["step"], change["quantity"], change["until"]) == ("orders", "load", "run_time_s", None)
    assert change["coincides"][0]["kind"] == "version"
    assert len(change["evidence"]) == 120
    assert sum(run["after"] for run in change["evidence"]) == change["runs_after"]
    assert change["ratio"] == pytest.approx(2, abs=0.2)


def test_nothing_changed_is_an_answer(home: Path, workflows: Call) -> None:
    for narrowed in (["--step", "extract"], ["--since", f"{datetime.now(UTC):%Y-%m-%d}"]):
        assert "nothing changed, as far as can be told" in workflows("changed", "orders", *narrowed, "--home", home).out
    assert workflows("changed", "--step", "extract", "--json", "--home", home).value == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["order"], "Did you mean 'orders'?"), (["--step", "laod"], "Did you mean 'load'?"), (["--since", "soon"], "--since")],
)
def test_what_is_typed_wrong_is_told(home: Path, workflows: Call, arguments: list[str], said: str) -> None:
    answer = workflows("changed", *arguments, "--home", home)
    assert answer.code != 0
    assert said in answer.err
