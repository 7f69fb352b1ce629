"""Nextflow traces: texts and raw numbers, whatever fields were chosen, and tries told apart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from workflows_pkg.errors import WorkflowsError
from workflows_pkg.history.imports import import_files

DEFAULT = "task_id hash native_id name status exit submit duration realtime %cpu peak_rss peak_vmem rchar wchar"
ROWS = [
    "1|aa/01|11|GENOME:INDEX (genome.fa)|COMPLETED|0|2024-02-09 14:00:00.500|20.5s|15s|80.0%|2.5 GB|3 GB|1 GB|2 MB",
    "2|aa/02|12|GENOME:ALIGN (s1)|FAILED|137|2024-02-09 14:01:00.000|1m 10s|1m|150.0%|4 GB|5 GB|0|0",
    "3|aa/03|13|GENOME:ALIGN (s2)|COMPLETED|0|2024-02-09 14:01:00.000|2m|1m 30s|100.0%|512 MB|1 GB|0|0",
    "4|aa/04|14|GENOME:ALIGN (s1)|COMPLETED|0|2024-02-09 14:02:30.000|1h 2m|1h|50.0%|6 GB|7 GB|0|0",
    "5|aa/05|15|REPORT|COMPLETED|0|2024-02-09 15:10:00.000|84ms|4ms|0.0%|0|0|0|0",
    "6|aa/06|16|GENOME:ALIGN (s3)|CACHED|0|2024-01-01 10:00:00.000|1h|1h|50.0%|6 GB|7 GB|0|0",
]


def trace(path: Path, fields: str = DEFAULT, rows: list[str] = ROWS) -> Path:
    path.write_text("\n".join(line.replace("|", "\t") for line in ["\t".join(fields.split()), *rows]) + "\n")
    return path


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_trace_becomes_one_run_with_its_tries(home, ask, tmp_path) -> None:
    (told,) = import_files(home, [trace(tmp_path / "trace.txt")], name="genome")
    assert (told.format, told.runs, told.attempts, told.changed, told.jobs) == ("nextflow", 1, 6, 1, ("genome",))
    assert told.remarks == ("its times have no zone and are taken as UTC",)
    rows = ask(
        "select step, step_key, attempt, outcome, will_retry, started_at, ended_at, run_time_s, start_time_s, retry_wait_s, "
        "failure_cause, error_message, cpu_s, peak_memory_mib from step_attempts order by step_key, attempt"
    )
    assert rows == [
        ("GENOME:ALIGN", "GENOME:ALIGN (s1)", 1, "failure", True, at("2024-02-09 14:01:10"), at("2024-02-09 14:02:10"), 60.0, 10.0,
         20.0, "memory", "exit status 137", 90.0, 4096.0),
        ("GENOME:ALIGN", "GENOME:ALIGN (s1)", 2, "success", False, at("2024-02-09 14:04:30"), at("2024-02-09 15:04:30"), 3600.0, 120.0,
         None, None, None, 1800.0, 6144.0),
        ("GENOME:ALIGN", "GENOME:ALIGN (s2)", 1, "success", False, at("2024-02-09 14:01:30"), at("2024-02-09 14:03:00"), 90.0, 30.0,
         None, None, None, 90.0, 512.0),
        ("GENOME:ALIGN", "GENOME:ALIGN (s3)", 1, "skipped", False, None, None, None, None, None, None, None, None, None),
        ("GENOME:INDEX", "GENOME:INDEX (genome.fa)", 1, "success", False, at("2024-02-09 14:00:06"), at("2024-02-09 14:00:21"), 15.0, 5.5,
         None, None, None, 12.0, 2560.0),
        ("REPORT", "REPORT", 1, "success", False, at("2024-02-09 15:10:00.080"), at("2024-02-09 15:10:00.084"), 0.004, 0.08,
         None, None, None, None, None),
    ]  # fmt: skip
    (run,) = ask(
        'select job_name, source_id, outcome, created_at, started_at, ended_at, run_time_s, retry_wait_s, attempt_count, "trigger" '
        "from runs"
    )
    assert run == (
        "genome", "import:genome", "success", at("2024-02-09 14:00:00.500"), at("2024-02-09 14:00:06"), at("2024-02-09 15:10:00.084"),
        4194.084, 20.0, 6, "unknown",
    )  # fmt: skip


def test_raw_values_say_the_same_as_texts(home, ask, tmp_path) -> None:
    fields = "name status exit submit start complete realtime %cpu peak_rss attempt hostname"
    text = "A (x)|FAILED|1|2024-02-09 14:00:00.000|2024-02-09 14:00:05.000|2024-02-09 14:01:05.000|1m|50.0%|1.5 GB|1|n1"
    again = "A (x)|COMPLETED|0|2024-02-09 14:02:00.000|2024-02-09 14:02:01.000|2024-02-09 14:03:01.000|1m|25.0%|1.5 GB|2|n2"
    raw = "A (x)|FAILED|1|1707487200000|1707487205000|1707487265000|60000|50.0|1610612736|1|n1"
    raw_again = "A (x)|COMPLETED|0|1707487320000|1707487321000|1707487381000|60000|25.0|1610612736|2|n2"
    import_files(home, [trace(tmp_path / "text.txt", fields, [text, again])], name="text")
    (told,) = import_files(home, [trace(tmp_path / "raw.txt", fields, [raw, raw_again])], name="raw")
    assert told.remarks == (), "numbers need no zone"
    assert ask("select count(*) from step_attempts") == [(4,)]
    columns = "* exclude (run_id, job_name)"
    assert ask(f"select {columns} from step_attempts where job_name = 'raw' order by attempt") == ask(
        f"select {columns} from step_attempts where job_name = 'text' order by attempt"
    )
    assert ask("select distinct attempt, host, error_message, failure_cause from step_attempts order by 1") == [
        (1, "n1", "exit status 1", "unknown"),
        (2, "n2", None, None),
    ]


def test_times_are_in_the_zone_that_is_said(home, ask, tmp_path) -> None:
    (told,) = import_files(home, [trace(tmp_path / "trace.txt")], timezone="America/New_York")
    assert told.first == at("2024-02-09 19:00:00.500")
    assert "America/New_York" in told.remarks[0]


def test_two_tasks_of_one_name_are_not_tries_of_one(home, ask, tmp_path) -> None:
    """A name need not be unique: what follows a success is another task, what follows a failure is a further try."""
    rows = [
        f"A (x)|{status}|{code}|2024-02-09 14:0{n}:00.000|10s|5s"
        for n, (status, code) in enumerate([("COMPLETED", 0), ("FAILED", 1), ("FAILED", 1), ("COMPLETED", 0)])
    ]
    import_files(home, [trace(tmp_path / "t.txt", "name status exit submit duration realtime", rows)])
    assert ask("select step_key, attempt, outcome, will_retry from step_attempts order by started_at") == [
        ("A (x)", 1, "success", False),
        ("A (x)#2", 1, "failure", True),
        ("A (x)#2", 2, "failure", True),
        ("A (x)#2", 3, "success", False),
    ]


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        ("COMPLETED CACHED", "success"),
        ("COMPLETED FAILED", "failure"),
        ("FAILED ABORTED", "failure"),
        ("COMPLETED ABORTED", "canceled"),
        ("COMPLETED RUNNING", None),
    ],
)
def test_a_run_ended_as_its_last_tries_did(home, ask, tmp_path, statuses, outcome) -> None:
    rows = [f"P{n}|{status}|2024-02-09 14:0{n}:00.000|10s|5s" for n, status in enumerate(statuses.split())]
    import_files(home, [trace(tmp_path / "t.txt", "name status submit duration realtime", rows)])
    assert ask("select outcome, ended_at is null from runs") == [(outcome, outcome is None)]


def test_a_trace_that_has_grown_is_the_same_run(home, ask, tmp_path) -> None:
    path = trace(tmp_path / "trace.txt", rows=ROWS[:3])
    import_files(home, [path], name="genome")
    trace(path)
    (told,) = import_files(home, [path], name="genome")
    assert told.changed == 1
    assert ask("select count(*), min(attempt_count) from runs") == [(1, 6)]
    assert ask("select count(*), count(distinct run_id) from step_attempts") == [(6, 1)]


def test_control_another_trace_in_its_place_is_another_run(home, ask, tmp_path) -> None:
    path = trace(tmp_path / "trace.txt", rows=ROWS[:3])
    import_files(home, [path], name="genome")
    trace(path, rows=ROWS[2:])
    import_files(home, [path], name="genome")
    assert ask("select count(*) from runs") == [(2,)]


WRONG = {
    "a value": (DEFAULT, [ROWS[0], ROWS[1].replace("1m 10s", "soon")], r"trace.txt:3: duration is 'soon'; expected a duration"),
    "a status": (DEFAULT, [ROWS[0].replace("COMPLETED", "DONE")], r"trace.txt:2: status is 'DONE'; expected one of COMPLETED, FAILED"),
    "a time": (DEFAULT, [ROWS[0].replace("2024-02-09", "yesterday")], r"trace.txt:2: submit is 'yesterday .*expected a time such as"),
    "a short line": (DEFAULT, [ROWS[0], "2|aa"], r"trace.txt:3: has 2 fields; expected 14"),
    "no row": (DEFAULT, [], "has a header and no task"),
    "no name": ("task_id status submit", ["1|COMPLETED|2024-02-09 14:00:00.000"], "is no Nextflow trace"),
    "no time": ("name status hash exit task_id", ["A|COMPLETED|aa|0|1"], "1 of 1 runs have no time at all"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "rows", "said"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_in_one_line(home, ask, tmp_path, fields, rows, said) -> None:
    with pytest.raises(WorkflowsError, match=said) as raised:
        import_files(home, [trace(tmp_path / "trace.txt", fields, rows)], format="nextflow")
    assert "\n" not in str(raised.value)
    assert ask("select count(*) from runs") == [(0,)]
