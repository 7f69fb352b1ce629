"""Who else writes the warehouse? Its backup, which locks the file while it folds the write-ahead log in and copies every table.

DuckDB lets one process write a file at a time; a step that wants to write meanwhile is told "Could not set lock on file".
The copy is throttled, as backups are, to leave the disk to others: that is why it takes as long as it does.

Run as a process: it backs up at regular instants until its standard input ends, and prints one JSON line for each backup.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb

PIECE_ROWS = 5000
"""Rows copied at a time; between two pieces the throttle waits."""


@dataclass(frozen=True)
class Backup:
    """One backup: how long it held the warehouse's lock and what it copied. `waited_s`: until it got the lock."""

    waited_s: float
    held_s: float
    tables: int
    rows: int


def back_up(warehouse: Path, target: Path, hold_s: float, stop: threading.Event, wait_s: float = 30) -> Backup | None:
    """Folds the write-ahead log in and copies all tables to Parquet below `target`, throttled to about `hold_s` seconds.

    Waits up to `wait_s` seconds for the lock. None: there is no warehouse yet, the lock was not to be had, or `stop` was set.
    """
    asked = time.monotonic()
    connection = _locked(warehouse, stop, asked + wait_s)
    if connection is None:
        return None
    held = time.monotonic()
    try:
        connection.execute("checkpoint")
        tables = [str(name) for (name,) in connection.execute("select table_name from duckdb_tables() order by 1").fetchall()]
        pieces = [piece for table in tables for piece in _pieces(connection, table)]
        target.mkdir(parents=True, exist_ok=True)
        for number, (table, offset) in enumerate(pieces, start=1):
            piece = connection.sql(f'select * from "{table}" limit {PIECE_ROWS} offset {offset}')
            piece.write_parquet(str(target / f"{table}-{offset:09d}.parquet"))
            due = held + hold_s * number / len(pieces)
            if stop.wait(max(0.0, due - time.monotonic())):
                break
        rows = sum(_count(connection, table) for table in tables)
    finally:
        connection.close()
    return Backup(round(held - asked, 3), round(time.monotonic() - held, 3), len(tables), rows)


def _locked(warehouse: Path, stop: threading.Event, deadline: float) -> duckdb.DuckDBPyConnection | None:
    while warehouse.exists() and not stop.wait(0.02):
        try:
            return duckdb.connect(str(warehouse))
        except duckdb.IOException:
            if time.monotonic() > deadline:
                return None
    return None


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    row = connection.execute(f'select count(*) from "{table}"').fetchone()
    return int(row[0]) if row else 0


def _pieces(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, int]]:
    return [(table, offset) for offset in range(0, _count(connection, table), PIECE_ROWS)]


def main() -> None:
    """Backs the warehouse up every so many seconds until standard input ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--warehouse", type=Path, required=True, help="the DuckDB file")
    parser.add_argument("--target", type=Path, required=True, help="folder of the copies")
    parser.add_argument("--every", type=float, default=6.0, help="seconds from one backup's begin to the next")
    parser.add_argument("--hold", type=float, default=0.9, help="seconds that the throttled copy takes")
    chosen = parser.parse_args()
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    print(json.dumps({"every_s": chosen.every, "hold_s": chosen.hold}), flush=True)
    began = time.monotonic()
    number = 0
    while not stop.is_set():
        number += 1
        if stop.wait(max(0.0, began + number * chosen.every - time.monotonic())):
            break
        done = back_up(chosen.warehouse, chosen.target, chosen.hold, stop)
        if done is not None:
            print(json.dumps(asdict(done)), flush=True)


if __name__ == "__main__":
    main()
