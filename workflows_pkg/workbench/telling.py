"""What is said of a run's forecast while it runs and when it has ended? On the run's own page, by one tag and a few events.

Told is of runs that the instance's run coordinator stamped. What was told is read from the run itself, so nothing is kept between
calls. An edit of the run's tags claims each telling, so that of several processes one tells: an event is written at most once, and
is missing only where the process died between the edit and the event; the tag is right even then.

What is left is told with restraint: when the run gets late, when the time it is expected to take has changed, and of longer
runs as each quarter passes; `MOST_TELLINGS` times at most. The events are news for the history's sync, and its news are no reason
to tell.

A run that has a deadline, and will more likely miss it than not, is warned of once, waiting or running, also after all those tellings;
its tag has the probability of the last look that moved it by `MOVED_BY`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import dagster as dg

# A public class of Dagster without a public name; tests/workbench/test_telling.py fails when it moves.
from dagster._core.events import EngineEventData

from workflows_pkg.errors import bounded
from workflows_pkg.orchestration.deadline_tags import due_at
from workflows_pkg.orchestration.run_tags import EXPECTED_TAG, MISS_TAG, OPEN, SAID, STATE_TAG, TOLD, change_tags
from workflows_pkg.prediction.deadline import WARN_FROM, miss_before_start, miss_while_running
from workflows_pkg.prediction.lookup import FILE, JobForecast, Quantiles
from workflows_pkg.prediction.remaining import Remaining, SeenStep, remaining
from workflows_pkg.report.expectation import at_risk_sentence, kept_sentence, left_sentence, revised_tag, took_sentence, took_tag
from workflows_pkg.workbench.run_forecast import forecast_of_run

MOST_TELLINGS = 10
"""Times that one run is told what is left: a log stays readable."""

CHANGED_BY = 0.2
"""Share by which the expected time in all must have changed to be told again; about the error of a good forecast."""

LATER_BY = 0.5
"""The same for a run that is late already: what is expected of it grows with every second."""

QUIET_S, QUIET_SHARE = 10.0, 0.05
"""Least time between two tellings: seconds, and share of the expected time."""

QUARTERS_FROM_S = 60.0
"""Runs expected to take this long are told of as each quarter passes, also where all goes as expected; shorter ones end soon enough."""

MOVED_BY = 0.1
"""Least change of the probability of a missed deadline for which the run's tag is edited: an edit is a write, and no event."""

MOST_RUNS = 100
"""Runs looked at in one call, the oldest first: those that have ended, as many in progress, and as many that wait."""

BUDGET_S = 2.0
"""No further run is begun after this: the sensor that calls has other work, and calls again in seconds."""

_log = logging.getLogger("workflows")
_LONGEST_LOG = 5_000
"""Events of steps; a run with more is told of at its end only."""

_STATES = {OPEN: 0, **{f"{OPEN} {number}": number for number in range(1, MOST_TELLINGS + 2)}}
"""One more than tellings, for the warning of a deadline."""
_BEGAN = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_ENDED = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_SKIPPED}
_READ = {*_BEGAN, *_ENDED, dg.DagsterEventType.STEP_UP_FOR_RETRY, dg.DagsterEventType.ENGINE_EVENT}
_OUTCOMES = {
    dg.DagsterRunStatus.SUCCESS: "success",
    dg.DagsterRunStatus.FAILURE: "failure",
    dg.DagsterRunStatus.CANCELED: "canceled",
}


@dataclass(frozen=True)
class Told:
    """How many runs were told what is left, and how many that they have ended."""

    left: int = 0
    ended: int = 0


@dataclass(frozen=True)
class _Before:
    """What the run's log says of its forecast: the stamped run time, and the newest telling of what is left."""

    run_time: Quantiles
    partial: bool
    total_s: float
    late: bool
    quarter: int
    warned: bool


