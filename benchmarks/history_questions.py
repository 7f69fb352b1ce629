"""How long do the twelve questions take on a history of 10 million step attempts, each on a new connection?

The history is in the layout of its own writer and sealed and merged by it. The rows of finished days are put into its tables as they are,
and summed up once at the end, as a migration does; the last days are upserted, which keeps the rollups, as a sync does.
120 workflows of 3 to 16 steps: 8 run every five minutes, 40 hourly, 72 daily; retries, failures, deadlines, queues, open runs, and a
steady drift of durations. Questions of one run take one of a random day; without a filter a question is about all of the history, except
concurrency, which has a default of seven days.

Beside them the same question as plain SQL over all rows (benchmarks/full_scan.py), opened anew too: over one DuckDB table, and over one
Parquet file. Questions of one run and of what runs now read rows anyway; their peers look for the run in the one table.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
from full_scan import FULL_SCANS, concurrency_at_minutes

from workflows_pkg.history import QUESTIONS, connect, rollups
from workflows_pkg.history.questions import frame
from workflows_pkg.history.records import Forecast, JobStep, Run, StepAttempt
from workflows_pkg.history.store import Writer, writer
from workflows_pkg.spec.rates import DEFAULT

TARGET_S = 0.1
STEPS = 9.5
"""Steps of a workflow on average (3 to 16); with 4 % retried that makes 9.9 attempts a run."""
LIVE_DAYS = 4
CAUSES = ["timeout", "dependency", "data", "code", "memory"]
ERRORS = ["TimeoutError", "ConnectionError", "ParserError", "KeyError", "MemoryError"]
RUNS_A_DAY = 8 * 288 + 40 * 24 + 72

# One row per run of day $day. Everything is drawn from hashes of workflow, day and number, so that a size is always the same history.
RUNS = """
with flows as (
    select w, 'flow_' || lpad(w::varchar, 3, '0') as workflow, case when w < 8 then 288 when w < 48 then 24 else 1 end as times,
        (3 + hash(w) % 14)::bigint as step_count, 'team ' || (w % 9) as owner
    from range(120) t(w)
), asked as (
    select *, n, $day::timestamptz + to_microseconds((n * 86400e6 / times + hash(w, 1) % 60000000)::bigint) as created_at,
        hash(w, $day, n) // 2 as h from flows, unnest(range(times)) u(n)
)
select substr(md5(h::varchar), 1, 8) || '-' || substr(md5((h + 1)::varchar), 1, 4) || '-4' || substr(md5((h + 2)::varchar), 1, 3)
        || '-9' || substr(md5((h + 3)::varchar), 1, 3) || '-' || substr(md5((h + 4)::varchar), 1, 12) as run_id,
    w, step_count, h, workflow, workflow as job_name, 'here' as source_id, owner, 'shape ' || w as job_snapshot_id, created_at,
    case when h % 97 = 0 then 't' end as trial_id,
    (exp(1 + (hash(h, 1) % 1000) / 400)) * case when hour(created_at) in (0, 6) then 4 else 1 end
        as queue_time_s
