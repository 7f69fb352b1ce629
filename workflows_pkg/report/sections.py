"""What stands on the page beside the plots? Headline figures and sortable tables as HTML; every text is escaped here."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workflows_pkg.history.records import LedgerEntry, Suggestion
from workflows_pkg.report.reading import Connection, rows
from workflows_pkg.report.summary import (
    LATEST_FORECASTS,
    OUTCOME_TONES,
    VERDICT_TONES,
    Summary,
    change_lines,
    evidence_line,
    interval_text,
)
from workflows_pkg.report.tables import Tone, count, duration, instant, quantity, share, usd, words

_MOST_RUNS = 200
_MOST_STEPS = 100
_MOST_FORECASTS = 200
_LONG = 40
"""A cell with more characters than this is broken into lines; shorter ones stay whole and the table scrolls."""

Row = dict[str, Any]


@dataclass(frozen=True)
class _Cell:
    """A table's cell: what is read, and for figures what is sorted by (NaN: unknown, last)."""

    text: str
    sort: float | None = None
    tone: Tone = "plain"


@dataclass(frozen=True)
class _Column:
    """A column: its title and how a row's cell is made."""

    title: str
    cell: Callable[[Row], _Cell]
    figures: bool = False


def escaped(text: object) -> str:
    """Text for HTML, inside elements and attributes."""
    return html.escape(str(text))


def tiles(seen: Summary) -> str:
    """The headline figures."""
    outcomes, attempts = dict(seen.outcomes), dict(seen.attempt_outcomes)
    ended = seen.runs - outcomes.get("open", 0)
    run_time = next((quality for quality in seen.forecasts if (quality.of, quality.quantity) == ("run", "run_time_s")), None)
    failed = f"{count(outcomes.get('failure', 0))} failed, {count(outcomes.get('canceled', 0))} canceled"
    facts = [
        ("runs", count(seen.runs), failed + (f", {count(seen.trial_runs)} for trials" if seen.trial_runs else "")),
        ("runs that succeeded", share(outcomes.get("success", 0) / ended if ended else None), "of those that ended"),
        (
            "step attempts",
            count(seen.attempts),
            f"{count(attempts.get('failure', 0))} failed; {count(seen.retries)} were retries",
        ),
        ("waited between attempts", duration(seen.retry_wait_s or 0.0), f"of {duration(seen.run_time_s)} run time in all"),
        ("cost by the rate card", usd(seen.cost_usd), f"{usd(seen.retry_cost_usd or 0.0)} of it for retries"),
        (
            "error of run time forecasts",
            share(run_time.error_share if run_time else None),
            f"rule best in hindsight: {share(run_time.rule_error_share)}" if run_time else "too few outcomes yet",
        ),
        ("open suggestions", count(len(seen.suggestions)), "with evidence, below"),
        (
            "suggestions tried",
            count(len(seen.ledger)),
            f"{count(sum(entry.verdict == 'gain' for entry in seen.ledger))} with a gain",
        ),
    ]
    return "".join(
        f'<div class="tile"><dd>{escaped(figure)} <small>{escaped(note)}</small></dd><dt>{escaped(name)}</dt></div>'
        for name, figure, note in facts
    )


def runs(con: Connection, seen: Summary) -> str:
    """The latest runs."""
    found = rows(
        con,
        f"""SELECT *, coalesce(workflow, job_name) AS named, coalesce(outcome, 'open') AS ended, left(run_id, 8) AS short_id
            FROM runs ORDER BY created_at DESC, run_id LIMIT {_MOST_RUNS}""",
    )
    columns = [
        _Column("asked for", lambda row: _Cell(instant(row["created_at"]))),
        _texts("workflow", "named"),
        _figures("version", "version", count),
        _texts("partition", "partition_key"),
        _Column("outcome", lambda row: _Cell(row["ended"], tone=OUTCOME_TONES.get(row["ended"], "plain"))),
        _texts("trigger", "trigger"),
        _figures("queue", "queue_time_s", duration),
        _figures("start", "start_time_s", duration),
        _figures("run", "run_time_s", duration),
        _figures("retry wait", "retry_wait_s", duration),
        _figures("attempts", "attempt_count", count),
        _figures("cost", "cost_usd", usd),
        _texts("run id", "short_id"),
    ]
    latest = f"The latest {len(found)} of {count(seen.runs)} runs." if seen.runs > len(found) else "All runs, the latest first."
    return _table(latest, columns, found)


def steps(con: Connection) -> str:
    """Each step's attempts, durations and cost."""
    found = rows(
        con,
        f"""SELECT coalesce(workflow, job_name) AS named, step, count(*) AS attempts,
                   count(*) FILTER (outcome = 'failure') AS failed, count(*) FILTER (attempt > 1) AS retries,
                   quantile_cont(run_time_s, 0.5) FILTER (outcome = 'success') AS p50,
                   quantile_cont(run_time_s, 0.95) FILTER (outcome = 'success') AS p95, sum(run_time_s) AS total,
                   sum(retry_wait_s) AS waited, max(peak_memory_mib) AS peak_memory_mib, sum(cost_usd) AS cost
            FROM step_attempts GROUP BY 1, 2 ORDER BY total DESC NULLS LAST, 1, 2 LIMIT {_MOST_STEPS}""",
    )
    columns = [
        _texts("workflow", "named"),
        _texts("step", "step"),
        _figures("attempts", "attempts", count),
        _figures("failed", "failed", count),
        _figures("retries", "retries", count),
        _figures("median", "p50", duration),
        _figures("95 % below", "p95", duration),
        _figures("in all", "total", duration),
        _figures("retry wait", "waited", duration),
        _figures("peak memory", "peak_memory_mib", lambda value: quantity(value, "peak_memory_mib")),
        _figures("cost", "cost", usd),
    ]
    return _table("Steps, the longest in all first. Medians are of successful attempts.", columns, found)


