"""Is there something new to learn from? What the last training had seen, and the history without the workbench's own runs.

Imports nothing heavy, and DuckDB only when it is asked: every process that loads a code location with the workbench imports this.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from workflows_pkg.orchestration.own import BY_HAND, LEARNING_JOB, LEARNING_STEP, SYNC_SENSOR
from workflows_pkg.prediction.lookup import FILE, is_published

CARD = "forecasts.card.json"
"""What the predictors were trained on, in the instance's folder."""


class Connection(Protocol):
    """What is needed of a DuckDB connection: this package opens none itself."""

    def execute(self, query: str, /) -> Any:
        """Runs a statement."""
        ...


C = TypeVar("C", bound=Connection)


@dataclass(frozen=True)
class Trained:
    """The last training: how many ended runs it had seen, and when it was. `at` None: there was none, or its card cannot be read."""

    ended_runs: int = 0
    at: datetime | None = None


def last_card(home: Path) -> dict[str, Any]:
    """The predictors' card in `home`; empty where there is none or it cannot be read, since training writes it again."""
    try:
        card = json.loads((home / CARD).read_text())
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def last_training(home: Path) -> Trained:
    """What the predictors' card in `home` says; a card that cannot be read counts as none."""
    card = last_card(home)
    try:
        return Trained(int(card["data"]["ended_runs"]), datetime.fromisoformat(card["as_of"]).astimezone(UTC))
    except (ValueError, KeyError, TypeError):
        return Trained()


def ended_runs(home: Path) -> int:
    """How many of the runs that training looks at have ended and landed. Raises SetupError where the history cannot be read."""
    from workflows_pkg.history.store import open_history  # brings DuckDB and pandas

    with closing(open_history(home)) as con:
        row = without_own(con).execute("select count(*) from runs where outcome is not null and trial_id is null").fetchone()
    return int(row[0]) if row else 0


def has_news(home: Path) -> bool:
    """Whether the history holds ended runs that the last training did not see, whenever they ended, or launches miss its table."""
    ended = ended_runs(home)
    return ended != last_training(home).ended_runs or (ended > 0 and not is_published(home / FILE))


def without_own(con: C) -> C:
    """The reading connection `con`, on which `runs`, `step_attempts` and `ticks` leave out from now on what the workbench itself does.

    Learning from its own runs it would always find news. Of a run that did other work too only the workbench's step is left out.
    """
    from workflows_pkg.history.schema import literal

    row = con.execute("select current_database()").fetchone()
    kept = f'"{row[0]}".main'
    job, step, sensors = literal(LEARNING_JOB), literal(LEARNING_STEP), ", ".join(map(literal, (SYNC_SENSOR, LEARNING_JOB)))
    # Temporary views hide the tables of the same names.
    con.execute(f"create temp view ticks as select * from {kept}.ticks where name not in ({sensors})")
    con.execute(
        f"create temp view step_attempts as select * from {kept}.step_attempts where job_name <> {job} and step <> {step}"
    )
    con.execute(
        f"""create temp view runs as select * from {kept}.runs where job_name <> {job} and run_id not in (
              select run_id from {kept}.step_attempts where job_name = {literal(BY_HAND)}
              group by run_id having bool_and(step = {step}))"""
    )
    return con
