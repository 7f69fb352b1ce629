"""The tree explains itself: what the documentation says of it is so."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from workflows_pkg.orchestration.instance import STARTING_SETTINGS

ROOT = Path(__file__).parents[1]
PACKAGES = {path.parent.name for path in ROOT.glob("workflows_pkg/*/__init__.py")} | {"errors"}


def test_architecture_page_lists_every_package_and_no_other() -> None:
    table = (ROOT / "docs/architecture.md").read_text().split("## The order")[1].split("`resources` and `assets`")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == PACKAGES


def test_import_order_lists_every_package() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    listed = {name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")}
    assert listed >= PACKAGES
    assert contract["exhaustive"] is True


def test_import_order_control_a_forbidden_import_is_caught(tmp_path: Path) -> None:
    """The order is only worth something if breaking it is seen."""
    package = tmp_path / "workflows_pkg"
    for name in ("spec", "cli"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "spec" / "wrong.py").write_text("import workflows_pkg.cli\n")
    config = (
        '[tool.importlinter]\nroot_package = "workflows_pkg"\n[[tool.importlinter.contracts]]\nname = "order"\ntype = "layers"\n'
    )
    (tmp_path / "pyproject.toml").write_text(config + 'containers = ["workflows_pkg"]\nlayers = ["cli", "spec"]\n')
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1, result.stdout
    assert "workflows_pkg.spec.wrong" in result.stdout


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda path: path.name)
def test_links_in_the_documentation_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_only_the_library_is_in_the_wheel() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert built == {"packages": ["workflows_pkg"]}


def test_importing_the_command_line_needs_no_extra_and_loads_no_plots() -> None:
    """Extras are imported where they are used; plotly takes a second, so commands that draw nothing do without."""
    code = "import sys, workflows_pkg.cli.main; print(sorted({'apprise', 'dagster_webserver', 'nbclient', 'plotly'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_settings_shown_are_the_settings_used() -> None:
    assert (ROOT / "dagster.yaml").read_text() == STARTING_SETTINGS
