"""A code location with one notebook, in the folder that TEST_NOTEBOOKS names: dagstermill runs only what another process can load."""

import os
from pathlib import Path

import dagster as dg

from workflows_pkg.workbench.notebooks import notebook_assets


def good() -> dg.JobDefinition:
    return _job("good")


def bad() -> dg.JobDefinition:
    return _job("bad")


def _job(name: str) -> dg.JobDefinition:
    job = dg.define_asset_job(name, executor_def=dg.in_process_executor)
    defs = dg.Definitions.merge(notebook_assets(Path(os.environ["TEST_NOTEBOOKS"])), dg.Definitions(jobs=[job]))
    return defs.resolve_job_def(name)
