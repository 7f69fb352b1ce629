"""How long does `workflows look` take on an instance of somebody else, from the command to the page?

The instance is Dagster's default storage, one SQLite file per run: real runs of six jobs are recorded, then multiplied with new
ids, times, durations, queue times, failures and ticks (`make_instance`, which the tests use as well). The command runs in a process
of its own, start of Python included; the file cache is warm, since making the instance has just written the files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

TARGET_S = 60
"""One HTML page within a minute for 10,000 runs of about 50 events."""

END = datetime(2026, 6, 1, tzinfo=UTC)
"""The last run of every made instance is asked for just before this moment."""

START = "from workflows_pkg.cli.main import main; main()"
"""What the installed command `workflows` does."""

_WAL = slice(18, 20)
"""The two bytes of a SQLite file that say whether it keeps a write-ahead log, as Dagster's do."""


@dataclass(frozen=True)
class Job:
    """A job of the made instance: seconds of each step, when it runs (minutes of a day), and what goes wrong.

    failing: step -> (share of runs in which it fails for good, error class). retrying: step -> share of runs with one retry.
    slower: step that takes twice as long in the newest fifth of the history. hangs: share of runs that hang and are canceled.
    """

    steps: Mapping[str, float]
    minutes: tuple[int, ...] = ()
    trigger: str = "schedule"
    failing: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    retrying: Mapping[str, float] = field(default_factory=dict)
    slower: str = ""
    hangs: float = 0.0
    partitioned: bool = False


def _hourly(minute: int) -> tuple[int, ...]:
    return tuple(range(minute, 1440, 60))


TROUBLED: Mapping[str, Job] = {
    "orders": Job(
        {"extract_orders": 14, "extract_customers": 8, "clean": 6, "join": 11, "aggregate": 4, "publish": 3, "notify": 0.4},
        _hourly(0), failing={"extract_orders": (0.05, "ConnectionError")},
    ),
    "clicks": Job(
        {"fetch": 22, "parse": 12, "sessions": 19, "score": 9, "rank": 5, "store": 7, "report": 0.8},
        _hourly(0), retrying={"fetch": 0.08},
    ),
    "stock": Job({"read": 5, "check": 2, "price": 4, "merge": 3, "forecast": 12, "write": 2, "tell": 0.3}, _hourly(0)),
    "files": Job(
        {"list": 0.6, "copy": 9, "decode": 5, "validate": 2, "load": 6, "index": 3, "archive": 1.5},
        tuple(range(7, 1440, 36)), trigger="sensor", failing={"validate": (0.02, "ValueError")},
    ),
    "warehouse": Job(
        {"snapshot": 180, "stage": 240, "transform": 600, "test": 90, "dimensions": 130, "facts": 260, "vacuum": 60},
        (125,), slower="transform", hangs=0.03, partitioned=True,
    ),
    "model": Job(
        {"features": 120, "split": 10, "train": 900, "evaluate": 60, "compare": 20, "register": 8, "deploy": 25},
        (245,), failing={"deploy": (1.0, "KeyError")},
    ),
}  # fmt: skip
"""Jobs with the troubles that a first look should see; `model` fails in the newest tenth of the history only."""

HEALTHY: Mapping[str, Job] = {
    "orders": Job({"extract": 14, "clean": 6, "join": 11, "publish": 3}, _hourly(3)),
    "stock": Job({"read": 5, "price": 4, "write": 2}, _hourly(31)),
    "warehouse": Job({"snapshot": 180, "transform": 600, "facts": 260}, (125,)),
}
"""The control: nothing fails, nothing waits, nothing changes."""


@dataclass(frozen=True)
class _Template:
    """One recorded run: its row of `runs`, its events as (text, type, step), and the tags of the row's body."""

    run_id: str
    columns: tuple[str, ...]
    row: tuple[Any, ...]
    events: tuple[tuple[dict[str, Any], str | None, str | None], ...]


@dataclass(frozen=True)
class _Asked:
    """A run that is wanted: when, of which job, and what will happen to it."""

    at: datetime
    job: str
    kind: str
    queue_s: float


