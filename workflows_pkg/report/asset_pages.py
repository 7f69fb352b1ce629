"""What do the pages of the workbench's assets say? Tables, plots and figures made from history, forecasts, findings and suggestions.

Each function gives the parts of one page as plain values; the workbench turns them into metadata. All of it is kept in the event
log with every learning run, so tables and plots are bounded: the whole is in the history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from workflows_pkg.advisor.findings import Finding
from workflows_pkg.history.records import RECORDS, Suggestion
from workflows_pkg.report import sketch, svg
from workflows_pkg.report.advice_text import how_to_apply, in_full, markdown
from workflows_pkg.report.reading import Connection, rows
from workflows_pkg.report.sections import effect_text
from workflows_pkg.report.tables import duration, file_size, instant, quantity, usd, words

MOST_ROWS = 50
"""Rows of a table on a page; about 15 kB of text."""

NEW_FOR = timedelta(days=1)
"""A finding is new for so long after it was first found: whoever looks once a day sees each once."""

_DAYS = 30

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """Rows of cells by column, all with the same columns; `columns`: what is meant by those whose name does not say it."""

    rows: Sequence[Mapping[str, Cell]]
    columns: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Page:
    """One asset's page: figures that are plotted over time, texts in Markdown, tables, and documents to look things up in."""

    figures: Mapping[str, float | int] = field(default_factory=dict[str, float | int])
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    tables: Mapping[str, Table] = field(default_factory=dict[str, Table])
    documents: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def with_figures(self, figures: Mapping[str, float | int]) -> Page:
        """The page with more figures."""
        return replace(self, figures={**self.figures, **figures})


@dataclass(frozen=True)
class Verdict:
    """What a check says: whether it holds, why in a sentence, and the figures, texts in Markdown and tables behind it."""

    passed: bool
    sentence: str
    figures: Mapping[str, float | int] = field(default_factory=dict[str, float | int])
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    tables: Mapping[str, Table] = field(default_factory=dict[str, Table])


def history_page(con: Connection, now: datetime, size_bytes: int) -> Page:
    """What landed: runs by outcome and day, the rows of every table, what was put aside, how fresh it is and how large."""
    (seen,) = rows(
        con,
        """select count(*) as runs, count(*) filter (outcome = 'success') as successes, count(*) filter (outcome = 'failure') as failures,
             count(*) filter (outcome is null) as open, min(created_at) as first, max(coalesce(ended_at, started_at, created_at)) as last
           from runs""",
    )
    (newest,) = rows(con, 'select max("at") as newest from events')
    tables = [
        {"table": record.table, "rows": rows(con, f'select count(*) as n from "{record.table}"')[0]["n"]} for record in RECORDS
    ]
    in_table = {row["table"]: row["rows"] for row in tables}
    jobs = rows(
        con,
        f"""select job_name as job, count(*) as runs, count(*) filter (outcome = 'failure') as failed, median(run_time_s) as run_time_s,
              median(queue_time_s) as queue_time_s, sum(cost_usd) as cost_usd, max(ended_at) as last_end
            from runs group by job_name order by sum(run_time_s) desc nulls last, job_name limit {MOST_ROWS}""",
    )
    by_job = [
        {
            "job": job["job"],
            "runs": job["runs"],
            "failed": job["failed"],
            "median run time": whole(duration(job["run_time_s"])),
            "median queue time": whole(duration(job["queue_time_s"])),
            "cost": usd(job["cost_usd"]),
            "last end (UTC)": instant(job["last_end"]),
        }
        for job in jobs
    ]
    figures: dict[str, float | int] = {name: int(seen[name]) for name in ("runs", "successes", "failures", "open")}
    figures |= {words(name): int(in_table[name]) for name in ("step_attempts", "events", "ticks")}
    figures |= {"put aside": int(in_table["quarantine"]), "size in MB": round(size_bytes / 1e6, 3)}
    if newest["newest"] is not None:
        figures["age of the newest event in s"] = round(max(0.0, (now - newest["newest"]).total_seconds()), 1)
    span = f"From {instant(seen['first'])} to {instant(seen['last'])} UTC, {file_size(size_bytes)} on disk."
    texts = {"span": span if seen["runs"] else "Nothing has landed yet."}
    if drawn := _days(con, now):
        texts["runs by day"] = drawn
    columns = {"cost": "By the rate card, US dollars.", "failed": "Runs that failed."}
    if by_job:
        texts["jobs in full"] = behind_link(Table(by_job, columns))
    narrow = [
        {"job": row["job"], "runs": row["runs"], "failed": row["failed"], "run time": row["median run time"]} for row in by_job
    ]
    said = {"failed": columns["failed"], "run time": "The median."}
    return Page(figures, texts, {"jobs": Table(narrow, said), "tables": Table(tables)})


