"""What does a person see of a first look in a browser? One HTML file that works offline, in dark and light, and trusts no text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from workflows_pkg.advisor.findings import Finding
from workflows_pkg.report import look_plots, sections
from workflows_pkg.report.document import Section, document
from workflows_pkg.report.html_tables import Cell, Column, Row, escaped, figures, table, texts, tiles
from workflows_pkg.report.look import Look
from workflows_pkg.report.look_forecast import Compared, Overall
from workflows_pkg.report.tables import Tone, count, duration, instant, readable, share, usd

_MOST_FINDINGS = 12
_MOST_CROWDS = 30
_MOST_COMPARED = 100

_JOB = Column("job", lambda row: Cell(readable(row["job"])))
_SEVERITY: dict[str, Tone] = {"high": "bad", "medium": "warn", "low": "plain"}


def look_html(seen: Look) -> str:
    """The page as HTML text."""
    note = f"{seen.told.description}; {instant(seen.since)} to {instant(seen.until)} UTC; looked at {instant(seen.at)} UTC"
    return document(
        "A first look at this Dagster",
        note,
        f'<dl class="tiles">{_tiles(seen)}</dl>',
        [
            Section("suggestions", "Suggestions", _suggestions(seen)),
            *([Section("changed", "What changed", _changes(seen.changes))] if seen.changes else []),
            Section("findings", "What else stands out" if seen.changes else "What stands out", _findings(seen.others)),
            Section("time", "Where the time goes", "", {"p-time": look_plots.where_time_goes(seen)}, _jobs(seen)),
            Section("slow", "Slowest steps", _slowest(seen)),
            Section("failing", "Steps that fail most", _failing(seen)),
            Section("ticks", "Runs asked for within the same minute", "", {"p-asked": look_plots.asked_by_minute(seen)}, _crowds(seen)),
            Section(
                "forecast", "Forecast error beside the mean of ten", _errors(seen), {"p-errors": look_plots.forecast_errors(seen)},
                _compared(seen),
            ),
            Section("unseen", "What this could not see", _unseen(seen)),
            Section("next", "How to go on", _GO_ON),
        ],
    )  # fmt: skip


_GO_ON = """<div class="card"><p>Nothing was changed: no file of the instance, nothing in its databases. To have processor time, memory and
costs measured, and history, forecasts, findings and suggestions as assets that make themselves again, join in the module that makes your
definitions, where <code>mine</code> is what it makes today:</p>
<pre>import dagster as dg

from workflows_pkg.workbench.instrument import instrument
from workflows_pkg.workbench.workbench import workbench


@dg.definitions
def defs():
    mine = dg.Definitions()
    return dg.Definitions.merge(instrument(mine), workbench())</pre>
<p>With our run coordinator in the instance's <code>dagster.yaml</code>, the page of every run says before it starts what to expect:</p>
<pre>run_coordinator:
  module: workflows_pkg.instance.coordinator
  class: ForecastingRunCoordinator</pre>