def make_instance(home: Path, runs: int, jobs: Mapping[str, Job] = TROUBLED, seed: int = 7) -> None:
    """Makes a Dagster instance at `home` with `runs` runs that end before `END`, and the ticks that asked for them."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    templates, tick = _record(home, jobs)
    chance = random.Random(seed)
    asked = _asked(jobs, runs, chance)
    shards = home / "history" / "runs"
    shell = _empty_shard(next(iter(templates.values())).run_id, shards)
    with sqlite3.connect(home / "history" / "runs.db") as con:
        con.execute("delete from runs")
        con.execute("delete from run_tags")
        rows: list[tuple[Any, ...]] = []
        tags: list[tuple[str, str, str]] = []
        ticks: dict[tuple[str, datetime], list[str]] = {}
        columns: tuple[str, ...] = ()
        span = (asked[-1].at - asked[0].at).total_seconds() or 1.0
        for number, wanted in enumerate(asked):
            job, template = jobs[wanted.job], templates[wanted.job, wanted.kind]
            columns = template.columns
            run_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            age = (wanted.at - asked[0].at).total_seconds() / span
            row, own_tags, events = _multiplied(template, job, wanted, run_id, age, chance)
            rows.append(row)
            tags += [(run_id, key, value) for key, value in own_tags.items()]
            if job.trigger in ("schedule", "sensor"):
                ticks.setdefault((_automation(wanted.job, job), wanted.at), []).append(run_id)
            _write_shard(shell, shards / f"{run_id}.db", run_id, events)
            if number % 1000 == 999:
                print(f"look: {number + 1} of {len(asked)} runs made", file=sys.stderr)
        con.executemany(f"insert into runs values ({','.join('?' * len(columns))})", rows)
        con.executemany("insert into run_tags (run_id, key, value) values (?, ?, ?)", tags)
    con.close()
    _write_ticks(home, tick, ticks, {_automation(name, job): job.trigger for name, job in jobs.items()})
    for template in templates.values():
        (shards / f"{template.run_id}.db").unlink(missing_ok=True)


def _automation(name: str, job: Job) -> str:
    return f"{name}_{job.trigger}"


def _asked(jobs: Mapping[str, Job], runs: int, chance: random.Random) -> list[_Asked]:
    """The newest `runs` runs before `END`; those asked for in one minute wait for each other in the queue."""
    times: list[tuple[datetime, str]] = []
    day = END - timedelta(days=1)
    while len(times) < runs:
        times += [(day + timedelta(minutes=minute), name) for name, job in jobs.items() for minute in job.minutes]
        day -= timedelta(days=1)
    times = sorted(times)[-runs:]
    found: list[_Asked] = []
    before: dict[datetime, int] = {}
    for number, (at, name) in enumerate(times):
        job, newest = jobs[name], number > 0.9 * len(times)
        place = before.get(at, 0)
        before[at] = place + 1
        kind, draw = "success", chance.random()
        for step, (share, _) in job.failing.items():
            if draw < share and (share < 1 or newest):
                kind = f"failure {step}"
        for step, share in job.retrying.items():
            if draw < share:
                kind = f"retry {step}"
        if draw < job.hangs:
            kind = "hang"
        found.append(_Asked(at, name, kind, chance.uniform(0.5, 3) + place * chance.uniform(25, 60)))
    return found


def _record(home: Path, jobs: Mapping[str, Job]) -> tuple[dict[tuple[str, str], _Template], Mapping[str, Any]]:
    """Real runs of every kind, by job and kind, and the row of one real tick."""
    import logging

    import dagster as dg
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.scheduler.instigation import TickData, TickStatus

    logging.disable(logging.CRITICAL)
    wrong: dict[str, str] = {}

    def op(name: str, job: Job, first: bool) -> Any:
        def body(context: Any, before: int = 0) -> int:
            error = wrong.get(context.op.name)
            if error == "retry" and context.retry_number == 0:
                raise ConnectionError("the peer closed the connection")
            if error and error != "retry":
                raise {"ConnectionError": ConnectionError, "ValueError": ValueError, "KeyError": KeyError}[error]("it broke")
            return 1

        policy = dg.RetryPolicy(max_retries=1, delay=0.01) if name in job.retrying else None
        ins = {} if first else {"before": dg.In(int)}
        return dg.op(name=name, ins=ins, out=dg.Out(int), retry_policy=policy)(
            (lambda context: body(context)) if first else (lambda context, before: body(context, before))
        )

    def definition(name: str, job: Job) -> Any:
        ops = [op(step, job, place == 0) for place, step in enumerate(job.steps)]

        @dg.job(name=name)
        def made() -> None:
            value = ops[0]()
            for one in ops[1:]:
                value = one(value)

        return made

    found: dict[tuple[str, str], _Template] = {}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for name, job in jobs.items():
            made = definition(name, job)
            kinds = ["success", *(f"failure {step}" for step in job.failing), *(f"retry {step}" for step in job.retrying)]
            for kind in kinds + (["hang"] if job.hangs else []):
                wrong.clear()
                if " " in kind:
                    step = kind.split(" ")[1]
                    wrong[step] = job.failing[step][1] if kind.startswith("failure") else "retry"
                run_id = _record_run(instance, made, kind)
                found[name, kind] = _template(home, run_id, kind)
        instance.create_tick(
            TickData(
                "origin", "name", InstigatorType.SCHEDULE, TickStatus.SUCCESS, END.timestamp(), run_ids=["x"], selector_id="s"
            )
        )
    logging.disable(logging.NOTSET)
    with sqlite3.connect(home / "schedules" / "schedules.db") as con:
        con.row_factory = sqlite3.Row
        tick = dict(con.execute("select * from job_ticks").fetchone())
    con.close()
    return found, tick


def _record_run(instance: Any, job: Any, kind: str) -> str:
    """One real run; canceled afterwards where it is to hang."""
    run_id: str = job.execute_in_process(instance=instance, raise_on_error=False).run_id
    if kind == "hang":
        instance.report_run_canceled(instance.get_run_by_id(run_id))
    return run_id


def _template(home: Path, run_id: str, kind: str) -> _Template:
    with sqlite3.connect(home / "history" / "runs.db") as con:
        cursor = con.execute("select * from runs where run_id = ?", [run_id])
        row, columns = cursor.fetchone(), tuple(item[0] for item in cursor.description)
    con.close()
    with sqlite3.connect(home / "history" / "runs" / f"{run_id}.db") as con:
        stored = con.execute("select event, dagster_event_type, step_key from event_logs order by id").fetchall()
    con.close()
    events = [(json.loads(text), kind_of, step) for text, kind_of, step in stored]
    if kind == "hang":  # what a run looks like that stood still in its third step until somebody stopped it
        starts = [place for place, (_, kind_of, _) in enumerate(events) if kind_of == "STEP_START"]
        canceled = [event for event in events if event[1] == "PIPELINE_CANCELED"]
        events = events[: starts[2] + 1] + canceled
    (start,) = [place for place, (_, kind_of, _) in enumerate(events) if kind_of == "PIPELINE_START"]
    events[start:start] = [_as(events[start], kind_of) for kind_of in ("PIPELINE_ENQUEUED", "PIPELINE_STARTING")]
    return _Template(run_id, columns, row, tuple(events))


def _as(event: tuple[dict[str, Any], str | None, str | None], kind: str) -> tuple[dict[str, Any], str | None, str | None]:
    """The event as one of another type: the daemon's, which a run in this process has not."""
    text, _, step = event
    return {**text, "dagster_event": {**text["dagster_event"], "event_type_value": kind, "message": kind}}, kind, step


