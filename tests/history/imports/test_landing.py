"""An import is there once, apart from everything else, and goes without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from workflows_pkg.errors import BusyError, NotFound, WorkflowsError
from workflows_pkg.history import rollups
from workflows_pkg.history.imports import import_files, undo_import
from workflows_pkg.history.layout import layout
from workflows_pkg.history.records import Run, StepAttempt
from workflows_pkg.history.rollup_records import ROLLUPS
from workflows_pkg.history.schema import LIVE
from workflows_pkg.history.store import writer

RECENT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def table(path: Path, runs: range = range(3), seconds: int = 60, day: str = "2025-03-01") -> Path:
    rows = [f"r{n},load,{day}T10:{n:02}:00Z,success,{seconds}" for n in runs]
    path.write_text("\n".join(["run_id,step,started_at,outcome,run_time_s", *rows]) + "\n")
    return path


@pytest.fixture
def theirs(home):
    """What a sync of an instance wrote: a run of the days that the imports are of, and one of today."""
    rows = [
        Run(run_id=f"own-{at:%d}", source_id="instance", job_name="own", outcome="success", created_at=at, ended_at=at)
        for at in (datetime(2025, 3, 1, 9, tzinfo=UTC), RECENT)
    ]
    attempts = [
        StepAttempt(
            run_id=run.run_id, step_key="s", step="s", attempt=1, job_name="own", outcome="success", started_at=run.created_at
        )
        for run in rows
    ]
    with writer(home) as history:
        history.upsert(Run, rows)
        history.upsert(StepAttempt, attempts)


def test_importing_a_file_again_changes_nothing(home, everything, tmp_path) -> None:
    path = table(tmp_path / "t.csv")
    (first,) = import_files(home, [path])
    before, published = everything(), layout(home).published.stat().st_mtime_ns
    (again,) = import_files(home, [path])
    assert (first.changed, again.changed) == (3, 0)
    assert everything() == before
    assert layout(home).published.stat().st_mtime_ns == published


def test_runs_that_changed_are_replaced_as_a_whole(home, ask, everything, tmp_path, theirs) -> None:
    """Also when they are sealed, and their day moves."""
    path = table(tmp_path / "t.csv")
    import_files(home, [path], name="x")
    rows = path.read_text().splitlines()
    rows[1:3] = [rows[1].replace("load", "store"), rows[2].replace("2025-03-01", "2025-02-27")]
    path.write_text("\n".join(rows) + "\n")
    (told,) = import_files(home, [path], name="x")
    assert told.changed == 2
    assert ask("select step, started_at::date::varchar, count(*) from step_attempts where job_name = 'x' group by all order by all") == [
        ("load", "2025-02-27", 1), ("load", "2025-03-01", 1), ("store", "2025-03-01", 1)
    ]  # fmt: skip
    assert ask("select count(*) from runs") == [(5,)]


@pytest.mark.parametrize("day", ["2025-03-01", f"{RECENT:%Y-%m-%d}"], ids=["sealed", "live"])
def test_an_import_that_is_undone_was_never_there(home, everything, tmp_path, theirs, day) -> None:
    before = everything()
    import_files(home, [table(tmp_path / "t.csv", day=day)], name="x")
    import_files(home, [table(tmp_path / "u.csv", range(9), day=day)], name="y")
    assert everything() != before
    assert (undo_import(home, "x"), undo_import(home, "y")) == (3, 9)
    assert everything() == before
    import_files(home, [table(tmp_path / "t.csv", day=day)], name="x")
    assert len(everything()["runs"]) == 5


def test_nothing_by_that_name_was_imported(home, tmp_path) -> None:
    import_files(home, [table(tmp_path / "t.csv")], name="winter")
    with pytest.raises(NotFound, match=r"There is no import 'wintr'\. Did you mean 'winter'"):
        undo_import(home, "wintr")


def test_a_file_counts_once_whatever_it_is_called(home, ask, tmp_path) -> None:
    import_files(home, [table(tmp_path / "t.csv")], name="x")
    with pytest.raises(WorkflowsError, match=r"was imported as 'x' already.*history import --undo x"):
        import_files(home, [table(tmp_path / "copy.csv")])
    with pytest.raises(
        WorkflowsError, match=r"imported in another way already: --format table --timezone UTC\. Take that out first"
    ):
        import_files(home, [tmp_path / "t.csv"], name="x", timezone="Asia/Tokyo")
    assert ask("select count(*) from runs") == [(3,)]


def test_two_imports_may_call_their_runs_the_same(home, ask, tmp_path) -> None:
    import_files(home, [table(tmp_path / "t.csv")], name="x")
    import_files(home, [table(tmp_path / "u.csv", seconds=30)], name="y")
    assert ask("select source_id, count(*) from runs group by 1 order by 1") == [("import:x", 3), ("import:y", 3)]


def test_all_files_or_none(home, ask, tmp_path) -> None:
    good, bad = table(tmp_path / "good.csv"), tmp_path / "bad.csv"
    bad.write_text("run_id,step,started_at\n1,a,soon\n")
    with pytest.raises(WorkflowsError, match="soon"):
        import_files(home, [good, bad], name="x")
    assert ask("select count(*) from runs") == [(0,)]
    with pytest.raises(WorkflowsError, match="2 files need a name"):
        import_files(home, [good, good])


def test_a_dry_run_writes_nothing(home, everything, tmp_path) -> None:
    (told,) = import_files(home, [table(tmp_path / "t.csv")], dry_run=True)
    assert (told.runs, told.changed) == (3, 3)
    assert list(home.iterdir()) == []


def test_it_takes_its_turn_as_the_writer(home, tmp_path) -> None:
    with writer(home), pytest.raises(BusyError):
        import_files(home, [table(tmp_path / "t.csv")], wait_s=0)


def test_the_rollups_follow_imports_changes_and_undoing(home, tmp_path, theirs) -> None:
    def kept_equal_a_rebuild() -> int:
        with writer(home) as history, history.transaction():
            rollups.tidy(history.con, loose_rows=0)
            found = [history.con.execute(f"from {LIVE}.{one.table} order by all").fetchall() for one in ROLLUPS]
            rollups.rebuild(history.con)
            assert found == [history.con.execute(f"from {LIVE}.{one.table} order by all").fetchall() for one in ROLLUPS]
        return sum(map(len, found))

    alone = kept_equal_a_rebuild()
    import_files(home, [table(tmp_path / "t.csv")], name="x")
    assert kept_equal_a_rebuild() > alone
    import_files(home, [table(tmp_path / "t.csv", seconds=90)], name="x")
    kept_equal_a_rebuild()
    undo_import(home, "x")
    assert kept_equal_a_rebuild() == alone


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
def test_an_import_that_is_killed_is_all_there_or_not_at_all(home, ask, tmp_path, theirs, point) -> None:
    path = table(tmp_path / "t.csv")
    code = "import sys; from pathlib import Path; from workflows_pkg.history.imports import import_files; "
    killed = subprocess.run(
        [sys.executable, "-c", code + "import_files(Path(sys.argv[1]), [Path(sys.argv[2])])", str(home), str(path)],
        env={**os.environ, "WORKFLOWS_CRASH_AT": f"{point}:kill", "PYTHONPATH": os.getcwd()},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    (told,) = import_files(home, [path])
    assert told.changed == (3 if point == "before_commit" else 0)
    assert ask("select source_id, count(*) from runs group by all order by all") == [("import:t", 3), ("instance", 2)]
    assert ask("select count(*) from step_attempts") == [(5,)]


NOT_OURS = {
    "nothing": (b"", "is empty"),
    "prose": (b"Dear diary\n", "found 'Dear diary'"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0", "found a binary file of another kind"),
    "other JSON": (b'{"a": 1}', r"found JSON without 'workflow' \(it has a\)"),
    "no JSON": (b"{a: 1}", "begins like JSON and is none"),
    "a torn Parquet file": (b"PAR1 and nothing else", "cannot be read"),
    "a torn database": (b"SQLite format 3\0 and nothing else", "not a readable SQLite file|cannot be read"),
}


@pytest.mark.parametrize(("content", "said"), NOT_OURS.values(), ids=NOT_OURS.keys())
def test_a_file_of_another_kind_is_refused_in_one_line(home, tmp_path, content, said) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(WorkflowsError, match=said) as raised:
        import_files(home, [path])
    assert "\n" not in str(raised.value)


def test_what_cannot_be_meant_is_said(home, tmp_path) -> None:
    path = table(tmp_path / "table.csv")
    with pytest.raises(WorkflowsError, match=r"There is no file .*tabel\.csv\. Did you mean .*table\.csv"):
        import_files(home, [tmp_path / "tabel.csv"])
    with pytest.raises(WorkflowsError, match=r"There is no time zone 'Europe/Berln'\. Did you mean 'Europe/Berlin'"):
        import_files(home, [path], timezone="Europe/Berln")
    with pytest.raises(WorkflowsError, match=r"whose columns are known\. Use --map for CSV and Parquet only"):
        import_files(home, [path], format="nextflow", columns={"step": "x"})
