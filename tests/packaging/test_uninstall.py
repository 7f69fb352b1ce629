"""Uninstalling leaves somebody's instance working: its runs are read by Dagster's own reader, and its jobs run.

The project beside which the package was used is written here twice, with the line and without it; nothing else is changed.
"""

from __future__ import annotations

import json
from pathlib import Path

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

RUN = """
import json, theirs, dagster as dg
with dg.DagsterInstance.get() as instance:
    result = theirs.defs.resolve_job_def("nightly").execute_in_process(instance=instance)
    print(json.dumps([result.success, result.run_id]))
"""
LAND = """
import os
from pathlib import Path
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.workbench.learning import learn
home = Path(os.environ["DAGSTER_HOME"])
sync_events(home, home)
with writer(home) as history:
    learn(history, home)
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
            ours = [each for each in page.records if "workflows/" in each.event_log_entry.to_json()] if hasattr(dg.EventLogEntry, "to_json") else []  # noqa: E501
            cursor = page.cursor
            if not page.has_more:
                break
        read[run.run_id] = [run.status.value, len(kinds), len(instance.all_logs(run.run_id)), sorted(set(kinds))]
print(json.dumps(read))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "dagster.yaml").write_text(SETTINGS)
    return folder


def last(text: str) -> object:
    return json.loads(text.strip().splitlines()[-1])


@pytest.mark.long
def test_after_uninstalling_the_instance_is_read_and_runs_go_on(project: Path, neighbour_venv: Venv, wheel: Path) -> None:
    home = {"DAGSTER_HOME": str(project / "home")}
    neighbour_venv.pip("install", "-q", "--no-deps", str(wheel))
    (project / "theirs.py").write_text(WITH)
    (project / "home" / "dagster.yaml").write_text(SETTINGS + COORDINATOR)
    success, measured = last(neighbour_venv.run("-c", RUN, cwd=project, **home))
    assert success
    assert int(neighbour_venv.run("-c", LAND, cwd=project, **home).split()[-1]) >= 2

    neighbour_venv.pip("uninstall", "-y", "agentic-workflows")
    assert "No module named 'workflows_pkg'" in neighbour_venv.run("-c", "import workflows_pkg", cwd=project, fails=True)

    # Who forgets the lines is told which: the settings first, because nothing of Dagster starts without them, then the module.
    told = neighbour_venv.run("-c", RUN.replace("theirs, ", "").replace("theirs.defs", "None"), cwd=project, fails=True, **home)
    assert "workflows_pkg" in told
    (project / "home" / "dagster.yaml").write_text(SETTINGS)
    assert "No module named 'workflows_pkg'" in neighbour_venv.run("-c", RUN, cwd=project, fails=True, **home)
    (project / "theirs.py").write_text(WITHOUT)

    again, _ = last(neighbour_venv.run("-c", RUN, cwd=project, **home))
    assert again
    read = last(neighbour_venv.run("-c", READ, cwd=project, **home))
    assert isinstance(read, dict)
    assert len(read) == 2
    assert {status for status, *_ in read.values()} == {"SUCCESS"}
    for status, kinds, entries, names in read.values():
        assert kinds == entries, status
        assert {"ASSET_MATERIALIZATION", "STEP_UP_FOR_RETRY", "RUN_SUCCESS"} <= {
            name.replace("PIPELINE_", "RUN_") for name in names
        }
    assert "ENGINE_EVENT" in read[measured][3]
    assert "HOOK_COMPLETED" in read[measured][3]
    listed = neighbour_venv.run("-m", "dagster", "job", "list", "-m", "theirs", cwd=project, **home)
    assert "nightly" in listed
    sensors = neighbour_venv.run("-m", "dagster", "sensor", "list", "-m", "theirs", cwd=project, **home)
    assert "workflows" not in sensors
    assert not (project / "home" / "workflows.log").exists()
    assert {path.name for path in (project / "home").iterdir()} - {
        "dagster.yaml",
        "history",
        "schedules",
        "storage",
        ".nux",
        "logs",
    } <= OURS


OURS = {"history.duckdb", "history.store", "history.duckdb.lock", "forecasts.json", "forecasts.card.json"}
"""What is left behind, to be kept as a record or deleted."""
