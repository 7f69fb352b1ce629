"""Does one bad workflow file leave the others alone, and is it told of everywhere?"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import dagster as dg
import pytest

from workflows_pkg.errors import SpecError
from workflows_pkg.orchestration.retries import causes
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.security.allow import Allow
from workflows_pkg.workbench.folder import PROBLEMS, workflow_definitions

GOOD = "workflow: {name}\nsteps:\n  a: {{uses: python, with: {{call: 'm:f'}}, produces: {asset}}}\n"


def _jobs(defs: dg.Definitions) -> set[str]:
    repository = defs.get_repository_def()
    repository.load_all_definitions()
    return {name for name in repository.job_names if not name.startswith("__")}


def _problems(defs: dg.Definitions) -> str:
    found = defs.metadata.get(PROBLEMS)
    return "" if found is None else str(found.value)


def test_a_bad_file_is_told_with_its_line_and_the_others_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.yaml").write_text(GOOD.format(name="good", asset="g/a"))
    (tmp_path / "bad.yaml").write_text("workflow: bad\nsteps:\n  a: {uses: pyton}\n")
    with caplog.at_level(logging.WARNING, logger="workflows"):
        defs = workflow_definitions(tmp_path, Allow())
    assert _jobs(defs) == {"good"}
    assert _problems(defs).startswith(f"{tmp_path}/bad.yaml:3:")
    assert "Did you mean 'python'?" in _problems(defs)
    assert [record.message for record in caplog.records] == _problems(defs).splitlines()


def test_a_name_that_dagster_refuses_takes_no_other_workflow_down(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD.format(name="good", asset="g/a"))
    (tmp_path / "config.yaml").write_text(GOOD.format(name="config", asset="c/a"))
    defs = workflow_definitions(tmp_path, Allow())
    assert _jobs(defs) == {"good"}
    assert "config.yaml" in _problems(defs)


def test_without_problems_there_is_no_metadata(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD.format(name="good", asset="g/a"))
    assert _problems(workflow_definitions(tmp_path, Allow())) == ""


def test_a_folder_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="this folder cannot be read"):
        workflow_definitions(tmp_path / "nothing", Allow())


def test_an_edited_file_is_the_next_version_and_an_activated_one_is_what_runs(tmp_path: Path) -> None:
    folder, home = tmp_path / "workflows", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    file = folder / "good.yaml"

    def version() -> str:
        return workflow_definitions(folder, Allow(), home).resolve_job_def("good").tags["workflows/version"]

    file.write_text(GOOD.format(name="good", asset="g/a"))
    assert (version(), version()) == ("1", "1")
    file.write_text(GOOD.format(name="good", asset="g/b"))
    assert version() == "2"
    VersionStore(home).activate("good", 1)
    assert version() == "1"
    keys = workflow_definitions(folder, Allow(), home).resolve_asset_graph().get_all_asset_keys()
    assert dg.AssetKey(["g", "a"]) in keys


def test_an_active_version_that_takes_another_files_asset_is_left_out(tmp_path: Path) -> None:
    folder, home = tmp_path / "workflows", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    (folder / "one.yaml").write_text(GOOD.format(name="one", asset="t/a"))
    workflow_definitions(folder, Allow(), home)
    (folder / "one.yaml").write_text(GOOD.format(name="one", asset="t/b"))
    (folder / "two.yaml").write_text(GOOD.format(name="two", asset="t/a"))
    assert _jobs(workflow_definitions(folder, Allow(), home)) == {"one", "two"}
    VersionStore(home).activate("one", 1)
    defs = workflow_definitions(folder, Allow(), home)
    assert _jobs(defs) == {"one"}
    assert "the asset 't/a' is already produced by" in _problems(defs)


@pytest.fixture
def component_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as `dg` lays it out, with the component as its only definition; a module of its own name in each test."""
    name = re.sub(r"\W", "_", f"project_{tmp_path.name}")
    package = tmp_path / name
    folder = package / "defs" / "flows"
    folder.mkdir(parents=True)
    for init in (package, package / "defs"):
        (init / "__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{name}"\ndefs_module = "{name}.defs"\n'
    )
    (folder / "defs.yaml").write_text(
        "type: workflows_pkg.workbench.WorkflowFolder\nattributes:\n  path: flows\n  files: data\n  modules: [m]\n"
    )
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "good.yaml").write_text(GOOD.format(name="good", asset="g/a"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return package


def _load(package: Path) -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=package / "defs")


def test_the_component_names_a_folder_and_what_is_granted(component_project: Path) -> None:
    assert _jobs(_load(component_project)) == {"good"}
    assert not (component_project.parent / "versions").exists()


def test_the_component_keeps_versions_where_an_instance_is_named(
    component_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert _load(component_project).resolve_job_def("good").tags["workflows/version"] == "1"
    assert os.listdir(home / "versions") == ["good"]


def test_an_attribute_that_the_component_does_not_know_is_refused(component_project: Path) -> None:
    stub = component_project / "defs" / "flows" / "defs.yaml"
    stub.write_text(stub.read_text().replace("modules", "module"))
    with pytest.raises(Exception, match="Error while loading component flows") as caught:  # Dagster's class is private
        _load(component_project)
    assert "module" in "\n".join(map(str, causes(caught.value)))