from asked
"""

ATTEMPTS = """
with each as (
    select r.*, s, a, hash(h, s, a) as x,
        case when hash(h, s) % 1000 < 35 then case when hash(h, s, 7) % 3 = 0 then 3 else 2 end else 1 end as tries
    from made r, unnest(range(step_count)) t(s), unnest(range(1, 4)) u(a)
    where a <= tries
), timed as (
    select *,
        exp(1.5 + (hash(w, s) % 100) / 25 + 0.35 * ((x % 1000 + hash(x, 1) % 1000 + hash(x, 2) % 1000) / 500 - 3))
            * (1 + $drift) as run_time_s,
        tries = 3 and a = 3 and hash(x, 3) % 3 = 0 as lost
    from each
), placed as (
    select *, case when a < tries then 5.0 * a end as retry_wait_s,
        sum(run_time_s + case when a < tries then 5.0 * a else 0.2 end) over (partition by run_id order by s, a) - run_time_s
            - case when a < tries then 5.0 * a else 0.2 end as begins_s,
        bool_or(lost) over (partition by run_id order by s, a rows between unbounded preceding and 1 preceding) as after_loss
    from timed
)
select run_id, 'step_' || s as step_key, 'step_' || s as step, a as attempt, job_name, workflow, trial_id, w,
    case when a < tries or lost then 'failure' else 'success' end as outcome, a < tries as will_retry,
    created_at + to_microseconds(((queue_time_s + 3 + begins_s) * 1e6)::bigint) as started_at,
    started_at + to_microseconds((run_time_s * 1e6)::bigint) as ended_at, run_time_s, retry_wait_s, 0.4 as start_time_s,
    case when outcome = 'failure' then $causes[(1 + hash(w, s, 3) % 5)::int] end as failure_cause,
    case when outcome = 'failure' then $errors[(1 + hash(w, s, 3) % 5)::int] end
        as error_class,
    case when outcome = 'failure' then 'row ' || (x % 5000) || ' of table ' || w || ' could not be read' end as error_message,
    run_time_s * 0.7 as cpu_s, 100 + x % 900 as peak_memory_mib, 'host-' || (x % 12) as host, 1000 + x % 30000 as process_id,
    run_time_s * $usd as cost_usd
from placed where not coalesce(after_loss, false)
"""

ENDS = """
select r.* exclude (w, step_count, h), a.attempt_count, a.retry_wait_s, a.cost_usd,
    r.created_at + to_microseconds((r.queue_time_s * 1e6)::bigint)
        + interval 3 second as started_at, 3.0 as start_time_s,
    case when h % 1009 = 0 then 'canceled' when lost then 'failure' else 'success' end as outcome, a.last_at as ended_at,
    epoch(ended_at) - epoch(started_at) as run_time_s,
    case when w % 3 = 0 then r.created_at + to_seconds(60 + hash(w) % 600) end as deadline_at
