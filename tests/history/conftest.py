"""A small made-up orchestrator: events as JSON text, the SELECT that reads them, and the runs they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from workflows_pkg.history.ingest import RAW_SCHEMA
from workflows_pkg.history.records import Cursor

TRANSLATE = """
select source_id, run_id, event_id, event_hash, j ->> '$.kind' as kind,
    try(to_timestamp((j ->> '$.at')::double)) as "at", 'etl' as job_name,
    j ->> '$.step' as step_key, try((j ->> '$.pid')::bigint) as process_id, try((j ->> '$.seconds')::double) as seconds,
    j ->> '$.error' as error_class, j ->> '$.message' as error_message, j ->> '$.asset' as asset_key, j ->> '$.partition' as partition_key,
    (j -> '$.data')::varchar as data
from (select *, try(event::json) as j from raw)
"""


@dataclass
class Log:
    """The log of one run: `say` appends an event `at` seconds after the run was asked for."""

    run_id: str
    created_at: datetime
    source_id: str = "here"
    rows: list[dict[str, Any]] = field(default_factory=list)

    def say(self, kind: str, at: float, **more: Any) -> Log:
        text = json.dumps({"kind": kind, "at": self.created_at.timestamp() + at, **more})
        return self.say_text(text)

    def say_text(self, text: str) -> Log:
        key = {"source_id": self.source_id, "run_id": self.run_id, "event_id": len(self.rows) + 1}
        self.rows.append({**key, "event_hash": hashlib.sha256(text.encode()).hexdigest()[:16], "event": text})
        return self

    def batch(self, first: int = 0, last: int | None = None) -> pa.Table:
        return pa.Table.from_pylist(self.rows[first:last], schema=RAW_SCHEMA)

    def cursor(self, position: int | None = None) -> Cursor:
        at = len(self.rows) if position is None else position
        return Cursor(source_id=self.source_id, shard=self.run_id, position=str(at), updated_at=datetime.now(UTC))

    def facts(self, **more: Any) -> dict[str, Any]:
        return {"run_id": self.run_id, "source_id": self.source_id, "job_name": "etl", "created_at": self.created_at, **more}


@pytest.fixture
def translate() -> str:
    return TRANSLATE


@pytest.fixture
def new_log():
    """Makes the log of a run asked for on the given day of January 2025, at noon."""

    def make(run_id: str = "r1", day: int = 1, **more: Any) -> Log:
        return Log(run_id, datetime(2025, 1, 1, 12, tzinfo=UTC) + timedelta(days=day - 1), **more)

    return make


@pytest.fixture
def whole_run(new_log):
    """A queued run of two steps in processes of their own; `load` fails once and is retried."""

    def make(run_id: str = "r1", day: int = 1, outcome: str = "run_succeeded") -> Log:
        log = new_log(run_id, day)
        log.say("run_queued", 1).say("run_dequeued", 4).say("run_starting", 5).say("run_started", 7)
        log.say("worker_starting", 8, step="etl.load").say("worker_started", 9, step="etl.load", pid=41)
        log.say("step_started", 10, step="etl.load", pid=41)
        log.say("step_retried", 12, step="etl.load", seconds=3.0, error="RateLimited", message="slow down")
        log.say("worker_starting", 15, step="etl.load").say("step_restarted", 16, step="etl.load", pid=42)
        log.say(
            "materialized",
            17,
            step="etl.load",
            asset="raw/flights",
            partition="2025-01-01",
            data={"dagster/row_count": 842, "size_bytes": 9000},
        )
        log.say(
            "checked", 17.5, step="etl.load", asset="raw/flights", data={"check_name": "rows", "passed": True, "severity": "WARN"}
        )
        log.say("step_succeeded", 20, step="etl.load", seconds=4.0)
        log.say("metered", 20.5, step="etl.load", data={
            "workflows/cpu_s": 1.5, "workflows/peak_memory_mib": 210.0, "workflows/process_id": 42, "workflows/host": "a",
            "workflows/attempt": 2, "workflows/dedicated": True})  # fmt: skip
        log.say("step_started", 21, step="etl.score", pid=43).say("metered", 22.5, step="etl.score", data={
            "workflows/cpu_s": 0.5, "workflows/peak_memory_mib": 999.0, "workflows/attempt": 1, "workflows/dedicated": False})  # fmt: skip
        log.say("step_succeeded", 23, step="etl.score", seconds=2.0)
        log.say(outcome, 24)
        return log

    return make


class Nursery:
    """Starts children of `nursery.py`; one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
        )  # fmt: skip

    def start(self, job: str, home: Path, environment: dict[str, str] | None = None, **arguments: Any) -> int:
        request = {"job": job, "home": str(home), "environment": environment or {}, "arguments": arguments}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """Exit code of the child, below zero for a signal."""
        return self._answer()

    def ingest(
        self,
        home: Path,
        *,
        rows: int,
        batch_size: int = 11,
        cursor_apart: bool = False,
        crash_at: str = "",
        kill_after_s: float = 0,
    ) -> int:
        pid = self.start(
            "ingest", home, {"WORKFLOWS_CRASH_AT": crash_at}, rows=rows, batch_size=batch_size, cursor_apart=cursor_apart
        )
        if kill_after_s:
            time.sleep(kill_after_s)
            os.kill(pid, signal.SIGKILL)
        return self.wait()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(json.loads(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.process.stdin.close()
    made.process.stdout.close()
    made.process.wait(timeout=10)
