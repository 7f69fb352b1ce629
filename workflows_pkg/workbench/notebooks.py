"""How does a folder of notebooks become Dagster assets, run on the instance's own history and opened from its UI?

    defs = dg.Definitions.merge(mine, workbench(), notebook_assets(Path("notebooks")))

Materialising the asset runs the notebook with `WORKFLOWS_HOME` naming the instance; each run keeps its executed notebook, and
the asset's page links to it. dagstermill runs it, so a cell may use `context` as its documentation says; a
notebook that knows nothing of Dagster runs as it is. Three things differ from what dagstermill does by itself:

- The kernel is the Python that runs the step, whatever `python3` means on the path or among the user's kernels.
- One notebook is kept for each run. dagstermill's own IO manager overwrites one file for each asset.
- What dagstermill writes into a notebook to hand over the run - run config, and the settings of the instance's storage, which may
  hold a password - is taken out before it is kept, and values of `WORKFLOWS_SECRET_...` are not given to the kernel.

Who may write what a notebook shows? Dagster serves an executed notebook as a page of its own origin, without a content security
policy. A script in its output runs with the rights of whoever opens it: it can launch and delete what they can. So only
notebooks that are reviewed like code belong into the folder, and a cell must not render text of others as HTML.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import dagster as dg

from workflows_pkg.errors import MissingExtra, SetupError, bounded

PREFIX = ["workflows", "notebooks"]
"""First parts of the asset keys; the file's name is the last."""
GROUP = "workflows"
KERNEL = "workflows"
"""Name of the kernel that is made for one execution; no other is asked for."""
_OURS = "workflows-only-while-running"
_AUTHORS = "workflows-parameters-of-the-author"
_ADDED = frozenset({"injected-parameters", "injected-teardown", _OURS})
"""Tags of cells that are not kept; the first two are dagstermill's."""
_HIDDEN = "WORKFLOWS_SECRET_"
_IO = "workflows_notebooks_io"
"""The project's own `io_manager` would be opened for each notebook, twice, and not used."""
_NO_VALUES = dg.FilesystemIOManager()


def notebook_assets(folder: Path, *, keep: Path | None = None) -> dg.Definitions:
    """One asset `workflows/notebooks/<name>` for each `.ipynb` of the folder.

    keep: where executed notebooks are kept, as `<name>/<run id>.ipynb`; None: `notebooks` in the instance's storage. Dagster shows a
    notebook only where it lies below the folder that the code server was started in.

    Raises MissingExtra without dagstermill, SetupError where the folder is missing or holds what is no notebook.
    """
    if find_spec("dagstermill") is None:
        raise MissingExtra("Running notebooks as assets", "notebook")
    if not folder.is_dir():
        raise SetupError(f"There is no folder {folder} to take notebooks from.", fix="Name the folder that holds them.")
    by_name: dict[str, Path] = {}
    for path in sorted(folder.glob("*.ipynb")):
        name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
        if name in by_name:
            raise SetupError(f"{by_name[name].name} and {path.name} would be one asset, '{name}'.", fix="Rename one of them.")
        by_name[name] = path.resolve()
    assets = [_asset(name, path, keep) for name, path in by_name.items()]
    return dg.Definitions(assets=assets, resources={_IO: _NO_VALUES})


def _asset(name: str, path: Path, keep: Path | None) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        key_prefix=PREFIX,
        group_name=GROUP,
        description=_opening(path),
        kinds={"jupyter"},
        io_manager_key=_IO,
        code_version=hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        op_tags={"notebook_path": str(path)},  # the UI shows the notebook as it was written by this tag
    )
    def notebook(context) -> dg.MaterializeResult:  # pyright: ignore[reportMissingParameterType]  Dagster refuses it quoted
        return _executed(context, name, path, keep)

    return notebook


def _executed(context: dg.AssetExecutionContext, name: str, path: Path, keep: Path | None) -> dg.MaterializeResult[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        # Not among dagstermill's top-level names; tests/workbench/test_notebooks.py fails when it moves.
        from dagstermill.factory import execute_notebook

    kept = (keep or Path(context.instance.storage_directory()) / "notebooks").resolve() / name / f"{context.run.run_id}.ipynb"
    step = context.op_execution_context.get_step_execution_context()
    with TemporaryDirectory(prefix="workflows-notebook-") as private, _kernel(Path(private), context.instance):
        before = _read(path)
        prepared = Path(private) / f"{name}.ipynb"
        prepared.write_text(json.dumps(_prepared(before)))
        failure: Exception | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", dg.BetaWarning)
                execute_notebook(
                    step,
                    name=name,
                    save_notebook_on_failure=False,  # it would be kept with what dagstermill writes into it
                    notebook_path=str(prepared),
                    output_notebook_dir=private,
                    inputs={},
                )
        except Exception as error:  # noqa: BLE001  told below, with the notebook that shows where
            failure = error
        written = next(Path(private).glob("*-out.ipynb"), None)
        if written is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(_cleaned(_read(written), before), indent=1))
    found = _metadata(kept, context.run) if kept.is_file() else {}
    if failure is not None:
        raise dg.Failure(f"The notebook {path.name} stopped: {bounded(_last_line(failure), 300)}", metadata=found)
    return dg.MaterializeResult(metadata=found)


