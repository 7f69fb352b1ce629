"""The executor of an instrumented project measures steps whose process dies, and is the same to Dagster."""

from __future__ import annotations

from types import ModuleType

import dagster as dg
import pytest

from workflows_pkg.orchestration.crashes import telling_of_crashes
from workflows_pkg.workbench.instrument import instrument

# The foreign project uses what Dagster calls beta. What is measured: tests/orchestration/test_crashes.py.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


def test_the_executor_is_the_same_to_dagster(foreign: ModuleType) -> None:
    theirs = foreign.EXECUTOR
    wrapped = telling_of_crashes(theirs)
    assert (wrapped.name, wrapped.config_schema, wrapped.description) == (theirs.name, theirs.config_schema, theirs.description)
    assert telling_of_crashes(theirs) is wrapped
    assert telling_of_crashes(wrapped) is wrapped
    assert telling_of_crashes(dg.in_process_executor) is dg.in_process_executor
    job = foreign.instrumented().resolve_job_def("dying")
    assert job.executor_def is wrapped
    assert job.get_subset(op_selection=["dies_first"]).executor_def is wrapped
    assert foreign.instrumented().resolve_job_def("asset_job").executor_def is wrapped
    assert foreign.definitions().resolve_job_def("dying").executor_def is theirs


def test_definitions_without_an_executor_get_none() -> None:
    assert instrument(dg.Definitions()).executor is None
