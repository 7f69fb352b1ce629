"""Which schedules and sensors ask for runs within the same minute, and does it make these runs wait in the queue?

Runs asked for by several schedules or sensors within one minute are compared with runs asked for alone: of the same job where there are
enough, else of all jobs. Runs asked for by people and backfills are left out of both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflows_pkg.advisor.change_points import rank_sum
from workflows_pkg.prediction.rows import Connection

LEAST_TIMES = 5
"""Minutes in which the same ones met; fewer is a coincidence."""

LEAST_ALONE, LEAST_ALONE_OF_ALL = 10, 20
"""Runs asked for alone that make a comparison: of the same job, else of all jobs together."""

LEVEL = 0.001
"""Level of the test of each crowd, divided by the number of crowds: in a thousand histories without an effect one shows any."""

LEAST_EXTRA_S, LEAST_LOST_S = 1.0, 60.0
"""Extra queue time per run, and in all, below which nobody would move a schedule."""


@dataclass(frozen=True)
class AskedRun:
    """One run with the schedule or sensor that asked for it; `minute` is the minute of the tick, UTC."""

    run_id: str
    job: str
    name: str
    kind: str
    minute: datetime
    queue_s: float | None


@dataclass(frozen=True)
class Crowd:
    """Schedules and sensors that met in a minute `times` times; queue times are means over runs, seconds.

    `alone_s` is what the same runs would have waited alone: the mean of their job's runs asked for alone, or of all jobs'. It, `p_value`
    and with them `costs` are unknown (0 runs, 1.0, False) where there are too few of them.
    """

    names: tuple[str, ...]
    times: int
    runs: int
    mean_s: float
    alone_s: float
    alone_runs: int
    lost_s: float
    p_value: float
    costs: bool
    asked: tuple[AskedRun, ...]
    query: str


def asked_sql(now: datetime) -> str:
    """SQL for every run that a schedule or sensor asked for before `now`: one row per run."""
    return f"""
        with asked as (
            select arg_min(name, "at") as name, arg_min(kind, "at") as kind, min("at") as "at", run_id from (
                select name, kind, "at", unnest(from_json(run_ids, '["varchar"]')) as run_id from ticks
                where run_ids is not null and status = 'success'
            ) group by run_id
        )
        select r.run_id, r.job_name, coalesce(a.name, r.trigger_name) as name, coalesce(a.kind, r.trigger) as kind,
            date_trunc('minute', coalesce(a."at", r.created_at)) as minute, r.queue_time_s
        from runs r left join asked a using (run_id)
        where r.trial_id is null and r.trigger in ('schedule', 'sensor') and coalesce(a.name, r.trigger_name) is not null
            and r.created_at < timestamptz '{now.isoformat()}'
        order by minute, name, r.run_id"""


def asked_runs(con: Connection, now: datetime) -> list[AskedRun]:
    """Runs that schedules and sensors asked for, in order of time."""
    found: list[dict[str, Any]] = con.execute(asked_sql(now)).to_arrow_table().to_pylist()
    return [
        AskedRun(row["run_id"], row["job_name"], row["name"], row["kind"], row["minute"], row["queue_time_s"]) for row in found
    ]


def collisions(con: Connection, now: datetime) -> list[Crowd]:
    """Every crowd that met at least `LEAST_TIMES` times, the one that cost most first."""
    by_minute: defaultdict[datetime, list[AskedRun]] = defaultdict(list)
    for run in asked_runs(con, now):
        by_minute[run.minute].append(run)
    alone: defaultdict[str, list[float]] = defaultdict(list)
    crowds: defaultdict[tuple[str, ...], list[AskedRun]] = defaultdict(list)
    times: Counter[tuple[str, ...]] = Counter()
    for runs in by_minute.values():
        names = tuple(sorted({run.name for run in runs}))
        if len(names) > 1:
            crowds[names] += runs
            times[names] += 1
        else:
            for run in runs:
                if run.queue_s is not None:
                    alone[run.job].append(run.queue_s)
    often = [names for names in crowds if times[names] >= LEAST_TIMES]
    query = " ".join(asked_sql(now).split())
    found = [_crowd(names, times[names], crowds[names], alone, LEVEL / len(often), query) for names in often]
    return sorted(found, key=lambda crowd: (-crowd.lost_s, crowd.names))


def _crowd(
    names: tuple[str, ...], times: int, runs: list[AskedRun], alone: dict[str, list[float]], level: float, query: str
) -> Crowd:
    waited = [run for run in runs if run.queue_s is not None]
    everyone = [seconds for of_job in alone.values() for seconds in of_job]
    expected: list[float] = []
    compared: set[str] = set()
    for run in waited:
        own = alone.get(run.job, [])
        base = own if len(own) >= LEAST_ALONE else everyone
        compared |= {run.job} if base is own else set(alone)
        expected.append(sum(base) / len(base) if base else 0.0)
    others = [seconds for job in compared for seconds in alone.get(job, [])]
    seconds = [run.queue_s for run in waited if run.queue_s is not None]
    known = bool(seconds) and len(others) >= LEAST_ALONE_OF_ALL
    mean_s = sum(seconds) / len(seconds) if seconds else 0.0
    alone_s = sum(expected) / len(expected) if known else 0.0
    lost_s = sum(seconds) - sum(expected) if known else 0.0
    p_value = rank_sum(seconds, others) if known else 1.0
    costs = known and p_value <= level and mean_s - alone_s >= LEAST_EXTRA_S and lost_s >= LEAST_LOST_S
    return Crowd(
        names, times, len(runs), mean_s, alone_s, len(others) if known else 0, lost_s, p_value, costs, tuple(waited), query
    )
