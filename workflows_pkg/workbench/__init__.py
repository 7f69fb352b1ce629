"""What does Dagster show of all this: what a user merges into their definitions."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`dg` finds component types among the names of this module. Loaded when asked for: a process for one step of a user's job, which
    imports `instrument` from here, would otherwise load DuckDB and pandas each time."""
    if name == "WorkflowFolder":
        from workflows_pkg.workbench.component import WorkflowFolder

        return WorkflowFolder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "WorkflowFolder"]
