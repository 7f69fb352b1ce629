"""What stands on the page beside the plots? Headline figures and sortable tables as HTML; every text is escaped here."""

from __future__ import annotations

import json
from collections.abc import Sequence

from workflows_pkg.history.records import LedgerEntry, Suggestion
from workflows_pkg.report import html_tables
from workflows_pkg.report.html_tables import Cell, Column, escaped, figures, in_unit, table, texts
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
from workflows_pkg.report.tables import count, duration, instant, quantity, readable, share, usd, words

_MOST_RUNS = 200
_MOST_STEPS = 100
_MOST_FORECASTS = 200


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
    return html_tables.tiles(facts)


def runs(con: Connection, seen: Summary) -> str:
    """The latest runs."""
    found = rows(
        con,
        f"""SELECT *, coalesce(workflow, job_name) AS named, coalesce(outcome, 'open') AS ended, left(run_id, 8) AS short_id
            FROM runs ORDER BY created_at DESC, run_id LIMIT {_MOST_RUNS}""",
    )
    columns = [
        Column("asked for", lambda row: Cell(instant(row["created_at"]))),
        texts("workflow", "named"),
        figures("version", "version", count),
        texts("partition", "partition_key"),
        Column("outcome", lambda row: Cell(row["ended"], tone=OUTCOME_TONES.get(row["ended"], "plain"))),
        texts("trigger", "trigger"),
        figures("queue", "queue_time_s", duration),
        figures("start", "start_time_s", duration),
        figures("run", "run_time_s", duration),
        figures("retry wait", "retry_wait_s", duration),
        figures("attempts", "attempt_count", count),
        figures("cost", "cost_usd", usd),
        texts("run id", "short_id"),
    ]
    latest = f"The latest {len(found)} of {count(seen.runs)} runs." if seen.runs > len(found) else "All runs, the latest first."
    return table(latest, columns, found)


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
        texts("workflow", "named"),
        texts("step", "step"),
        figures("attempts", "attempts", count),
        figures("failed", "failed", count),
        figures("retries", "retries", count),
        figures("median", "p50", duration),
        figures("95 % below", "p95", duration),
        figures("in all", "total", duration),
        figures("retry wait", "waited", duration),
        figures("peak memory", "peak_memory_mib", lambda value: quantity(value, "peak_memory_mib")),
        figures("cost", "cost", usd),
    ]
    return table("Steps, the longest in all first. Medians are of successful attempts.", columns, found)


def forecasts(con: Connection) -> str:
    """The newest forecasts with their errors."""
    found = rows(con, f"{LATEST_FORECASTS} ORDER BY job_name, step, quantity LIMIT {_MOST_FORECASTS}")
    columns = [
        texts("job", "job_name"),
        Column("step", lambda row: Cell(row["step"] or "whole run")),
        Column("quantity", lambda row: Cell(words(row["quantity"]))),
        in_unit("5 %", "p05"),
        in_unit("50 %", "p50"),
        in_unit("95 %", "p95"),
        figures("error", "error_share", share),
        figures("simple rule's error", "best_rule_error_share", share),
        texts("simple rule", "best_rule"),
        texts("made by", "predictor"),
        figures("outcomes", "sample_count", count),
    ]
    return table("The newest forecasts, for the next run: so many of 100 outcomes lie below the figure.", columns, found)


def causes(seen: Summary) -> str:
    """Failed attempts by cause."""
    columns = [
        texts("cause", "cause"),
        figures("attempts", "attempts", count),
        figures("retried", "retried", count),
        texts("most often in", "most_in"),
    ]
    return table("Failed attempts by cause.", columns, [vars(cause) for cause in seen.causes])


def ledger(entries: Sequence[LedgerEntry]) -> str:
    """Predicted beside realised change of every suggestion that was tried."""
    columns = [
        Column("decided", lambda row: Cell(instant(row["decided_at"]))),
        texts("workflow", "workflow"),
        Column("version", lambda row: Cell(f"{row['baseline_version']} → {row['version']}")),
        Column("quantity", lambda row: Cell(words(row["quantity"]))),
        in_unit("predicted", "predicted", signed=True),
        in_unit("realised", "realised", signed=True),
        Column("95 % interval", lambda row: Cell(interval_text(row["realised_low"], row["realised_high"], row["quantity"]))),
        figures("pairs", "pairs", count),
        Column("verdict", lambda row: Cell(row["verdict"], tone=VERDICT_TONES.get(row["verdict"], "plain"))),
        texts("test", "test"),
    ]
    return table("Change per run, new minus old.", columns, [vars(entry) for entry in entries])


def suggestions(open_ones: Sequence[Suggestion]) -> str:
    """The open suggestions with change, effect and evidence."""
    if not open_ones:
        return '<p class="card">No suggestion is open.</p>'
    return "".join(suggestion_card(suggestion) for suggestion in open_ones)


def suggestion_card(suggestion: Suggestion) -> str:
    """One suggestion with its change, effect and evidence; `based_on` 0 is a job without versions."""
    changes = "<br>".join(f"<code>{escaped(line)}</code>" for line in change_lines(suggestion.change))
    try:
        evidence = json.dumps(json.loads(suggestion.evidence), indent=2, ensure_ascii=False)
    except ValueError:
        evidence = suggestion.evidence
    place = escaped(readable(" / ".join(part for part in (suggestion.workflow, suggestion.step) if part)))
    version = f", version {suggestion.based_on}" if suggestion.based_on else ""
    return f"""<article class="card suggestion"><h3>{escaped(readable(suggestion.title))}</h3>
<dl><dt>suggestion</dt><dd><code>{escaped(suggestion.suggestion_id)}</code> for {place}{version}</dd>
<dt>change</dt><dd>{changes}</dd>
<dt>effect</dt><dd>{escaped(effect_text(suggestion))}</dd>
<dt>evidence</dt><dd>{escaped(evidence_line(suggestion.evidence))}<details><summary>all of it, to recompute</summary>
<pre>{escaped(evidence)}</pre></details></dd></dl></article>"""


def effect_text(suggestion: Suggestion) -> str:
    """The expected change per run with its interval; of a first retry, bounds, since how fast the trouble passed is not recorded."""
    span = interval_text(suggestion.effect_low, suggestion.effect_high, suggestion.quantity)
    if suggestion.kind == "job_retry":
        return f"share of runs that fail: {span}; how soon after a failure the trouble was over is not recorded, hence the width"
    effect = quantity(suggestion.effect, suggestion.quantity, signed=True)
    return f"{words(suggestion.quantity)} {effect} per run, 90 % interval {span}"
