"""What the workbench's pages say of findings, suggestions and errors: new once, exact commands, and warnings that are not chance."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from workflows_pkg.advisor.findings import Finding
from workflows_pkg.history.records import Forecast, Suggestion
from workflows_pkg.report.advice_text import how_to_apply, in_full, markdown
from workflows_pkg.report.asset_forecasts import LEAST_OUTCOMES, error_check
from workflows_pkg.report.asset_pages import (
    NEW_FOR,
    Table,
    behind_link,
    finding_key,
    findings_page,
    first_seen,
    landed,
    new_findings,
    suggestions_page,
)
from workflows_pkg.report.sketch import LONGEST

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def finding(job: str = "etl", kind: str = "failures_cost", **figures: Any) -> Finding:
    return Finding(kind, job, "load", "high", f"{job} fails.", {"lost_s": 90.0, **figures}, "select 1")  # type: ignore[arg-type]


def suggestion(kind: str = "retry_policy", based_on: int = 3, **changes: Any) -> Suggestion:
    given: dict[str, Any] = {
        "suggestion_id": "0a1b2c3d4e", "kind": kind, "workflow": "etl", "step": "load", "based_on": based_on, "title": "Wait less.",
        "change": json.dumps([{"path": "steps.load.retry.delay", "before": "1s", "after": "300ms"}]), "spec": "{}",
        "evidence": json.dumps({"failed_attempts": 24, "query": "select 1", "assumed": ["failures stay alike"]}),
        "quantity": "step_time_s", "effect": -0.6, "effect_low": -1.1, "effect_high": -0.2, "created_at": NOW,
    }  # fmt: skip
    return Suggestion(**given | changes)


def forecast(job: str, error: float | None, best: float | None, n: int = 30) -> Forecast:
    return Forecast(
        job_name=job, step="", quantity="run_time_s", p05=1, p50=2, p95=3, sample_count=n, predictor="median", error_share=error,
        best_rule="median", best_rule_error_share=best, as_of=NOW,
    )  # fmt: skip


def test_a_finding_is_new_for_a_day_and_then_known() -> None:
    seen = first_seen([finding()], {}, NOW)
    assert not new_findings([finding()], seen, NOW).passed
    later = NOW + NEW_FOR
    carried = first_seen([finding(lost_s=99.0), finding("other")], seen, later)
    assert carried[finding_key(finding())] == seen[finding_key(finding())]
    verdict = new_findings([finding(), finding("other")], carried, later)
    assert (verdict.passed, verdict.figures["new"]) == (False, 1)
    assert "other fails." in verdict.sentence
    assert new_findings([finding()], carried, later).passed
    assert first_seen([], carried, later) == {}


def test_the_findings_page_shows_since_when_each_is_known() -> None:
    page = findings_page([finding()], first_seen([finding()], {}, NOW))
    (row,) = page.tables["all findings"].rows
    assert (row["finding"], row["time lost"]) == ("etl fails. First found 2026-03-01 12:00 UTC.", "1m30s")
    assert page.documents["queries"] == {"etl fails.": "select 1"}


def test_figures_texts_tables_and_documents_have_names_of_their_own() -> None:
    """Metadata has one name for each: of two the first would be lost."""
    for page in (
        findings_page([finding()], first_seen([finding()], {}, NOW)),
        suggestions_page([suggestion()], ["No suggestions."]),
    ):
        names = [*page.figures, *page.texts, *page.tables, *page.documents]
        assert len(names) == len(set(names))


def test_a_table_behind_a_link_is_one_whatever_it_holds() -> None:
    text = behind_link(Table([{"job": "a|b", "n": 3, "cost": None}], {"n": "Runs.", "other": "Not there."}))
    assert len(text) > LONGEST, "Dagster shows up to so many characters in place"
    assert text.split("\n")[:3] == ["| job | n | cost |", "| --- | --- | --- |", "| a\\|b | 3 |  |"]
    assert "- **n**: Runs." in text
    assert "Not there" not in text


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (suggestion(), "workflows apply 0a1b2c3d4e"),
        (suggestion("job_timeout", 0), "workflows apply 0a1b2c3d4e --tuning tuning.yaml"),
        (suggestion("schedule_spread", 0), "Advice only: change it in your code."),
    ],
)
def test_each_suggestion_says_exactly_how_to_apply_it(made: Suggestion, said: str) -> None:
    assert how_to_apply(made) == said
    (row,) = suggestions_page([made]).tables["all suggestions"].rows
    assert row["how to apply"] == said


def test_a_suggestion_in_full_has_change_effect_evidence_assumptions_and_command() -> None:
    text = in_full(suggestion())
    for part in ("Wait less.", "steps.load.retry.delay: 1s", "90 % interval", "failed attempts 24", "failures stay alike"):
        assert markdown(part) in text
    assert "```\nworkflows apply 0a1b2c3d4e\n```" in text
    assert "workflows apply --undo etl" in text


def test_a_suggestion_for_a_job_shows_the_entry_of_the_tuning_file() -> None:
    text = in_full(suggestion("job_timeout", 0, spec=json.dumps({"job:etl": {"timeout": "2h"}})))
    assert "```yaml\njob:etl:\n  timeout: 2h\n```" in text
    assert "workflows apply --undo 0a1b2c3d4e" in text


def test_hostile_names_stay_text() -> None:
    text = in_full(suggestion(title="<img src=x> [a](javascript:b) ```"))
    unescaped = re.sub(r"\\.", "", text.split("Make it the version")[0])
    assert not set("<>[]`") & set(unescaped)
    assert "img src=x" in unescaped  # control: it is there, as text


def test_unreadable_versions_are_told_of() -> None:
    page = suggestions_page([], ["No suggestions for workflow 'a_b': it is damaged."])
    assert page.texts["versions that cannot be read"] == "- No suggestions for workflow 'a\\_b': it is damaged."
    assert page.texts["what to change"] == "The history supports no suggestion."


@pytest.mark.parametrize(
    ("put_aside", "missing", "late_s", "passed"), [(0, 0, 0, True), (0, 2, 0, True), (0, 2, 90, False), (1, 0, 0, False)]
)
def test_the_history_is_whole_unless_rows_were_put_aside_or_do_not_land(
    put_aside: int, missing: int, late_s: float, passed: bool
) -> None:
    assert landed(put_aside, missing, late_s).passed is passed


def test_with_too_few_outcomes_the_error_is_unknown_and_passes() -> None:
    verdict = error_check([forecast("a", 0.9, 0.1, LEAST_OUTCOMES - 1)])
    assert verdict.passed
    assert verdict.sentence.startswith("Unknown")
    assert not error_check([forecast("a", 0.9, 0.1, LEAST_OUTCOMES)]).passed  # control


def test_the_margin_shrinks_with_the_number_of_runs() -> None:
    assert error_check([forecast("a", 0.14, 0.10, 20)]).passed
    assert not error_check([forecast("a", 0.14, 0.10, 400)]).passed
    verdict = error_check([forecast("a", 0.2, 0.1, 400), forecast("b", 0.1, 0.3, 400), forecast("c", None, None, 3)])
    assert (verdict.passed, verdict.figures["jobs"], verdict.figures["outcomes"]) == (True, 2, 800)
    assert verdict.figures["error share"] == pytest.approx(0.15)


def test_noise_alone_rarely_warns() -> None:
    """Of times that are nothing but noise the served forecast is no worse than chance makes the best of several rules look."""
    import pandas as pd

    from workflows_pkg.prediction.rows import OBSERVATION_COLUMNS
    from workflows_pkg.prediction.rules import RULES
    from workflows_pkg.prediction.serving import predictions

    chance = np.random.default_rng(5)
    begin = pd.Timestamp("2026-01-01", tz="UTC")
    jobs, runs = 20, 25
    rows = [
        {"job_name": f"job {job}", "step": "", "run_id": f"{job}-{run}", "partition_key": None, "attempt": 1,
         "submitted_at": begin + timedelta(hours=run, seconds=job), "value": 10 * float(chance.lognormal(0, 0.3))}
        for run in range(runs) for job in range(jobs)
    ]  # fmt: skip
    seen = pd.DataFrame(rows)
    seen["finished_at"] = seen["submitted_at"] + pd.to_timedelta(seen["value"], unit="s")
    seen = seen.astype({"submitted_at": "datetime64[ns, UTC]", "finished_at": "datetime64[ns, UTC]"})[list(OBSERVATION_COLUMNS)]
    made = pd.concat([seen, predictions(seen)], axis=1)
    warned = 0
    for job, own in made[made["count"] > 0].groupby("job_name"):
        truth = own["value"]
        best = min(float(((own[rule] - truth).abs() / truth).median()) for rule in RULES)
        warned += not error_check([forecast(str(job), float(((own["p50"] - truth).abs() / truth).median()), best, runs)]).passed
    assert warned <= 3