def landed(put_aside: int, missing: int, late_s: float) -> Verdict:
    """Whether the history is whole. `missing` of the newest ended runs are not in it; late_s: since when, 0 where they still may be."""
    aside = f"{put_aside} event{'' if put_aside == 1 else 's'} put aside; the table quarantine says why."
    said = aside if put_aside else "Every event could be read."
    if late_s:
        said += f" {missing} of the newest ended runs have not landed, one ended {duration(late_s)} ago: is the sensor on?"
    else:
        said += " The newest runs that ended have landed." if not missing else " Runs that ended just now are about to land."
    return Verdict(not put_aside and not late_s, said, {"put aside": put_aside, "ended runs missing": missing})


def findings_page(found: Sequence[Finding], first_seen: Mapping[str, str]) -> Page:
    """What was noticed, the most severe first, with the time it lost and since when it is known; and the queries behind it."""
    table = [
        {
            "severity": f.severity,
            "finding": f"{f.sentence} First found {first_seen[finding_key(f)][:16].replace('T', ' ')} UTC.",
            "time lost": whole(duration(_lost(f))),
        }
        for f in found[:MOST_ROWS]
    ]
    figures = {"number": len(found)} | {kind: sum(f.severity == kind for f in found) for kind in ("high", "medium", "low")}
    seconds = {"time lost in s": round(sum(_lost(f) or 0.0 for f in found), 1)}
    texts = {"most severe": "\n".join(f"- {markdown(f.sentence)}" for f in found[:3]) or "Nothing to notice in this history."}
    costly = sorted((f for f in found if _lost(f)), key=lambda f: -(_lost(f) or 0.0))
    bars = [
        sketch.Bar(
            f"{f.step or f.job or 'several'}: {words(f.kind).removesuffix(' cost')}",
            _lost(f) or 0.0,
            duration(_lost(f)),
            f.severity == "high",
        )
        for f in costly
    ]
    if drawn := sketch.bars("Time lost by finding", bars):
        texts["time lost (red: high)"] = drawn
    columns = {"time lost": "By all it is about, since the history begins."}
    queries = {f.sentence: f.query for f in found[:MOST_ROWS]}
    return Page({**figures, **seconds}, texts, {"all findings": Table(table, columns)}, {"queries": queries} if queries else {})


def first_seen(found: Sequence[Finding], before: Mapping[str, str], now: datetime) -> dict[str, str]:
    """When each finding was first found, by `finding_key`: as `before` says, else now. Those not found any more are forgotten."""
    return {finding_key(f): before.get(finding_key(f), now.astimezone(UTC).isoformat(timespec="seconds")) for f in found}


def finding_key(found: Finding) -> str:
    """What tells one finding from another, whatever its figures are by now."""
    names = found.figures.get("names") or found.figures.get("partition_key") or ""
    return " / ".join(str(part) for part in (found.kind, found.job or "", found.step, names) if part)


def new_findings(found: Sequence[Finding], seen: Mapping[str, str], now: datetime) -> Verdict:
    """Whether anything was found that was not known `NEW_FOR` ago."""
    new = [f for f in found if now - datetime.fromisoformat(seen[finding_key(f)]) < NEW_FOR]
    figures = {"new": len(new), "findings": len(found)}
    if not new:
        known = f"{len(found)} known for longer." if found else "Nothing to notice in this history."
        return Verdict(True, f"No new finding in a day; {known}" if found else known, figures)
    more = f" And {len(new) - 3} more." if len(new) > 3 else ""
    return Verdict(False, f"{len(new)} new in a day: " + " ".join(f.sentence for f in new[:3]) + more, figures)


