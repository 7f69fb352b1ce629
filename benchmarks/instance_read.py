"""How long does it take to bring a whole Dagster instance into a history, and to find that nothing is new?

    python benchmarks/instance_read.py <DAGSTER_HOME or PostgreSQL URL> [rounds]
    python benchmarks/instance_read.py --make <folder> <runs> [sharded|consolidated|<PostgreSQL URL>]

The second form makes an instance of as many runs, as copies of one recorded run of 50 events that begin five minutes apart. Prints wall
clock, seconds of the processor (user and system) and the most memory that was used; on a shared machine only the processor's
seconds can be compared.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.sources import open_source

STEPS = 8  # one of them with a line of its own log: 50 events
APART = timedelta(minutes=5)


@dg.op
def first(context) -> int:
    context.log.info("a line of the user's own log")
    return 1


@dg.op
def further(number: int) -> int:
    return number


@dg.job
def chain() -> None:
    number = first()
    for step in range(STEPS - 1):
        number = further.alias(f"further_{step}")(number)


def settings(home: Path, kind: str) -> str:
    if kind == "sharded":
        return "telemetry: {enabled: false}\n"
    if kind == "consolidated":
        history, schedules = home / "history", home / "schedules"
        return (
            f"telemetry: {{enabled: false}}\n"
            f"run_storage: {{module: dagster._core.storage.runs, class: SqliteRunStorage, config: {{base_dir: {history}}}}}\n"
            "event_log_storage: {module: dagster._core.storage.event_log, class: ConsolidatedSqliteEventLogStorage, "
            f"config: {{base_dir: {history}}}}}\n"
            "schedule_storage: {module: dagster._core.storage.schedules, class: SqliteScheduleStorage, "
            f"config: {{base_dir: {schedules}}}}}\n"
        )
    return f"telemetry: {{enabled: false}}\nstorage: {{postgres: {{postgres_url: '{kind.replace('sql:', 'sql+psycopg2:')}'}}}}\n"


def make(home: Path, runs: int, kind: str) -> None:
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(settings(home, kind))
    logging.disable(logging.CRITICAL)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run_id = chain.execute_in_process(instance=instance).run_id
    if kind.startswith("postgres"):
        import psycopg2
        from psycopg2.extras import execute_values

        with closing(psycopg2.connect(kind)) as con, con, con.cursor() as cursor:
            recorded = taken(cursor, run_id, "%s")
            for table, columns, rows in copies(recorded, run_id, runs):
                execute_values(cursor, f"insert into {table} ({', '.join(columns)}) values %s", rows, page_size=500)
        return
    shard = home / "history" / ("event_log.db" if kind == "consolidated" else f"runs/{run_id}.db")
    with closing(sqlite3.connect(home / "history" / "runs.db")) as con, closing(sqlite3.connect(shard)) as log:
        recorded = {**taken(con, run_id, "?", ("runs",)), **taken(log, run_id, "?", ("event_logs",))}
        whole = shard.read_bytes() if kind == "sharded" else b""
        for table, columns, rows in copies(recorded, run_id, runs):
            insert = f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})"
            if table == "runs" or kind == "consolidated":
                (con if table == "runs" else log).executemany(insert, rows)
                continue
            for start in range(0, len(rows), len(recorded["event_logs"][1])):
                some = rows[start : start + len(recorded["event_logs"][1])]
                file = shard.with_name(f"{some[0][list(columns).index('run_id')]}.db")
                file.write_bytes(whole)
                with closing(sqlite3.connect(file)) as own, own:
                    own.execute("pragma synchronous = off")
                    own.execute("delete from event_logs")
                    own.executemany(insert, some)
        con.commit()
        log.commit()


def taken(con: Any, run_id: str, mark: str, tables: Sequence[str] = ("runs", "event_logs")) -> dict[str, Any]:
    """Columns without their number, and rows, of one run."""
    found: dict[str, Any] = {}
    for table in tables:
        cursor = con.execute(f"select * from {table} where run_id = {mark} order by id", (run_id,)) or con
        names = [column[0] for column in cursor.description]
        found[table] = (names[1:], [row[1:] for row in cursor.fetchall()])
    return found


def copies(recorded: dict[str, Any], run_id: str, count: int) -> Iterator[tuple[str, Sequence[str], list[tuple[Any, ...]]]]:
    """The rows of further runs, some hundred runs at a time."""
    for start in range(0, count, 200):
        ids = [str(uuid.uuid4()) for _ in range(min(200, count - start))]
        for table, (columns, rows) in recorded.items():
            made = []
            for number, new_id in enumerate(ids, start=start + 1):
                made += [
                    tuple(moved(name, value, run_id, new_id, -number * APART) for name, value in zip(columns, row, strict=True))
                    for row in rows
                ]
            yield table, columns, made


def moved(name: str, value: Any, run_id: str, new_id: str, by: timedelta) -> Any:
    if name == "event":
        event = json.loads(value)
        event["timestamp"] += by.total_seconds()
        return json.dumps(event).replace(run_id, new_id)
    if isinstance(value, float):
        return value + by.total_seconds()
    if isinstance(value, datetime):
        return value + by
    if isinstance(value, str) and "timestamp" in name:
        return str(datetime.fromisoformat(value) + by)
    return value.replace(run_id, new_id) if isinstance(value, str) else value


def measure(where: str, rounds: int) -> None:
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, open_source(where, untouched=True) as source:
            for what in ("all of it", "no news"):
                began, before = time.monotonic(), os.times()
                result = sync_events(source, Path(folder))
                after = os.times()
                print(
                    f"{source.description}: {what}: {result.events:,} events of {result.runs:,} runs in {time.monotonic() - began:.1f} s, "
                    f"processor {after.user - before.user:.1f} + {after.system - before.system:.1f} s, "
                    f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:,} MiB, load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "sharded")
    else:
        measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
