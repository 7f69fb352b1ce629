"""How does the history become forecasts and suggestions? One pass over what has landed, written back beside it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from workflows_pkg.advisor.suggestions import suggest
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Forecast, Suggestion, Version
from workflows_pkg.history.store import Writer, open_history
from workflows_pkg.prediction.forecasts import publish_card, publish_table, train_with_card
from workflows_pkg.prediction.lookup import FILE
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.model import Workflow

CARD = "forecasts.card.json"
"""What the predictors were trained on, in the instance's folder."""


def learn(history: Writer, home: Path) -> list[Forecast]:
    """Trains on everything landed so far, keeps the forecasts, and publishes them for lookups, with the predictors' card."""
    forecasts, card = train_with_card(history.con, datetime.now(UTC))
    history.upsert(Forecast, forecasts)
    publish_table(forecasts, home / FILE)
    publish_card(card, home / CARD)
    return forecasts


def refresh_suggestions(history: Writer, store: VersionStore) -> list[Suggestion]:
    """Suggestions for the active versions; ones that were decided keep their status, open ones no longer supported go."""
    record_versions(history, store)
    active: dict[str, tuple[int, Workflow]] = {}
    for name in store.names():
        version = store.active(name)
        active[name] = (version.number, store.workflow(version))
    decided = {s.suggestion_id: s for s in read(history.con, Suggestion) if s.status != "open"}
    found = [s for s in suggest(history.con, active, datetime.now(UTC)) if s.suggestion_id not in decided]
    history.delete(Suggestion, status="open")
    history.upsert(Suggestion, found)
    return found


def record_versions(history: Writer, store: VersionStore) -> None:
    """Copies every version's record into the history."""
    for name in store.names():
        history.upsert(Version, store.log(name))


def has_news(home: Path) -> bool:
    """Whether the history holds ended runs that the last training did not see, whenever they ended."""
    try:
        seen = int(json.loads((home / CARD).read_text())["data"]["ended_runs"])
    except (OSError, ValueError, KeyError, TypeError):
        seen = 0  # never trained, or the card cannot be read: training writes it again
    with open_history(home) as connection:
        row = connection.execute("select count(*) from runs where outcome is not null and trial_id is null").fetchone()
    return bool(row and row[0] != seen)
