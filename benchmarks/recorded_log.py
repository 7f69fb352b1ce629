"""An event log of any size on any of Dagster's storages: real runs, recorded, then multiplied with new ids and times.

Used by other benchmarks. Alone it makes an instance of the `nightly` runs to look at, on the same storages as `make` takes:

    python benchmarks/recorded_log.py <folder> <runs> [sharded|consolidated|<PostgreSQL URL>]
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

APART = timedelta(minutes=5)
"""A copy begins this long before the one made before it."""

AT_ONCE = 200
"""Runs whose rows are written together."""

STEPS = 8  # of `chain`, one of them with a line of its own log: 50 events

_WAL = slice(18, 20)
"""The two bytes of a SQLite file that say whether it keeps a write-ahead log, as Dagster's do."""

Recorded = Mapping[str, float]
"""Ids of recorded runs, and how many of all the copies are to be copies of each."""


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


def one_chain(instance: dg.DagsterInstance) -> Recorded:
    """One run of a chain of steps in this process."""
    return {chain.execute_in_process(instance=instance).run_id: 1.0}


@dg.op(config_schema={"how": str}, retry_policy=dg.RetryPolicy(max_retries=2, delay=0.05))
def load(context) -> int:
    context.log.info("reading the day's orders from the shop's database")
    if context.op_config["how"] == "fails" or (context.op_config["how"] == "retries" and context.retry_number < 1):
        try:
            raise ConnectionError("the peer closed the connection while the orders of the day were read")
        except ConnectionError as error:
            raise RuntimeError("the orders could not be read") from error
    return 1


@dg.job
def etl() -> None:
    number = load()
    for step in ("clean", "prices", "join", "score", "rank", "publish", "tell"):
        number = further.alias(step)(number)


DAYS = dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-01-05")
TABLE = dg.TableSchema(columns=[dg.TableColumn(f"column_{n}", "decimal", description="of the report") for n in range(12)])


def made(rows: int) -> dg.Output[int]:
    return dg.Output(rows, metadata={"dagster/row_count": rows, "size_bytes": 64 * rows, "dagster/column_schema": TABLE})


@dg.asset(partitions_def=DAYS, code_version="7")
def orders() -> dg.Output[int]:
    return made(10_000)


@dg.asset(partitions_def=DAYS, check_specs=[dg.AssetCheckSpec("late", asset="sales")])
def sales(context, orders: int):
    context.log_event(dg.AssetObservation("shop", partition=context.partition_key, metadata={"shops": 12}))
    yield made(orders)
    yield dg.AssetCheckResult(passed=True, check_name="late", metadata={"late": 1})


