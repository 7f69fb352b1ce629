"""How often is a change told where nothing changed, how soon is a planted one found, and is its cause named?

- false alarms: share of looks at a whole history in which nothing changes of which any change is told; target: the stated rate. Histories
  are made of independent and of autocorrelated times, and of the steps of recorded traces, their attempts shuffled (`--traces DIR`; public
  traces are not part of this project). Peers: the same tests with the level not divided among the steps, and the rule of many monitors,
  that the newest ten runs are half as slow again as all before. Watched: a look after every tenth run, alarms of all looks together;
- found: planted changes of one of thirty steps, by the number of runs since; and the delay until the first look that tells it;
- named: the cause of a planted change, in a history with unrelated deployments, machines, sizes and partitions around it;
- forecasts after a change: how soon they are right again, beside those that were right before and are kept;
- speed: one look at many steps in DuckDB, processor seconds beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
from scipy.signal import lfilter

from workflows_pkg.advisor.change_points import failure_splits, time_splits
from workflows_pkg.advisor.changes import FALSE_ALARMS, more_or_less, slower_or_faster, what_changed
from workflows_pkg.history.records import RECORDS
from workflows_pkg.history.schema import create_table, names
from workflows_pkg.prediction.evaluation.traces import load
from workflows_pkg.prediction.serving import predictions

START = datetime(2026, 1, 5, tzinfo=UTC)
NOW = datetime(2027, 1, 1, tzinfo=UTC)
STEPS = 30
"""Steps of a made history in the figures of false alarms and of what is found."""
PEERS = 100
"""Of the looks, the first so many are also judged by the peers."""
NOISE = 0.3
"""Scatter of the logarithm of a made step's times: 90 % of them between 0.6 and 1.6 times the median."""
CAUSES = ("version", "machine", "input", "queue", "partitions", "nothing")


def tells(values: np.ndarray, tests: int) -> bool:
    return bool(time_splits(values, FALSE_ALARMS / tests, slower_or_faster))


def tells_failures(failed: np.ndarray, tests: int) -> bool:
    return bool(failure_splits(failed, FALSE_ALARMS / tests, more_or_less))


def half_as_slow_again(values: np.ndarray) -> bool:
    return len(values) > 20 and float(np.mean(values[-10:])) > 1.5 * float(np.mean(values[:-10]))