def _multiplied(
    template: _Template, job: Job, wanted: _Asked, run_id: str, age: float, chance: random.Random
) -> tuple[tuple[Any, ...], dict[str, str], list[tuple[str, str | None, str | None, str]]]:
    """The recorded run with a new id, at another time, with other durations: its row, its tags and its events."""
    clock = asked = wanted.at.timestamp() + chance.uniform(0.1, 2.0)
    run_factor = chance.lognormvariate(0, 0.08)
    started = ended = None
    events: list[tuple[str, str | None, str | None, str]] = []
    begun: dict[str, float] = {}
    for event, kind, step in template.events:
        if kind == "PIPELINE_STARTING":
            clock += wanted.queue_s
        elif kind == "PIPELINE_START":
            clock += chance.uniform(1.5, 4)
            started = clock
        elif kind in ("STEP_START", "STEP_RESTARTED"):
            clock += 20 if kind == "STEP_RESTARTED" else 0.05
            begun[step or ""] = clock
        elif kind in ("STEP_SUCCESS", "STEP_FAILURE", "STEP_UP_FOR_RETRY"):
            usual = job.steps[step or ""] * (2 if step == job.slower and age > 0.8 else 1)
            clock += usual * run_factor * chance.lognormvariate(0, 0.1) * (1 if kind == "STEP_SUCCESS" else 0.3)
        elif kind == "PIPELINE_CANCELED":
            clock += 6 * 3600
        else:
            clock += 0.002
        if kind in ("PIPELINE_SUCCESS", "PIPELINE_FAILURE", "PIPELINE_CANCELED"):
            ended = clock
        new = {**event, "run_id": run_id, "timestamp": clock}
        if kind == "STEP_SUCCESS":
            detail = dict(event["dagster_event"])
            detail["event_specific_data"] = {**detail["event_specific_data"], "duration_ms": (clock - begun[step or ""]) * 1000}
            new["dagster_event"] = detail
        if kind == "STEP_UP_FOR_RETRY":
            detail = dict(event["dagster_event"])
            detail["event_specific_data"] = {**detail["event_specific_data"], "seconds_to_wait": 20.0}
            new["dagster_event"] = detail
        events.append((json.dumps(new).replace(template.run_id, run_id), kind, step, _stamp(clock)))
    tags = {"dagster/schedule_name" if job.trigger == "schedule" else "dagster/sensor_name": _automation(wanted.job, job)}
    if job.partitioned:
        tags["dagster/partition"] = wanted.at.date().isoformat()
    body = json.loads(dict(zip(template.columns, template.row, strict=True))["run_body"].replace(template.run_id, run_id))
    body["tags"] = {**(body.get("tags") or {}), **tags}
    row = dict(zip(template.columns, template.row, strict=True))
    row |= {"id": None, "run_id": run_id, "run_body": json.dumps(body), "start_time": started, "end_time": ended}
    row |= {
        "create_timestamp": _stamp(asked),
        "update_timestamp": _stamp(ended or clock),
        "partition": tags.get("dagster/partition"),
    }
    return tuple(row.values()), tags, events


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _empty_shard(run_id: str, shards: Path) -> sqlite3.Connection:
    """A log of Dagster without events, in memory."""
    memory = sqlite3.connect(":memory:")
    with sqlite3.connect(shards / f"{run_id}.db") as con:
        con.backup(memory)
    con.close()
    memory.execute("delete from event_logs")
    memory.commit()
    return memory


