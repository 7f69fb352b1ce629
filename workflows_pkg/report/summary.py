"""What has happened so far, in one screen? Runs, attempts, failures, forecasts, cost, suggestions and the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflows_pkg.history.records import LedgerEntry, Suggestion
from workflows_pkg.report.reading import Connection, records, rows
from workflows_pkg.report.tables import (
    Cell,
    Column,
    Tone,
    count,
    duration,
    instant,
    paint,
    printable,
    quantity,
    share,
    text_table,
    unknown,
    usd,
    words,
)

OUTCOME_TONES: dict[str, Tone] = {"success": "good", "failure": "bad", "canceled": "warn"}
VERDICT_TONES: dict[str, Tone] = {"gain": "good", "no gain": "bad", "not shown": "warn"}

LATEST_FORECASTS = """
    SELECT job_name, step, quantity, p05, p50, p95, sample_count, predictor, error_share, best_rule, best_rule_error_share, as_of
    FROM forecasts
    QUALIFY row_number() OVER (PARTITION BY job_name, step, quantity ORDER BY as_of DESC) = 1
"""
"""One row per thing forecast: its newest forecast."""

_BULKY = ("query", "sql", "rows", "spec")
"""Parts of the evidence that are for recomputing it, too long to be read in a line."""


@dataclass(frozen=True)
class Cause:
    """Failed attempts of one cause: how many, how many of them were followed by another attempt, the step most concerned."""

    cause: str
    attempts: int
    retried: int
    most_in: str


@dataclass(frozen=True)
class ForecastQuality:
    """The newest forecasts of one quantity, of runs or of steps.

    `error_share` and `rule_error_share` are medians over the forecasts that have both: our error and that of the best simple
    rule on the same rows. `no_worse_share` is the share of them where ours is not the larger one.
    """

    of: str
    quantity: str
    forecasts: int
    error_share: float | None
    rule_error_share: float | None
    no_worse_share: float | None


@dataclass(frozen=True)
class Summary:
    """Figures of a whole history. `outcomes` and `attempt_outcomes` are (outcome, count), the most frequent first."""

    since: datetime | None
    until: datetime | None
    outcomes: tuple[tuple[str, int], ...]
    trial_runs: int
    attempt_outcomes: tuple[tuple[str, int], ...]
    retries: int
    retry_wait_s: float | None
    run_time_s: float | None
    cost_usd: float | None
    retry_cost_usd: float | None
    causes: tuple[Cause, ...]
    forecasts: tuple[ForecastQuality, ...]
    suggestions: tuple[Suggestion, ...]
    ledger: tuple[LedgerEntry, ...]

    @property
    def runs(self) -> int:
        """Runs in all."""
        return sum(number for _, number in self.outcomes)

    @property
    def attempts(self) -> int:
        """Attempts in all."""
        return sum(number for _, number in self.attempt_outcomes)


def summary(con: Connection) -> Summary:
    """The summary of the history behind `con`; an empty history gives a summary of nothing."""
    runs = rows(
        con,
        """SELECT min(created_at) AS since, max(coalesce(ended_at, created_at)) AS until, count(trial_id) AS trial_runs,
                  sum(run_time_s) AS run_time_s, sum(cost_usd) AS cost_usd FROM runs""",
    )[0]
    attempts = rows(
        con,
        """SELECT count(*) FILTER (attempt > 1) AS retries, sum(retry_wait_s) AS retry_wait_s,
                  sum(cost_usd) FILTER (attempt > 1) AS retry_cost_usd FROM step_attempts""",
    )[0]
    return Summary(
        since=runs["since"],
        until=runs["until"],
        outcomes=_outcomes(con, "runs"),
        trial_runs=runs["trial_runs"],
        attempt_outcomes=_outcomes(con, "step_attempts"),
        retries=attempts["retries"],
        retry_wait_s=attempts["retry_wait_s"],
        run_time_s=runs["run_time_s"],
        cost_usd=runs["cost_usd"],
        retry_cost_usd=attempts["retry_cost_usd"],
        causes=_causes(con),
        forecasts=_forecasts(con),
        suggestions=tuple(records(con, Suggestion, "WHERE status = 'open' ORDER BY effect NULLS LAST, suggestion_id")),
        ledger=tuple(records(con, LedgerEntry, "ORDER BY decided_at, trial_id")),
    )


def render_summary(summary: Summary, *, width: int = 100, colour: bool = False) -> str:
    """The summary as text of at most `width` cells a line."""
    if not summary.runs:
        return "Nothing has run yet. Run a workflow, then sync the history."
    parts = [_what_ran(summary, colour)]
    if summary.causes:
        parts.append(_heading("Failed attempts by cause", colour) + "\n" + _causes_table(summary.causes, width, colour))
    parts.append(
        _heading("Forecasts beside the simple rule that was best in hindsight (median error)", colour)
        + "\n"
        + _forecast_table(summary, width)
    )
    parts.append(_heading("Suggestions", colour) + "\n" + _suggestions(summary.suggestions, width, colour))
    parts.append(
        _heading("Ledger: predicted beside realised change per run", colour) + "\n" + ledger_table(summary.ledger, width, colour)
    )
    return "\n\n".join(parts)


def ledger_table(ledger: Sequence[LedgerEntry], width: int = 100, colour: bool = False) -> str:
    """The ledger as a text table."""
    columns = [
        Column("workflow"),
        Column("version", whole=True),
        Column("quantity"),
        Column("predicted", figures=True),
        Column("realised", figures=True),
        Column("95 % interval", figures=True),
        Column("pairs", figures=True),
        Column("verdict", whole=True),
    ]
    lines = [
        [
            entry.workflow,
            f"{entry.baseline_version} -> {entry.version}",
            words(entry.quantity),
            quantity(entry.predicted, entry.quantity, signed=True),
            quantity(entry.realised, entry.quantity, signed=True),
            interval_text(entry.realised_low, entry.realised_high, entry.quantity),
            count(entry.pairs),
            Cell(entry.verdict, VERDICT_TONES.get(entry.verdict, "plain")),
        ]
        for entry in ledger
    ]
    return text_table(columns, lines, width=width, colour=colour, indent=2)


def interval_text(low: float | None, high: float | None, name: str) -> str:
    """An interval in the unit of the quantity: '-1.9 s … -0.4 s'; '-' where an end is unknown."""
    if unknown(low) or unknown(high):
        return "-"
    return f"{quantity(low, name, signed=True)} … {quantity(high, name, signed=True)}"


def change_lines(change: str) -> list[str]:
    """The changed fields of a suggestion, one a line: 'steps.score.retry.delay: 1s -> 300ms'."""
    value = _json(change)
    entries: list[Any] = value if isinstance(value, list) else [value]
    lines: list[str] = []
    for entry in entries:
        if isinstance(entry, dict) and "path" in entry:
            lines.append(f"{entry['path']}: {_short(entry.get('before'))} -> {_short(entry.get('after'))}")
        else:
            lines.append(_short(entry))
    return lines


def evidence_line(evidence: str) -> str:
    """The figures behind a suggestion in a line, without the query and rows that recompute them."""
    value = _json(evidence)
    if not isinstance(value, dict):
        return _short(value)
    return ", ".join(
        f"{words(str(name))} {quantity(fact, str(name)) if _is_figure(fact) else _short(fact)}"
        for name, fact in value.items()
        if name not in _BULKY and not isinstance(fact, list | dict)
    )


def _is_figure(fact: object) -> bool:
    return isinstance(fact, int | float) and not isinstance(fact, bool)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _short(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _outcomes(con: Connection, table: str) -> tuple[tuple[str, int], ...]:
    found = rows(
        con, f"SELECT coalesce(outcome, 'open') AS outcome, count(*) AS number FROM {table} GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    return tuple((row["outcome"], row["number"]) for row in found)


def _causes(con: Connection) -> tuple[Cause, ...]:
    found = rows(
        con,
        """SELECT coalesce(failure_cause, 'unknown') AS cause, count(*) AS attempts, count(*) FILTER (will_retry) AS retried,
                  mode(coalesce(workflow, job_name) || ' / ' || step ORDER BY step) AS most_in
           FROM step_attempts WHERE outcome = 'failure' GROUP BY 1 ORDER BY 2 DESC, 1""",
    )
    return tuple(Cause(row["cause"], row["attempts"], row["retried"], row["most_in"]) for row in found)


def _forecasts(con: Connection) -> tuple[ForecastQuality, ...]:
    found = rows(
        con,
        f"""SELECT CASE step WHEN '' THEN 'run' ELSE 'step' END AS "of", quantity, count(*) AS forecasts,
                   median(error_share) FILTER (scored) AS error_share,
                   median(best_rule_error_share) FILTER (scored) AS rule_error_share,
                   avg((error_share <= best_rule_error_share)::INT) FILTER (scored) AS no_worse_share
            FROM (SELECT *, error_share IS NOT NULL AND best_rule_error_share IS NOT NULL AS scored FROM ({LATEST_FORECASTS}))
            GROUP BY 1, 2 ORDER BY 1, 2""",
    )
    return tuple(ForecastQuality(**row) for row in found)


def _heading(text: str, colour: bool) -> str:
    return paint(text, "bold", colour=colour)


def _what_ran(summary: Summary, colour: bool) -> str:
    trials = f" ({count(summary.trial_runs)} for trials)" if summary.trial_runs else ""
    lines = [
        _heading("What ran", colour) + f"  {instant(summary.since)} to {instant(summary.until)} UTC",
        f"  {count(summary.runs)} runs{trials}: {_listed(summary.outcomes, colour)}",
        f"  {count(summary.attempts)} step attempts: {_listed(summary.attempt_outcomes, colour)}",
        f"  {count(summary.retries)} were retries; steps waited {duration(summary.retry_wait_s or 0)} for them",
        f"  {duration(summary.run_time_s)} of run time, {usd(summary.cost_usd)} by the rate card"
        + (f", {usd(summary.retry_cost_usd)} of it for retries" if summary.retry_cost_usd else ""),
    ]
    return "\n".join(lines)


def _listed(outcomes: Sequence[tuple[str, int]], colour: bool) -> str:
    return ", ".join(
        f"{count(number)} {paint(outcome, OUTCOME_TONES.get(outcome, 'plain'), colour=colour)}" for outcome, number in outcomes
    )


def _causes_table(causes: Sequence[Cause], width: int, colour: bool) -> str:
    columns = [Column("cause"), Column("attempts", figures=True), Column("retried", figures=True), Column("most often in")]
    lines = [[cause.cause, count(cause.attempts), count(cause.retried), cause.most_in] for cause in causes]
    return text_table(columns, lines, width=width, colour=colour, indent=2)


def _forecast_table(summary: Summary, width: int) -> str:
    columns = [
        Column("of"), Column("quantity"), Column("forecasts", figures=True), Column("our error", figures=True),
        Column("best rule", figures=True), Column("ours no worse", figures=True),
    ]  # fmt: skip
    lines = [
        [
            quality.of, words(quality.quantity), count(quality.forecasts), share(quality.error_share),
            share(quality.rule_error_share), share(quality.no_worse_share),
        ]
        for quality in summary.forecasts
    ]  # fmt: skip
    return text_table(columns, lines, width=width, indent=2)


def _suggestions(suggestions: Sequence[Suggestion], width: int, colour: bool) -> str:
    if not suggestions:
        return "  (none open)"
    parts: list[str] = []
    for suggestion in suggestions:
        effect = quantity(suggestion.effect, suggestion.quantity, signed=True)
        span = interval_text(suggestion.effect_low, suggestion.effect_high, suggestion.quantity)
        parts.append(
            f"  {paint(printable(suggestion.suggestion_id), 'bold', colour=colour)}  {_cut(suggestion.title, width - 16)}"
        )
        parts += [f"    change    {_cut(line, width - 14)}" for line in change_lines(suggestion.change)]
        parts.append(f"    effect    {words(suggestion.quantity)} {effect} per run, 90 % interval {span}")
        parts.append(f"    evidence  {_cut(evidence_line(suggestion.evidence), width - 14)}")
    return "\n".join(parts)


def _cut(text: str, room: int) -> str:
    return text_table([Column("x")], [[text]], width=max(room, 20)).split("\n")[1]
