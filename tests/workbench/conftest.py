from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

HERE = Path(__file__).parent
collect_ignore = ["foreign_project.py", "notebook_project.py"]  # code locations of somebody else, loaded by the tests


@pytest.fixture(scope="session")
def foreign() -> ModuleType:
    """The module of the foreign project, once per process."""
    spec = importlib.util.spec_from_file_location("foreign_project", HERE / "foreign_project.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["foreign_project"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def instance_home(tmp_path: Path) -> Path:
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return home


@pytest.fixture
def instance(instance_home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(instance_home)) as made:
        yield made
