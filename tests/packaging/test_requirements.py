"""The plain install resolves beside the pins of public Dagster projects, and the ranges that it declares are ranges that work.

`requirements/` holds what those projects ask for: names and versions, with file and commit. Nothing of theirs is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

from tests.packaging.conftest import ROOT, Venv

SETS = sorted((Path(__file__).parent / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def resolved(place: Path, *wanted: str) -> dict[str, str]:
    """Name -> version of all that pip would install into an empty environment. Raises AssertionError with pip's words."""
    report = place / "report.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--report", str(report), str(ROOT), *wanted], capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {each["metadata"]["name"].lower(): each["metadata"]["version"] for each in json.loads(report.read_text())["install"]}


@pytest.mark.timeout(1600)
@pytest.mark.long
@pytest.mark.parametrize("asked", SETS, ids=lambda path: path.stem)
def test_the_plain_install_resolves_beside_the_pins_of_a_public_project(asked: Path, tmp_path: Path) -> None:
    found = resolved(tmp_path, "-r", str(asked))
    assert {"agentic-workflows", "dagster", "duckdb"} <= set(found)
    for name, version in re.findall(r"^([\w-]+)==([\w.]+)$", asked.read_text(), re.MULTILINE):
        assert found[name.lower()] == version


@pytest.mark.long
def test_control_a_project_that_contradicts_is_seen(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"ResolutionImpossible|conflicting dependencies"):
        resolved(tmp_path, "duckdb<1.5")


def test_every_set_says_where_it_is_from() -> None:
    assert len(SETS) >= 3
    for path in SETS:
        assert re.search(r"\A# [\w-]+/[\w-]+, [\w./-]+ at [0-9a-f]{40}", path.read_text()), path.name


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("end", ["lowest", "newest"])
def test_what_a_joiner_uses_works_at_both_ends_of_the_ranges(
    end: str, wheel: Path, fresh_venv: Callable[[], Venv], tmp_path: Path
) -> None:
    venv = fresh_venv()
    bounds = tmp_path / "bounds.txt"
    bounds.write_text("\n".join(lowest()) if end == "lowest" else "")
    venv.pip("install", "-q", str(wheel), "-c", str(bounds))
    (tmp_path / "home").mkdir()
    here = Path(__file__).parent
    said = json.loads(venv.run(str(here / "smoke.py"), str(here / "project"), str(tmp_path / "home"), cwd=tmp_path))
    for name, version in (each.split("==") for each in bounds.read_text().split()):
        assert Version(said[name]) == Version(version)
    assert said["problems"] == []
    assert said["ran"] == ["SUCCESS"] * 6
    assert said["through_the_daemon"] == {"ended": [True, True], "landed_by_the_sensor": 2, "webserver": False}
    assert said["history"]["runs"] == 8
    assert said["history"]["metered"] > 0
    assert (said["retried"], said["quarantined"]) == (4, 0)
    assert said["forecasts"] == ["nightly", "sums"]
    assert said["report_bytes"] > 100_000


def lowest() -> list[str]:
    """The lower bound of each dependency, as a pin."""
    found = [re.match(r"([\w-]+)>=([\w.]+)", each) for each in PROJECT["dependencies"]]
    return [f"{each[1]}=={each[2]}" for each in found if each]


def test_every_dependency_has_a_lower_bound() -> None:
    assert len(lowest()) == len(PROJECT["dependencies"])
