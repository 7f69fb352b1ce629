"""A notebook becomes an asset that runs on the instance's history and keeps what each run wrote, without what must not be kept."""

from __future__ import annotations

import importlib
import json
import re
import time
import urllib.request
from pathlib import Path

import dagster as dg
import nbformat
import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.instance import create_instance, open_instance
from workflows_pkg.orchestration.launch import submit
from workflows_pkg.orchestration.services import Services
from workflows_pkg.workbench.notebooks import notebook_assets

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # papermill's and dagstermill's own
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),  # dagstermill is what Dagster calls beta
]

COUNTS = """
import os, sys
from pathlib import Path
from workflows_pkg.history.store import open_history
with open_history(Path(os.environ["WORKFLOWS_HOME"])) as con:
    runs = con.execute("select count(*) from runs").fetchone()[0]
print(f"{runs} runs by {sys.executable}; secrets: {[v for name, v in os.environ.items() if name.startswith('WORKFLOWS_SECRET_') and v]}")
"""


def written(folder: Path, source: str) -> Path:
    folder.mkdir(exist_ok=True)
    cells = [nbformat.v4.new_markdown_cell("# How many runs?"), nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "counts.ipynb")
    return folder


def outputs(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "".join(text for cell in cells for output in cell.get("outputs", []) for text in output.get("text", []))


def executed(job: str, folder: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, list[Path]]:
    """Whether the run of all notebooks succeeded, and the notebooks that its events name."""
    monkeypatch.setenv("TEST_NOTEBOOKS", str(folder))
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here)  # dagstermill loads the job again in the notebook's process
    monkeypatch.syspath_prepend(here)
    project = importlib.import_module("notebook_project")
    with dg.execute_job(dg.reconstructable(getattr(project, job)), instance=instance) as result:
        events = [event.materialization for event in result.get_asset_materialization_events()]
        values = [value for event in events for value in event.metadata.values()]
        return result.success, [Path(str(value.value)) for value in values if isinstance(value, dg.NotebookMetadataValue)]


@pytest.fixture
def history(instance: dg.DagsterInstance, instance_home: Path) -> None:
    @dg.op
    def work() -> int:
        return 1

    @dg.job
    def nightly() -> None:
        work()

    nightly.execute_in_process(instance=instance)
    sync_events(instance_home, instance_home)


@pytest.mark.usefixtures("history")
def test_each_run_keeps_its_notebook_executed_on_the_history_of_the_instance(
    instance: dg.DagsterInstance, instance_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOWS_SECRET_TOKEN", "hush")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the environment's own python3 is not on it
    folder = written(tmp_path / "notebooks", COUNTS)
    kept: list[Path] = []
    for _ in range(2):
        success, paths = executed("good", folder, instance, monkeypatch)
        assert success
        kept += paths
    assert len({path.resolve() for path in kept}) == 2
    for path in kept:
        assert outputs(path).startswith("1 runs by ")
        assert ".venv" in outputs(path) or "bin/python" in outputs(path)
        assert "secrets: []" in outputs(path)
        assert "hush" not in path.read_text()
        assert "instance_ref" not in path.read_text()


def test_a_cell_that_fails_fails_the_step_and_the_notebook_is_kept(
    instance: dg.DagsterInstance, instance_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    success, _ = executed("bad", written(tmp_path / "notebooks", "raise ValueError('a wrong cell')"), instance, monkeypatch)
    assert not success
    (kept,) = instance_home.glob("storage/notebooks/counts/*.ipynb")
    assert "a wrong cell" in kept.read_text()


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="There is no folder"):
        notebook_assets(tmp_path / "nowhere")


def test_the_name_it_uses_of_dagstermill_is_there() -> None:
    from dagstermill.factory import execute_notebook

    assert callable(execute_notebook)


@pytest.mark.timeout(300)
def test_its_page_links_to_what_was_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launched as the UI does, the link is followed as a browser does; below the code server's folder, where Dagster gives it out."""
    written(tmp_path / "notebooks", "print(6 * 7)")
    (tmp_path / "their_location.py").write_text(
        "from pathlib import Path\n"
        "import dagster as dg\n"
        "from workflows_pkg.workbench.notebooks import notebook_assets\n"
        "jobs = [dg.define_asset_job('all_notebooks', selection='*', executor_def=dg.in_process_executor)]\n"
        "defs = dg.Definitions.merge(notebook_assets(Path(__file__).parent / 'notebooks'), dg.Definitions(jobs=jobs))\n"
    )
    home = tmp_path / "home"
    create_instance(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with Services(home, tmp_path, module="their_location", port=0) as services, open_instance(home) as instance:
        run_id = submit(instance, services.workspace_file, "all_notebooks")
        deadline = time.monotonic() + 200
        while (run := instance.get_run_by_id(run_id)) is None or not run.is_finished:
            assert time.monotonic() < deadline, "the run has not ended"
            time.sleep(0.5)
        event = instance.get_latest_materialization_event(dg.AssetKey(["workflows", "notebooks", "counts"]))
        assert event is not None
        assert event.asset_materialization is not None
        link = event.asset_materialization.metadata["Opening it"]
        address = re.fullmatch(r"\[Open the notebook\]\((/notebook\?.*)\)", str(link.value))
        assert address is not None
        with urllib.request.urlopen(f"{services.url}{address[1]}", timeout=60) as answer:
            page = answer.read().decode()
    assert "How many runs?" in page
    assert "42" in page