def suggestions_page(suggestions: Sequence[Suggestion], unreadable: Sequence[str] = ()) -> Page:
    """What should change, with the expected effect, its evidence, and how to make it so; and which versions could not be read."""
    table = [
        {
            "suggestion": s.suggestion_id,
            "expected": effect_text(s),
            "how to apply": how_to_apply(s),
        }
        for s in suggestions[:MOST_ROWS]
    ]
    texts = {
        "what to change": "\n".join(f"- {markdown(s.title)}" for s in suggestions[:4]) or "The history supports no suggestion."
    }
    for name in sorted({s.quantity for s in suggestions}):
        known = [
            (s, s.effect_low, s.effect, s.effect_high)
            for s in suggestions
            if s.quantity == name and s.effect is not None and s.effect_low is not None and s.effect_high is not None
        ]
        said = f"Expected change of {words(name)} per run, 90 % interval"
        small = [sketch.Row(s.step or s.workflow, low, at, high, quantity(at, name, signed=True)) for s, low, at, high in known]
        if drawn := sketch.intervals(said, small, zero=True):
            texts[f"effect on {words(name)}"] = drawn
        whole = [
            svg.Interval(f"{s.suggestion_id} {s.step or s.workflow}", low, at, high, quantity(at, name, signed=True))
            for s, low, at, high in known
        ]
        if len(known) > 1 and (picture := svg.picture(said, svg.interval_plot(said, whole, name, signed=True))):
            texts[f"effect on {words(name)}, all"] = picture
    if suggestions:
        texts["in full, with evidence"] = "\n\n---\n\n".join(in_full(s) for s in suggestions[:MOST_ROWS])
    if unreadable:
        texts["versions that cannot be read"] = "\n".join(f"- {markdown(said)}" for said in unreadable)
    columns = {"expected": "Per run, with the interval that holds 90 of 100 cases."}
    figures = {"number": len(suggestions)} | ({"unreadable workflows": len(unreadable)} if unreadable else {})
    return Page(figures, texts, {"all suggestions": Table(table, columns)})


def _days(con: Connection, now: datetime) -> str:
    """The runs asked for in each of the newest days, failed ones apart."""
    found = rows(
        con,
        """select created_at::date as day, count(*) filter (outcome = 'failure') as failed, count(*) as runs from runs
           where created_at > ?::timestamptz - to_days(?) group by 1""",
        [now, _DAYS],
    )
    by_day = {row["day"]: row for row in found}
    if not by_day:
        return ""
    first, last = min(by_day), max(by_day)
    days = [first + timedelta(days=place) for place in range((last - first).days + 1)]
    failed = [by_day[day]["failed"] if day in by_day else 0 for day in days]
    good = [by_day[day]["runs"] - by_day[day]["failed"] if day in by_day else 0 for day in days]
    return sketch.columns("Runs by day", good, failed, f"{len(days)} days to {last}, UTC; failed ones on top")


def _lost(found: Finding) -> float | None:
    lost = found.figures.get("lost_s")
    return float(lost) if isinstance(lost, int | float) else None


def behind_link(table: Table) -> str:
    """A table too wide for the page, as Markdown that Dagster shows when a link is clicked, with what its columns mean.

    A table that stands on the page itself makes the column of all values as wide as its longest words want it; what does not fit on the
    screen is cut, texts beside it too. So the tables of a page have few columns, and the whole stands here.
    """
    names = list(table.rows[0])
    lines = [
        names,
        ["---" for _ in names],
        *([markdown(str(row[name])) if row[name] is not None else "" for name in names] for row in table.rows),
    ]
    legend = [f"- **{name}**: {said}" for name, said in table.columns.items() if name in names]
    text = "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *legend])
    return text.ljust(sketch.LONGEST + 1)  # a shorter one would be shown in place


def whole(text: str) -> str:
    """A figure that a narrow column does not break between number and unit."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")