@dataclass(frozen=True)
class _Risk:
    """A deadline, seconds until then, and the probability of missing it."""

    due: datetime
    within_s: float
    probability: float

    def moved(self, tag: str) -> bool:
        """Whether the tag should say something else."""
        try:
            return abs(float(tag) - self.probability) >= MOVED_BY
        except ValueError:
            return True

    @property
    def tags(self) -> dict[str, str]:
        return {MISS_TAG: f"{self.probability:.2f}"}

    @property
    def figures(self) -> dict[str, Any]:
        return {"due_at": self.due.isoformat(), "deadline_miss_probability": self.probability, "warned": True}


def tell(instance: dg.DagsterInstance, home: Path, now: datetime) -> Told:
    """Tells of the stamped runs that have ended what they took, and of those in progress what is left where that is news.

    home: where the forecasts are published. What is wrong with one run, or with the forecasts, is logged; raises what Dagster's
    storage raises where the runs cannot be listed.
    """
    deadline = time.monotonic() + BUDGET_S
    ended = _each(instance, list(_OUTCOMES), deadline, lambda record: _tell_end(instance, record))
    left = _each(instance, [dg.DagsterRunStatus.STARTED], deadline, lambda record: _tell_left(instance, home, record, now))
    left += _each(instance, [dg.DagsterRunStatus.QUEUED], deadline, lambda record: _tell_waiting(instance, home, record, now))
    return Told(left, ended)


def tell_in_passing(instance: dg.DagsterInstance, home: Path) -> Told:
    """`tell` for the sensor that looks every few seconds: whatever goes wrong is logged, and its own work goes on."""
    try:
        return tell(instance, home, datetime.now(UTC))
    except Exception as error:  # noqa: BLE001  what is said of a run must not keep its history from landing
        _log.warning("Nothing is told of forecasts: %s", _reason(error))
        return Told()


def _each(
    instance: dg.DagsterInstance, statuses: list[dg.DagsterRunStatus], deadline: float, say: Callable[[dg.RunRecord], bool]
) -> int:
    """How many of the stamped runs in these states were told of; one whose log cannot be read is passed over."""
    wanted = dg.RunsFilter(statuses=statuses, tags={STATE_TAG: list(_STATES)})
    told = 0
    for record in instance.get_run_records(wanted, limit=MOST_RUNS, ascending=True):
        if time.monotonic() > deadline:
            break
        try:
            told += say(record)
        except Exception as error:  # noqa: BLE001  one run's broken log must not keep the others from being told of
            _log.warning("Nothing is told of the forecast of run %s: %s", record.dagster_run.run_id, _reason(error))
    return told


