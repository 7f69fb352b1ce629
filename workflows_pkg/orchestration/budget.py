"""What may this run cost, and is the next step still within that? Asked before every attempt, answered from the run's own log.

A workflow of ours, and an entry of `tuning.yaml`, write the hidden tag; any other job says so with `workflows/budget_usd`. Spent is what
the attempts so far cost by the rate card in the instance's folder, with the tokens, bytes and calls that they told, those that still
run up to now; one whose cost is unknown counts nothing. An attempt is not begun where what is spent, and the least that its step is
expected to cost (the 5 % quantile, where the run coordinator said one), are together above the budget. So a run ends before it is spent
where that can be known, and else one step late.

Only attempts of steps that are metered ask. A run with a budget reads its log before each of them.
"""

# No `from __future__ import annotations`: the bodies of ops that call this are compared by class.
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import dagster as dg

from workflows_pkg.errors import SpecError, bounded
from workflows_pkg.orchestration.version_tags import BUDGET_TAG
from workflows_pkg.spec.used import Used, added, told

SAID_TAG = "workflows/budget_usd"
STEP_COSTS = "least_cost_usd_by_step"
"""In what is said of a run with a budget before it starts: 5 % quantiles by step."""

_log = logging.getLogger("workflows")
_BEGAN = {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
_TELLS = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION}
_ENDED = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_UP_FOR_RETRY}
_MAPPING_KEY = re.compile(r"\[.*\]$")


def budget_usd(tags: Mapping[str, str]) -> float | None:
    """What a run with these tags may cost; None where no tag says it, or none that can be read."""
    try:
        usd = float(tags.get(BUDGET_TAG) or tags.get(SAID_TAG) or "nan")
    except ValueError:
        return None
    return usd if 0 <= usd < float("inf") else None


def unreadable_budget(tags: Mapping[str, str]) -> str:
    """A sentence about a budget that is none, with what to write; empty where there is nothing wrong."""
    text = tags.get(BUDGET_TAG) or tags.get(SAID_TAG)
    if not text or budget_usd(tags) is not None:
        return ""
    return f"Its budget '{bounded(text, 60)}' is not understood, so it has none: write US dollars as a number, such as 0.50."


def stop_where_spent(context: dg.OpExecutionContext) -> None:
    """Raises dagster.Failure, which is not retried, where this attempt is not within the run's budget. A budget that cannot be
    followed stops nothing: that is logged.
    """
    budget = budget_usd(context.run.tags)
    if budget is None:
        return
    try:
        step_key = context.get_step_execution_context().step.key
        spent, least = _spent(context.instance, context.run_id, step_key, datetime.now(UTC))
    except Exception as error:  # noqa: BLE001 - what cannot be known must not end somebody's run
        _log.warning("The budget of run %s is not followed: %s", context.run_id, bounded(str(error).partition("\n")[0], 200))
        return
    if spent + least <= budget:
        return
    expected = f", and this step costs at least {_usd(least)} in 95 of 100 cases" if least else ""
    raise dg.Failure(
        f"Budget: {_usd(spent)} of {_usd(budget)} are spent{expected}. Step '{step_key}' is not begun.",
        metadata={"spent_usd": spent, "budget_usd": budget, "least_cost_usd": least},
        allow_retries=False,
    )


@dataclass
class _Tried:
    """What the log says of one attempt."""

    began: float
    ended: float | None = None
    used: Mapping[str, Any] = field(default_factory=dict[str, Any])
    told: set[tuple[object, ...]] = field(default_factory=set[tuple[object, ...]])
    """Figures of its events, each once; as history does, what partitions of an asset tell alike is taken for the same."""

    def figures(self) -> dict[str, int]:
        total = told(self.used)
        for *_, pairs in self.told:
            added(total, dict(cast("tuple[tuple[str, int], ...]", pairs)))
        return total


def _spent(instance: dg.DagsterInstance, run_id: str, step_key: str, now: datetime) -> tuple[float, float]:
    """USD spent by the run's attempts, and the least that is expected of a step; the attempt that asks has cost nothing."""
    # here, because only a run with a budget needs them, and every process of a step loads this module
    from workflows_pkg.orchestration.metering import CPU, DEDICATED, HOST, PEAK_MEMORY, POOL
    from workflows_pkg.spec.rates import DEFAULT, FILE, load_rates

    try:
        card = load_rates(Path(instance.root_directory) / FILE) or DEFAULT
    except SpecError:
        card = DEFAULT
    entries, least = _attempts(instance, run_id, step_key)
    own = max((one for one in entries.get(step_key, ()) if one.ended is None), key=lambda one: one.began, default=None)
    spent = 0.0
    for one in (one for tried in entries.values() for one in tried if one is not own):
        usd = card.attempt_usd(
            Used(
                datetime.fromtimestamp(one.began, UTC),
                max((one.ended or now.timestamp()) - one.began, 0.0),
                one.used.get(CPU),
                one.used.get(PEAK_MEMORY) if one.used.get(DEDICATED) else None,
                **one.figures(),
                host=one.used.get(HOST),
                pool=one.used.get(POOL),
            )
        )
        spent += usd or 0.0
    return spent, least


def _attempts(instance: dg.DagsterInstance, run_id: str, step_key: str) -> tuple[dict[str, list[_Tried]], float]:
    from workflows_pkg.orchestration.metering import ATTEMPT
    from workflows_pkg.orchestration.run_tags import SAID

    by_step: dict[str, list[_Tried]] = {}
    least = 0.0
    kinds = {*_BEGAN, *_ENDED, *_TELLS, dg.DagsterEventType.ENGINE_EVENT}
    for number, entry in enumerate(_entries(instance, run_id, kinds)):
        event = entry.dagster_event
        if event is None:
            continue
        tried = by_step.setdefault(event.step_key, []) if event.step_key is not None else []
        if event.event_type in _BEGAN:
            tried.append(_Tried(entry.timestamp))
        elif event.event_type in _ENDED:
            if tried:
                tried[-1].ended = entry.timestamp
        elif event.event_type in _TELLS:
            if tried:
                _note(tried[-1], event, number)
        elif event.is_engine_event:
            values = {name: value.value for name, value in event.engine_event_data.metadata.items()}
            if ATTEMPT in values and tried:
                tried[-1].used = values
            elif SAID in values:
                costs = cast("Mapping[str, Any]", values[SAID]).get(STEP_COSTS, {})
                least = next((float(costs[name]) for name in _names(step_key) if name in costs), least)
    return by_step, least


def _note(attempt: _Tried, event: dg.DagsterEvent, number: int) -> None:
    """Adds what a materialization or observation tells to its attempt."""
    if event.is_step_materialization:
        data: Any = event.step_materialization_data.materialization
    else:
        data = event.asset_observation_data.asset_observation
    figures = told({key: value.value for key, value in data.metadata.items()})
    if figures:
        several = event.is_step_materialization and data.partition is not None
        attempt.told.add((data.asset_key, 0 if several else number, tuple(sorted(figures.items()))))


def _entries(instance: dg.DagsterInstance, run_id: str, kinds: set[dg.DagsterEventType]) -> Iterable[dg.EventLogEntry]:
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=kinds, limit=5000)
        yield from (record.event_log_entry for record in page.records)
        if not page.has_more:
            return
        cursor = page.cursor


def _names(step_key: str) -> tuple[str, str]:
    """What a step may be called in a forecast: with and without the graphs it is in."""
    whole = _MAPPING_KEY.sub("", step_key)
    return whole, whole.rpartition(".")[2]


def _usd(value: float) -> str:
    return f"${value:.4g}"