@contextmanager
def _kernel(private: Path, instance: dg.DagsterInstance) -> Generator[None]:
    """For as long as this lasts, the kernel of this name is this Python, and the notebook's history is this instance's."""
    spec = {
        # Minimal: should dagstermill's own first cell fail, a longer traceback would show what that cell holds
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--InteractiveShell.xmode=Minimal"],
        "display_name": "Python of the code location",
        "language": "python",
        "env": {
            "WORKFLOWS_HOME": instance.root_directory,
            # Dagster's page knows no plotly; this form brings its script along, in each notebook once
            "PLOTLY_RENDERER": "notebook",
            **{variable: "" for variable in os.environ if variable.startswith(_HIDDEN)},
        },
    }
    folder = private / "jupyter" / "kernels" / KERNEL
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    earlier = os.environ.get("JUPYTER_PATH")  # searched before everything else; nothing takes a path as an argument
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(private / "jupyter"), earlier]))
    try:
        yield
    finally:
        if earlier is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = earlier


def _prepared(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook as dagstermill gets it: our kernel, and three cells before its own.

    dagstermill replaces the first cell tagged `parameters` by its own; that is the second of ours, so that the author's stays.
    """
    added = [
        # Dagster drops the first entry while it loads the code location; without this one that is a folder of PYTHONPATH
        _code("import sys\nsys.path.insert(0, '')", _OURS),
        _code("", "parameters"),
        _code("get_ipython().InteractiveTB.set_mode(mode='Context')", _OURS),
    ]
    cells = [_retagged(cell, "parameters", _AUTHORS) for cell in notebook["cells"]]
    kernel = {"name": KERNEL, "display_name": KERNEL, "language": "python"}
    return {**notebook, "metadata": {**notebook["metadata"], "kernelspec": kernel}, "cells": [*added, *cells]}


def _cleaned(executed: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The executed notebook without what was added to run it."""
    cells = [cell for cell in executed["cells"] if not _ADDED & set(cell["metadata"].get("tags", []))]
    return {**executed, "metadata": before["metadata"], "cells": [_retagged(cell, _AUTHORS, "parameters") for cell in cells]}


def _code(source: str, tag: str) -> dict[str, Any]:
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": [tag]}, "outputs": [], "execution_count": None}
    return {**cell, "id": f"added-{len(source)}"}


def _retagged(cell: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    tags = cell["metadata"].get("tags")
    if not tags:
        return cell
    return {**cell, "metadata": {**cell["metadata"], "tags": [new if tag == old else tag for tag in tags]}}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if found["nbformat"] != 4 or not all("cell_type" in cell and "metadata" in cell for cell in found["cells"]):
            raise ValueError("its format is not version 4")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{path} is not a notebook: {bounded(error)}.", fix="Open it in Jupyter and save it again.") from error
    return found


def _opening(path: Path) -> str:
    """Title and first paragraph of the notebook, which say what it is for."""
    texts = ("".join(cell["source"]) for cell in _read(path)["cells"] if cell["cell_type"] == "markdown")
    paragraphs = [each.strip() for each in next(texts, path.stem).split("\n\n") if each.strip()]
    return "\n\n".join(paragraphs[:2])


def _metadata(kept: Path, run: dg.DagsterRun) -> dict[str, dg.MetadataValue]:
    """Where the executed notebook is, and how to see it.

    The UI has a button for a value of kind notebook, but shows it on no page that knows an asset (seen with 1.13.27): there the value
    is a path to copy. So there is a link beside it, to the address that the button would ask. It misses where the webserver was started
    with a path prefix, and there is none where nobody said which code location the run belongs to, as in `execute_in_process`.
    """
    found: dict[str, dg.MetadataValue] = {"Executed notebook": dg.MetadataValue.notebook(str(kept))}
    origin = run.remote_job_origin
    if kept.is_relative_to(Path.cwd()):
        if origin is not None:
            asked = urlencode({"path": kept, "repoLocName": origin.repository_origin.code_location_origin.location_name})
            found["Opening it"] = dg.MetadataValue.md(f"[Open the notebook](/notebook?{asked})")
    else:
        found["Opening it"] = dg.MetadataValue.text(
            f"Dagster shows a notebook only where it lies below the folder of the code server, {Path.cwd()}. "
            "Name one below it with notebook_assets(..., keep=...), or open the file in Jupyter."
        )
    return found


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
