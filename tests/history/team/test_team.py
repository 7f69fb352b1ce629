"""A team's history answers as the writer's own does, from machines that have nothing of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.history.team.conftest import Team
from workflows_pkg.history.records import Run
from workflows_pkg.history.store import open_history, writer

NOW = datetime.now(UTC)


def run(name: str, days_ago: float = 0, outcome: str | None = "success") -> Run:
    at = NOW - timedelta(days=days_ago)
    return Run(
        run_id=name,
        source_id="here",
        job_name="etl",
        created_at=at,
        started_at=at,
        ended_at=at if outcome else None,
        outcome=outcome,
    )


def runs(home: Path) -> list[tuple[str, str | None]]:
    with open_history(home) as con:
        return con.execute("select run_id, outcome from runs order by 1").fetchall()


def test_what_one_home_writes_another_reads(team: Team, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert runs(elsewhere) == []
    with writer(here) as history:
        history.upsert(Run, [run("open", outcome=None), run("old", days_ago=10), run("new")])
    assert runs(elsewhere) == runs(here) == [("new", "success"), ("old", "success"), ("open", None)]
    with writer(here) as history:
        history.upsert(Run, [run("open", outcome="failure"), run("old", days_ago=10, outcome="failure")])
    assert runs(elsewhere) == runs(here) == [("new", "success"), ("old", "failure"), ("open", "failure")]
    assert not any(elsewhere.iterdir())
