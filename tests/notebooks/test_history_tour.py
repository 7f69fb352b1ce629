"""The notebook answers its questions on a real history file, without a warning, and is kept without outputs."""

import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "history_tour.ipynb"
STRICT = "import warnings\nwarnings.simplefilter('error')\nwarnings.filterwarnings('ignore', 'datetime.datetime.utcnow', DeprecationWarning)"
# jupyter_client 7.4, the newest that Dagster's notebook integration takes, asks for the time in a way Python 3.12 warns about
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    runpy.run_path(str(ROOT / "tests" / "report" / "sample_history.py"))["write"](folder)
    return folder


def executed(notebook, home, monkeypatch):
    monkeypatch.setenv("WORKFLOWS_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # else jupyter_core warns about its own folders
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(home)}}).execute()
    return notebook.cells


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_every_cell_runs_without_a_warning_and_shows_what_it_promises(home, monkeypatch):
    cells = executed(read(), home, monkeypatch)
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    kinds = [kind for output in outputs if "data" in output for kind in output["data"]]
    assert kinds.count("application/vnd.plotly.v1+json") == 8
    assert kinds.count("text/html") >= 7
    text = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert "90 runs" in text


def test_notebook_runs_on_a_history_in_which_nothing_has_happened(tmp_path, monkeypatch):
    cells = executed(read(), tmp_path, monkeypatch)
    assert any("Nothing has run yet" in str(cell.get("outputs", "")) for cell in cells)


def test_control_a_warning_in_a_cell_stops_the_execution(home, monkeypatch):
    notebook = read()
    notebook.cells.append(nbformat.v4.new_code_cell("import warnings\nwarnings.warn('careless')"))
    notebook.cells = notebook.cells[-1:]
    with pytest.raises(CellExecutionError, match="careless"):
        executed(notebook, home, monkeypatch)


@pytest.mark.parametrize("path", sorted(NOTEBOOK.parent.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
