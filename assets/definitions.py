"""The code location that Dagster loads: the workflows of `assets/workflows`, and the workbench."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from workflows_pkg.workbench.workbench import workbench


@dg.definitions
def defs() -> dg.Definitions:
    """Everything below `assets/defs`, as its `defs.yaml` files say, with the sensor that lands history."""
    return dg.Definitions.merge(dg.load_from_defs_folder(path_within_project=Path(__file__).parent), workbench())
