"""The code location that Dagster loads: the workflows of `assets/workflows`, the workbench, and the notebooks of `notebooks`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import dagster as dg

from workflows_pkg.errors import MissingExtra
from workflows_pkg.workbench.notebooks import notebook_assets
from workflows_pkg.workbench.workbench import workbench

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@dg.definitions
def defs() -> dg.Definitions:
    """Everything below `assets/defs`, as its `defs.yaml` files say, with the sensors that land history and learn from it.

    Without the extra `notebook` the notebooks are left out: they are read in Jupyter then, and everything else works as it does.
    """
    parts = [dg.load_from_defs_folder(path_within_project=Path(__file__).parent), workbench()]
    with suppress(MissingExtra):
        parts.append(notebook_assets(NOTEBOOKS))
    return dg.Definitions.merge(*parts)
