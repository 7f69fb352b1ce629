from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an instance with real runs of every kind, recorded once. Tests that change something take a copy (`home`)."""
    home = tmp_path_factory.mktemp("recording") / "home"
    done = subprocess.run(
        [sys.executable, str(HERE / "recorded_jobs.py"), str(home)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(home.parent)},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.fixture
def home(recording: Path, tmp_path: Path) -> Path:
    """A copy of the recorded instance, and the place of its history."""
    return shutil.copytree(recording, tmp_path / "home")


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made
