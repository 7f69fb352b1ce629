"""Uninstalling leaves somebody's instance working: its runs are read by Dagster's own reader, and its jobs run.

The project beside which the package was used is written here twice, with the line and without it; nothing else is changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import Venv

THEIRS = """
import dagster as dg

@dg.asset
def orders():
    return [1, 2, 3]

@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
def totals(context, orders):
    if context.op_execution_context.retry_number == 0:
        raise ConnectionError("the first try always fails")
    return sum(orders)

def mine():
    jobs = [dg.define_asset_job("nightly", selection=[orders, totals])]
    return dg.Definitions(assets=[orders, totals], jobs=jobs, executor=dg.in_process_executor)
"""
WITH = f"""{THEIRS}
from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench

defs = dg.Definitions.merge(instrument(mine()), workbench())
"""
WITHOUT = f"{THEIRS}\ndefs = mine()\n"

COORDINATOR = "run_coordinator: {module: workflows_pkg.instance.coordinator, class: ForecastingRunCoordinator}\n"
SETTINGS = "telemetry: {enabled: false}\n"
NOT_IMPORTED = "Couldn't import module workflows_pkg.instance.coordinator"
"""What Dagster says where dagster.yaml still names the coordinator."""
OURS = {"history.duckdb", "history.store", "forecasts.json", "forecasts.card.json"}
"""What stays in the instance's folder, to be kept as a record or deleted."""
DAGSTERS = {"dagster.yaml", "history", "schedules", "storage", "logs", ".logs_queue", ".nux", ".telemetry"}

RUN = """
import json, theirs, dagster as dg
with dg.DagsterInstance.get() as instance:
    result = theirs.defs.resolve_job_def("nightly").execute_in_process(instance=instance)
    print(json.dumps([result.success, result.run_id]))
"""
LAND = """
import os
from pathlib import Path
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.workbench.learning import learn
home = Path(os.environ["DAGSTER_HOME"])
sync_events(home, home)
learn(home)
with open_history(home) as history:
    print(history.execute("select count(*) from step_attempts where cpu_s is not null").fetchone()[0])
"""
READ = """
import json, dagster as dg
read = {}
with dg.DagsterInstance.get() as instance:
    for run in instance.get_runs():
        cursor, kinds = None, []
        while True:
            page = instance.get_records_for_run(run.run_id, cursor=cursor, limit=20)
            kinds += [each.event_log_entry.dagster_event.event_type_value for each in page.records if each.event_log_entry.dagster_event]
            cursor = page.cursor
            if not page.has_more:
                break
        events = [e.dagster_event for e in instance.all_logs(run.run_id) if e.dagster_event]
        metered = [e for e in events if "workflows/attempt" in getattr(e.event_specific_data, "metadata", {})]
        read[run.run_id] = {"metered": len(metered), "status": run.status.value, "kinds": kinds, "events": len(events)}
print(json.dumps(read))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "dagster.yaml").write_text(SETTINGS)
    return folder


def last(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])


@pytest.mark.long
def test_after_uninstalling_the_instance_is_read_and_runs_go_on(project: Path, neighbour_venv: Venv, wheel: Path) -> None:
    home = {"DAGSTER_HOME": str(project / "home")}
    settings = project / "home" / "dagster.yaml"

    def python(*arguments: str, fails: bool = False) -> str:
        return neighbour_venv.run(*arguments, cwd=project, fails=fails, **home)

    neighbour_venv.pip("install", "-q", "--no-deps", str(wheel))
    (project / "theirs.py").write_text(WITH)
    settings.write_text(SETTINGS + COORDINATOR)
    success, measured = last(python("-c", RUN))
    assert success
    assert int(python("-c", LAND).split()[-1]) >= 2

    neighbour_venv.pip("uninstall", "-y", "agentic-workflows")
    assert "No module named 'workflows_pkg'" in python("-c", "import workflows_pkg", fails=True)

    # Who forgets a line is told which one, by the first command that needs it.
    assert "No module named 'workflows_pkg'" in python("-c", RUN, fails=True)
    (project / "theirs.py").write_text(WITHOUT)
    assert NOT_IMPORTED in python("-m", "dagster", "job", "launch", "-m", "theirs", "-j", "nightly", fails=True)
    settings.write_text(SETTINGS)

    again, after = last(python("-c", RUN))
    assert again
    read = last(python("-c", READ))
    assert set(read) >= {measured, after}
    for run_id in (measured, after):
        assert read[run_id]["status"] == "SUCCESS"
        assert len(read[run_id]["kinds"]) == read[run_id]["events"]
        assert {"ASSET_MATERIALIZATION", "STEP_UP_FOR_RETRY", "PIPELINE_SUCCESS"} <= set(read[run_id]["kinds"])
    assert read[measured]["metered"] >= 2  # what the line left in the run's log, readable without it
    assert read[after]["metered"] == 0
    assert "nightly" in python("-m", "dagster", "job", "list", "-m", "theirs")
    assert {path.name for path in (project / "home").iterdir()} <= DAGSTERS | OURS