from made r join (
    select run_id, count(*) as attempt_count, coalesce(sum(retry_wait_s), 0) as retry_wait_s, sum(cost_usd) as cost_usd,
        max(ended_at) as last_at, bool_or(outcome = 'failure' and not will_retry) as lost
    from made_attempts group by run_id
) a using (run_id)
"""


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def generate(home: Path, attempts: int) -> int:
    """Fills the history at `home`; the number of attempts."""
    days = max(LIVE_DAYS + 1, round(attempts / (RUNS_A_DAY * STEPS * 0.94)))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begun = time.monotonic()
    with writer(home) as history, closing(duckdb.connect()) as maker:
        maker.execute("SET TimeZone = 'UTC'")
        history.upsert(JobStep, [
            JobStep(job_snapshot_id=f"shape {w}", step=f"step_{s}", needs=json.dumps([f"step_{s - 1}"] if s else []))
            for w in range(120) for s in range(16)
        ])  # fmt: skip
        for number in range(days - LIVE_DAYS):
            one_day(history, maker, today - timedelta(days=days - 1 - number), number / days, upsert=False)
            if number % 15 == 14 or number == days - LIVE_DAYS - 1:
                history.seal((today - timedelta(days=days - number - 2)).date())
                note(f"{number + 1} of {days} days, {time.monotonic() - begun:.0f} s")
        note("sums ...")
        with history.transaction():
            rollups.rebuild(history.con)
        note(f"{time.monotonic() - begun:.0f} s; the last {LIVE_DAYS} days ...")
        for number in range(days - LIVE_DAYS, days):
            one_day(history, maker, today - timedelta(days=days - 1 - number), number / days, upsert=True)
        still_open(history, today)
    with connect(home) as con:
        return con.execute("select count(*) from step_attempts").fetchall()[0][0]


def one_day(history: Writer, maker: duckdb.DuckDBPyConnection, day: datetime, drift: float, upsert: bool) -> None:
    maker.execute(f"create or replace table made as {RUNS.replace('$day', repr(day.isoformat()))}")
    rest = ATTEMPTS.replace("$causes", repr(CAUSES)).replace("$errors", repr(ERRORS))
    rest = rest.replace("$drift", repr(0.5 * drift)).replace("$usd", repr((DEFAULT.rates[0].run_hour or 0) / 3600))
    maker.execute(f"create or replace table made_attempts as {rest}")
    with history.transaction():
        for record_type, select in ((Run, ENDS), (StepAttempt, "select * exclude w from made_attempts")):
            rows = maker.execute(select).to_arrow_table()
            if upsert:
                history.upsert(record_type, rows)
            else:
                history.con.register("made_rows", rows)
                history.con.execute(f"insert into live.{record_type.table} by name from made_rows")
                history.con.unregister("made_rows")


def still_open(history: Writer, today: datetime) -> None:
    """Forty runs that go on, and forecasts of all jobs."""
    asked = "select run_id, source_id, job_name, workflow, owner, job_snapshot_id, created_at, started_at, deadline_at from runs "
    asked += f"where created_at >= '{today - timedelta(days=1)}' order by created_at desc limit 40"
    history.upsert(Run, history.con.execute(asked).to_arrow_table())
    quantities = {"run_time_s": 300.0, "queue_time_s": 10.0, "start_time_s": 3.0, "cost_usd": 0.1, "time_left_s": 100.0}
    history.upsert(Forecast, [
        Forecast(job_name=f"flow_{w:03}", step=step, quantity=quantity, p05=p50 / 2, p50=p50, p95=p50 * 3, sample_count=100,
                 predictor="rule", as_of=today - timedelta(days=age))
        for w in range(120) for step in ("", *(f"step_{s}" for s in range(9))) for quantity, p50 in quantities.items() for age in (1, 2)
    ])  # fmt: skip


def peers(home: Path, folder: Path) -> dict[str, Callable[[], duckdb.DuckDBPyConnection]]:
    """The same rows as one table each, without rollups; what opens them."""
    file = folder / "plain.duckdb"
    sealed = str(home / "history.duckdb")
    with closing(duckdb.connect(str(file))) as con:
        con.execute("SET TimeZone = 'UTC'")
        con.execute(f"attach '{sealed}' as history (read_only)")
        for table, order in (("runs", "created_at"), ("step_attempts", "started_at")):
            con.execute(f"create table {table} as from history.main.{table} order by {order}")
            con.execute(f"copy {table} to '{folder}/{table}.parquet' (format parquet, compression zstd)")

    def table() -> duckdb.DuckDBPyConnection:
        con = duckdb.connect(str(file), read_only=True)
        con.execute("SET TimeZone = 'UTC'")
        return con

    def parquet() -> duckdb.DuckDBPyConnection:
        con = duckdb.connect()
        con.execute("SET TimeZone = 'UTC'")
        for name in ("runs", "step_attempts"):
            con.execute(f"create view {name} as from '{folder}/{name}.parquet'")
        return con

    return {"one DuckDB table": table, "one Parquet file": parquet}


def timed(ask: Callable[[], object], times: int) -> tuple[list[float], float]:
    """Seconds of each, and processor seconds of one on average."""
    ask()  # the file is in the page cache, as it is for whoever wrote it
    taken = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(times):
        begun = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - begun)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return taken, (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="150,000 attempts, under 40 seconds")
    parser.add_argument("--home", type=Path, help="keep the history here, and use the one that is there")
    parser.add_argument("--attempts", type=int, help="another size")
    given = parser.parse_args()
    size, times, peer_times = (150_000, 5, 1) if given.quick else (10_000_000, 40, 3)
    size = given.attempts or size
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        home = given.home or folder / "home"
        if not (home / "history.duckdb").exists():
            home.mkdir(exist_ok=True)
            begun = time.monotonic()
            generate(home, size)
            say("generate, rollups kept", "time", "s", round(time.monotonic() - begun, 1), {}, 1, size)
        with connect(home) as con:
            attempts, first, last = con.execute(
                "select count(*), min(started_at), max(started_at) from step_attempts"
            ).fetchall()[0]
            runs = con.execute("select run_id from runs using sample 200 rows (reservoir, 7)").fetchall()
            rollup_rows = {name: con.execute(f"select count(*) from {name}").fetchall()[0][0] for name in ROLLUP_TABLES}
        note(f"{attempts} attempts from {first} to {last}; rows of rollups: {rollup_rows}")
        note("the same rows as plain tables ...")
        plain = peers(home, folder)
        rng = random.Random(1)
        for number, (name, question) in enumerate(QUESTIONS.items(), start=1):
            filters = {"step": "step_2", "workflow": "flow_004"} if name == "duration_quantiles" else {}

            def ours(question=question, filters=filters) -> None:
                run = {"run_id": rng.choice(runs)[0]} if "run_id" in question.required else {}
                with connect(home) as con:
                    question.ask(con, **filters, **run)

            taken, cpu_s = timed(ours, times)
            beside: dict[str, float] = {}
            for peer, opened in plain.items():
                sql = scan(name, filters, rng.choice(runs)[0])

                def theirs(opened=opened, sql=sql) -> None:
                    with closing(opened()) as con:
                        frame(con, sql)

                beside[peer] = round(statistics.median(timed(theirs, peer_times)[0]), 4)
            case = f"{number}. {name}"
            p95 = statistics.quantiles(taken, n=20)[-1]
            say(case, "p50", "s", round(statistics.median(taken), 4), beside, times, attempts)
            met = None if attempts < 9_500_000 else p95 <= TARGET_S
            say(case, "p95", "s", round(p95, 4), {}, times, attempts, target=TARGET_S, met=met)
            say(case, "processor time", "s", round(cpu_s, 4), {}, times, attempts)
        sizes = {
            "published file": (home / "history.duckdb").stat().st_size,
            "sealed": sum(file.stat().st_size for file in (home / "history.store" / "sealed").glob("*/*.parquet")),
        }
        plain_sizes = {"one DuckDB table": (folder / "plain.duckdb").stat().st_size / attempts,
                       "one Parquet file": sum(file.stat().st_size for file in folder.glob("*.parquet")) / attempts}  # fmt: skip
        say("size", "bytes per attempt, runs included", "B", round(sum(sizes.values()) / attempts, 1),
            {name: round(size, 1) for name, size in plain_sizes.items()}, 1, attempts)  # fmt: skip
        say("size", "published file", "MiB", round(sizes["published file"] / 2**20, 1), {}, 1, attempts)


ROLLUP_TABLES = (
    "run_days",
    "queue_time_bins",
    "step_days",
    "step_time_bins",
    "step_month_bins",
    "failure_days",
    "running_minutes",
)


def scan(name: str, filters: dict[str, str], run_id: str) -> str:
    """The question as plain SQL over the rows; of one run, its rows."""
    if name == "concurrency":
        return concurrency_at_minutes()
    if name in FULL_SCANS:
        return FULL_SCANS[name](**filters)
    if name == "running_now":
        return "select * from runs where outcome is null"
    return f"select * from step_attempts join runs using (run_id) where run_id = '{run_id}' order by step_attempts.started_at"


def say(
    case: str, metric: str, unit: str, ours: float, beside: dict[str, float], runs: int, size: int, target: float | None = None,
    met: bool | None = None,
) -> None:  # fmt: skip
    line = {"benchmark": "history_questions", "case": case, "metric": metric, "unit": unit, "ours": ours, "peers": beside}
    print(json.dumps(line | {"target": target, "met": met, "runs": runs, "size": size}), flush=True)


if __name__ == "__main__":
    main()
