"""An instance whose run coordinator is ours, with published forecasts of the job `nightly`."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def beside() -> ModuleType:
    """The module `nightly.py`, once per process."""
    spec = importlib.util.spec_from_file_location("nightly_beside_tests", HERE / "nightly.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nightly_beside_tests"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory, beside: ModuleType) -> Path:
    """A fresh instance's folder, to be copied: making its databases takes longer than most tests."""
    return beside.new_home(tmp_path_factory.mktemp("new") / "home")


@pytest.fixture
def home(tmp_path: Path, new_home: Path) -> Path:
    return Path(shutil.copytree(new_home, tmp_path / "home"))


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


@pytest.fixture
def submit(instance: dg.DagsterInstance, beside: ModuleType) -> Callable[..., dg.DagsterRun]:
    """Puts a run of `nightly`, or of another job, into the queue."""
    return partial(beside.submit_to, instance)
