"""The memory of a step of a real metered run comes back as what to ask for: in the forecasts, on their page and on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.prediction.lookup import FILE, job_forecast
from workflows_pkg.report.asset_forecasts import forecasts_page, predictors_page
from workflows_pkg.report.rests_on import rests_on
from workflows_pkg.workbench.learning import learn

CODE = Path(__file__).with_name("metered_nightly.py")


def test_from_a_metered_run_to_what_its_steps_should_ask_for(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(CODE), "-j", "nightly"]
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path), "PYTHONPATH": str(CODE.parents[2])}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)  # each step in a process of its own
    sync_events(tmp_path, tmp_path)
    forecasts, card = learn(tmp_path)
    requests = {one.step: one for one in forecasts if one.quantity == "memory_request_mib"}
    assert requests.keys() == {"wide", "narrow"}
    assert requests["wide"].p50 > requests["narrow"].p50 + 64, "it held 96 MiB more"
    assert "Its author allows it 4,096 MiB" in rests_on(requests["wide"])
    assert "allows" not in rests_on(requests["narrow"]), "where no limit is stated none is invented"
    found = job_forecast(tmp_path / FILE, "nightly")
    assert found is not None
    assert found.steps("memory_request_mib").keys() == {"wide", "narrow"}
    with closing(open_history(tmp_path)) as con:
        page = forecasts_page(forecasts, con)
        (measured,) = con.execute("select peak_memory_mib from step_attempts where step = 'wide'").fetchone() or (None,)
    assert measured is not None
    assert measured <= requests["wide"].p50 <= 4096
    assert "| nightly | wide |" in page.texts["memory of steps"]
    assert "memory to ask for" in predictors_page(card).texts["who serves, who answers in the shadow"]
