"""A suggestion for a job without a spec becomes an entry of a tuning file, and comes off again as it went on."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from workflows_pkg.errors import Refused, WorkflowsError
from workflows_pkg.history.records import Suggestion
from workflows_pkg.release.apply import apply_to_tuning, undo_in_tuning
from workflows_pkg.spec.tuning import entries

RETRY = {"retry": {"attempts": 3, "delay": "30s"}}
TEXT = "# ours\njob:nightly:\n  timeout: 2h # the bank is slow\njob:other: {timeout: 1h}\n"


def suggestion(spec: Any, kind: str = "job_retry") -> Suggestion:
    return Suggestion(
        suggestion_id="s-1", kind=kind, workflow="nightly", step="", based_on=0, title="Try again.", change="[]",
        spec=json.dumps(spec), evidence="{}", quantity="run_time_s", created_at=datetime(2026, 5, 1, tzinfo=UTC),
    )  # fmt: skip


def test_it_is_added_and_taken_off_without_a_trace() -> None:
    text, applied = apply_to_tuning(suggestion({"job:nightly/step:load": RETRY}), TEXT)
    assert entries(text) == {**entries(TEXT), "job:nightly/step:load": RETRY}
    assert text.startswith(TEXT)
    assert applied.status == "applied"
    undone_text, undone = undo_in_tuning(applied, text)
    assert (undone_text, undone.status) == (TEXT, "undone")


def test_an_entry_that_is_there_keeps_its_other_field() -> None:
    text, applied = apply_to_tuning(suggestion({"job:nightly": RETRY}), TEXT)
    assert entries(text)["job:nightly"] == {"timeout": "2h", **RETRY}
    assert entries(undo_in_tuning(applied, text)[0]) == entries(TEXT)


def test_what_was_there_before_comes_back() -> None:
    text, applied = apply_to_tuning(suggestion({"job:nightly": {"timeout": "40m"}}, "job_timeout"), TEXT)
    assert entries(text)["job:nightly"] == {"timeout": "40m"}
    assert json.loads(applied.change) == [{"path": "job:nightly.timeout", "before": "2h", "after": "40m"}]
    assert entries(undo_in_tuning(applied, text)[0]) == entries(TEXT)


def test_applying_again_changes_nothing() -> None:
    text, _ = apply_to_tuning(suggestion({"job:other": RETRY}), TEXT)
    assert apply_to_tuning(suggestion({"job:other": RETRY}), text)[0] == text


def test_undoing_what_somebody_changed_since_is_refused_and_what_they_removed_is_undone() -> None:
    text, applied = apply_to_tuning(suggestion({"job:fresh": RETRY}), TEXT)
    with pytest.raises(WorkflowsError, match="job:fresh has another retry by now"):
        undo_in_tuning(applied, text.replace("attempts: 3", "attempts: 9"))
    assert undo_in_tuning(applied, TEXT)[0] == TEXT
    with pytest.raises(WorkflowsError, match="is open; there is nothing to undo"):
        undo_in_tuning(suggestion({"job:fresh": RETRY}), text)


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ({"job:nightly": {**RETRY, "timeout": "1h"}}, "job_retry", "may set retry only"),
        ({"job:nightly": RETRY}, "job_timeout", "may set timeout only"),
        ({"schedule:x": {"cron": "1 * * * *"}}, "schedule_spread", "not applied to a tuning file"),
        ({"job:nightly": RETRY}, "retry_policy", "not applied to a tuning file"),
        ({}, "job_retry", "has no entry"),
        (["job:nightly"], "job_retry", "has no entry"),
    ],
)
def test_one_that_says_more_than_its_kind_may_is_refused(spec: Any, kind: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        apply_to_tuning(suggestion(spec, kind), TEXT)
