"""Do values between steps keep their type, in every process, without a pickle?"""

from __future__ import annotations

import datetime as dt
import json
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from workflows_pkg.errors import CodeProblem, DataProblem
from workflows_pkg.orchestration.compiled import definitions
from workflows_pkg.orchestration.launch import run_in_process
from workflows_pkg.orchestration.values import read_value, write_value

TABLE = pd.DataFrame(
    {
        "n": pd.array([1, None], dtype="Int64"),
        "x": [0.5, None],
        "text": ["ä", None],
        "at": pd.to_datetime(["2024-03-31T02:30:00Z", None], utc=True),
        "day": [dt.date(2024, 1, 1), None],
    }
)


def test_a_table_comes_back_with_its_types(tmp_path: Path) -> None:
    write_value(tmp_path / "a", TABLE, "step 'a'")
    pd.testing.assert_frame_equal(read_value(tmp_path / "a", "step 'a'"), TABLE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("value", [None, True, 3, 0.1, "text ä", [1, [2]], {"a": {"b": [None]}}, b"\x00\xff", {}, [], ""])
def test_json_and_bytes_come_back_equal(tmp_path: Path, value: Any) -> None:
    size = write_value(tmp_path / "a", value, "step 'a'")
    assert read_value(tmp_path / "a", "step 'a'") == value
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == size


def test_a_value_of_another_type_takes_the_place_of_the_earlier_one(tmp_path: Path) -> None:
    for value in (TABLE, {"n": 1}, b"bytes", {"n": 2}):
        write_value(tmp_path / "a", value, "step 'a'")
    assert read_value(tmp_path / "a", "step 'a'") == {"n": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_earlier_value_whole(tmp_path: Path) -> None:
    write_value(tmp_path / "a", TABLE, "step 'a'")
    with pytest.raises(DataProblem, match=r"The table of step 'a' cannot be kept as Parquet.*mixed"):
        write_value(tmp_path / "a", pd.DataFrame({"mixed": [1, "x", {"y": 2}]}), "step 'a'")
    pd.testing.assert_frame_equal(read_value(tmp_path / "a", "step 'a'"), TABLE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


class _Planted:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path(__import__('os').environ['PLANTED']).touch()",))


def test_a_planted_pickle_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control loads the same file as the default IO manager of Dagster would, and the code in it runs."""
    mark = tmp_path / "ran"
    monkeypatch.setenv("PLANTED", str(mark))
    folder = tmp_path / "values"
    folder.mkdir()
    for name in ("a", "a.pickle", "a.pkl", "a.parquet", "a.json", "a.bin"):
        (folder / name).write_bytes(pickle.dumps(_Planted()))
        with suppress(ValueError, OSError, DataProblem):
            read_value(folder / "a", "step 'a'")
        assert not mark.exists(), name
        if not name.endswith(".bin"):
            (folder / name).unlink()
    pickle.loads((folder / "a.bin").read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    ("value", "found"),
    [({1, 2}, "set"), (pd.Series([1]), "Series"), (object(), "object"), ({"deep": [lambda: 1]}, "function")],
    ids=["set", "series", "object", "function"],
)
def test_another_type_is_an_error_that_names_step_and_type(bench: Any, value: Any, found: str) -> None:
    bench.functions = {"a": lambda c, p: value}
    outcome = bench.run({"steps": {"a": {"retry": {"attempts": 3, "delay": "1ms", "on": ["OSError"]}}}})
    error = outcome.events("STEP_FAILURE", "a")[0].event_specific_data.error.cause
    assert error.cls_name == CodeProblem.__name__
    assert "Step 'a' gave" in error.message
    assert found in error.message
    assert len(outcome.events("STEP_START", "a")) == 1


def test_scalars_of_numpy_are_json(bench: Any) -> None:
    seen: list[Any] = []
    bench.functions = {
        "a": lambda c, p: {"share": np.float64(0.5), "n": np.int64(3)},
        "b": lambda c, p: seen.append(c.inputs["a"]),
    }
    assert bench.run({"steps": {"a": {}, "b": {"needs": ["a"]}}}).success
    assert seen == [{"share": 0.5, "n": 3}]


def test_where_values_lie(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: TABLE, "b": lambda c, p: {"n": 1}, "c": lambda c, p: b"x"}
    spec = {
        "partitions": {"daily": {"start": "2024-01-01", "end": "2024-01-03"}},
        "steps": {"a": {"produces": "t/a"}, "b": {"needs": ["a"]}, "c": {"needs": ["b"], "produces": "t/c"}},
    }
    outcome = bench.run(spec, "2024-01-02")
    storage = Path(bench.instance.storage_directory())
    found = {path.relative_to(storage).as_posix() for folder in ("assets", "values") for path in (storage / folder).rglob("*.*")}
    assert found == {"assets/t/a/2024-01-02.parquet", "assets/t/c/2024-01-02.bin", f"values/{outcome.run.run_id}/b.json"}


def test_an_asset_is_loaded_by_its_key_and_in_another_process(bench: Any) -> None:
    bench.functions = {"a": lambda c, p: pd.DataFrame({"n": [1, 2]})}
    compiled = bench.compile({"steps": {"a": {"produces": "t/a"}}})
    run_in_process(compiled, bench.instance)
    table = definitions([compiled]).load_asset_value(dg.AssetKey(["t", "a"]), instance=bench.instance)
    assert table["n"].tolist() == [1, 2]
    program = (
        "import sys, json, pathlib; from workflows_pkg.orchestration.values import read_value;"
        "print(json.dumps(read_value(pathlib.Path(sys.argv[1]), 'a')['n'].tolist()))"
    )
    stem = Path(bench.instance.storage_directory()) / "assets" / "t" / "a"
    done = subprocess.run([sys.executable, "-c", program, str(stem)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1, 2]


def test_a_missing_value_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataProblem, match=r"The output of step 'a' is not in .* Run the workflow again from that step"):
        read_value(tmp_path / "a", "step 'a'")
