"""Does everything a joiner uses work in this environment? Run by that environment's own Python; needs nothing beside the package.

    python smoke.py PROJECT HOME

Prints one JSON object: the versions it ran with, and what each part showed. Ends with an error where a part does not work.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAMED = ("dagster", "duckdb", "pandas", "numpy", "pyarrow", "scikit-learn", "plotly", "pydantic", "click", "openai")
RUNS = 3
"""Runs of each job before forecasting: a forecast needs a few, the rest is time."""
ENDS_WITHIN_S = 400.0
"""Of a queued run, on a machine that does other things as well."""
LANDS_WITHIN_S = 60.0


def main(project: Path, home: Path) -> dict[str, object]:
    os.environ.update(DAGSTER_HOME=str(home), DAGSTER_DISABLE_TELEMETRY="yes")
    os.chdir(project)
    from workflows_pkg.orchestration.instance import create_instance

    create_instance(home)
    said: dict[str, object] = {"python": sys.version.split()[0], **{name: version(name) for name in NAMED}}
    workflows("check", "flows")
    said["problems"] = [each for each in workflows("doctor", "--json") if each["state"] == "problem"]
    said["ran"] = [workflows("run", job, "--json")["status"] for job in ("nightly", "sums") for _ in range(RUNS)]
    said["through_the_daemon"] = through_the_daemon(project, home)
    said["quarantined"] = workflows("history", "sync", "--json")["quarantined"]
    counted = "select count(distinct run_id) as runs, count(*) as attempts, count(cpu_s) as metered from step_attempts"
    counted += " where job_name <> 'workflows_learning'"  # which the daemon may begin meanwhile
    said["history"] = workflows("history", "sql", counted, "--json")[0]
    retried = "select count(*) as n from step_attempts where step = 'totals' and outcome = 'failure' and will_retry"
    said["retried"] = workflows("history", "sql", retried, "--json")[0]["n"]
    said["forecasts"] = sorted({row["job_name"] for row in workflows("forecast", "--json")})
    said["compared"] = len(workflows("forecast", "--compare", "--json"))
    workflows("advise", "--json")
    workflows("history", "report", str(home / "page.html"))
    said["report_bytes"] = (home / "page.html").stat().st_size
    script = [str(Path(sys.executable).with_name("workflows")), "--version"]
    said["command"] = subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()
    return said


def through_the_daemon(project: Path, home: Path) -> dict[str, object]:
    """Real code server and daemon (and webserver, where installed): a queued run of each job, landed by the workbench's sensor."""
    from workflows_pkg.history.store import open_history
    from workflows_pkg.orchestration.instance import open_instance
    from workflows_pkg.orchestration.launch import submit, wait_until_ended
    from workflows_pkg.orchestration.services import Services

    port = 0 if find_spec("dagster_webserver") else None
    with Services(home, project, port=port) as services, open_instance(home) as instance:
        ids = [submit(instance, services.workspace_file, job) for job in ("nightly", "sums")]
        ended = [wait_until_ended(instance, run_id, ENDS_WITHIN_S) for run_id in ids]
        deadline = time.monotonic() + LANDS_WITHIN_S
        while True:
            with open_history(home) as history:
                landed = history.execute(
                    "select count(*) from runs where outcome = 'success' and run_id in (?, ?)", ids
                ).fetchone()
            if landed == (2,) or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        return {"ended": ended, "landed_by_the_sensor": landed[0] if landed else None, "webserver": services.url is not None}


def workflows(*arguments: str) -> Any:
    """What `workflows ...` answers, as JSON where that was asked for; in this process, because starting takes longer than most."""
    from workflows_pkg.cli.main import exit_code

    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        code = exit_code(list(arguments))
    if code:
        raise SystemExit(f"workflows {' '.join(arguments)} ended with {code}:\n{said.getvalue()}\n{told.getvalue()}")
    return json.loads(said.getvalue()) if "--json" in arguments else said.getvalue()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()), indent=1))
