"""What does Dagster show of all this: what a user merges into their definitions."""

# `dg` finds component types among the names of the module that the entry point names.
from workflows_pkg.workbench.component import WorkflowFolder as WorkflowFolder
