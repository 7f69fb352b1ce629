"""The summary's figures are those of the tables, and its text fits and says what is not there."""

import json

import pytest

from workflows_pkg.report.summary import change_lines, evidence_line, render_summary, summary
from workflows_pkg.report.tables import cells_wide


def test_figures_are_those_of_the_records(con, sample):
    seen, records = summary(con), sample["records"]()
    runs = [record for record in records if record.table == "runs"]
    attempts = [record for record in records if record.table == "step_attempts"]
    assert seen.runs == len(runs)
    assert dict(seen.outcomes) == {name: sum(run.outcome == name for run in runs) for name in ("success", "failure", "canceled")}
    assert seen.attempts == len(attempts)
    assert seen.trial_runs == sum(run.trial_id is not None for run in runs)
    assert seen.retries == sum(attempt.attempt > 1 for attempt in attempts)
    assert seen.retry_wait_s == pytest.approx(sum(attempt.retry_wait_s or 0 for attempt in attempts))
    assert seen.cost_usd == pytest.approx(sum(run.cost_usd for run in runs))
    causes = {cause.cause: (cause.attempts, cause.retried) for cause in seen.causes}
    failed = [attempt for attempt in attempts if attempt.outcome == "failure"]
    assert causes == {
        name: (
            sum(attempt.failure_cause == name for attempt in failed),
            sum(attempt.failure_cause == name and attempt.will_retry for attempt in failed),
        )
        for name in ("dependency", "memory", "code")
    }
    assert {(quality.of, quality.quantity): quality.forecasts for quality in seen.forecasts}[("step", "run_time_s")] == 8
    assert [suggestion.suggestion_id for suggestion in seen.suggestions] == ["s-91bc"]
    assert [entry.verdict for entry in seen.ledger] == ["gain", "not shown", "not shown"]


def test_only_the_newest_forecast_of_each_thing_counts(con):
    (run_time,) = [quality for quality in summary(con).forecasts if (quality.of, quality.quantity) == ("run", "run_time_s")]
    assert (run_time.forecasts, run_time.error_share, run_time.rule_error_share) == (
        3,
        pytest.approx(0.13 - 0.04),
        pytest.approx(0.11),
    )


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_text_has_every_part_and_fits(con, width):
    text = render_summary(summary(con), width=width)
    for part in (
        "What ran",
        "Failed attempts by cause",
        "best in hindsight",
        "Suggestions",
        "Ledger",
        "steps.departures.timeout: none -> 12s",
    ):
        assert part in text
    figures = 96  # the ledger's figures are never cut, so this table asks for so much
    assert all(cells_wide(line) <= max(width, figures) for line in text.split("\n"))
    assert "\x1b" not in text
    assert "\x1b[32m" in render_summary(summary(con), colour=True)


def test_empty_history_is_said_to_be_empty(empty):
    assert summary(empty).runs == 0
    assert render_summary(summary(empty)).startswith("Nothing has run yet")


def test_changes_and_evidence_read_as_lines_and_survive_anything():
    assert change_lines('[{"path": "a.b", "before": null, "after": 3}]') == ["a.b: none -> 3"]
    assert change_lines("not json") == ["not json"]
    facts = {"failed_attempts": 3, "wait_s": 0.5, "retried": True, "query": "SELECT", "rows": [1]}
    assert evidence_line(json.dumps(facts)) == "failed attempts 3, wait 500 ms, retried true"
    assert evidence_line("[1]") == "[1]"
