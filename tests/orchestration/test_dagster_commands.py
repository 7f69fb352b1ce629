"""Do Dagster's own command lines see what the workflow files define? Each verb is typed as a user would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from workflows_pkg.orchestration.instance import STARTING_SETTINGS
from workflows_pkg.spec.loader import load_folder
from workflows_pkg.steps.discovery import StepKinds, discover

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KINDS: StepKinds = discover()
WORKFLOWS = {workflow.workflow: workflow for _, workflow in load_folder(ROOT / "assets" / "workflows", KINDS.params()).workflows}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new instance with the settings of the repository's template."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "dagster.yaml", folder)
    return folder


def _typed(command: str, home: Path, environment: dict[str, str], folder: Path = ROOT) -> str:
    """What the command prints; it must succeed."""
    program, *arguments = command.split()
    done = subprocess.run(
        [str(BIN / program), *arguments],
        cwd=folder,
        env={**environment, "DAGSTER_HOME": str(home), "VIRTUAL_ENV": str(BIN.parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_the_settings_template_is_what_a_new_instance_starts_with() -> None:
    assert yaml.safe_load((ROOT / "dagster.yaml").read_text()) == yaml.safe_load(STARTING_SETTINGS)


def test_dagster_validates_the_workspace(home: Path, command_environment: dict[str, str]) -> None:
    said = _typed("dagster definitions validate -w workspace.yaml", home, command_environment)
    assert "All code locations passed validation" in said
    assert "does not match the name" not in said, "pyproject and workspace call the code location the same"


def test_dagster_lists_every_asset(home: Path, command_environment: dict[str, str]) -> None:
    listed = set(_typed("dagster asset list -m assets.definitions", home, command_environment).splitlines())
    assert {f"workflow/{name}" for name in WORKFLOWS} <= listed
    assert {step.produces for workflow in WORKFLOWS.values() for step in workflow.steps.values() if step.produces} <= listed


@pytest.mark.parametrize("verb", ["job", "schedule", "sensor"])
def test_dagster_lists_what_starts_and_runs(verb: str, home: Path, command_environment: dict[str, str]) -> None:
    said = _typed(f"dagster {verb} list -w workspace.yaml", home, command_environment)
    expected = {
        "job": [f"Job: {name}" for name in WORKFLOWS],
        "schedule": [f"Schedule: {name}__schedule [RUNNING]" for name, workflow in WORKFLOWS.items() if workflow.schedule],
        "sensor": [f"Sensor: {name}__files [RUNNING]" for name, workflow in WORKFLOWS.items() if workflow.sensor],
    }[verb]
    assert expected
    for line in expected:
        assert line in said


def test_dagster_previews_schedules(home: Path, command_environment: dict[str, str]) -> None:
    said = _typed("dagster schedule preview -w workspace.yaml", home, command_environment)
    assert all(f"{name}__schedule" in said for name, workflow in WORKFLOWS.items() if workflow.schedule)


def test_dagster_materializes_a_workflow(home: Path, project: Path, command_environment: dict[str, str]) -> None:
    command = f"dagster asset materialize -m sample_location -d {project} --select group:sales --partition 2024-01-02"
    _typed(command, home, command_environment, project)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_materialized_partitions(dg.AssetKey(["workflow", "sales"])) == {"2024-01-02"}
        (run,) = instance.get_runs()
        assert (run.tags[".dagster/workflows_workflow"], run.tags["workflows/version"]) == ("sales", "1")


def test_dg_lists_and_checks_the_definitions(home: Path, command_environment: dict[str, str]) -> None:
    said = _typed("dg list defs --json", home, command_environment)
    listed, _ = json.JSONDecoder().raw_decode(said)  # a remark about the environment may follow
    names = json.dumps(listed)
    assert all(f'"{name}"' in names and f"workflow/{name}" in names for name in WORKFLOWS)
    assert "All definitions loaded successfully" in _typed("dg check defs", home, command_environment)


def test_dg_knows_the_component(home: Path, command_environment: dict[str, str]) -> None:
    assert "workflows_pkg.workbench.WorkflowFolder" in _typed("dg list components", home, command_environment)