@dg.asset(partitions_def=DAYS)
def by_region(sales: int) -> dg.Output[int]:
    return made(sales // 100)


@dg.asset(partitions_def=DAYS)
def by_product(sales: int) -> dg.Output[int]:
    return made(sales // 20)


@dg.asset(partitions_def=DAYS)
def margins(by_product: int) -> dg.Output[int]:
    return made(by_product)


@dg.asset(partitions_def=DAYS)
def report(by_region: int, margins: int) -> dg.Output[int]:
    return made(by_region + margins)


definitions = dg.Definitions(
    assets=[orders, sales, by_region, by_product, margins, report], jobs=[dg.define_asset_job("sales_job", selection="*")]
)


def sales_job() -> dg.JobDefinition:
    return definitions.resolve_job_def("sales_job")


def nightly(instance: dg.DagsterInstance) -> Recorded:
    """Runs as the daemon and the default executor make them, a process for each step: assets with checks and metadata, a chain of steps
    that works, is retried or fails for good, and short runs in one process, of which a sensor makes many.
    """
    sales = _launched(instance, "sales_job", sales_job(), {"dagster/partition": "2020-01-02", "dagster/schedule_name": "nightly"})
    works, retries, fails = (
        _launched(instance, "etl", etl, {"dagster/schedule_name": "hourly"}, {"ops": {"load": {"config": {"how": how}}}})
        for how in ("works", "retries", "fails")
    )
    short = chain.execute_in_process(instance=instance, tags={"dagster/sensor_name": "files"}).run_id
    return {sales: 0.5, works: 0.33, retries: 0.05, fails: 0.02, short: 0.1}


def _launched(
    instance: dg.DagsterInstance,
    name: str,
    job: dg.JobDefinition,
    tags: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
) -> str:
    """One run with the events of the daemon, which queues it, and of the launcher, then carried out; its id."""
    executor = {"multiprocess": {"start_method": {"forkserver": {}}, "max_concurrent": 2}}
    run_config = {**(config or {}), "execution": {"config": executor}}
    place = GrpcServerCodeLocationOrigin(host="localhost", port=4000, location_name="shop")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(place, "__repository__"), name)
    run = instance.create_run_for_job(job, run_config=run_config, tags=dict(tags), remote_job_origin=origin)
    for kind in (DagsterEventType.RUN_ENQUEUED, DagsterEventType.RUN_DEQUEUED, DagsterEventType.RUN_STARTING):
        instance.report_dagster_event(DagsterEvent(event_type_value=kind.value, job_name=name), run_id=run.run_id)
    carried_out = instance.get_run_by_id(run.run_id)
    assert carried_out is not None
    execute_run(ReconstructableJob.for_file(str(Path(__file__).resolve()), name), carried_out, instance)
    return run.run_id


@dataclass(frozen=True)
class Text:
    """The stored text of an event, cut around its instant."""

    before: str
    at: float
    behind: str

    @classmethod
    def of(cls, stored: str) -> Text:
        at = json.loads(stored)["timestamp"]
        before, found, behind = stored.rpartition(f'"timestamp": {json.dumps(at)}')
        assert found, "an event says when it was"
        return cls(f'{before}"timestamp": ', at, behind)

    def moved(self, old_id: str, new_id: str, by_s: float) -> str:
        return f"{self.before}{self.at + by_s!r}{self.behind}".replace(old_id, new_id)


@dataclass(frozen=True)
class Rows:
    """Rows of one table of one run: the columns without the row's number, and the values, texts of events cut."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def moved(self, old_id: str, new_id: str, by: timedelta) -> list[tuple[Any, ...]]:
        return [
            tuple(_moved(name, value, old_id, new_id, by) for name, value in zip(self.columns, row, strict=True))
            for row in self.rows
        ]


def _moved(name: str, value: Any, old_id: str, new_id: str, by: timedelta) -> Any:
    if isinstance(value, Text):
        return value.moved(old_id, new_id, by.total_seconds())
    if isinstance(value, float):
        return value + by.total_seconds()
    if isinstance(value, datetime):
        return value + by
    if isinstance(value, str) and "timestamp" in name:
        return str(datetime.fromisoformat(value) + by)
    return value.replace(old_id, new_id) if isinstance(value, str) else value


def make(
    home: Path, runs: int, kind: str, record: Callable[[dg.DagsterInstance], Recorded] = one_chain, seed: int = 7
) -> list[str]:
    """Makes an instance at `home` with as many copies of the recorded runs, beside these; the ids of the copies.

    kind: `sharded` for Dagster's default storage, `consolidated` for one SQLite file, or a PostgreSQL URL.
    """
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(settings(home, kind))
    with _told_to(home / "recording.log"), dg.DagsterInstance.from_config(str(home)) as instance:
        recorded = record(instance)
    chance = random.Random(seed)
    originals = chance.choices(list(recorded), list(recorded.values()), k=runs)
    if kind.startswith("postgres"):
        return _fill_postgres(kind, originals)
    return _fill_sqlite(home / "history", originals, sharded=kind == "sharded")


@contextmanager
def _told_to(file: Path) -> Iterator[None]:
    """What this process and those it starts say on standard error goes into a file."""
    sys.stderr.flush()
    said = os.dup(2)
    with file.open("wb") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(said, 2)
        os.close(said)


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


def _fill_postgres(url: str, originals: Sequence[str]) -> list[str]:
    import psycopg2
    from psycopg2.extras import execute_values

    ids: list[str] = []
    with closing(psycopg2.connect(url)) as con, con, con.cursor() as cursor:
        stored = {
            run_id: {table: _taken(cursor, table, run_id, "%s") for table in ("runs", "event_logs")} for run_id in set(originals)
        }
        for some in _copies(stored, originals):
            for table in ("runs", "event_logs"):
                columns = next(iter(stored.values()))[table].columns
                rows = [row for _, tables in some for row in tables[table]]
                execute_values(cursor, f"insert into {table} ({', '.join(columns)}) values %s", rows, page_size=500)
            ids += [new_id for new_id, _ in some]
    with closing(psycopg2.connect(url)) as con:
        con.autocommit = True
        con.cursor().execute("vacuum analyze")  # what the server does by itself within a minute or two
    return ids


def _fill_sqlite(folder: Path, originals: Sequence[str], *, sharded: bool) -> list[str]:
    ids: list[str] = []
    with closing(sqlite3.connect(folder / "runs.db")) as runs, closing(sqlite3.connect(":memory:")) as shell:
        stored: dict[str, dict[str, Rows]] = {}
        one_file = closing(sqlite3.connect(folder / "event_log.db")) if not sharded else closing(shell)
        with one_file as log:
            for run_id in set(originals):
                stored[run_id] = {"runs": _taken(runs, "runs", run_id, "?")}
                place = folder / "runs" / f"{run_id}.db" if sharded else folder / "event_log.db"
                with closing(sqlite3.connect(place)) as source:
                    stored[run_id]["event_logs"] = _taken(source, "event_logs", run_id, "?")
                    if sharded:
                        source.backup(shell)
            if sharded:
                _empty(shell)
            for some in _copies(stored, originals):
                for new_id, tables in some:
                    _insert(runs, "runs", stored, tables["runs"])
                    _insert(log, "event_logs", stored, tables["event_logs"])
                    if sharded:
                        log.commit()
                        image = bytearray(log.serialize())
                        image[_WAL] = b"\x02\x02"
                        (folder / "runs" / f"{new_id}.db").write_bytes(image)
                        _empty(log)
                ids += [new_id for new_id, _ in some]
            log.commit()
        runs.commit()
    return ids


def _empty(shell: sqlite3.Connection) -> None:
    shell.execute("delete from event_logs")
    shell.commit()


def _insert(con: sqlite3.Connection, table: str, stored: Mapping[str, Mapping[str, Rows]], rows: list[tuple[Any, ...]]) -> None:
    columns = next(iter(stored.values()))[table].columns
    con.executemany(f"insert into {table} ({', '.join(columns)}) values ({', '.join('?' * len(columns))})", rows)


def _taken(con: Any, table: str, run_id: str, mark: str) -> Rows:
    cursor = con.execute(f"select * from {table} where run_id = {mark} order by id", (run_id,)) or con
    names = tuple(column[0] for column in cursor.description)
    rows = [
        tuple(Text.of(value) if name == "event" else value for name, value in zip(names[1:], row[1:], strict=True))
        for row in cursor.fetchall()
    ]
    return Rows(names[1:], tuple(rows))


def _copies(
    stored: Mapping[str, Mapping[str, Rows]], originals: Sequence[str]
) -> Iterator[list[tuple[str, dict[str, list[tuple[Any, ...]]]]]]:
    """New ids and rows by table of further runs, some hundred runs at a time, each longer ago than the one before."""
    for start in range(0, len(originals), AT_ONCE):
        made: list[tuple[str, dict[str, list[tuple[Any, ...]]]]] = []
        for number, old_id in enumerate(originals[start : start + AT_ONCE], start=start + 1):
            new_id = str(uuid.uuid4())
            made.append((new_id, {table: rows.moved(old_id, new_id, -number * APART) for table, rows in stored[old_id].items()}))
        yield made


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "sharded", nightly)
