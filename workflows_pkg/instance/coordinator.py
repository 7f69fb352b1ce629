"""What is expected of a run, said the moment it is asked for? A run coordinator that stamps the forecast and queues as Dagster does.

    run_coordinator:
      module: workflows_pkg.instance.coordinator
      class: ForecastingRunCoordinator

Whatever asks for a run - UI, command line, schedule, sensor, backfill, re-execution, GraphQL - goes through the instance's run
coordinator. This one looks the job up in the small file that training publishes, writes two tags (three where the run has a deadline)
in one edit and one event, and does what it inherits. Nothing that goes wrong on the way keeps a run from being launched.

It is imported by the webserver, the daemon and every process that submits runs, so it imports neither DuckDB nor scikit-learn nor pandas.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

# Public classes of Dagster without a public name; tests/instance/test_coordinator.py fails when one of these moves.
from dagster._core.events import EngineEventData
from dagster._core.run_coordinator import SubmitRunContext

from workflows_pkg.errors import bounded
from workflows_pkg.orchestration.budget import STEP_COSTS, budget_usd, unreadable_budget
from workflows_pkg.orchestration.deadline_tags import due_at, unreadable
from workflows_pkg.orchestration.run_tags import EXPECTED_TAG, MISS_TAG, NONE, OPEN, SAID, STATE_TAG
from workflows_pkg.prediction.deadline import WARN_FROM, miss_before_start
from workflows_pkg.prediction.lookup import FILE, JobForecast, Quantiles
from workflows_pkg.prediction.picks import is_picked
from workflows_pkg.report.expectation import (
    deadline_sentence,
    expected_sentence,
    expected_tag,
    of_hundred,
    over_budget_sentence,
    span,
)
from workflows_pkg.report.tables import duration, quantity
from workflows_pkg.workbench.run_forecast import forecast_of_run, planned_step_keys

_SLOWEST = 5
"""Steps in the event's table."""

_log = logging.getLogger("workflows.instance")


class ForecastingRunCoordinator(dg.QueuedRunCoordinator):
    """Dagster's queue, with the same settings, that says before each run how long it will take, how likely it fails or misses its deadline,
    and what it costs."""

    _warned = False

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Stamps the run where its job has a forecast, and puts it into the queue; one that is sure to cost more than its budget fails at
        once, with the reason, and is not queued.
        """
        try:
            if context.dagster_run.status == dg.DagsterRunStatus.NOT_STARTED and not stamp(self._instance, context.dagster_run):
                return self._instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
        except Exception as error:  # noqa: BLE001  a launch never depends on its forecast
            forget(self._instance, context.dagster_run)
            level = logging.DEBUG if ForecastingRunCoordinator._warned else logging.WARNING
            ForecastingRunCoordinator._warned = True
            # only its first line: further ones quote statements and values
            reason = f"{type(error).__name__}: {bounded(str(error).partition(chr(10))[0], 300)}"
            _log.log(level, "Run %s is launched without a forecast: %s", context.dagster_run.run_id, reason)
        return super().submit_run(context)


def stamp(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Writes what is expected of the run onto it; does nothing for a job that nothing is known of. False: it is over its budget and
    has been failed.

    Raises SetupError where the published file cannot be read.
    """
    found = forecast_of_run(instance, Path(instance.root_directory) / FILE, run)
    chosen = None if found is None else _of_this_run(instance, found, run)
    wrong = [sentence for sentence in (unreadable(run.tags), unreadable_budget(run.tags)) if sentence]
    if found is None or chosen is None:
        forget(instance, run)
        if wrong:  # a tag is mistyped when it is new, and so is the job then
            instance.report_engine_event(" ".join(wrong), run)
        return True
    run_time, part = chosen
    now = datetime.now(UTC)
    due = due_at(run.tags, now)
    miss = None if due is None else miss_before_start(found, run_time, (due - now).total_seconds())
    tags = {EXPECTED_TAG: expected_tag(run_time), STATE_TAG: OPEN}
    if miss is not None:
        tags[MISS_TAG] = f"{miss:.2f}"
    elif MISS_TAG in run.tags:
        tags[MISS_TAG] = "unknown"  # copied from the run that this one repeats
    instance.add_run_tags(run.run_id, tags)
    of_limits: dict[str, Any] = {}
    said = [expected_sentence(found, run_time, part)]
    if due is not None and miss is not None:
        said.append(deadline_sentence(due, miss))
        of_limits = {"due_at": due.isoformat(), "deadline_miss_probability": round(miss, 4), "warned": miss >= WARN_FROM}
    said += wrong
    budget, cost = budget_usd(run.tags), None if part else found.run("cost_usd")
    if budget is not None:
        of_limits |= {"budget_usd": budget, STEP_COSTS: {step: known.p05 for step, known in found.steps("cost_usd").items()}}
    metadata = _metadata(found, run_time, of_limits, partial=bool(part))
    instance.report_engine_event(" ".join(said), run, EngineEventData(metadata))
    if budget is None or cost is None or cost.p05 <= budget:
        return True
    instance.report_run_failed(run, over_budget_sentence(cost, budget))
    return False