<p>Suggested retries and timeouts are laid over your jobs by a file, <code>instrument(mine, tuning="tuning.yaml")</code>, and taken back
by removing the entry.</p></div>"""


def _tiles(seen: Look) -> str:
    ended = seen.runs - seen.open_runs
    failed = f"{count(seen.outcomes.get('failure', 0))} failed, {count(seen.outcomes.get('canceled', 0))} canceled"
    overall = seen.forecast.of_runs
    return tiles(
        [
            ("runs", count(seen.runs), f"of {count(len(seen.jobs))} jobs; {count(seen.events)} events read"),
            ("runs that succeeded", share(seen.outcomes.get("success", 0) / ended if ended else None), failed),
            (
                "time of all runs",
                duration(seen.total_s),
                f"{share(seen.part_share('queue_s', 'start_s', 'retry_wait_s'))} of it waiting: queue, start, retries",
            ),
            ("cost by an assumed rate", usd(seen.cost_usd), f"{count(seen.attempts)} step attempts"),
            (
                "error of run time forecasts",
                share(overall.error_share if overall else None),
                f"mean of ten: {share(overall.mean_of_ten_share)}" if overall else "too few outcomes to tell",
            ),
            (
                "findings",
                count(len(seen.findings)),
                f"{count(sum(found.severity == 'high' for found in seen.findings))} of high severity",
            ),
            ("suggestions", count(len(seen.suggestions)), "with evidence" if seen.suggestions else "none is supported"),
        ]
    )


def _suggestions(seen: Look) -> str:
    if not seen.suggestions:
        return (
            '<p class="card">None: no change of retries, run timeouts or schedules is supported by the evidence in this history. '
            "What stands out below may still deserve a look.</p>"
        )
    return "".join(sections.suggestion_card(suggestion) for suggestion in seen.suggestions)


def _changes(found: Sequence[Finding]) -> str:
    items = "".join(f"<p>{escaped(readable(finding.sentence))}</p>" for finding in found)
    return (
        f'<div class="card">{items}<p class="faint">Runs before and after are compared; what coincides need not be the cause. Every run '
        "that this rests on: keep what was read with <code>workflows look --keep FOLDER</code>, then <code>workflows changed --json --home "
        "FOLDER</code>.</p></div>"
    )


def _findings(found: Sequence[Finding]) -> str:
    if not found:
        return (
            '<p class="card">Nothing: no costly failures or retries, no step that became slower, no hung runs, '
            "no schedules in each other's way.</p>"
        )
    columns = [
        Column("severity", lambda row: Cell(row["severity"], tone=_SEVERITY[row["severity"]])),
        Column("what", lambda row: Cell(readable(row["sentence"]))),
        Column("time lost", lambda row: _figure_cell(row["figures"].get("lost_s"), duration), figures=True),
        Column("cost", lambda row: _figure_cell(row["figures"].get("lost_usd"), usd), figures=True),
    ]
    caption = (
        "The most severe first."
        if len(found) <= _MOST_FINDINGS
        else f"The {_MOST_FINDINGS} most severe of {len(found)}; --json has all."
    )
    queries = "".join(
        f"<dt>{escaped(readable(finding.sentence))}</dt><dd><pre>{escaped(finding.query)}</pre></dd>"
        for finding in found[:_MOST_FINDINGS]
    )
    recompute = (
        '<details class="card"><summary>The queries behind these</summary><p class="faint">Keep what was read with <code>workflows look '
        "--keep FOLDER</code>, then ask with <code>workflows history sql --home FOLDER</code>.</p>"
        f'<dl class="plain">{queries}</dl></details>'
    )
    return table(caption, columns, [vars(finding) for finding in found[:_MOST_FINDINGS]]) + recompute


def _figure_cell(value: float | None, write: Callable[[float | None], str]) -> Cell:
    return Cell(write(value), math.nan if value is None else value)


def _jobs(seen: Look) -> str:
    columns = [
        _JOB,
        figures("runs", "runs", count),
        figures("failed", "failed", count),
        figures("canceled", "canceled", count),
        figures("queue", "queue_s", duration),
        figures("start", "start_s", duration),
        figures("run", "run_s", duration),
        figures("retry wait", "retry_wait_s", duration),
        figures("in all", "total_s", duration),
        figures("waiting", "waiting", share),
        figures("cost", "cost_usd", usd),
    ]
    rows: list[Row] = []
    for job in seen.jobs:
        waiting = [part for part in (job.queue_s, job.start_s, job.retry_wait_s) if part is not None]
        rows.append({**vars(job), "waiting": sum(waiting) / job.total_s if waiting and job.total_s else None})
    return table(
        "Ended runs of each job, the longest in all first. 'Waiting' is queue, start and retry wait over all of it.",
        columns,
        rows,
    )


def _slowest(seen: Look) -> str:
    columns = [
        _JOB,
        texts("step", "step"),
        figures("attempts", "attempts", count),
        figures("median", "p50_s", duration),
        figures("95 % below", "p95_s", duration),
        figures("longest", "longest_s", duration),
        figures("in all", "total_s", duration),
        figures("share", "share", share),
        figures("cost", "cost_usd", usd),
    ]
    caption = (
        f"The {len(seen.slowest)} steps that took longest in all. "
        "Medians are of successful attempts; 'share' is of the time of all steps."
    )
    return table(caption, columns, [vars(step) for step in seen.slowest]) or '<p class="card">No step has run.</p>'


def _failing(seen: Look) -> str:
    columns = [
        _JOB,
        texts("step", "step"),
        figures("failures", "failures", count),
        figures("retried", "retried", count),
        figures("runs failed", "failure_share", share),
        texts("cause", "cause"),
        texts("error", "error_class"),
        figures("time lost", "lost_s", duration),
        figures("cost", "lost_usd", usd),
        Column("last", lambda row: Cell(instant(row["last_at"]))),
        texts("last message", "last_message"),
    ]
    caption = "Failed attempts by step. 'Time lost' is what the runs that the step ended had run, and what its retries took in other runs."
    return table(caption, columns, [_shortened(vars(step)) for step in seen.failing]) or '<p class="card">No step has failed.</p>'


def _shortened(row: Row) -> Row:
    message = row["last_message"]
    return {**row, "last_message": None if message is None else " ".join(str(message).split())[:160]}


def _crowds(seen: Look) -> str:
    rows = [
        {
            "names": ", ".join(crowd.names), "times": crowd.times, "runs": crowd.runs, "mean_s": crowd.mean_s if crowd.asked else None,
            "alone_s": crowd.alone_s if crowd.alone_runs else None, "lost_s": crowd.lost_s if crowd.alone_runs else None,
            "costs": "yes" if crowd.costs else "unknown" if not crowd.alone_runs else "not shown",
        }
        for crowd in seen.crowds[:_MOST_CROWDS]
    ]  # fmt: skip
    columns = [
        texts("schedules and sensors", "names"),
        figures("times", "times", count),
        figures("runs", "runs", count),
        figures("queue", "mean_s", duration),
        figures("queue alone", "alone_s", duration),
        figures("lost in all", "lost_s", duration),
        texts("makes them wait", "costs"),
    ]
    caption = (
        "Those that asked within the same minute again and again. Queue times are means; 'queue alone' is of runs asked for "
        "in a minute of their own."
    )
    return (
        table(caption, columns, rows)
        or '<p class="card">No two schedules or sensors asked for runs within the same minute again and again.</p>'
    )


def _errors(seen: Look) -> str:
    lines = [_said("of whole runs", "jobs", seen.forecast.of_runs), _said("of steps", "steps", seen.forecast.of_steps)]
    replayed = (
        f"Replayed: the newest {count(seen.forecast.runs_replayed)} of {count(seen.forecast.runs)} runs, and the newest "
        f"{count(seen.forecast.attempts_replayed)} of {count(seen.forecast.attempts)} step attempts."
    )
    return f'<div class="card">{"".join(f"<p>{escaped(line)}</p>" for line in lines if line)}<p class="faint">{escaped(replayed)}</p></div>'


def _said(what: str, things: str, overall: Overall | None) -> str:
    if overall is None:
        return f"Forecasts {what}: too few outcomes to compare."
    ours, ten, best = share(overall.error_share), share(overall.mean_of_ten_share), share(overall.best_rule_share)
    return (
        f"Forecasts {what} would have been off by {ours}; the mean of the last ten by {ten}; the best simple rule of each, known only "
        f"afterwards, by {best} (means of the medians of {count(overall.compared)} {things}). "
        f"Better than the mean of ten in {count(overall.better)} of {count(overall.compared)}."
    )


def _compared(seen: Look) -> str:
    columns = [
        _JOB,
        Column("step", lambda row: Cell(row["step"] or "whole run")),
        figures("outcomes", "outcomes", count),
        figures("this forecast", "error_share", share),
        figures("mean of ten", "mean_of_ten_share", share),
        figures("best simple rule", "best_rule_share", share),
        Column("which rule", lambda row: Cell(row["best_rule"].replace("_", " "))),
    ]
    found: list[Compared] = [*seen.forecast.jobs, *seen.forecast.steps][:_MOST_COMPARED]
    return table("Median error over the true run time, of successful runs and attempts.", columns, [vars(row) for row in found])


def _unseen(seen: Look) -> str:
    items = "".join(f"<dt>{escaped(what)}</dt><dd>{escaped(why)}</dd>" for what, why in seen.unseen)
    return f'<div class="card"><dl class="plain">{items}</dl></div>'
