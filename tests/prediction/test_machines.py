"""What a step takes on another machine follows from benchmarks of both, and an unknown machine is known to be unknown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workflows_pkg.prediction.duration.predictor import DurationPredictor
from workflows_pkg.prediction.evaluation.duration import QUESTION
from workflows_pkg.prediction.evaluation.evaluate import evaluate
from workflows_pkg.prediction.evaluation.machines import benchmarks, beside
from workflows_pkg.prediction.evaluation.traces import read_trace
from workflows_pkg.prediction.predictor import Finished, Submitted

SLOWNESS = {"local": 1.0, "old": 2.0, "new": 0.5}
STEPS = {"sort": 10.0, "index": 30.0, "merge": 5.0, "report": 2.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trace learned on the machine at hand and asked about on others; benchmarks of two of them, as two programs write them."""
    rng = np.random.default_rng(3)
    rows = [
        {
            "workflow": "w", "step": step, "machine": machine, "label": label, "input_bytes": size * 1e6,
            "duration_s": usual * size * slow * float(rng.lognormal(0, 0.03)), "run_id": f"{machine}-{label}-{size}",
        }
        for machine, slow in {**SLOWNESS, "unheard": 3.0}.items()
        for label, sizes in (("train-1", (1, 2, 3)), ("test", (4, 5)))
        for step, usual in STEPS.items()
        for size in sizes
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "tasks.parquet")
    for machine, slow in SLOWNESS.items():
        named = "Machine" if machine != "new" else "N7"
        took = {f"Realtime{number}": [usual * slow * (1 + number / 100) for usual in STEPS.values()] for number in (1, 2, 3)}
        table = pd.DataFrame({"Workflow": "W", "Task": list(STEPS), named: machine.upper(), **took})
        table.to_csv(tmp_path / f"bench-{machine}.csv", index=False)
    (tmp_path / "notes.csv").write_text("step,realtime\n\x00,")
    return tmp_path


def _wape(folder: Path) -> tuple[float, float]:
    (trace,) = read_trace(folder / "tasks.parquet")
    found = evaluate(trace, QUESTION)
    assert found is not None
    by_metric = {one.metric: one for one in found.measures}
    wape, inside = (
        by_metric["WAPE"].ours,
        by_metric["coverage of the 90 % interval"].ours if ("coverage of the 90 % interval" in by_metric) else math.nan,
    )
    assert wape is not None
    return wape, inside if inside is not None else math.nan


def test_benchmarks_beside_a_trace_tell_what_steps_take_on_other_machines(folder: Path):
    rows = next(read_trace(folder / "tasks.parquet")).rows
    asked = rows[rows["submitted_s"] == 1]
    known = asked.groupby((asked["machine_factor"]).round(1)).size()
    assert known.index.tolist() == [0.5, 1.0, 2.0]
    assert known[1.0] == 2 * known[2.0], "the machine at hand, and the one nobody has measured"
    with_benchmarks, _ = _wape(folder)
    for path in folder.glob("bench-*"):
        path.unlink()
    without, _ = _wape(folder)
    assert with_benchmarks < 0.7 * without, "control: without benchmarks every machine is taken for the one at hand"


def test_a_step_without_benchmark_goes_by_its_machine_and_an_unknown_machine_by_how_much_machines_differ(folder: Path):
    known = beside(folder / "tasks.parquet", "local")
    assert known is not None
    assert known.factor("w", "SORT", "Old") == pytest.approx((2.0, 0.0), abs=1e-6)
    assert known.factor("w", "never measured", "new")[0] == pytest.approx(0.5)
    assert known.factor("w", "sort", "local") == (1.0, 0.0)
    factor, spread = known.factor("w", "sort", "unheard")
    assert factor == 1.0
    assert spread == pytest.approx(math.log(2))
    table = pd.DataFrame({"workflow": "w", "step": ["a", "b"], "machine": "there", "seconds": [1.0, 2.0]})
    assert benchmarks([table], "here") is None, "nothing to compare with"


def test_of_repeated_times_the_median_counts_and_what_is_no_time_counts_for_nothing():
    seconds = [10.0, 20.0, 20.0, 90.0, math.inf, math.nan, -1.0, 1e308, 1e-300]
    machines = ["here", *["there"] * 6, "odd", "odd"]
    steps = ["a"] * 7 + ["a", "b"]
    table = pd.DataFrame({"workflow": "w", "step": steps, "machine": machines, "seconds": seconds})
    known = benchmarks([table, table.assign(step="b", machine="here", seconds=5.0).head(1)], "here")
    assert known is not None
    assert known.factor("w", "a", "there") == pytest.approx((2.0, 0.0))
    assert set(known.ratios) == {"there"}, "nothing that is told of the odd machine is believed"


def test_a_factor_moves_the_quantiles_its_error_widens_them_and_what_is_learned_is_for_the_usual_machine():
    predictor = DurationPredictor()
    for number in range(30):
        one = Submitted(number, "etl", "load", f"r{number}", float(number), machine_factor=4.0 if number % 2 else 1.0)
        predictor.predict([one])
        took = 10 * one.machine_factor * (1.1 if number % 3 else 0.9)
        predictor.observe([Finished(one, number + 0.5, took)])
    asked = {"workflow": "etl", "step": "load", "run_id": "next", "at": 99.0}
    usual, slow, unsure = predictor.predict(
        [Submitted(-1, **asked), Submitted(-1, **asked, machine_factor=3.0), Submitted(-1, **asked, machine_spread=0.5)]  # type: ignore[arg-type]
    )
    assert usual[1] == pytest.approx(11, rel=0.1)
    assert (slow[:3] / usual[:3]).tolist() == pytest.approx([3.0, 3.0, 3.0])
    assert unsure[0] < 0.6 * usual[1] < usual[1] < 1.7 * usual[1] < unsure[2]
    cold = predictor.predict([Submitted(-1, "etl", "new", "next", 99.0, machine_factor=3.0)])[0]
    assert cold[1] == pytest.approx(33, rel=0.15), "also what is borrowed"