def forget(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Takes back what was copied from the run that this one repeats: of this one nothing is expected yet."""
    if EXPECTED_TAG in run.tags:
        copied = {MISS_TAG: "unknown"} if MISS_TAG in run.tags else {}
        with suppress(Exception):  # as it is called where things went wrong, and a launch never depends on it
            instance.add_run_tags(run.run_id, {EXPECTED_TAG: "unknown", STATE_TAG: NONE, **copied})


def _of_this_run(instance: dg.DagsterInstance, job: JobForecast, run: dg.DagsterRun) -> tuple[Quantiles, str] | None:
    """The run time of this run, and a sentence where it executes a part of the job; None: unknown."""
    run_time = job.run("run_time_s")
    if run_time is None:
        return None
    if is_picked(run.job_name) or not (
        run.parent_run_id or run.op_selection or run.resolved_op_selection or run.asset_selection or run.asset_check_selection
    ):
        return run_time, ""
    takes = job.steps("run_time_s")
    named = (job.step_of(key) for key in planned_step_keys(instance, run))
    chosen = {step for step in named if step in takes}
    if chosen == takes.keys():
        return run_time, ""
    total, picked = (sum(takes[step].p50 for step in steps) for steps in (takes, chosen))
    if picked <= 0:
        return None
    scaled = replace(run_time, basis=None, **{end: getattr(run_time, end) * picked / total for end in ("p05", "p50", "p95")})
    return scaled, f"Only {len(chosen)} of {len(takes)} steps run: the whole run's time, scaled to their share of step time. "


def _metadata(job: JobForecast, run_time: Quantiles, of_limits: dict[str, Any], *, partial: bool) -> dict[str, Any]:
    """What stands below the sentence: the slowest steps, and every figure by name for programs."""
    figures: dict[str, Any] = {"expected_s": run_time.p50, "p05_s": run_time.p05, "p95_s": run_time.p95}
    for name in () if partial else ("failure_share", "cost_usd"):
        known = job.run(name)
        if known is not None:
            figures[name] = known.p50
    figures = {name: float(f"{value:.6g}") for name, value in figures.items()}
    figures |= {"runs_behind_it": run_time.sample_count, "predictor": run_time.predictor}
    shown: dict[str, Any] = {}
    takes = job.steps("run_time_s")
    if takes and not partial:
        shown["slowest steps"] = _table(job, sorted(takes, key=lambda step: -takes[step].p50)[:_SLOWEST])
    said = {"said": "expected", **figures, "part_of_the_job": partial, "as_of": job.as_of.isoformat(), **of_limits}
    return {**shown, SAID: dg.MetadataValue.json(said)}


def _table(job: JobForecast, steps: list[str]) -> dg.TableMetadataValue:
    takes, risks = job.steps("run_time_s"), job.steps("failure_share")
    peaks, requests = job.steps("peak_memory_mib"), job.steps("memory_request_mib")
    rows = [
        {
            "step": step,
            "expected": duration(takes[step].p50),
            "9 of 10": span(takes[step].p05, takes[step].p95),
            "fails": of_hundred(risks[step].p50) if step in risks else "unknown",
        }
        for step in steps
    ]
    if requests.keys() & set(steps):
        for row, step in zip(rows, steps, strict=True):
            row["memory"] = quantity(peaks[step].p50, "peak_memory_mib") if step in peaks else "unknown"
            row["ask for"] = quantity(requests[step].p50, "memory_request_mib") if step in requests else "unknown"
    schema = dg.TableSchema([dg.TableColumn(name) for name in rows[0]])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema=schema)
