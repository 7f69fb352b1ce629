"""What should change in these workflows? Every kind of suggestion, asked of every step, best first. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd

from workflows_pkg.advisor.draft import with_step
from workflows_pkg.advisor.retry_policy import retry_suggestion
from workflows_pkg.advisor.timeout import learned_timeout, timeout_suggestion
from workflows_pkg.history.records import Suggestion
from workflows_pkg.prediction.rows import Connection, Frame, in_utc
from workflows_pkg.spec.model import Workflow

ATTEMPTS_SQL = (
    "select * from step_attempts where workflow = ? and step = ? and trial_id is null and started_at < ? "
    "order by started_at, run_id, step_key, attempt"
)
_RERUN_SQL = (
    "select median(coalesce(queue_time_s, 0) + coalesce(start_time_s, 0) + run_time_s) as seconds from runs "
    "where workflow = ? and trial_id is null and outcome = 'success' and created_at < ?"
)


def suggest(con: Connection, versions: Mapping[str, tuple[int, Workflow]], now: datetime) -> list[Suggestion]:
    """Suggestions for the workflows in `versions` (by name: active number and spec), from what had happened by `now`.

    Those that save time come first, the largest expected saving before the smaller. The same history, versions and moment give
    the same suggestions; runs of trials are left out. Empty where the evidence supports none.
    """
    found: list[Suggestion] = []
    for name in sorted(versions):
        number, workflow = versions[name]
        rerun_s = _rerun_s(con, name, now)
        for step in workflow.steps:
            attempts = attempts_of(con, name, step, now)
            query = _bound(name, step, now)
            proposals = (
                retry_suggestion(attempts, workflow, number, step, rerun_s, now, query),
                timeout_suggestion(attempts, workflow, number, step, now, query),
            )
            found += [proposal for proposal in proposals if proposal is not None]
    return sorted(found, key=lambda item: (item.quantity != "step_time_s", item.effect or 0.0, item.suggestion_id))


def resolve_auto(workflow: Workflow, con: Connection, now: datetime | None = None) -> Workflow:
    """The workflow with every `timeout: auto` replaced by the learned number; it stays `auto`, no limit, where too little is known.

    `now` bounds the history looked at; left out: all of it. Done before a version is published: its digest holds the number.
    What stays `auto` becomes a suggestion as soon as enough is known.
    """
    resolved = workflow
    for name, step in workflow.steps.items():
        if step.timeout == "auto":
            learned = learned_timeout(attempts_of(con, workflow.workflow, name, now))
            if learned:
                resolved = with_step(resolved, name, step.model_copy(update={"timeout": learned.limit}))
    return resolved


def attempts_of(con: Connection, workflow: str, step: str, now: datetime | None) -> Frame:
    """The attempts of one step begun before `now`, trials left out; what had not ended by then is still open."""
    before = now or datetime.max.replace(tzinfo=UTC, year=2200)
    frame = in_utc(con.execute(ATTEMPTS_SQL, [workflow, step, before]).df())
    late = frame["ended_at"] > before
    return frame.assign(
        outcome=frame["outcome"].mask(late), ended_at=frame["ended_at"].mask(late), run_time_s=frame["run_time_s"].mask(late)
    )


def _rerun_s(con: Connection, workflow: str, now: datetime) -> float:
    """Median seconds of a whole run, asked for to ended; 0 where none succeeded: a failure is then valued at the time it lost."""
    seconds = con.execute(_RERUN_SQL, [workflow, now]).df()["seconds"].iloc[0]
    return 0.0 if pd.isna(seconds) else float(seconds)


def _bound(workflow: str, step: str, now: datetime) -> str:
    """The query with its values written in, so that a reader can run it as it stands."""
    query = ATTEMPTS_SQL
    for value in (workflow, step, now.isoformat()):
        query = query.replace("?", f"'{value}'", 1)
    return query
