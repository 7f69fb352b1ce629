"""What does a team's history cost the writer, how soon do readers elsewhere see it, and how long do their questions take?

A history of 1 million step attempts (made as for history_questions.py) is published to a PostgreSQL and a SeaweedFS, both on this
machine: real servers pay the network on top. Then forty times ten runs of ten attempts land, as a busy sync lands them; every time a
reader on another home opens the team's history until it sees them. Beside: the same writing into a home without a team, and the same
questions on the writer's own copy, both on a connection that is open.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
from pyarrow import fs

sys.path.insert(0, str(Path(__file__).parents[1]))

from history_questions import generate

from tests.servers import KEY, SECRET, postgres, s3
from workflows_pkg.history import QUESTIONS
from workflows_pkg.history.records import Run, StepAttempt
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.history.team.carrying import tidy
from workflows_pkg.history.team.place import team_place

VISIBLE_S = 10.0
"""What a reader sees is at most this old: of which a sync every five seconds takes five."""


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def say(case: str, metric: str, unit: str, ours: float, peers: dict[str, float], runs: int, size: int, target: float | None = None,
        met: bool | None = None) -> None:  # fmt: skip
    line = {"benchmark": "team_history", "case": case, "metric": metric, "unit": unit, "ours": ours, "peers": peers}
    print(json.dumps(line | {"target": target, "met": met, "runs": runs, "size": size}), flush=True)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def a_few(number: int) -> tuple[list[Run], list[StepAttempt]]:
    at = datetime.now(UTC)
    names = [f"later-{number}-{n}" for n in range(10)]
    done = {"job_name": "later", "started_at": at, "ended_at": at + timedelta(seconds=9), "outcome": "success", "run_time_s": 9.0}
    runs = [Run(run_id=name, source_id="here", created_at=at, **done) for name in names]
    steps = [StepAttempt(run_id=name, step_key=f"s{n}", step=f"s{n}", attempt=1, **done) for name in names for n in range(10)]
    return runs, steps


def land(home: Path, number: int) -> tuple[float, float, float]:
    """Wall and processor seconds of one writing, and when its rows were committed."""
    runs, steps = a_few(number)
    begun, used = time.perf_counter(), cpu_s()
    with writer(home) as history:
        with history.transaction():
            history.upsert(Run, runs)
            history.upsert(StepAttempt, steps)
        committed = time.perf_counter()
    return time.perf_counter() - begun, cpu_s() - used, committed


def timed(ask: Callable[[], object], times: int) -> list[float]:
    ask()
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - begun)
    return taken


def stored(host: str, objects: fs.S3FileSystem) -> tuple[float, float, int]:
    """MiB in PostgreSQL, MiB in the bucket, and how many objects."""
    with closing(psycopg2.connect(host=host, user="postgres", dbname="postgres")) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_database_size('postgres')")
        (catalogue,) = cursor.fetchone() or (0,)
    found = [
        one.size for one in objects.get_file_info(fs.FileSelector("kept/team", recursive=True)) if one.type == fs.FileType.File
    ]
    return catalogue / 2**20, sum(size or 0 for size in found) / 2**20, len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60,000 attempts, three publications")
    parser.add_argument("--attempts", type=int, help="another size")
    given = parser.parse_args()
    size, times = (60_000, 3) if given.quick else (1_000_000, 40)
    size = given.attempts or size
    asked = 2 if given.quick else 10
    with tempfile.TemporaryDirectory(prefix="/tmp/team-") as scratch:
        folder = Path(scratch)
        for name in ("home", "elsewhere", "s3"):
            (folder / name).mkdir()
        home, elsewhere = folder / "home", folder / "elsewhere"
        note("generating ...")
        attempts = generate(home, size)
        alone = [land(home, -number - 1) for number in range(times)]
        with postgres(folder / "pg") as host, s3(folder / "s3") as objects:
            os.environ.update(
                AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_ENDPOINT_URL=f"http://{objects.address}",
                WORKFLOWS_HISTORY=f"postgresql://postgres@/postgres?host={host}&data=s3://kept/team",
            )  # fmt: skip
            note("first publication ...")
            wall, cpu, _ = land(home, 0)
            say("first publication", "time", "s", round(wall, 2), {}, 1, attempts)
            say("first publication", "processor time", "s", round(cpu, 2), {}, 1, attempts)
            note("publications ...")
            written: list[tuple[float, float]] = []
            visible: list[float] = []
            for number in range(1, times + 1):
                wall, cpu, committed = land(home, number)
                while True:
                    with open_history(elsewhere) as con:
                        seen = con.execute("select count(*) from runs where run_id = ?", [f"later-{number}-9"]).fetchall()[0][0]
                    if seen:
                        break
                written.append((wall, cpu))
                visible.append(time.perf_counter() - committed)
            case = "landing 10 runs of 10 attempts"
            middle = statistics.median
            for metric, place in (("time", 0), ("processor time", 1)):
                beside = {"no team": round(middle(one[place] for one in alone), 3)}
                say(case, f"{metric}, p50", "s", round(middle(one[place] for one in written), 3), beside, times, attempts)
            worst = max(visible)
            say(case, "commit until a reader has seen it, p50", "s", round(middle(visible), 2), {}, times, attempts)
            say(case, "commit until a reader has seen it, most", "s", round(worst, 2), {}, times, attempts,
                target=VISIBLE_S, met=None if given.quick else worst <= VISIBLE_S)  # fmt: skip
            catalogue, bucket, count = stored(host, objects.files())
            local = sum(file.stat().st_size for file in home.rglob("*") if file.is_file() and "sealed" in file.parts) / 2**20
            local += (home / "history.duckdb").stat().st_size / 2**20
            say("size", "PostgreSQL", "MiB", round(catalogue, 1), {}, 1, attempts)
            say(
                "size",
                f"bucket, {count} objects",
                "MiB",
                round(bucket, 1),
                {"the writer's published copy": round(local, 1)},
                1,
                attempts,
            )
            note("questions ...")
            with open_history(home) as con:
                (some_run,) = con.execute("select run_id from runs where outcome is not null order by run_id limit 1").fetchall()[
                    0
                ]

            def opened(where: Path) -> None:
                open_history(where).close()

            say("open", "p50", "s", round(middle(timed(lambda: opened(elsewhere), asked)), 4),
                {"own copy": round(middle(timed(lambda: opened(home), asked)), 4)}, asked, attempts)  # fmt: skip
            with open_history(elsewhere) as team, open_history(home) as own:
                for place, (name, question) in enumerate(QUESTIONS.items(), start=1):
                    filters = {"step": "step_2", "workflow": "flow_004"} if name == "duration_quantiles" else {}
                    filters |= {"run_id": some_run} if "run_id" in question.required else {}

                    def ask(con: Any, question=question, filters=filters) -> None:
                        question.ask(con, **filters)

                    ours, theirs = (middle(timed(lambda con=con: ask(con), asked)) for con in (team, own))
                    say(f"{place}. {name}", "p50", "s", round(ours, 4), {"own copy": round(theirs, 4)}, asked, attempts)
            note("tidying ...")
            place = team_place()
            assert place is not None
            begun, used = time.perf_counter(), cpu_s()
            tidy(place)
            say(f"tidying after {times} publications", "time", "s", round(time.perf_counter() - begun, 2), {}, 1, attempts)
            say(f"tidying after {times} publications", "processor time", "s", round(cpu_s() - used, 2), {}, 1, attempts)


if __name__ == "__main__":
    main()