def forecasts(con: Connection) -> str:
    """The newest forecasts with their errors."""
    found = rows(con, f"{LATEST_FORECASTS} ORDER BY job_name, step, quantity LIMIT {_MOST_FORECASTS}")
    columns = [
        _texts("job", "job_name"),
        _Column("step", lambda row: _Cell(row["step"] or "whole run")),
        _Column("quantity", lambda row: _Cell(words(row["quantity"]))),
        _in_unit("5 %", "p05"),
        _in_unit("50 %", "p50"),
        _in_unit("95 %", "p95"),
        _figures("error", "error_share", share),
        _figures("simple rule's error", "best_rule_error_share", share),
        _texts("simple rule", "best_rule"),
        _texts("made by", "predictor"),
        _figures("outcomes", "sample_count", count),
    ]
    return _table("The newest forecasts, for the next run: so many of 100 outcomes lie below the figure.", columns, found)


def causes(seen: Summary) -> str:
    """Failed attempts by cause."""
    columns = [
        _texts("cause", "cause"),
        _figures("attempts", "attempts", count),
        _figures("retried", "retried", count),
        _texts("most often in", "most_in"),
    ]
    return _table("Failed attempts by cause.", columns, [vars(cause) for cause in seen.causes])


def ledger(entries: Sequence[LedgerEntry]) -> str:
    """Predicted beside realised change of every suggestion that was tried."""
    columns = [
        _Column("decided", lambda row: _Cell(instant(row["decided_at"]))),
        _texts("workflow", "workflow"),
        _Column("version", lambda row: _Cell(f"{row['baseline_version']} → {row['version']}")),
        _Column("quantity", lambda row: _Cell(words(row["quantity"]))),
        _in_unit("predicted", "predicted", signed=True),
        _in_unit("realised", "realised", signed=True),
        _Column("95 % interval", lambda row: _Cell(interval_text(row["realised_low"], row["realised_high"], row["quantity"]))),
        _figures("pairs", "pairs", count),
        _Column("verdict", lambda row: _Cell(row["verdict"], tone=VERDICT_TONES.get(row["verdict"], "plain"))),
        _texts("test", "test"),
    ]
    return _table("Change per run, new minus old.", columns, [vars(entry) for entry in entries])


def suggestions(open_ones: Sequence[Suggestion]) -> str:
    """The open suggestions with change, effect and evidence."""
    if not open_ones:
        return '<p class="card">No suggestion is open.</p>'
    return "".join(_suggestion(suggestion) for suggestion in open_ones)


def _suggestion(suggestion: Suggestion) -> str:
    effect = quantity(suggestion.effect, suggestion.quantity, signed=True)
    span = interval_text(suggestion.effect_low, suggestion.effect_high, suggestion.quantity)
    changes = "<br>".join(f"<code>{escaped(line)}</code>" for line in change_lines(suggestion.change))
    try:
        evidence = json.dumps(json.loads(suggestion.evidence), indent=2, ensure_ascii=False)
    except ValueError:
        evidence = suggestion.evidence
    place = f"{escaped(suggestion.workflow)} / {escaped(suggestion.step)}, version {suggestion.based_on}"
    return f"""<article class="card suggestion"><h3>{escaped(suggestion.title)}</h3>
<dl><dt>suggestion</dt><dd><code>{escaped(suggestion.suggestion_id)}</code> for {place}</dd>
<dt>change</dt><dd>{changes}</dd>
<dt>effect</dt><dd>{escaped(words(suggestion.quantity))} {escaped(effect)} per run, 90 % interval {escaped(span)}</dd>
<dt>evidence</dt><dd>{escaped(evidence_line(suggestion.evidence))}<details><summary>all of it, to recompute</summary>
<pre>{escaped(evidence)}</pre></details></dd></dl></article>"""


def _texts(title: str, name: str) -> _Column:
    return _Column(title, lambda row: _Cell("-" if row[name] is None else str(row[name])))


def _figures(title: str, name: str, write: Callable[[float | None], str]) -> _Column:
    return _Column(title, lambda row: _Cell(write(row[name]), math.nan if row[name] is None else float(row[name])), figures=True)


def _in_unit(title: str, name: str, *, signed: bool = False) -> _Column:
    """Figures in the unit of the row's quantity."""

    def cell(row: Row) -> _Cell:
        value = row[name]
        return _Cell(quantity(value, row["quantity"], signed=signed), math.nan if value is None else float(value))

    return _Column(title, cell, figures=True)


def _table(caption: str, columns: Sequence[_Column], found: Sequence[Row]) -> str:
    """A table that sorts by the heading that is clicked; nothing where there are no rows."""
    if not found:
        return ""
    heads = "".join(
        f'<th scope="col"{" class=figure" if column.figures else ""}><button type="button">{escaped(column.title)}</button></th>'
        for column in columns
    )
    body = "".join("<tr>" + "".join(_td(column.cell(row)) for column in columns) + "</tr>" for row in found)
    return (
        f'<div class="card"><div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}"><table>'
        f"<caption>{escaped(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _td(cell: _Cell) -> str:
    if cell.sort is not None:
        key = repr(cell.sort) if math.isfinite(cell.sort) else ""
        return f'<td class="figure" data-sort="{key}">{escaped(cell.text)}</td>'
    kind = "long" if len(cell.text) > _LONG else "text"
    tone = "" if cell.tone == "plain" else f" {cell.tone}"
    return f'<td class="{kind}{tone}">{escaped(cell.text)}</td>'
