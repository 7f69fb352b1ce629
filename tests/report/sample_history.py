"""A made-up history of two workflows and a foreign job, the same on every call: what report and notebook tests draw."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from workflows_pkg.history.records import Forecast, LedgerEntry, Record, Run, StepAttempt, Suggestion
from workflows_pkg.history.store import writer

BEGIN = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
"""What a hostile server could put into an error message."""

STEPS = {
    "flights_daily": {"departures": 1.4, "clean": 0.6, "score": 3.2, "tell": 0.08},
    "delay_model": {"features": 5.5, "train": 14.0, "publish": 0.3},
    "nightly_backup": {"dump": 42.0},
}
FAILURES = {
    "score": ("dependency", "RateLimited", "429 from 127.0.0.1:8099: too many requests, retry after 0.4 s"),
    "clean": ("memory", "OutOfMemoryException", "failed to allocate 64.0 MiB (255.9 MiB/256.0 MiB used)"),
    "publish": ("dependency", "PeerUnavailable", "database is locked"),
    "train": ("code", "ValueError", HOSTILE),
}


def records(runs: int = 90) -> list[Record]:
    """Rows of runs, step_attempts, forecasts, suggestions and ledger."""
    chance = random.Random(11)
    made: list[Record] = []
    for number in range(runs):
        workflow = list(STEPS)[(0, 0, 0, 1, 2)[number % 5]]
        made += _run(workflow, number, chance, trial=number > runs - 25 and workflow == "flights_daily")
    end = BEGIN + timedelta(minutes=4 * runs)
    return made + _forecasts(BEGIN + timedelta(minutes=2 * runs)) + _forecasts(end) + _advice(end)


def hostile_records() -> list[Record]:
    """The same with every text that an author, a peer or a foreign instance chooses replaced by one that attacks a page."""
    chosen = (
        "job_name",
        "workflow",
        "step",
        "step_key",
        "partition_key",
        "trigger",
        "owner",
        "error_message",
        "error_class",
        "title",
    )
    chosen += ("predictor", "best_rule", "evidence", "change", "test", "quantity", "failure_cause", "suggestion_id")
    made: list[Record] = []
    for record in records():
        texts = {name: HOSTILE for name in chosen if isinstance(getattr(record, name, None), str) and getattr(record, name)}
        if isinstance(record, Forecast):
            del texts["quantity"]
        if isinstance(record, StepAttempt):
            texts["step_key"] = f"{record.step_key}{HOSTILE}"
        if isinstance(record, Forecast | Suggestion | LedgerEntry):
            made.append(record.model_copy(update=texts))
        else:
            made.append(record.model_copy(update={**texts, "digest": HOSTILE} if isinstance(record, Run) else texts))
    return made


def write(home: Path, rows: list[Record] | None = None) -> None:
    """The sample, or other records, as the published history of `home`."""
    by_kind: dict[type[Record], list[Record]] = {}
    for record in records() if rows is None else rows:
        by_kind.setdefault(type(record), []).append(record)
    with writer(home) as history, history.transaction():
        for kind, rows in by_kind.items():
            history.upsert(kind, rows)


def _run(workflow: str, number: int, chance: random.Random, *, trial: bool) -> list[Record]:
    run_id = f"{number:08d}-0000-4000-8000-000000000000"
    created = BEGIN + timedelta(minutes=4 * number, seconds=chance.random() * 30)
    queue, start = chance.uniform(0.2, 2.5), chance.uniform(1.5, 3.0)
    began = at = created + timedelta(seconds=queue + start)
    day = f"2013-01-{number % 28 + 1:02d}"
    shared = {
        "job_name": workflow, "workflow": None if workflow == "nightly_backup" else workflow, "partition_key": day,
        "version": 2 if trial and number % 2 else 1, "trial_id": "trial-1" if trial else None,
    }  # fmt: skip
    attempts: list[Record] = []
    outcome = "canceled" if number % 41 == 40 else "success"
    for step, usual in STEPS[workflow].items():
        if outcome == "failure":
            break
        wrong = FAILURES.get(step)
        unlucky = wrong is not None and number % (3 if wrong[0] == "dependency" else 13) == 0
        failures = 0 if not unlucky else 1 + (number % 9 == 0)
        for attempt in range(1, failures + 2):
            failed = attempt <= failures
            retried = failed and wrong is not None and wrong[0] == "dependency"
            seconds = usual * chance.lognormvariate(0, 0.18) * (0.2 if failed else 1)
            wait = 0.9 * chance.random() + 0.3 if retried else None
            attempts.append(
                StepAttempt(
                    run_id=run_id, step_key=step, attempt=attempt, step=step, outcome="failure" if failed else "success",
                    will_retry=retried, started_at=at, ended_at=at + timedelta(seconds=seconds), run_time_s=seconds,
                    queue_time_s=chance.uniform(0, 0.2) if attempt == 1 else None, start_time_s=0.35 if attempt == 1 else None,
                    retry_wait_s=wait, failure_cause=wrong[0] if failed and wrong else None,
                    error_class=wrong[1] if failed and wrong else None, error_message=wrong[2] if failed and wrong else None,
                    cpu_s=seconds * 0.8, cost_usd=seconds * 0.04937 / 3600, **shared,
                )
            )  # fmt: skip
            at += timedelta(seconds=seconds + (wait or 0) + 0.2)
            if failed and not retried:
                outcome = "failure"
                break
    spent = [attempt for attempt in attempts if isinstance(attempt, StepAttempt)]
    run = Run(
        run_id=run_id, source_id="main", outcome=outcome, trigger="schedule", created_at=created, started_at=began, ended_at=at,
        queue_time_s=queue, start_time_s=start, run_time_s=(at - began).total_seconds(), owner="data-team",
        retry_wait_s=sum(attempt.retry_wait_s or 0 for attempt in spent), attempt_count=len(spent),
        cost_usd=sum(attempt.cost_usd or 0 for attempt in spent), **shared,
    )  # fmt: skip
    return [run, *attempts]


def _forecasts(as_of: datetime) -> list[Record]:
    made: list[Record] = []
    for job, steps in STEPS.items():
        total = sum(steps.values()) + 0.8
        things = [
            ("", "run_time_s", total),
            ("", "queue_time_s", 1.3),
            ("", "start_time_s", 2.2),
            ("", "cost_usd", total * 1.4e-5),
        ]
        for place, (step, quantity, middle) in enumerate(
            [*things, *((step, "run_time_s", usual) for step, usual in steps.items())]
        ):
            made.append(
                Forecast(
                    job_name=job, step=step, quantity=quantity, p05=middle * 0.75, p50=middle, p95=middle * 1.4, sample_count=18,
                    predictor="gradient boosting" if place % 3 else "median of last 10", error_share=0.09 + 0.04 * (place % 4),
                    best_rule="median of last 10", best_rule_error_share=0.11 + 0.05 * (place % 3), as_of=as_of,
                )
            )  # fmt: skip
    return made


def _advice(now: datetime) -> list[Record]:
    evidence = {"failed_attempts": 24, "median_wait_s": 0.81, "recovered_share": 0.96, "query": "SELECT 1", "rows": [[1, 2]]}
    change = [{"path": "steps.score.retry.delay", "before": "1s", "after": "300ms"}]
    shared = {"workflow": "flights_daily", "based_on": 1, "spec": "{}", "evidence": json.dumps(evidence), "created_at": now}
    tried = Suggestion(
        suggestion_id="s-3f2a",
        kind="retry_policy",
        step="score",
        title="Wait 300 ms instead of 1 s before score is tried again.",
        change=json.dumps(change),
        quantity="run_time_s of the run",
        effect=-0.62,
        effect_low=-1.1,
        effect_high=-0.2,
        status="kept",
        **shared,
    )
    waiting = Suggestion(
        suggestion_id="s-91bc",
        kind="timeout",
        step="departures",
        title="Stop departures after 12 s: it has never taken longer than 2.4 s.",
        change=json.dumps([{"path": "steps.departures.timeout", "before": None, "after": "12s"}]),
        quantity="run_time_s",
        effect=-0.4,
        effect_low=-0.9,
        effect_high=0.0,
        **shared,
    )
    entry = LedgerEntry(
        trial_id="trial-1",
        suggestion_id="s-3f2a",
        workflow="flights_daily",
        baseline_version=1,
        version=2,
        quantity="run_time_s of the run",
        pairs=12,
        predicted=-0.62,
        predicted_low=-1.1,
        predicted_high=-0.2,
        realised=-0.55,
        realised_low=-0.8,
        realised_high=-0.28,
        verdict="gain",
        test="expanded percentile bootstrap",
        decided_at=now,
    )
    dearer = entry.model_copy(
        update={
            "trial_id": "trial-2",
            "suggestion_id": "s-77aa",
            "baseline_version": 2,
            "version": 3,
            "quantity": "cost_usd",
            "predicted": -0.00002,
            "predicted_low": -0.00004,
            "predicted_high": 0.0,
            "realised": 0.000004,
            "realised_low": -0.000011,
            "realised_high": 0.00002,
            "verdict": "not shown",
        }
    )
    safer = entry.model_copy(
        update={
            "trial_id": "trial-3", "version": 4, "quantity": "failure_share", "predicted": -0.2, "predicted_low": -0.3,
            "predicted_high": -0.1, "realised": -0.15, "realised_low": -0.35, "realised_high": 0.05, "verdict": "not shown",
        }
    )  # fmt: skip
    return [tried, waiting, entry, dearer, safer]
