"""How does the history become forecasts, findings and suggestions? Each in one pass over what has landed, written back beside it.

All of them read the published history, so that events go on landing meanwhile, and take the writer's turn only to write. What the
workbench itself did is left out.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from workflows_pkg.advisor.changes import Change, evidence, what_changed
from workflows_pkg.advisor.findings import Finding, findings, lasting
from workflows_pkg.advisor.jobs import suggest_for_jobs
from workflows_pkg.advisor.suggestions import suggest
from workflows_pkg.errors import WorkflowsError, bounded
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Forecast, Suggestion, Version
from workflows_pkg.history.store import Writer, open_history, writer
from workflows_pkg.prediction.forecasts import publish_card, publish_table, train_with_card
from workflows_pkg.prediction.lookup import FILE
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.model import Workflow
from workflows_pkg.workbench.news import CARD, last_card, without_own

MOST_SHOWN = 3
"""Changes of which every run is looked up again, to be drawn."""

PATIENCE_S = 600.0
"""How long to wait for the writer's turn: the first import of a large event log holds it for minutes, in pieces of seconds."""

_UNREADABLE = (WorkflowsError, ValueError, OSError)
"""What reading a version raises: a damaged file, a spec of a later release (pydantic's error is a ValueError), no right to read."""

_log = logging.getLogger("workflows")


@dataclass(frozen=True)
class Advice:
    """The open suggestions, the best first, and a sentence for each workflow whose versions could not be read."""

    suggestions: list[Suggestion]
    unreadable: list[str]


@dataclass(frozen=True)
class Noticed:
    """What was noticed: the findings; how many changes for the worse last, and of the worst of them every run that they rest on."""

    findings: list[Finding]
    worse: int
    worst: list[tuple[Change, pd.DataFrame]]


def learn(home: Path) -> tuple[list[Forecast], dict[str, Any]]:
    """Trains on everything landed so far, keeps the forecasts, and publishes them for lookups, with the predictors' card.

    The forecasts and the card. Raises BusyError where the writer's turn does not come.
    """
    with closing(open_history(home)) as con:
        forecasts, card = train_with_card(without_own(con), datetime.now(UTC), before=last_card(home))
    with writer(home, PATIENCE_S) as history:
        history.upsert(Forecast, forecasts)
    publish_table(forecasts, home / FILE)
    publish_card(card, home / CARD)
    return forecasts, card


def notice(home: Path) -> Noticed:
    """What deserves a look in the history landed so far, the most severe first, and the changes for the worse that last."""
    now = datetime.now(UTC)
    with closing(open_history(home)) as con:
        without_own(con)
        changes = what_changed(con, now)
        worse = lasting(changes, con, now)
        worst = sorted(worse, key=lambda change: -change.ratio)[:MOST_SHOWN]
        return Noticed(findings(con, now, changes), len(worse), [(change, evidence(con, change)) for change in worst])


def refresh_suggestions(home: Path) -> Advice:
    """Suggestions for the active versions, the best first, then those for jobs without a workflow; kept as the open ones.

    Ones that were decided keep their status and are not made again, open ones no longer supported go. A workflow whose versions
    cannot be read is told of and stops no other. Raises BusyError where the writer's turn does not come.
    """
    store, now = VersionStore(home), datetime.now(UTC)
    active, unreadable = _active(store)
    with closing(open_history(home)) as con:
        without_own(con)
        proposed = [*suggest(con, active, now), *suggest_for_jobs(con, now)]
    with writer(home, PATIENCE_S) as history, history.transaction():
        record_versions(history, store)
        decided = {s.suggestion_id for s in read(history.con, Suggestion) if s.status != "open"}
        found = [s for s in proposed if s.suggestion_id not in decided]
        history.delete(Suggestion, status="open")
        history.upsert(Suggestion, found)
    return Advice(found, unreadable)


def record_versions(history: Writer, store: VersionStore) -> None:
    """Copies the record of every version into the history; a workflow with one that cannot be read is passed over, and told of."""
    for name in store.names():
        try:
            history.upsert(Version, store.log(name))
        except _UNREADABLE as error:
            _log.warning("Not all versions of workflow '%s' can be read: %s", name, error)


def _active(store: VersionStore) -> tuple[dict[str, tuple[int, Workflow]], list[str]]:
    """Number and spec of the active version by workflow, and a sentence for each that cannot be read."""
    active: dict[str, tuple[int, Workflow]] = {}
    unreadable: list[str] = []
    for name in store.names():
        try:
            version = store.active(name)
            active[name] = (version.number, store.workflow(version))
        except _UNREADABLE as error:
            unreadable.append(f"No suggestions for workflow '{name}': {bounded(error, 300)}")
            _log.warning("%s", unreadable[-1])
    return active, unreadable
