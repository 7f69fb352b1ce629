"""Which layout of the history lets readers and the writer work without waiting for each other, and what does it cost?

Four layouts take the same small commits from one process while another opens the history again and again:

- `published`: ours. A hot DuckDB file of the writer, and a copy of it published by an atomic rename.
- `one file`: one DuckDB file, opened for writing by the one and read-only by the other. The control: it must show lock errors.
- `parquet files`: each commit writes a Parquet file, readers read the folder.
- `ducklake`: DuckLake with a DuckDB catalogue file; needs the package `duckdb-extension-ducklake` of DuckDB's own version.

Beside that: the time to publish by the size of the hot file, and the time to land rows with and without a primary key.
Every commit is followed by what makes it visible, and a reader's time includes opening.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from workflows_pkg.history.publish import publish
from workflows_pkg.history.records import Event
from workflows_pkg.history.schema import create_table
from workflows_pkg.history.store import Writer, open_history, writer

ROWS_PER_COMMIT = 100
ROWS = """select 'here' as source_id, 'run' || (i // 60) as run_id, i % 60 as event_id, md5(i::varchar) as event_hash,
    ['step_started', 'step_succeeded', 'other'][1 + i % 3] as kind, now() - to_seconds(i) as "at", 'job' || (i % 20) as job_name,
    'step' || (i % 7) as step_key, 1000 + i % 100 as process_id, random() as seconds,
    case when i % 3 = 0 then '{"workflows/cpu_s": 1.25, "workflows/peak_memory_mib": 210}' end as data from range($first, $last) t(i)"""
COUNT = "select kind, count(*) from events group by kind"


def rows(first: int, count: int) -> str:
    return ROWS.replace("$first", str(first)).replace("$last", str(first + count))


@dataclass(frozen=True)
class Layout:
    """How one layout is filled, committed to and read. `prepare` may raise to say why it cannot be measured."""

    prepare: Callable[[Path, int], None]
    commit: Callable[[Path, int], None]
    read: Callable[[Path], object]


# ours

_open: dict[Path, tuple[object, Writer]] = {}


def prepare_published(home: Path, size: int) -> None:
    context = writer(home)
    history = context.__enter__()
    _open[home] = (context, history)
    history.con.execute(f"insert into live.events by name {rows(0, size)}")
    history.publish()


def commit_published(home: Path, number: int) -> None:
    _, history = _open[home]
    with history.transaction():
        history.con.execute(f"insert into live.events by name {rows(10_000_000 + number * ROWS_PER_COMMIT, ROWS_PER_COMMIT)}")
    history.publish()


def read_published(home: Path) -> object:
    with open_history(home) as con:
        return con.execute(COUNT).fetchall()


# one file for both


def prepare_one_file(home: Path, size: int) -> None:
    with duckdb.connect(str(home / "one.duckdb")) as con:
        con.execute(create_table(Event, "main"))
        con.execute(f"insert into events by name {rows(0, size)}")


def commit_one_file(home: Path, number: int) -> None:
    # the writer must close the file, or no reader ever gets in
    with duckdb.connect(str(home / "one.duckdb")) as con:
        con.execute(f"insert into events by name {rows(10_000_000 + number * ROWS_PER_COMMIT, ROWS_PER_COMMIT)}")


def read_one_file(home: Path) -> object:
    with duckdb.connect(str(home / "one.duckdb"), read_only=True) as con:
        return con.execute(COUNT).fetchall()


# Parquet files only


def prepare_parquet(home: Path, size: int) -> None:
    duckdb.sql(f"copy ({rows(0, size)}) to '{home}/0.parquet' (format parquet)")


def commit_parquet(home: Path, number: int) -> None:
    unfinished = home / f"{number + 1}.unfinished"
    duckdb.sql(f"copy ({rows(10_000_000 + number * ROWS_PER_COMMIT, ROWS_PER_COMMIT)}) to '{unfinished}' (format parquet)")
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(home / f"{number + 1}.parquet")


def read_parquet(home: Path) -> object:
    with duckdb.connect() as con:
        return con.execute(COUNT.replace("events", f"read_parquet('{home}/*.parquet')")).fetchall()


# DuckLake


def lake(home: Path, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    from importlib.resources import files

    extension = next(Path(str(files("duckdb_extension_ducklake"))).rglob("*.duckdb_extension"))
    con = duckdb.connect(config={"extension_directory": str(home / "extensions"), "allow_unsigned_extensions": True})
    con.execute(f"load '{extension}'")
    mode = ", read_only" if read_only else ""
    con.execute(f"attach 'ducklake:{home}/catalogue.ducklake' as lake (data_path '{home}/data'{mode})")
    con.execute("use lake")
    return con


def prepare_lake(home: Path, size: int) -> None:
    with lake(home) as con:
        con.execute(f"create table events as {rows(0, size)}")


def commit_lake(home: Path, number: int) -> None:
    with lake(home) as con:
        con.execute(f"insert into events by name {rows(10_000_000 + number * ROWS_PER_COMMIT, ROWS_PER_COMMIT)}")


def read_lake(home: Path) -> object:
    with lake(home, read_only=True) as con:
        return con.execute(COUNT).fetchall()


LAYOUTS = {
    "published": Layout(prepare_published, commit_published, read_published),
    "one file": Layout(prepare_one_file, commit_one_file, read_one_file),
    "parquet files": Layout(prepare_parquet, commit_parquet, read_parquet),
    "ducklake": Layout(prepare_lake, commit_lake, read_lake),
}


def read_many(name: str, home: Path, opens: int, answers: multiprocessing.Queue[tuple[int, float]]) -> None:
    """In a process of its own: opens the history `opens` times; how often that failed, and the median seconds where it did not."""
    errors, taken = 0, []
    for _ in range(opens):
        begun = time.perf_counter()
        try:
            LAYOUTS[name].read(home)
            taken.append(time.perf_counter() - begun)
        except duckdb.Error:
            errors += 1
            time.sleep(0.01)
    answers.put((errors, statistics.median(taken) if taken else float("nan")))


def beside_each_other(name: str, size: int, opens: int) -> dict[str, float]:
    """One writer and one reader at work at once: failed opens and commits, and median seconds of those that went well."""
    layout = LAYOUTS[name]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        layout.prepare(home, size)
        spawn = multiprocessing.get_context("spawn")
        answers = spawn.Queue()
        reader = spawn.Process(target=read_many, args=(name, home, opens, answers))
        reader.start()
        taken: list[float] = []
        failed = number = 0
        while reader.is_alive():
            begun = time.perf_counter()
            try:
                layout.commit(home, number)
                taken.append(time.perf_counter() - begun)
            except duckdb.Error:
                failed += 1
            number += 1
            time.sleep(0.1)  # ten commits a second at most
        errors, read_s = answers.get()
        reader.join()
        if home in _open:
            context, _ = _open.pop(home)
            context.__exit__(None, None, None)  # type: ignore[attr-defined]
    return {
        "failed opens": errors,
        "failed commits": failed,
        "open and query": read_s,
        "commit until visible": statistics.median(taken) if taken else float("nan"),
    }


def publish_seconds(size: int, runs: int) -> tuple[float, float]:
    """Median seconds to publish a hot file with `size` events after a commit of 100 more, and its size in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        with writer(Path(folder)) as history:
            history.con.execute(f"insert into live.events by name {rows(0, size)}")
            history.publish()
            taken = []
            for number in range(runs):
                history.con.execute(f"insert into live.events by name {rows(10_000_000 + number * 100, 100)}")
                begun = time.perf_counter()
                publish(history.con, history.files)
                taken.append(time.perf_counter() - begun)
            return statistics.median(taken), history.files.hot.stat().st_size / 2**20


def land_seconds(size: int, key: bool) -> tuple[float, float]:
    """Seconds to land `size` events in batches of 10,000, each row once although offered twice, and the file's MiB."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "hot.duckdb")
        same = " and ".join(f"e.{name} = r.{name}" for name in Event.key)
        with duckdb.connect(str(file)) as con:
            ddl = create_table(Event, "main")
            con.execute(f"{ddl[:-2]},\n  PRIMARY KEY ({', '.join(Event.key)}))" if key else ddl)
            begun = time.perf_counter()
            for first in range(0, size, 10_000):
                for _ in range(2):
                    if key:
                        con.execute(f"insert or ignore into events by name {rows(first, 10_000)}")
                    else:
                        con.execute(
                            f"insert into events by name select * from ({rows(first, 10_000)}) r "
                            f"where not exists (select 1 from events e where {same})"
                        )
            con.execute("checkpoint")
            taken = time.perf_counter() - begun
        return taken, file.stat().st_size / 2**20


def say(case: str, metric: str, unit: str, ours: float, peers: dict[str, object], runs: int, size: str, **more: object) -> None:
    line = {"benchmark": "history_layout", "case": case, "metric": metric, "unit": unit, "ours": rounded(ours)}
    line |= {
        "peers": {name: rounded(value) for name, value in peers.items()},
        "target": None,
        "met": None,
        "runs": runs,
        "size": size,
    }
    print(json.dumps(line | more), flush=True)


def rounded(value: object) -> object:
    return (None if value != value else round(value, 4)) if isinstance(value, float) else value


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under 40 seconds")
    quick = parser.parse_args().quick
    opens, size, rounds = (25, 10_000, 1) if quick else (200, 100_000, 3)

    found: dict[str, list[dict[str, float]]] = {}
    missing: dict[str, str] = {}
    for _ in range(rounds):
        for name in LAYOUTS:
            if name in missing:
                continue
            note(f"{name}: {opens} opens while one process commits")
            try:
                found.setdefault(name, []).append(beside_each_other(name, size, opens))
            except (ImportError, StopIteration) as error:
                missing[name] = f"not measured: {error}"
                found.pop(name)
    units = {"failed opens": "count", "failed commits": "count", "open and query": "s", "commit until visible": "s"}
    for metric, unit in units.items():
        medians = {name: statistics.median(result[metric] for result in results) for name, results in found.items()}
        ours = medians.pop("published")
        target = {"target": 0, "met": None if quick else ours == 0} if unit == "count" else {}
        say("one writer, one reader", metric, unit, ours, medians | missing, rounds, f"{size} events, {opens} opens", **target)

    for events in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000):
        note(f"publish with {events} events in the hot file")
        seconds, mebibytes = publish_seconds(events, 3 if quick else 7)
        say("publish", "time", "s", seconds, {}, 3 if quick else 7, f"{events} events, {mebibytes:.1f} MiB")

    events = 50_000 if quick else 1_000_000
    note(f"land {events} events twice, with and without a primary key")
    results = {key: [land_seconds(events, key) for _ in range(rounds)] for key in (False, True)}
    for index, (metric, unit) in enumerate((("time", "s"), ("file size", "MiB"))):
        medians = {key: statistics.median(result[index] for result in taken) for key, taken in results.items()}
        say(
            "land each row once",
            metric,
            unit,
            medians[False],
            {"primary key": medians[True]},
            rounds,
            f"{events} events offered twice",
        )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
