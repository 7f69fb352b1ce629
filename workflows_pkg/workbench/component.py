"""How does a Dagster project name its folder of workflows? As a component in a `defs.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
from pydantic import Field

from workflows_pkg.security.allow import Allow
from workflows_pkg.workbench.folder import workflow_definitions


class WorkflowFolder(dg.Component, dg.Model, dg.Resolvable):
    """All workflow files of one folder, and what the code location grants to them."""

    path: str = Field("assets/workflows", description="The folder with the workflow files, below the project's root.")
    files: str | None = Field(None, description="The folder below which steps read and write; left out: no files.")
    modules: list[str] = Field(default_factory=list, description="Modules whose functions `python` steps may call.")
    hosts: list[str] = Field(default_factory=list, description="host:port of private or local HTTP peers.")
    tables: dict[str, str] = Field(default_factory=dict, description="Names of tables, and their files below `files`.")
    secrets: list[str] = Field(default_factory=list, description="Names of secrets that steps may use.")

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg list components` shows."""
        return dg.ComponentTypeSpec(description="A folder of workflow files, compiled to assets, jobs, schedules and sensors.")

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the folder; versions are kept where DAGSTER_HOME names the instance."""
        root = Path(context.project_root)
        home = os.environ.get("DAGSTER_HOME")
        allow = Allow(
            files=None if self.files is None else root / self.files,
            modules=tuple(self.modules),
            hosts=tuple(self.hosts),
            tables=self.tables,
            secrets=tuple(self.secrets),
        )
        return workflow_definitions(root / self.path, allow, Path(home) if home else None)
