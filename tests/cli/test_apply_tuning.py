"""`workflows apply` of suggestions for jobs without a spec: into the tuning file, out of it, or advice only."""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.history.records import Record, Run, StepAttempt, Suggestion
from workflows_pkg.history.store import writer

RETRY = {"attempts": 3, "delay": "30s", "backoff": "exponential", "jitter": "full"}
TEXT = "# ours\njob:other: {timeout: 1h}\n"


def keep(identity: str, kind: str, spec: dict[str, Any], change: list[dict[str, Any]]) -> None:
    with writer(Path(os.environ["DAGSTER_HOME"])) as history:
        history.upsert(
            Suggestion,
            [
                Suggestion(
                    suggestion_id=identity, kind=kind, workflow="theirs", step="shout", based_on=0, title="Try 3 times.",
                    change=json.dumps(change), spec=json.dumps(spec), evidence="{}", quantity="run_time_s", created_at=datetime.now(UTC),
                )
            ],
        )  # fmt: skip


@pytest.fixture
def retry(project: Path) -> str:
    address = "job:theirs/step:shout"
    keep("aaaa1111", "job_retry", {address: {"retry": RETRY}}, [{"path": f"{address}.retry", "before": None, "after": RETRY}])
    return "aaaa1111"


def statuses(workflows: Callable[..., Any]) -> object:
    return workflows("history", "sql", "select status from suggestions", "--json").value


def test_it_is_written_into_the_tuning_file_here_and_taken_out(project: Path, workflows: Callable[..., Any], retry: str) -> None:
    file = project / "tuning.yaml"
    file.write_text(TEXT)
    said = workflows("apply", retry[:4])
    assert said.code == 0
    assert f"undo with: workflows apply --undo {retry}" in said.out
    added = "job:theirs/step:shout:\n  retry: {attempts: 3, delay: 30s, backoff: exponential, jitter: full}\n"
    assert file.read_text() == TEXT + added
    assert statuses(workflows) == [{"status": "applied"}]
    undone = workflows("apply", "--undo", retry, "--json")
    assert undone.value["status"] == "undone"
    assert file.read_text() == TEXT
    assert statuses(workflows) == [{"status": "undone"}]


def test_without_a_tuning_file_it_says_how_to_make_one(project: Path, workflows: Callable[..., Any], retry: str) -> None:
    refused = workflows("apply", retry)
    assert refused.code == 1
    assert "--tuning tuning.yaml" in refused.err
    assert statuses(workflows) == [{"status": "open"}]
    assert workflows("apply", retry, "--tuning", project / "mine.yaml").code == 0
    assert "job:theirs/step:shout" in (project / "mine.yaml").read_text()


def test_a_broken_tuning_file_stays_as_it_is(project: Path, workflows: Callable[..., Any], retry: str) -> None:
    file = project / "tuning.yaml"
    file.write_text("job:other: {timeout: soon}\n")
    refused = workflows("apply", retry)
    assert refused.code == 1
    assert "tuning.yaml:1:22" in refused.err
    assert file.read_text() == "job:other: {timeout: soon}\n"
    assert statuses(workflows) == [{"status": "open"}]


def test_a_crons_place_is_advice_only(project: Path, workflows: Callable[..., Any]) -> None:
    change = [{"path": "schedule:hourly.cron", "before": "0 * * * *", "after": "20 * * * *"}]
    keep("bbbb2222", "schedule_spread", {"schedule:hourly": {"cron": "20 * * * *"}}, change)
    (project / "tuning.yaml").write_text(TEXT)
    said = workflows("apply", "bbbb2222")
    assert said.code == 0
    assert "advice only" in said.out
    assert "- 0 * * * *" in said.out
    assert "+ 20 * * * *" in said.out
    assert (project / "tuning.yaml").read_text() == TEXT
    assert statuses(workflows) == [{"status": "open"}]


def test_there_is_no_workflow_file_to_write(project: Path, workflows: Callable[..., Any], retry: str) -> None:
    (project / "flow.yaml").write_text("workflow: x")
    refused = workflows("apply", retry, "--write", project / "flow.yaml")
    assert refused.code == 1
    assert "has no workflow file" in refused.err


def lived(shift: timedelta) -> dict[type[Record], list[Record]]:
    """Half a year of a job without a spec, one step of which fails now and then and succeeds when started again at once, moved in time."""
    theirs = runpy.run_path(str(Path(__file__).parents[1] / "advisor" / "foreign_history.py"))["failing"](again_s=25.0)
    rows = {Run: theirs.runs, StepAttempt: theirs.attempts}
    moved = {
        record: [{name: at + shift if isinstance(at, datetime) else at for name, at in row.items()} for row in found]
        for record, found in rows.items()
    }
    return {record: [record.model_validate(row) for row in found] for record, found in moved.items()}


def test_what_advise_says_can_be_typed(project: Path, workflows: Callable[..., Any]) -> None:
    with writer(Path(os.environ["DAGSTER_HOME"])) as history:
        for record, rows in lived(datetime.now(UTC) - datetime(2026, 6, 1, tzinfo=UTC)).items():
            history.upsert(record, rows)
    said = workflows("advise", "orders")
    assert said.code == 0
    (line,) = [line.strip() for line in said.out.splitlines() if "do it with" in line]
    command = line.removeprefix("do it with: workflows ").partition("  (")[0].split()
    assert command[2:] == ["--tuning", "tuning.yaml"]
    done = workflows(*command)
    assert done.code == 0
    assert "job:orders/step:extract:" in (project / "tuning.yaml").read_text()
    wrong = workflows("advise", "ordrs")
    assert wrong.code == 1
    assert "There is no workflow or job 'ordrs'" in wrong.err
    assert "Did you mean 'orders'?" in wrong.err
