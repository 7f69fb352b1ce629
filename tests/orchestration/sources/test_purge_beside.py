"""A purge beside Dagster's own webserver, daemon and a worker that goes on writing: nobody notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.orchestration.sources import archived_assets
from tests.orchestration.sources.shown import ASSETS, LOG, PARTITIONS, RUN
from tests.servers import free_port
from workflows_pkg.history.archive import Archive
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.orchestration.archiving import archive_runs, restore
from workflows_pkg.orchestration.purge import purge

MONTH = timedelta(days=30)
DEFINITIONS = str(Path(archived_assets.__file__))


@contextmanager
def running(aged: Any) -> Iterator[str]:
    """Webserver and daemon of the instance; the address of the first."""
    port, bin_folder = free_port(), Path(sys.executable).parent
    environment = {**os.environ, "DAGSTER_HOME": str(aged.home), "PYTHONWARNINGS": "ignore", "DAGSTER_DISABLE_TELEMETRY": "yes"}
    commands = [
        [str(bin_folder / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(port), "-f", DEFINITIONS],
        [str(bin_folder / "dagster-daemon"), "run", "-f", DEFINITIONS],
    ]
    with (aged.home / "services.log").open("w") as log:
        started = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) for command in commands
        ]
        try:
            address = f"http://127.0.0.1:{port}/graphql"
            for left in reversed(range(600)):
                with suppress(OSError):
                    asked(address, "{ version }")
                    break
                assert left, (aged.home / "services.log").read_text()[-2000:]
                time.sleep(0.25)
            yield address
        finally:
            for process in started:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def asked(address: str, query: str, **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        told = json.load(answer)
    assert "errors" not in told, told["errors"]
    return told["data"]


def seen(address: str, aged: Any) -> dict[str, Any]:
    keys = [{"path": list(key.path)} for key in sorted(archived_assets.defs.resolve_all_asset_keys(), key=str)]
    found = {"assets": asked(address, ASSETS, keys=keys)}
    found["partitions"] = asked(address, PARTITIONS, keys=[{"path": [name]} for name in ("orders", "totals", "paint")])
    for run_id in aged.old:
        found[run_id] = asked(address, RUN, id=run_id)
    return found


@pytest.mark.long
def test_nobody_notices_a_purge(aged: Any) -> None:
    archive = Archive(archive_files(str(aged.archive)))
    troubles: list[BaseException] = []
    counts = {"pages": 0, "events": 0}
    ended = threading.Event()

    def often(work: Any, name: str) -> threading.Thread:
        def loop() -> None:
            while not ended.is_set():
                try:
                    work()
                    counts[name] += 1
                except BaseException as error:
                    troubles.append(error)
                    return

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    with running(aged) as address, aged.place.instance() as instance:
        before = seen(address, aged)
        (young, *_) = (run for run in instance.get_runs() if run.run_id not in aged.old)
        threads = [
            often(lambda: asked(address, LOG, id=aged.old[0]), "pages"),
            often(lambda: instance.report_engine_event("going on", young), "events"),
        ]
        try:
            for _ in range(3):
                archive_runs(aged.home, archive, MONTH)
                assert purge(aged.home, archive, MONTH, do=True).total.rows > 0
                assert seen(address, aged) == before
                restore(aged.home, archive)
            assert seen(address, aged) == before
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert troubles == []
    assert min(counts.values()) > 3
