"""Is the suggested version better, and by as much as was said? Pairs of runs that meet the same day and the same server state."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from assets.neighbours.running import Neighbours
from assets.neighbours.weather_service import Entry, State
from assets.tour.console import Console
from resources.settings import allowed
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import LedgerEntry, Run, Suggestion, Version
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.compile import compile_workflow
from workflows_pkg.orchestration.compiled import CompiledWorkflow
from workflows_pkg.orchestration.launch import run_in_process
from workflows_pkg.release.trial import Measured, Verdict, ledger_entry, run_trial, verdict
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.steps.discovery import discover

PAIRS = 16
"""Twelve are the least; a few more narrow the interval, and a pair takes about three seconds."""
FULL = State(tokens=2.0, crawler_phase_s=0.0, crawler_waits=False)
"""The weather service at rest, for runs that ask it nothing."""
TRIAL_TAG = "workflows/trial"
"""Run tag that keeps trial runs out of what predictors and suggestions learn from."""


@dataclass(frozen=True)
class Met:
    """What a run of the history met: the day it was for, and the weather service's state at its first request."""

    partition: str
    state: State


def met_by_runs(requests: Sequence[Entry], count: int) -> list[Met]:
    """`count` of what the recorded runs met, evenly spread over them in the order they came, repeated where there are fewer.

    They are a sample of the runs that the suggestion was made from, so that the trial answers what the suggestion claims.
    """
    first: dict[str, State] = {}
    for entry in requests:
        first.setdefault(entry.path.rsplit("/", 1)[-1], entry.state)
    seen = [Met(day, state) for day, state in first.items()]
    if not seen:
        return []
    return [seen[number * len(seen) // count] for number in range(count)]


def try_version(
    suggestion: Suggestion, new: Version, instance: dg.DagsterInstance, home: Path, neighbours: Neighbours, console: Console
) -> tuple[Verdict, LedgerEntry]:
    """Runs the version the suggestion was made for and `new` in turns, both in this process, and judges by the rule of a trial.

    What is compared is the suggestion's own quantity for its step: `step_time_s`, or whether the step failed for good. A run
    that fails counts as failed and keeps its value, since a suggestion can be about what failing costs.
    """
    trial_id = uuid.uuid4().hex[:8]
    store = VersionStore(home)
    old = store.get(suggestion.workflow, suggestion.based_on)
    arms = {one.number: _compiled(store, one, trial_id, home) for one in (old, new)}
    met = inputs(suggestion, home, neighbours)
    with console.progress("trial runs", 2 * PAIRS) as progress, console.quiet():

        def one_run(number: int, pair: int) -> Measured:
            neighbours.prepare(met[pair].state)
            run_id = console.undisturbed(
                lambda: run_in_process(arms[number], instance, met[pair].partition, {TRIAL_TAG: trial_id})
            )
            progress.step(f"version {number}, {met[pair].partition}")
            run = instance.get_run_by_id(run_id)
            return Measured(_value(instance, run_id, suggestion), failed=run is None or not run.is_success)

        pairs = run_trial(lambda pair: one_run(old.number, pair), lambda pair: one_run(new.number, pair), PAIRS)
    found = verdict(pairs, predicted=suggestion.effect)
    return found, ledger_entry(suggestion, found, trial_id=trial_id, version=new.number, decided_at=datetime.now(UTC))


def inputs(suggestion: Suggestion, home: Path, neighbours: Neighbours) -> list[Met]:
    """What the runs of the pairs are given: what recorded runs of the suggestion's workflow met, evenly spread over them.

    Only runs that asked the weather service met a state of it; the others find its bucket full.
    """
    met = met_by_runs(neighbours.requests(), PAIRS) if suggestion.step == "weather" else []
    if met:
        return met
    with open_history(home) as con:
        past = read(con, Run, "workflow = ? and trial_id is null and partition_key is not null", [suggestion.workflow])
    partitions = [run.partition_key for run in sorted(past, key=lambda run: run.created_at) if run.partition_key]
    return [Met(partitions[number * len(partitions) // PAIRS], FULL) for number in range(PAIRS)]


def _value(instance: dg.DagsterInstance, run_id: str, suggestion: Suggestion) -> float | None:
    if suggestion.quantity == "failure_share":
        return float(_failed(instance, run_id, suggestion.step))
    return step_time_s(instance, run_id, suggestion.step)


def _failed(instance: dg.DagsterInstance, run_id: str, step: str) -> bool:
    events = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return any((event.step_key or "").rsplit(".", 1)[-1] == step for event in events)


def step_time_s(instance: dg.DagsterInstance, run_id: str, step: str) -> float | None:
    """Seconds from the start of the step's first attempt to the end of its last, waits included; None where it did not run."""
    kinds = {
        dg.DagsterEventType.STEP_START,
        dg.DagsterEventType.STEP_SUCCESS,
        dg.DagsterEventType.STEP_FAILURE,
        dg.DagsterEventType.STEP_UP_FOR_RETRY,
        dg.DagsterEventType.STEP_RESTARTED,
    }
    times = [
        entry.timestamp for entry in instance.all_logs(run_id, of_type=kinds) if (entry.step_key or "").rsplit(".", 1)[-1] == step
    ]
    return max(times) - min(times) if times else None


def _compiled(store: VersionStore, version: Version, trial_id: str, home: Path) -> CompiledWorkflow:
    return compile_workflow(
        store.workflow(version),
        discover(),
        allowed(),
        version=version.number,
        digest=version.digest,
        prefix=f"trial_{trial_id}_v{version.number}",
        home=home,
        extra_tags={TRIAL_TAG: trial_id},
    )
