"""A small project of somebody, with an instance of its own, and the command line run in this process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from workflows_pkg.cli.main import exit_code
from workflows_pkg.orchestration.instance import create_instance

_numbers = itertools.count()

DEFINITIONS = """
from pathlib import Path
import os
import dagster as dg
from workflows_pkg.security.allow import Allow
from workflows_pkg.workbench.folder import workflow_definitions

@dg.op
def shout():
    raise ValueError("the moon is full")

@dg.job
def theirs():
    shout()

@dg.op(config_schema={"size": int})
def needs_size(context):
    pass

@dg.job
def with_config():
    needs_size()

@dg.definitions
def defs():
    flows = workflow_definitions(Path(__file__).parent / "workflows", Allow(), Path(os.environ["DAGSTER_HOME"]))
    return dg.Definitions.merge(flows, dg.Definitions(jobs=[theirs, with_config]))
"""


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> object:
        return json.loads(self.out)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, made the current one, with an empty instance in DAGSTER_HOME."""
    module = f"project_of_somebody_{next(_numbers)}"
    folder = tmp_path / "project"
    (folder / "workflows").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[tool.dg.project]\ncode_location_target_module = "{module}"\n')
    (folder / f"{module}.py").write_text(DEFINITIONS)
    create_instance(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def workflows(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs `workflows ...` and returns what it said; fails on a traceback, whatever else happens."""

    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        code = exit_code([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err, said.err
        return Answer(code, said.out, said.err)

    return call
