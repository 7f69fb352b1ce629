"""A small code location of its own: the workflow files beside it, one of which is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import sample_steps  # noqa: F401  what steps call, found while Dagster loads this module and not necessarily later

from workflows_pkg.security.allow import Allow
from workflows_pkg.workbench.folder import workflow_definitions

HERE = Path(__file__).parent


@dg.definitions
def defs() -> dg.Definitions:
    """The workflows, with their versions where DAGSTER_HOME names an instance."""
    home = os.environ.get("DAGSTER_HOME")
    files = Path(os.environ.get("SAMPLE_FILES", str(HERE)))
    return workflow_definitions(
        HERE / "workflows", Allow(files=files, modules=("sample_steps",), secrets=("go",)), Path(home) if home else None
    )
