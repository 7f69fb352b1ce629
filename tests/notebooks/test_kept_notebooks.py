"""The notebooks answer their questions on a real history file, without a warning, and are kept without outputs."""

import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
SHOWN = {
    "history_tour": (8, 7, "90 runs", "Nothing has run yet"),
    "forecast_quality": (5, 2, "attempts replayed", "No step has succeeded twice yet"),
}
"""Least plots and tables by notebook, words it prints on a history, and words that it shows where nothing has happened."""
STRICT = """
import warnings
warnings.simplefilter('error')
# jupyter_client 7.4, the newest that Dagster's notebook integration takes, asks for the time in a way Python 3.12 warns about
warnings.filterwarnings('ignore', 'datetime.datetime.utcnow', DeprecationWarning)
# DuckDB 1.5.5 turns instants into a frame by a keyword that pandas 3.1 deprecates
warnings.filterwarnings('ignore', 'The inplace keyword in DataFrame', DeprecationWarning)
"""
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


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_every_notebook_is_executed_here():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_every_cell_runs_without_a_warning_and_shows_what_it_promises(name, home, monkeypatch):
    plots, tables, words, _ = SHOWN[name]
    cells = executed(read(name), home, monkeypatch)
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    kinds = [kind for output in outputs if "data" in output for kind in output["data"]]
    assert kinds.count("application/vnd.plotly.v1+json") == plots
    assert kinds.count("text/html") >= tables
    text = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    assert words in text


@pytest.mark.parametrize("name", SHOWN)
def test_notebook_runs_on_a_history_in_which_nothing_has_happened(name, tmp_path, monkeypatch):
    cells = executed(read(name), tmp_path, monkeypatch)
    assert any(SHOWN[name][3] in str(cell.get("outputs", "")) for cell in cells)


def test_control_a_warning_in_a_cell_stops_the_execution(home, monkeypatch):
    notebook = read("history_tour")
    notebook.cells.append(nbformat.v4.new_code_cell("import warnings\nwarnings.warn('careless')"))
    notebook.cells = notebook.cells[-1:]
    with pytest.raises(CellExecutionError, match="careless"):
        executed(notebook, home, monkeypatch)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_kept_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
