"""Tables of somebody's own: columns by name, units by ending, instants however written, words for how a try ended."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.history.imports import import_files, table
from workflows_pkg.history.imports.reading import Source, reading_connection

BASE = "run_id,step,started_at,outcome"


def attempts(path: Path, select: str, columns: dict[str, str], timezone: str = "UTC") -> list[tuple[Any, ...]]:
    """What the reader makes of a file, without a history to put it in."""
    zone = ZoneInfo(timezone)
    with closing(reading_connection(zone)) as con:
        con.register("step_attempts", table.read(con, Source(path, "import:t", "digest", zone, None, columns)).attempts)
        return con.execute(f"select {select} from step_attempts").fetchall()


def csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def parquet(path: Path, select: str) -> Path:
    with closing(duckdb.connect()) as con:
        con.execute("set TimeZone = 'UTC'")
        con.execute(f"copy ({select}) to '{path}' (format parquet)")
    return path


def test_columns_with_our_names_need_no_map(home, ask, tmp_path) -> None:
    path = csv(
        tmp_path / "t.csv",
        "run_id,job_name,step,attempt,outcome,started_at,ended_at,peak_memory_mib,note",
        "7,etl,load,1,failed,2025-03-01T10:00:00Z,2025-03-01T10:01:00Z,100,x",
        "7,etl,load,2,success,2025-03-01T10:02:00Z,2025-03-01T10:05:00Z,,y",
    )
    (told,) = import_files(home, [path])
    assert (told.format, told.name, told.jobs, told.runs, told.attempts) == ("table", "t", ("etl",), 1, 2)
    assert ask(
        "select step, step_key, attempt, outcome, run_time_s, peak_memory_mib, retry_wait_s from step_attempts order by 3"
    ) == [
        ("load", "load", 1, "failure", 60.0, 100.0, 60.0),
        ("load", "load", 2, "success", 180.0, None, None),
    ]
    assert ask("select outcome, run_time_s, attempt_count from runs") == [("success", 300.0, 2)]


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("took", "90", 90.0), ("took_s", "90", 90.0), ("took_ms", "1500", 1.5), ("took_us", "2000000", 2.0), ("took_ns", "3e9", 3.0),
        ("took_min", "1.5", 90.0), ("took_h", "2", 7200.0), ("took_days", "1", 86400.0), ("TOOK_MS", "250", 0.25),
    ],
)  # fmt: skip
def test_a_duration_is_in_the_unit_its_name_ends_with(tmp_path, name, value, seconds) -> None:
    path = csv(tmp_path / "t.csv", f"{BASE},{name}", f"1,a,2025-03-01,ok,{value}")
    assert attempts(path, "run_time_s, epoch(ended_at - started_at)", {"run_time_s": name}) == [
        (pytest.approx(seconds), pytest.approx(seconds))
    ]


@pytest.mark.parametrize(
    ("name", "mib"),
    [
        ("peak", 1024.0),
        ("peak_mib", 1024.0),
        ("peak_bytes", 2.0**-10),
        ("peak_kib", 1.0),
        ("peak_gib", 2.0**20),
        ("peak_mb", 976.5625),
    ],
)
def test_memory_is_in_the_unit_its_name_ends_with(tmp_path, name, mib) -> None:
    path = csv(tmp_path / "t.csv", f"{BASE},{name}", "1,a,2025-03-01,ok,1024")
    assert attempts(path, "peak_memory_mib", {"peak_memory_mib": name}) == [(pytest.approx(mib),)]


@pytest.mark.parametrize(
    "value",
    [
        "2025-03-01T10:00:00Z", "2025-03-01 11:00:00+01:00", "2025-03-01T10:00:00", "20250301T100000Z", "1740823200", "1740823200000",
        "1740823200000000", "1740823200000000000", "1740823200.0",
    ],
)  # fmt: skip
def test_an_instant_is_understood_however_it_is_written(tmp_path, value) -> None:
    path = csv(tmp_path / "t.csv", "run_id,step,begin,outcome", f"1,a,{value},ok")
    assert attempts(path, "epoch(started_at)", {"started_at": "begin"}) == [(1740823200.0,)]


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("begin", "timestamptz '2025-03-01 10:00:00+00'"), ("begin", "timestamp '2025-03-01 11:00:00'"), ("begin", "1740823200::bigint"),
        ("begin_ms", "1740823200000::bigint"), ("begin", "timestamp_ns '2025-03-01 11:00:00'"), ("begin", "'2025-03-01T11:00:00'"),
    ],
)  # fmt: skip
def test_an_instant_of_parquet_without_a_zone_is_in_the_zone_that_is_said(tmp_path, name, expression) -> None:
    path = parquet(tmp_path / "t.parquet", f"select 'r' as run_id, 'a' as step, 'ok' as outcome, {expression} as {name}")
    assert attempts(path, "epoch(started_at)", {"started_at": name}, "Europe/Berlin") == [(1740823200.0,)]


def test_csv_zipped_csv_and_parquet_say_the_same(home, ask, tmp_path) -> None:
    rows = ["1,a,2025-03-01T10:00:00,COMPLETED,12.5", "1,b,2025-03-01T10:01:00,FAILED,", "2,a,2025-03-02T10:00:00,ABORTED,nan"]
    text = csv(tmp_path / "one.csv", f"{BASE},run_time_s", *rows)
    zipped = tmp_path / "two.csv.gz"
    zipped.write_bytes(gzip.compress(text.read_bytes()))
    columnar = parquet(
        tmp_path / "three.parquet",
        f"select * replace (case run_time_s when 12.5 then 12.5 else 'nan'::double end as run_time_s) from read_csv('{text}')",
    )
    semicolons = tmp_path / "four.csv"
    semicolons.write_text(text.read_text().replace(",", ";"))
    for path in (text, zipped, columnar, semicolons):
        (told,) = import_files(home, [path])
        assert (told.format, told.runs, told.attempts) == ("table", 2, 3)
    columns = "step, step_key, attempt, outcome, run_time_s, started_at, ended_at, failure_cause"
    found = {
        job: ask(f"select {columns} from step_attempts where job_name = '{job}' order by all")
        for job in ("one", "two", "three", "four")
    }
    assert [row[3:5] for row in found["one"]] == [("canceled", None), ("success", 12.5), ("failure", None)]
    assert found["two"] == found["one"]
    assert found["three"] == found["one"]
    assert found["four"] == found["one"]
    assert ask("select outcome from runs where job_name = 'one' order by created_at") == [("failure",), ("canceled",)]


def test_tries_without_a_number_are_numbered(home, ask, tmp_path) -> None:
    path = csv(
        tmp_path / "t.csv",
        "run_id,task,tag,begin,status,code",
        "1,align,s1,2025-03-01T10:00:00Z,FAILED,137",
        "1,align,s2,2025-03-01T10:00:00Z,COMPLETED,0",
        "1,align,s1,2025-03-01T10:05:00Z,COMPLETED,0",
    )
    columns = {"step": "task", "step_key": "tag", "started_at": "begin", "outcome": "status", "exit_code": "code"}
    import_files(home, [path], columns=columns)
    assert ask("select step, step_key, attempt, outcome, failure_cause from step_attempts order by 2, 3") == [
        ("align", "align[s1]", 1, "failure", "memory"),
        ("align", "align[s1]", 2, "success", None),
        ("align", "align[s2]", 1, "success", None),
    ]


def test_a_column_of_theirs_can_be_left_out_and_a_value_given_by_hand(home, ask, tmp_path) -> None:
    path = csv(tmp_path / "t.csv", "run_id,step,attempt,submitted_at,run_time_s", "1,a,9,2025-03-01,10")
    import_files(
        home, [path], columns={"attempt": "", "outcome": "'success'", "job_name": "'it''s'", "started_at": "submitted_at"}
    )
    assert ask("select job_name, attempt, outcome, start_time_s from step_attempts") == [("it''s", 1, "success", 0.0)]


def test_an_exit_code_says_how_a_try_ended_where_nothing_else_does(home, ask, tmp_path) -> None:
    path = csv(tmp_path / "t.csv", "run_id,step,started_at,exit_code", "1,a,2025-03-01,0", "1,b,2025-03-01,2", "2,a,2025-03-01,")
    import_files(home, [path])
    assert ask("select outcome from step_attempts order by all") == [("failure",), ("success",), (None,)]
    assert ask("select outcome from runs order by all") == [("failure",), (None,)]


def test_rows_without_steps_are_runs(home, ask, tmp_path) -> None:
    path = csv(tmp_path / "t.csv", "run_id,project,at,failed", "1,web,2025-03-01,0", "2,web,2025-03-02,1")
    (told,) = import_files(home, [path], columns={"job_name": "project", "created_at": "at", "exit_code": "failed"})
    assert (told.runs, told.attempts) == (2, 0)
    assert "its 2 rows are taken as runs" in told.remarks[0]
    assert ask("select job_name, outcome, attempt_count from runs order by created_at") == [
        ("web", "success", None),
        ("web", "failure", None),
    ]


def test_figures_below_zero_are_unknown_and_told_of(home, ask, tmp_path) -> None:
    path = csv(tmp_path / "t.csv", f"{BASE},run_time_s", "1,a,2025-03-01,ok,-1", "2,a,2025-03-01,ok,5")
    (told,) = import_files(home, [path])
    assert told.remarks == ("values of 'run_time_s' below zero are taken as unknown: 1",)
    assert ask("select run_time_s from step_attempts order by 1") == [(5.0,), (None,)]


WRONG = {
    "no such column of ours": (BASE, {"runtime_s": "x"}, r"--map runtime_s=…: there is no such column\. Did you mean 'run_time_s'"),
    "no such column of theirs": (
        f"{BASE},duration_ms", {"run_time_s": "duration"}, r"no column 'duration' for run_time_s\. Did you mean 'duration_ms'",
    ),
    "a unit of something else": (
        f"{BASE},took_ms", {"peak_memory_mib": "took_ms"}, "'took_ms' is in ms by its name, which peak_memory_mib cannot be",
    ),
    "no run": ("id,step,started_at,outcome", {}, r"nothing says which run a row belongs to\. Add --map run_id=THEIRS\. Known: id, outcome"),
    "no number": (f"{BASE},took", {"run_time_s": "took"}, r"'took' has 'VALUE' for run_time_s; expected a number\. Such values: 1\."),
    "no instant": (f"{BASE},at", {"started_at": "at"}, "'at' has 'VALUE' for started_at; expected ISO text"),
    "no outcome": (f"{BASE},how", {"outcome": "how"}, "'how' has 'VALUE' for outcome; expected a word"),
    "no cause": (f"{BASE},why", {"failure_cause": "why"}, "failure_cause 'VALUE' is none of code, data"),
    "no steps but rows of them": ("run_id,started_at,outcome,x", {}, "run '1' has 2 rows, and nothing says which step"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "columns", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_in_one_line(home, tmp_path, header, columns, said) -> None:
    values = {"started_at": "2025-03-01", "outcome": "ok", "step": "a"}
    rows = [",".join(values.get(name, "1") for name in header.split(",")) for _ in range(2)]
    rows[0] = rows[0][:-1] + "VALUE" if header.count(",") == 4 else rows[0]
    with pytest.raises(WorkflowsError, match=said) as raised:
        import_files(home, [csv(tmp_path / "t.csv", header, *rows)], columns=columns)
    assert "\n" not in str(raised.value)


def test_a_number_is_no_word_for_how_it_ended(home, tmp_path) -> None:
    path = parquet(tmp_path / "t.parquet", "select 'r' as run_id, 'a' as step, now() as started_at, 0 as outcome")
    with pytest.raises(WorkflowsError, match=r"outcome is to be a word.*exit_code instead"):
        import_files(home, [path])


def test_what_was_used_is_read_and_priced_where_the_file_has_no_cost(home, ask, tmp_path) -> None:
    (home / "rates.yaml").write_text("rates: [{pools: models, run_hour: 3600, million_input_tokens: 2, moved_gib: 4}]\n")
    path = csv(
        tmp_path / "t.csv",
        f"{BASE},run_time_s,pool,input_tokens,output_tokens,egress_mib,calls,cost_usd",
        "1,a,2025-03-01,failed,10,models,500000,7,512,3,",
        "1,a,2025-03-01T01:00:00Z,ok,10,models,500000.0,,,,",
        "1,b,2025-03-01T02:00:00Z,ok,10,models,500000,,,,0.25",
        "1,c,2025-03-01T03:00:00Z,ok,10,,,,,,",
    )
    (told,) = import_files(home, [path], columns={"moved_bytes": "egress_mib"}, dry_run=True)
    assert told.changed == 1
    import_files(home, [path], columns={"moved_bytes": "egress_mib"})
    figures = "input_tokens, output_tokens, moved_bytes, calls"
    assert ask(f"select step, attempt, {figures}, cost_usd, rate_card is not null from step_attempts order by step, attempt") == [
        ("a", 1, 500_000, 7, 2**29, 3, pytest.approx(10 + 1 + 2), True),
        ("a", 2, 500_000, None, None, None, pytest.approx(11), True),
        ("b", 1, 500_000, None, None, None, 0.25, False),
        ("c", 1, None, None, None, None, None, True),
    ]
    assert ask("select counts_from, digest from rate_cards") == ask(
        "select '1970-01-01'::timestamptz, max(rate_card) from step_attempts"
    )
    (home / "rates.yaml").write_text("rates: [{run_hour: 7200}]\n")
    (again,) = import_files(home, [path], columns={"moved_bytes": "egress_mib"})
    assert again.changed == 0, "another card rewrites nothing that was landed"


@pytest.mark.parametrize("value", ["0.5", "1e16", "many", "inf"])
def test_what_is_no_figure_is_refused_with_the_column(home, tmp_path, value) -> None:
    path = csv(tmp_path / "t.csv", f"{BASE},calls", f"1,a,2025-03-01,ok,{value}")
    with pytest.raises(
        WorkflowsError, match=r"'calls' has '.*' for calls; expected a whole number from 0 to 1,000,000,000,000,000"
    ):
        import_files(home, [path])


def test_a_figure_below_zero_is_unknown_and_remarked(home, ask, tmp_path) -> None:
    path = csv(tmp_path / "t.csv", f"{BASE},calls", "1,a,2025-03-01,ok,-1", "2,a,2025-03-02,ok,NaN", "3,a,2025-03-03,ok,4")
    (told,) = import_files(home, [path])
    assert told.remarks == ("values of 'calls' below zero are taken as unknown: 1",)
    assert ask("select calls from step_attempts order by started_at") == [(None,), (None,), (4,)]


TRACES = os.environ.get("WORKFLOWS_TRACES")
TIMES = ("run_time_s=duration_s", "peak_memory_mib=peak_memory_bytes")
OF_TASKS = ("job_name=workflow", "attempt=", "outcome=status", "step_key=tag", *TIMES)
REAL: dict[str, tuple[Sequence[str], int, int]] = {
    "ponder/rnaseq.parquet": ((*OF_TASKS, "step=step_full", "host=machine"), 36, 49_017),
    "sizey/chipseq.parquet": ((*OF_TASKS, "step=step_full", "host=machine"), 1, 2_938),
    "nextflow2015/tasks.parquet": (OF_TASKS, 40, 1_140),
    "pwa/nasa-ipsc-1993.parquet": (("job_name=workflow", "started_at=submitted_at", "outcome='success'", TIMES[0]), 18_239, 18_239),
    "wfinstances/makeflow-blast.parquet": (
        ("job_name=workflow", "step_key=step_instance", "created_at=run_started_at", "outcome='success'", "host=machine", *TIMES),
        15, 2_245,
    ),
}  # fmt: skip


@pytest.mark.skipif(
    not TRACES, reason="2026-11-25: WORKFLOWS_TRACES names no folder of public traces, which are not ours to copy"
)
@pytest.mark.parametrize(("file", "expected"), REAL.items(), ids=REAL.keys())
def test_public_traces_are_read(home, tmp_path, file, expected) -> None:
    pairs, runs, attempts = expected
    columns = dict(pair.split("=", 1) for pair in pairs)
    (told,) = import_files(home, [Path(str(TRACES)) / file], columns=columns, dry_run=True)
    assert (told.runs, told.attempts, told.changed) == (runs, attempts, runs)