def _write_shard(
    shell: sqlite3.Connection, file: Path, run_id: str, events: list[tuple[str, str | None, str | None, str]]
) -> None:
    shell.executemany(
        "insert into event_logs (run_id, event, dagster_event_type, step_key, timestamp) values (?, ?, ?, ?, ?)",
        [(run_id, text, kind, step, at) for text, kind, step, at in events],
    )
    shell.commit()
    image = bytearray(shell.serialize())
    image[_WAL] = b"\x02\x02"
    file.write_bytes(image)
    shell.execute("delete from event_logs")
    shell.commit()


def _write_ticks(
    home: Path, tick: Mapping[str, Any], ticks: Mapping[tuple[str, datetime], list[str]], triggers: Mapping[str, str]
) -> None:
    rows: list[tuple[Any, ...]] = []
    for (name, at), run_ids in sorted(ticks.items(), key=lambda item: (item[0][1], item[0][0])):
        body = json.loads(tick["tick_body"])
        kind = triggers[name].upper()
        body |= {"run_ids": run_ids, "timestamp": at.timestamp()}
        body |= {key: name for key in ("instigator_name", "job_name") if key in body}
        body["instigator_type" if "instigator_type" in body else "job_type"] = {"__enum__": f"InstigatorType.{kind}"}
        row = dict(tick) | {"id": None, "type": kind, "timestamp": _stamp(at.timestamp()), "tick_body": json.dumps(body)}
        row |= {name: _stamp(at.timestamp()) for name in ("create_timestamp", "update_timestamp") if name in row}
        rows.append(tuple(row.values()))
    with sqlite3.connect(home / "schedules" / "schedules.db") as con:
        con.execute("delete from job_ticks")
        con.executemany(f"insert into job_ticks values ({','.join('?' * len(tick))})", rows)
    con.close()


def fingerprint(home: Path) -> Iterator[tuple[str, str]]:
    """Every path below `home` with the hash of its content: what must be the same before and after a look."""
    for path in sorted(home.rglob("*")):
        yield str(path.relative_to(home)), hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"


def _once(home: Path, out: Path) -> tuple[float, dict[str, Any]]:
    environment = {**os.environ, "DAGSTER_DISABLE_TELEMETRY": "yes"}
    command = [sys.executable, "-c", START, "look", str(home), "--out", str(out), "--no-open", "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"look failed: {done.stderr[-2000:]}")
    return seconds, json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="400 runs instead of 10,000")
    quick = parser.parse_args().quick
    runs = 400 if quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        home, out = Path(folder) / "home", Path(folder) / "look.html"
        make_instance(home, runs)
        before = dict(fingerprint(home))
        seconds: list[float] = []
        for number in range(3):
            took, found = _once(home, out)
            seconds.append(took)
            print(f"look: {number + 1} of 3, {took:.1f} s", file=sys.stderr)
        changed = sorted(dict(fingerprint(home)).items() ^ before.items())
        middle = round(statistics.median(seconds), 1)
        line("from the command to the page", "wall time", "s", middle, runs, TARGET_S, None if quick else middle < TARGET_S)
        line("the instance", "events a run", "events", round(found["instance"]["events"] / runs, 1), runs)
        line("the instance", "paths changed", "paths", len(changed), runs, 0, not changed)


def line(case: str, metric: str, unit: str, ours: float, size: int, target: float | None = None, met: bool | None = None) -> None:
    """One line of the result. Without peers: nothing else that is installed makes such a page from an event log."""
    found = {"benchmark": "look", "case": case, "metric": metric, "unit": unit, "ours": ours, "peers": {}}
    print(json.dumps({**found, "target": target, "met": met, "runs": 3, "size": size}), flush=True)


if __name__ == "__main__":
    main()