def _tell_end(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    run = record.dagster_run
    before = _before(_entries(instance, run, {dg.DagsterEventType.ENGINE_EVENT}) or ())
    if before is None:
        return change_tags(instance, run.run_id, run.tags[STATE_TAG], {STATE_TAG: TOLD}) and False
    outcome, expected = _OUTCOMES[run.status], before.run_time
    took = None if record.start_time is None or record.end_time is None else max(record.end_time - record.start_time, 0.0)
    said = {STATE_TAG: TOLD, EXPECTED_TAG: took_tag(took, expected, outcome)}
    due = _due(record)
    late = None if due is None or record.end_time is None else record.end_time - due.timestamp()
    if late is not None:
        said[MISS_TAG] = "1" if late > 0 else "0"
    if not change_tags(instance, run.run_id, run.tags[STATE_TAG], said):
        return False
    figures: dict[str, Any] = {"expected_s": expected.p50, "p05_s": expected.p05, "p95_s": expected.p95, "outcome": outcome}
    kept = ""
    if due is not None and late is not None:
        kept = f" {kept_sentence(due, late)}"
        figures |= {"due_at": due.isoformat(), "late_s": late, "deadline_missed": late > 0}
    if took is not None:
        figures["took_s"] = took
    if took is not None and outcome == "success":
        figures["inside_the_interval"] = expected.p05 <= took <= expected.p95
        if took > 0:
            figures["error_share"] = abs(expected.p50 - took) / took
    _say(instance, run, f"{took_sentence(took, expected, outcome)}{kept}", {"said": "took", **figures})
    return True


def _tell_left(instance: dg.DagsterInstance, home: Path, record: dg.RunRecord, now: datetime) -> bool:
    run = record.dagster_run
    state, due = run.tags[STATE_TAG], _due(record)
    told = _STATES.get(state, MOST_TELLINGS)
    job = forecast_of_run(instance, home / FILE, run)
    whole = None if job is None else job.run("run_time_s")
    if job is None or whole is None or record.start_time is None or (told >= MOST_TELLINGS and due is None):
        return False
    elapsed = now.timestamp() - record.start_time
    if (now - record.update_timestamp).total_seconds() < max(QUIET_S, QUIET_SHARE * whole.p50):
        return False
    entries = _entries(instance, run, _READ)
    before = None if entries is None else _before(entries)
    if entries is None or before is None or before.partial:
        return False
    left = remaining(job, elapsed, _seen(job, entries, now))
    if left is None:
        return False
    risk = None
    if due is not None:
        within_s = (due - now).total_seconds()
        risk = _Risk(due, within_s, miss_while_running(left, within_s))
    total = elapsed + left.p50
    changed = abs(total / before.total_s - 1) > (LATER_BY if before.late else CHANGED_BY) or (left.late and not before.late)
    quarter = int(4 * elapsed / total) if total >= QUARTERS_FROM_S and not left.late else before.quarter
    if told >= MOST_TELLINGS or not (changed or quarter > before.quarter):
        return risk is not None and _tell_risk(instance, run, before, risk)
    warns = risk is not None and risk.probability >= WARN_FROM and not before.warned
    tags = {STATE_TAG: f"{OPEN} {told + 1}", **(risk.tags if risk is not None else {})}
    if changed:
        tags[EXPECTED_TAG] = revised_tag(elapsed, left, before.run_time)
    if not change_tags(instance, run.run_id, state, tags):
        return False
    said, figures = left_sentence(elapsed, left, before.run_time), _figures(left, total, quarter)
    if risk is not None and warns:
        said = f"{at_risk_sentence(risk.due, risk.within_s, risk.probability)} {said}"
        figures |= risk.figures
    _say(instance, run, said, figures)
    return True


def _tell_waiting(instance: dg.DagsterInstance, home: Path, record: dg.RunRecord, now: datetime) -> bool:
    """Warns of a deadline that a run will miss because it waits too long in the queue."""
    run, due = record.dagster_run, _due(record)
    job = None if due is None else forecast_of_run(instance, home / FILE, run)
    whole = None if job is None else job.run("run_time_s")
    if due is None or job is None or whole is None or (now - record.update_timestamp).total_seconds() < QUIET_S:
        return False
    waited_s, within_s = (now - record.create_timestamp).total_seconds(), (due - now).total_seconds()
    if not _Risk(due, within_s, miss_before_start(job, whole, within_s, waited_s)).moved(run.tags[MISS_TAG]):
        return False  # the log is read only where there may be something to say
    before = _before(_entries(instance, run, {dg.DagsterEventType.ENGINE_EVENT}) or ())
    if before is None:
        return False
    risk = _Risk(due, within_s, miss_before_start(job, before.run_time, within_s, waited_s))
    return _tell_risk(instance, run, before, risk)


def _tell_risk(instance: dg.DagsterInstance, run: dg.DagsterRun, before: _Before, risk: _Risk) -> bool:
    """Warns of the deadline where that was not done yet, else keeps the tag up to date; whether an event was written."""
    state = run.tags[STATE_TAG]
    if before.warned or risk.probability < WARN_FROM:
        if risk.moved(run.tags[MISS_TAG]):
            change_tags(instance, run.run_id, state, risk.tags)
        return False
    # the warning claims a telling of its own: two processes that saw the same probability must not both tell
    if not change_tags(instance, run.run_id, state, {STATE_TAG: f"{OPEN} {_STATES[state] + 1}", **risk.tags}):
        return False
    _say(
        instance, run, at_risk_sentence(risk.due, risk.within_s, risk.probability),
        {"said": "at risk", "within_s": risk.within_s, **risk.figures},
    )  # fmt: skip
    return True


def _due(record: dg.RunRecord) -> datetime | None:
    """When a run that was stamped with the probability of missing its deadline should end; None: no deadline, or none known."""
    run = record.dagster_run
    return due_at(run.tags, record.create_timestamp) if run.tags.get(MISS_TAG, "unknown") != "unknown" else None


def _figures(left: Remaining, total: float, quarter: int) -> dict[str, Any]:
    return {
        "said": "left",
        "left_s": left.p50,
        "left_p05_s": left.p05,
        "left_p95_s": left.p95,
        "expected_in_all_s": total,
        "late": left.late,
        "quarter": quarter,
    }


def _entries(
    instance: dg.DagsterInstance, run: dg.DagsterRun, kinds: set[dg.DagsterEventType]
) -> Sequence[dg.EventLogEntry] | None:
    """The run's events of some kinds in order; None where there are too many to read."""
    page = instance.get_records_for_run(run.run_id, of_type=kinds, limit=_LONGEST_LOG)
    return None if page.has_more else [record.event_log_entry for record in page.records]


def _before(entries: Iterable[dg.EventLogEntry]) -> _Before | None:
    """What our own events among these say; None where the run was not stamped."""
    before: _Before | None = None
    for entry in entries:
        data = entry.dagster_event.event_specific_data if entry.dagster_event is not None else None
        if not isinstance(data, EngineEventData) or SAID not in data.metadata:
            continue
        values = cast("Mapping[str, Any]", data.metadata[SAID].value)
        if values["said"] == "expected":
            run_time = Quantiles(
                values["p05_s"], values["expected_s"], values["p95_s"], values["runs_behind_it"], values["predictor"]
            )
            before = _Before(
                run_time,
                values["part_of_the_job"],
                max(run_time.p50, 1e-3),
                late=False,
                quarter=0,
                warned=values.get("warned", False),
            )
        elif values["said"] == "left" and before is not None:
            before = _Before(
                before.run_time,
                before.partial,
                max(values["expected_in_all_s"], 1e-3),
                values["late"],
                values["quarter"],
                before.warned or values.get("warned", False),
            )
        elif values["said"] == "at risk" and before is not None:
            before = replace(before, warned=True)
    return before


def _seen(job: JobForecast, entries: Iterable[dg.EventLogEntry], now: datetime) -> list[SeenStep]:
    """The steps that have begun; one that was tried or mapped more than once has ended when each try and copy has."""
    began: dict[str, float] = {}
    open_keys: dict[str, set[str]] = {}
    ended: dict[str, float] = {}
    for entry in entries:
        event = entry.dagster_event
        step = None if event is None or event.step_key is None else job.step_of(event.step_key)
        if event is None or event.step_key is None or step is None:
            continue
        if event.event_type in _BEGAN:
            began.setdefault(step, entry.timestamp)
            open_keys.setdefault(step, set()).add(event.step_key)
        elif event.event_type in _ENDED:
            open_keys.setdefault(step, set()).discard(event.step_key)
            ended[step] = entry.timestamp
    at = now.timestamp()
    return [
        SeenStep(step, at - (began[step] if keys else ended[step]), ended=not keys)
        for step, keys in open_keys.items()
        if (step in began if keys else step in ended)
    ]


def _say(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str, figures: Mapping[str, Any]) -> None:
    """One event: a sentence for a person, and its figures by name for programs."""
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in figures.items()}
    instance.report_engine_event(message, run, EngineEventData({SAID: dg.MetadataValue.json(rounded)}))


def _reason(error: Exception) -> str:
    """The first line of an error; further ones quote statements and values."""
    return f"{type(error).__name__}: {bounded(str(error).partition(chr(10))[0], 200)}"
