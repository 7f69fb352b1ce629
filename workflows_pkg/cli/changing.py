"""The command that says what changed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from workflows_pkg.advisor.change_text import headline, looked_for, say_level, why
from workflows_pkg.advisor.changes import FALSE_ALARMS, Change, evidence, what_changed
from workflows_pkg.cli.output import answer, home_option, json_option, plain, resolve_home
from workflows_pkg.errors import NotFound
from workflows_pkg.history.store import open_history
from workflows_pkg.report.tables import instant, printable, readable
from workflows_pkg.workbench.news import without_own

_DATE = click.DateTime(formats=["%Y-%m-%d"])


@click.command()
@click.argument("job", required=False)
@click.option("--step", help="Only this step.")
@click.option("--since", type=_DATE, metavar="YYYY-MM-DD", help="Only changes from this UTC day on.")
@home_option
@json_option
def changed(job: str | None, step: str | None, since: datetime | None, home: Path | None, as_json: bool) -> None:
    """What became slower, faster or fails more or less often, since when, and what coincides with it.

    Where nothing changed, at most one look in a hundred tells a change. JOB limits the answer to one workflow or job. Add --json for every
    run that a change rests on.
    """
    now = datetime.now(UTC)
    with closing(open_history(resolve_home(home))) as connection:
        con = without_own(connection)
        _known(con, "job", "select distinct job_name from runs", job)
        _known(con, "step", "select distinct step from step_attempts", step)
        found = what_changed(con, now, job, step, None if since is None else since.replace(tzinfo=UTC))
        value = [_value(con, change) for change in found] if as_json else []
    nothing = (
        f"nothing changed, as far as can be told: at most {100 * FALSE_ALARMS:.0f} look in 100 tells a change where there is none"
    )
    answer(value, as_json, lambda: "\n\n".join(map(_text, found)) if found else nothing)


def _known(con: Any, what: str, sql: str, name: str | None) -> None:
    names = [row[0] for row in con.execute(sql).fetchall()] if name is not None else []
    if name is not None and name not in names:
        raise NotFound(what, name, names)


def _text(change: Change) -> str:
    lines = [
        f"{headline(change)}.",
        why(change),
        f"It lies between the runs of {instant(change.earliest)} and {instant(change.latest)} UTC ({change.between:,} runs; 95 %). "
        f"Before {_interval(change, change.before_low, change.before_high)}, since "
        f"{_interval(change, change.after_low, change.after_high)} (95 %).",
        f"runs just before: {_ids(change.run_ids_before)}; just after: {_ids(change.run_ids_after)}",
        looked_for(change),
    ]
    first, *rest = [printable(readable(line)) for line in lines if line]
    return "\n".join([first, *(f"    {line}" for line in rest)])


def _interval(change: Change, low: float, high: float) -> str:
    return f"{say_level(change, low)} to {say_level(change, high)}"


def _ids(run_ids: tuple[str, ...]) -> str:
    return ", ".join(run_id[:8] for run_id in run_ids)


def _value(con: Any, change: Change) -> dict[str, Any]:
    runs = plain(evidence(con, change))
    return asdict(change) | {"ratio": change.ratio, "sentence": f"{headline(change)}. {why(change)}", "evidence": runs}
