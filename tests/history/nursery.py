"""A process that starts others which land a made-up log, so that a test can kill them; forking spares each the imports.

Reads one JSON request a line; answers with the pid when the child is about to work, and with its exit code when it is gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa

from workflows_pkg.history.derive import derive
from workflows_pkg.history.ingest import RAW_SCHEMA, land
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor, Forecast
from workflows_pkg.history.store import Writer, writer

KINDS = (
    "run_started",
    "step_started",
    "step_retried",
    "step_restarted",
    "step_succeeded",
    "materialized",
    "metered",
    "run_succeeded",
)
BEGIN = datetime(2025, 1, 1, 12, tzinfo=UTC)
RUNS_PER_DAY = 4

TRANSLATE = """
select source_id, run_id, event_id, event_hash, event ->> '$.kind' as kind, to_timestamp((event ->> '$.at')::double) as "at",
    event ->> '$.step' as step_key, 'table' as asset_key, event ->> '$.data' as data from raw
"""


def row(number: int) -> dict[str, object]:
    """Row `number` of the log, from 0; every run has eight."""
    run, place = divmod(number, len(KINDS))
    text = json.dumps({
        "kind": KINDS[place], "at": asked_for(run).timestamp() + place, "step": None if place in (0, 7) else "a",
        "data": {"workflows/cpu_s": run, "workflows/dedicated": True, "workflows/peak_memory_mib": place},
    })  # fmt: skip
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"source_id": "here", "run_id": f"run{run}", "event_id": place + 1, "event_hash": digest, "event": text}


def asked_for(run: int) -> datetime:
    return BEGIN + timedelta(days=run // RUNS_PER_DAY, minutes=run % RUNS_PER_DAY)


def ingest(home: Path, rows: int, batch_size: int, cursor_apart: bool) -> None:
    """Lands the log up to `rows` from where the history is; derives, seals and publishes on the way."""
    with writer(home, wait_s=5) as history:
        step = 0
        while (done := position(history)) < rows:
            last = min(done + batch_size, rows)
            batch = pa.Table.from_pylist([row(number) for number in range(done, last)], schema=RAW_SCHEMA)
            cursor = Cursor(source_id="here", shard="log", position=str(last), updated_at=datetime.now(UTC))
            runs = sorted({number // len(KINDS) for number in range(done, last)})
            facts = pd.DataFrame(
                [{"run_id": f"run{n}", "source_id": "here", "job_name": "etl", "created_at": asked_for(n)} for n in runs]
            )
            if cursor_apart:  # the broken way, as the control
                history.upsert(Cursor, [cursor])
                land(history, batch, TRANSLATE, [])
                derive(history, facts)
            else:
                with history.transaction():
                    land(history, batch, TRANSLATE, [cursor])
                    derive(history, facts)
            step += 1
            if step % 3 == 0:
                history.seal(date(2026, 1, 1))
            history.publish()


def position(history: Writer) -> int:
    found = read(history.con, Cursor)
    return int(found[0].position) if found else 0


def die_inside_checkpoint(home: Path) -> None:
    """Writes, and is killed in the middle of DuckDB's checkpoint."""
    with writer(home, wait_s=5) as history:
        history.upsert(Forecast, [])
        history.con.execute("insert into store.superseded_files values ('inside a checkpoint', now())")
        history.con.execute("pragma debug_checkpoint_abort='before_header'")
        try:
            history.publish()
        finally:
            os._exit(70)


def hold(home: Path, seconds: float) -> None:
    with writer(home, wait_s=5):
        Path(home, "held").touch()
        time.sleep(seconds)


JOBS = {"ingest": ingest, "die_inside_checkpoint": die_inside_checkpoint, "hold": hold}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                os.environ.update(request["environment"])
                JOBS[request["job"]](Path(request["home"]), **request["arguments"])
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        answer(pid)
        _, status = os.waitpid(pid, 0)
        answer(os.waitstatus_to_exitcode(status))


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
