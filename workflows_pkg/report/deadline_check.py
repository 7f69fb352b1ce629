"""Will the next run of a job miss its deadline, or did the newest ones, again and again? What a check of the workbench says of it.

Looked at are jobs whose newest run had a deadline. When the next run is asked for nobody knows: it is taken to have as long as the newest
one had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from workflows_pkg.prediction.deadline import WARN_FROM, miss_before_start
from workflows_pkg.prediction.lookup import JobForecast
from workflows_pkg.report.asset_pages import MOST_ROWS, Cell, Table, Verdict, whole
from workflows_pkg.report.expectation import of_hundred
from workflows_pkg.report.reading import Connection, rows
from workflows_pkg.report.tables import count, duration, instant, readable

NEWEST, AGAIN = 20, 3
"""Newest ended runs with a deadline, and how many of them make it "again and again": of jobs that miss one in twenty, from which on it
is a finding, that many are missed by chance at 8 of 100 looks."""

_MOST_NAMED = 3

_SQL = f"""
    with numbered as (
        select job_name, created_at, deadline_at, outcome, coalesce(ended_at > deadline_at, false) as missed,
            row_number() over (partition by job_name order by created_at desc, run_id) as place
        from runs where trial_id is null
    ), due as (
        select *, row_number() over (partition by job_name, outcome is not null order by place) as of_ended from numbered
        where deadline_at is not null
    )
    select job_name, max(epoch(deadline_at) - epoch(created_at)) filter (place = 1) as within_s,
        count(*) filter (outcome is not null and of_ended <= {NEWEST}) as ended,
        count(*) filter (outcome is not null and of_ended <= {NEWEST} and missed) as missed,
        max(created_at) filter (outcome is not null and missed) as last_missed,
        count(*) filter (outcome is null and deadline_at < ?) as overdue
    from due group by job_name having min(place) = 1 order by job_name
"""


def deadlines_kept(con: Connection, forecast: Callable[[str], JobForecast | None], now: datetime) -> Verdict:
    """Whether every job with a deadline is likely to keep it and has lately; else which are not, the likeliest to miss first.

    forecast: what is published of a job, None where nothing is. One without a forecast of its run time is judged by its newest runs alone.
    """
    looked = rows(con, _SQL, [now])
    judged = [(row, _chance(forecast(row["job_name"]), row["within_s"])) for row in looked]
    late = [
        (row, chance)
        for row, chance in judged
        # what is open and past its deadline has missed it, too
        if row["missed"] + row["overdue"] >= AGAIN or (chance is not None and chance >= WARN_FROM)
    ]
    figures = {"jobs with a deadline": len(looked), "jobs that miss it": len(late)}
    if not looked:
        return Verdict(True, "No job has a deadline.", figures)
    unknown = sum(chance is None for _, chance in judged)
    if not late:
        aside = f" Of {unknown} there is no forecast." if unknown else ""
        likely = ", and each is likely to keep it" if unknown < len(looked) else ""
        return Verdict(True, f"{count(len(looked))} with a deadline{likely}.{aside}", figures)
    late.sort(key=lambda one: (-(one[1] or 0.0), -one[0]["missed"], one[0]["job_name"]))
    named = [_sentence(row, chance) for row, chance in late[:_MOST_NAMED]]
    more = f" And {len(late) - _MOST_NAMED} more." if len(late) > _MOST_NAMED else ""
    return Verdict(
        False, " ".join(named) + more, figures, tables={"deadlines": Table([_row(*one) for one in late[:MOST_ROWS]], _COLUMNS)}
    )


_COLUMNS = {
    "due after": "From asking for the newest run to its deadline.",
    "misses": "Of a hundred such runs, by the forecast.",
    "missed": f"Of the newest ended runs with a deadline, {NEWEST} at most.",
    "overdue": "Not ended, and past their deadline.",
}


def _chance(job: JobForecast | None, within_s: float) -> float | None:
    run_time = None if job is None else job.run("run_time_s")
    return None if job is None or run_time is None else miss_before_start(job, run_time, within_s)


def _sentence(row: Mapping[str, Any], chance: float | None) -> str:
    said = f"'{readable(str(row['job_name']))}' is due {duration(row['within_s'])} after it is asked for"
    if chance is not None and chance >= WARN_FROM:
        said += f": {of_hundred(chance)} such runs miss that"
    open_still = f", and {count(row['overdue'])} not ended are past it" if row["overdue"] else ""
    return f"{said}; {row['missed']} of the newest {row['ended']} missed it{open_still}."


def _row(row: Mapping[str, Any], chance: float | None) -> dict[str, Cell]:
    return {
        "job": str(row["job_name"]),
        "due after": whole(duration(row["within_s"])),
        "misses": None if chance is None else round(100 * chance),
        "missed": whole(f"{row['missed']} of {row['ended']}"),
        "last": instant(row["last_missed"]),
        "overdue": row["overdue"],
    }
