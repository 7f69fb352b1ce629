"""Environments as users make them: a fresh one with what PyPI has, or one beside this one that lacks only this package."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Venv:
    """A virtual environment in a folder."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def pip(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.python, "-m", "pip", "--disable-pip-version-check", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"pip {' '.join(arguments)}:\n{done.stderr[-3000:]}"
        return done.stdout

    def run(self, *arguments: str, cwd: Path, fails: bool = False, **env: str) -> str:
        """What the environment's Python says, run with `arguments`; output and errors together."""
        clean = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "DAGSTER_DISABLE_TELEMETRY": "yes", "HOME": str(self.folder)}
        done = subprocess.run(
            [self.python, *arguments],
            cwd=cwd,
            env={**clean, **env},
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert bool(done.returncode) == fails, f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout


def _made(folder: Path) -> Venv:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return Venv(folder)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(place), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture
def fresh_venv(tmp_path: Path) -> Callable[[], Venv]:
    """Makes an environment with nothing in it."""
    return lambda: _made(tmp_path / "fresh")


@pytest.fixture
def neighbour_venv(tmp_path: Path) -> Venv:
    """An environment that sees every package of this one except the project itself, which stands there as a link only."""
    made = _made(tmp_path / "neighbour")
    (site,) = made.folder.glob("lib/python*/site-packages")
    (site / "of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made