def line(case: str, metric: str, ours: float | None, *, unit: str = "%", size: int, runs: int, **more: object) -> None:
    shape = {"benchmark": "what_changed", "case": case, "metric": metric, "unit": unit, "ours": _rounded(ours), "peers": {}}
    print(json.dumps({**shape, "target": None, "met": None, **more, "runs": runs, "size": size}), flush=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


# --- false alarms ---------------------------------------------------------------------------------------------------------------


def independent(rng: np.random.Generator, runs: int) -> np.ndarray:
    return 60 * rng.lognormal(0, NOISE, runs)


def heavy(rng: np.random.Generator, runs: int) -> np.ndarray:
    return 60 * (1 + rng.pareto(1.2, runs))


def autocorrelated(likeness: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    def made(rng: np.random.Generator, runs: int) -> np.ndarray:
        steps = rng.standard_normal(runs + 200) * np.sqrt(1 - likeness**2)
        return 60 * np.exp(NOISE * lfilter([1.0], [1.0, -likeness], steps)[200:])

    return made


def swinging(rng: np.random.Generator, runs: int) -> np.ndarray:
    """Half of the variance is noise, half a slow swing, as of load that nobody recorded."""
    noise = rng.lognormal(0, NOISE * np.sqrt(0.5), runs)
    return 60 * noise * (autocorrelated(0.9)(rng, runs) / 60) ** np.sqrt(0.5)


def weekly(rng: np.random.Generator, runs: int) -> np.ndarray:
    return 60 * rng.lognormal(0, 0.1, runs) * np.where(np.arange(runs) % 7 >= 5, 1.8, 1.0)


def failing(share: float, again: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Failures at a constant share; after one the next run fails with the chance `again`."""

    def made(rng: np.random.Generator, runs: int) -> np.ndarray:
        begins = share * (1 - again) / (1 - share)
        failed, last = np.zeros(runs), 0
        for number, chance in enumerate(rng.random(runs)):
            last = int(chance < (again if last else begins))
            failed[number] = last
        return failed

    return made


STATIONARY = {
    "independent, lognormal": independent,
    "independent, Pareto 1.2": heavy,
    "autocorrelated 0.3": autocorrelated(0.3),
    "autocorrelated 0.6": autocorrelated(0.6),
    "autocorrelated 0.9": autocorrelated(0.9),
    "every weekend slower": weekly,
    "slow swings under noise": swinging,
}
FAILING = {"independent, 5 %": failing(0.05, 0.05), "in bursts, 5 %, half go on": failing(0.05, 0.5)}


def false_alarms(rng: np.random.Generator, looks: int) -> None:
    for what, kinds, told, rule in (
        ("times", STATIONARY, tells, half_as_slow_again),
        ("failures", FAILING, tells_failures, None),
    ):
        for name, made in kinds.items():
            for runs in (30, 100, 400):
                whole = [[made(rng, runs) for _ in range(STEPS)] for _ in range(looks)]
                _alarms(f"stationary {what}: {name}", whole, told, rule, runs)


def _alarms(
    case: str,
    whole: Sequence[Sequence[np.ndarray]],
    told: Callable[[np.ndarray, int], bool],
    rule: Callable[[np.ndarray], bool] | None,
    size: int,
) -> int:
    """Prints the share of looks with an alarm; returns how many they are."""

    def share(alarm: Callable[[np.ndarray, int], bool], looks: Sequence[Sequence[np.ndarray]]) -> float:
        return 100 * float(np.mean([any(alarm(values, len(steps)) for values in steps) for steps in looks]))

    ours = share(told, whole)
    few = whole[:PEERS]
    peers = {"level not divided": _rounded(share(lambda values, _: told(values, 1), few))}
    if rule is not None:
        peers["newest ten half as slow again"] = _rounded(share(lambda values, _: rule(values), few))
    stated = 100 * FALSE_ALARMS
    allowed = stated + 2 * 100 * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / len(whole))
    line(
        case, "looks with a false alarm", ours, peers=peers, target=stated, met=bool(ours <= allowed), size=size, runs=len(whole)
    )
    return round(ours * len(whole) / 100)


def watched(rng: np.random.Generator, histories: int) -> int:
    """All looks while a history grows from 50 to 400 runs, ten runs apart."""
    for name in ("independent, lognormal", "autocorrelated 0.6"):
        alarms = 0
        for _ in range(histories):
            steps = [STATIONARY[name](rng, 400) for _ in range(10)]
            alarms += any(tells(values[:seen], 10) for seen in range(50, 401, 10) for values in steps)
        line(f"watched: {name}", "histories with any alarm in 36 looks", 100 * alarms / histories, size=400, runs=histories)


def recorded_steps(folder: Path) -> dict[str, list[np.ndarray]]:
    """Times of each trace's steps, in order, of at least twenty attempts each."""
    found: dict[str, list[np.ndarray]] = {}
    for trace in load([folder]):
        rows = trace.rows[trace.rows["value"].notna()]
        steps = [group["value"].to_numpy(float)[-4000:] for _, group in rows.groupby(["workflow", "step"], sort=True)]
        steps = [values for values in steps if len(values) >= 20 and values.min() < values.max()]
        if steps:
            found[trace.name] = steps
    return found


Source = Callable[[np.random.Generator, int], np.ndarray]


def sources(traces: dict[str, list[np.ndarray]]) -> dict[str, Source]:
    """Where the times come from in which a change is planted: made ones, and those of a step of a trace, drawn with replacement."""
    pool = [values for steps in traces.values() for values in steps if np.median(values) > 5]

    def of_a_step(rng: np.random.Generator, runs: int) -> np.ndarray:
        return rng.choice(pool[int(rng.integers(len(pool)))], runs)

    return {"made": independent} | ({"steps of traces": of_a_step} if pool else {})


def shuffled_traces(found: dict[str, list[np.ndarray]], rng: np.random.Generator, looks: int) -> None:
    total = Counter[str]()
    for name, steps in found.items():
        few = max(2, min(looks, 100_000 // sum(map(len, steps))))
        whole = [[rng.permutation(values) for values in steps] for _ in range(few)]
        alarms = _alarms(f"shuffled trace: {name}", whole, tells, half_as_slow_again, sum(map(len, steps)))
        total["looks"] += few
        total["alarms"] += alarms
        changes = sum(len(time_splits(values, FALSE_ALARMS / len(steps), slower_or_faster)) for values in steps)
        line(f"trace as recorded: {name}", "changes told, truth unknown", changes, unit="changes", size=len(steps), runs=1)
    if total["looks"]:
        share = 100 * total["alarms"] / total["looks"]
        stated = 100 * FALSE_ALARMS
        allowed = stated + 200 * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / total["looks"])
        line(
            "shuffled traces, all", "looks with a false alarm", share, target=stated, met=bool(share <= allowed), size=len(found),
            runs=total["looks"],
        )  # fmt: skip


# --- found ----------------------------------------------------------------------------------------------------------------------


def temporary(rng: np.random.Generator, histories: int) -> None:
    """Half as slow again for a while in the middle of 300 runs: both ends told."""
    for lasted in (20, 50, 100):
        both = 0
        for _ in range(histories):
            series = independent(rng, 300)
            series[100 : 100 + lasted] *= 1.5
            both += len(time_splits(series, FALSE_ALARMS / STEPS, slower_or_faster)) == 2
        line(f"made: 1.5 x slower for {lasted} runs", "begin and end told", 100 * both / histories, size=300, runs=histories)


def found(rng: np.random.Generator, histories: int, origins: dict[str, Source]) -> None:
    for source, values in origins.items():
        for factor in (1.3, 1.5, 2.0):
            for since in (10, 20, 40, 80):
                hits = inside = 0
                for _ in range(histories):
                    series = values(rng, 200 + since)
                    series[200:] *= factor
                    told = time_splits(series, FALSE_ALARMS / STEPS, slower_or_faster)
                    hits += bool(told)
                    inside += any(split.first <= 200 <= split.last for split in told)
                more = {"place_in_interval_%": _rounded(100 * inside / hits) if hits else None}
                line(
                    f"{source}: {factor} x slower",
                    f"found {since} runs later",
                    100 * hits / histories,
                    size=200,
                    runs=histories,
                    **more,
                )
            delays = [_delay(rng, values, factor) for _ in range(max(10, histories // 4))]
            line(
                f"{source}: {factor} x slower", "runs until it is told, median", float(np.median(delays)), unit="runs", size=200,
                runs=len(delays),
            )  # fmt: skip
    for after in (0.1, 0.2, 0.5):
        for since in (10, 20, 40, 80):
            hits = 0
            for _ in range(histories):
                failed = (rng.random(200 + since) < 0.02).astype(float)
                failed[200:] = rng.random(since) < after
                hits += bool(failure_splits(failed, FALSE_ALARMS / STEPS, more_or_less))
            line(
                f"failures: 2 % to {100 * after:.0f} %",
                f"found {since} runs later",
                100 * hits / histories,
                size=200,
                runs=histories,
            )


def _delay(rng: np.random.Generator, values: Source, factor: float) -> float:
    series = values(rng, 400)
    series[200:] *= factor
    for seen in range(204, 401, 2):
        if tells(series[:seen], STEPS):
            return seen - 200
    return np.inf


# --- named ----------------------------------------------------------------------------------------------------------------------


def planted(
    rng: np.random.Generator, cause: str, *, runs: int = 300, at: int = 200, factor: float = 1.6, shuffled: bool = False
) -> duckdb.DuckDBPyConnection:
    """A job `orders` of three steps; from run `at` on `work` takes `factor` times as long by `cause`, or its runs wait (queue).

    Around it: a deployment every fifty runs or so, two machines taken by chance, sizes that scatter and that the time follows, four
    regions as partitions, one of them slow. shuffled: the recorded versions are those of other runs.
    """
    new = np.arange(runs) >= at
    deployed = rng.random(runs) < 1 / 50
    deployed[at - 10 : at + 11] = False
    deployed[at] = cause == "version"
    version = 1 + np.cumsum(deployed)
    host = rng.choice(["a", "b"], runs).astype(object)
    size = 100_000 * rng.lognormal(0, 0.3, runs)
    region = rng.choice(["at", "be", "ch", "us"], runs).astype(object)
    slow = np.ones(runs)
    queue = rng.gamma(2, 1.0, runs)
    if cause in ("version", "nothing"):
        slow[new] = factor
    elif cause == "machine":
        moved = new & (rng.random(runs) < 0.8)
        host[moved] = "c"
        slow[moved] = factor
    elif cause == "input":
        size[new] *= factor ** (1 / 0.7)
    elif cause == "queue":
        queue[new] += 60 * (factor - 1)
    elif cause == "partitions":
        region[new & (rng.random(runs) < 0.8)] = "us"
    work = 40 * slow * (size / 100_000) ** 0.7 * np.where(region == "us", 2.0, 1.0) * rng.lognormal(0, 0.15, runs)
    times = {"read": 8 * rng.lognormal(0, 0.2, runs), "work": work, "write": 5 * rng.lognormal(0, 0.2, runs)}
    if shuffled:
        version = rng.permutation(version)
    created = np.array([START + timedelta(hours=number) for number in range(runs)])
    ids = [f"r{number:05d}" for number in range(runs)]
    shared = {"run_id": ids, "job_name": "orders", "partition_key": region}
    began = created + pd.to_timedelta(queue + 2, unit="s").to_pytimedelta()
    rows, clock = [], began
    for step, seconds in times.items():
        ended = clock + pd.to_timedelta(seconds, unit="s").to_pytimedelta()
        rows.append(
            pd.DataFrame(shared).assign(
                step_key=step, step=step, attempt=1, outcome="success", will_retry=False, started_at=clock, ended_at=ended,
                run_time_s=seconds, host=host,
            )
        )  # fmt: skip
        clock = ended
    snapshots = [f"s{number}" for number in version]
    of_runs = pd.DataFrame(shared).assign(
        source_id="made", outcome="success", outcome_conflict=False, trigger="schedule", created_at=created, started_at=began,
        ended_at=clock, queue_time_s=queue, start_time_s=2.0, run_time_s=sum(times.values()), retry_wait_s=0.0, job_snapshot_id=snapshots,
    )  # fmt: skip
    made = pd.DataFrame(
        {"run_id": ids, "asset_key": "raw", "partition_key": region, "step_key": "read", "at": began, "rows": size.astype(int)}
    )
    needs = {"read": [], "work": ["read"], "write": ["work"]}
    structure = pd.DataFrame(
        [(snapshot, step, json.dumps(before)) for snapshot in set(snapshots) for step, before in needs.items()],
        columns=["job_snapshot_id", "step", "needs"],
    )
    return in_duckdb({"runs": of_runs, "step_attempts": pd.concat(rows), "materializations": made, "job_steps": structure})


def in_duckdb(tables: dict[str, pd.DataFrame]) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("set TimeZone = 'UTC'")
    for record in RECORDS:
        con.execute(create_table(record, "main"))
    for table, rows in tables.items():
        con.register("rows", rows)
        con.execute(f"insert into {table} ({names(rows.columns)}) select {names(rows.columns)} from rows")
        con.unregister("rows")
    return con


def named_cause(con: duckdb.DuckDBPyConnection) -> str:
    """The kind of what is named first of the newest change for the worse; 'nothing' where nothing is, '' where no change is told."""
    worse = [change for change in what_changed(con, NOW) if change.worse]
    if not worse:
        return ""
    return worse[0].coincides[0].kind if worse[0].coincides else "nothing"


def named(rng: np.random.Generator, histories: int) -> None:
    for shuffled, causes in ((False, CAUSES), (True, ("version",))):
        for cause in causes:
            answers = Counter(named_cause(planted(rng, cause, shuffled=shuffled)) for _ in range(histories))
            told = histories - answers[""]
            right = "nothing" if shuffled else cause
            line(
                f"cause: {cause}" + (", versions shuffled" if shuffled else ""), "right of the changes told",
                100 * answers[right] / told if told else None, size=300, runs=told, answers=dict(answers),
            )  # fmt: skip


# --- forecasts after a change ---------------------------------------------------------------------------------------------------


CHANGED_AT = 200


def changing_steps(rng: np.random.Generator, steps: int, factor: float) -> pd.DataFrame:
    """Observations of steps that take `factor` times as long from run `CHANGED_AT` on."""
    rows: list[pd.DataFrame] = []
    for number in range(steps):
        seconds = 60 * rng.lognormal(0, 0.2, CHANGED_AT + 60)
        seconds[CHANGED_AT:] *= factor
        run = np.arange(len(seconds))
        asked = pd.Series(pd.to_datetime(START) + pd.to_timedelta(run, unit="h")).astype("datetime64[ns, UTC]")
        names = {"job_name": f"job_{number}", "step": "s", "run_id": [f"{number}-{place}" for place in run]}
        rows.append(
            pd.DataFrame(names).assign(
                partition_key=None, attempt=1, submitted_at=asked, finished_at=asked + pd.to_timedelta(seconds, unit="s"),
                value=seconds, run=run,
            )
        )  # fmt: skip
    return pd.concat(rows).sort_values("submitted_at", kind="stable").reset_index(drop=True)


def after_a_change(rng: np.random.Generator, steps: int) -> None:
    """Forecasts of steps whose times change at once, beside those that were right before and are kept."""
    for factor in (1.5, 2.0, 0.5):
        known = changing_steps(rng, steps, factor)
        told = predictions(known).assign(job_name=known["job_name"], run=known["run"], value=known["value"])
        kept = told[told["run"] == CHANGED_AT].set_index("job_name")[["p05", "p50", "p95"]]
        told = told.join(kept, on="job_name", rsuffix="_kept")
        for first, last in ((-50, -1), (0, 4), (5, 9), (10, 19), (20, 59)):
            part = told[told["run"].between(CHANGED_AT + first, CHANGED_AT + last)]
            error = {name: 100 * float((part[f"p50{name}"] / part["value"] - 1).abs().mean()) for name in ("", "_kept")}
            inside = 100 * float(part["value"].between(part["p05"], part["p95"]).mean())
            line(
                f"times x {factor}: forecasts of runs {first} to {last} from the change", "mean error", error[""],
                peers={"kept from before": _rounded(error["_kept"])} if first >= 0 else {}, size=len(part), runs=1,
                inside_the_interval=_rounded(inside),
            )  # fmt: skip


# --- speed ----------------------------------------------------------------------------------------------------------------------


def speed(rng: np.random.Generator, steps: int, runs: int) -> None:
    con = in_duckdb({})
    con.execute(
        f"""insert into runs by name select 'r' || i as run_id, 'made' as source_id, 'job' || i % 20 as job_name, 'success' as outcome,
              false as outcome_conflict, 'schedule' as trigger, timestamptz '2026-01-01' + to_minutes(i::bigint) as created_at,
              created_at as started_at, created_at as ended_at, 2.0 as queue_time_s, 2.0 as start_time_s, 60.0 + 9 * random() as run_time_s,
              's' || i // 5000 as job_snapshot_id
            from range({20 * runs}) t(i)"""
    )
    con.execute(
        f"""insert into step_attempts by name select r.run_id, 's' || s as step_key, 1 as attempt, job_name, 's' || s as step,
              'success' as outcome, false as will_retry, created_at as started_at, created_at as ended_at, 10 * exp(random()) *
              case when s = 0 and epoch(created_at) > epoch(timestamptz '2026-01-01') + {20 * runs * 40} then 1.5 else 1 end as run_time_s,
              'a' as host
            from runs r, range({steps // 20}) t(s)"""
    )
    took: list[float] = []
    for _ in range(3):
        begun, used = time.perf_counter(), time.process_time()
        told = what_changed(con, NOW)
        took.append(time.perf_counter() - begun)
        used = time.process_time() - used
    line(
        f"one look at {steps:,} steps with {runs:,} runs each", "time", float(np.median(took)), unit="s", size=steps * runs, runs=3,
        processor_s=_rounded(used), changes=len(told),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer histories, in under 40 seconds; without traces")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="folder of recorded traces")
    parser.add_argument("--only", metavar="PART", help="stationary, watched, traces, found, temporary, named, forecasts or speed")
    given = parser.parse_args()
    folder: Path | None = given.traces
    steps = {} if folder is None else recorded_steps(folder)
    quick = given.quick
    parts: dict[str, Callable[[np.random.Generator], object]] = {
        "stationary": lambda rng: false_alarms(rng, 10 if quick else 200),
        "watched": lambda rng: watched(rng, 3 if quick else 60),
        "traces": lambda rng: shuffled_traces(steps, rng, 5 if quick else 60),
        "found": lambda rng: found(rng, 10 if quick else 200, sources(steps)),
        "temporary": lambda rng: temporary(rng, 10 if quick else 200),
        "named": lambda rng: named(rng, 4 if quick else 50),
        "forecasts": lambda rng: after_a_change(rng, 5 if quick else 40),
        "speed": lambda rng: speed(rng, *((200, 500) if quick else (2000, 1000))),
    }
    for number, (name, run) in enumerate(parts.items()):
        if given.only in (None, name):
            print(f"{name} ...", file=sys.stderr, flush=True)
            run(np.random.default_rng([20, number]))


if __name__ == "__main__":
    main()
