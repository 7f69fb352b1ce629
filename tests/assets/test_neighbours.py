"""The neighbours are real: a bucket that empties and refills, a lock that another process holds, messages that arrive."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from assets.neighbours.backup import back_up
from assets.neighbours.bucket import KEPT_FOR_S, TokenBucket
from assets.neighbours.receiver import received
from assets.neighbours.running import ROOT, neighbours
from assets.neighbours.weather_service import Limits, State, WeatherService

QUIET = Limits(capacity=2, rate=1, crawler_busy=())
"""No crawler: what a test sees is then only its own doing."""


@pytest.fixture
def service(weather: pd.DataFrame) -> Iterator[WeatherService]:
    running = WeatherService(weather, QUIET)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    file = tmp_path / "warehouse.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("create table departures as select range as flight from range(3000)")
    return file


def write_from_another_process(warehouse: Path) -> subprocess.CompletedProcess[str]:
    code = "import duckdb, sys; duckdb.connect(sys.argv[1])"
    return subprocess.run([sys.executable, "-c", code, str(warehouse)], capture_output=True, text=True, check=False)


def status_of(service: WeatherService, path: str, data: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}{path}", data=data, timeout=10) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code if error.headers.get("Retry-After") is None else -error.code


def test_bucket_gives_what_it_holds_and_refills_with_time() -> None:
    now = [0.0]
    bucket = TokenBucket(capacity=2, rate=4, clock=lambda: now[0])
    assert [bucket.take("ours").granted for _ in range(3)] == [True, True, False]
    now[0] = 0.2
    assert not bucket.take("ours").granted
    now[0] = 0.25
    assert bucket.take("ours").granted
    now[0] = 100.0
    assert bucket.take("ours").level == 2


def test_a_refused_client_is_served_before_one_that_comes_later() -> None:
    now = [0.0]
    bucket = TokenBucket(capacity=1, rate=1, clock=lambda: now[0])
    assert [bucket.take(client).granted for client in ("greedy", "greedy", "ours")] == [True, False, False]
    now[0] = 1.0
    assert [bucket.take(client).granted for client in ("ours", "greedy", "greedy")] == [False, True, False]
    now[0] = 2.0
    assert [bucket.take(client).granted for client in ("greedy", "ours")] == [False, True]


def test_a_token_is_not_kept_for_ever_for_a_client_that_went_away() -> None:
    now = [0.0]
    bucket = TokenBucket(capacity=1, rate=1, clock=lambda: now[0])
    assert [bucket.take(client).granted for client in ("gone", "gone")] == [True, False]
    now[0] = 1.5 + KEPT_FOR_S
    bucket.take("ours")
    assert not bucket.take("gone").granted


def test_service_gives_the_real_day(service: WeatherService, weather: pd.DataFrame) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/weather/2013-01-31", timeout=10) as answer:
        rows = json.loads(answer.read())
    real = weather[weather["date"] == "2013-01-31"]
    assert len(rows) == len(real)
    assert [row["temp"] for row in rows] == real["temp"].tolist()


def test_service_refuses_when_the_bucket_is_empty_and_answers_after_the_refill(service: WeatherService) -> None:
    service.prepare(State(tokens=0.0, crawler_phase_s=0.0, crawler_waits=False))
    assert status_of(service, "/weather/2013-01-01") == 429
    time.sleep(1.1)
    assert status_of(service, "/weather/2013-01-01") == 200


def test_the_same_state_gives_the_same_answers_whenever_it_is_met(service: WeatherService) -> None:
    seen: list[list[int]] = []
    for pause in (0.0, 0.3, 0.6):
        body = json.dumps({"tokens": 1.5, "crawler_phase_s": 0.2, "crawler_waits": False}).encode()
        assert status_of(service, "/state", body) == 200
        time.sleep(pause)
        seen.append([status_of(service, "/weather/2013-01-01") for _ in range(2)])
    assert seen == [[200, 429]] * 3
    first = [entry for entry in service.log if entry.status == 200]
    assert [entry.state.tokens for entry in first] == pytest.approx([1.5] * 3, abs=0.05)
    assert [entry.state.crawler_phase_s for entry in first] == pytest.approx([0.2] * 3, abs=0.05)


def test_a_stated_crawler_that_waits_is_served_first(service: WeatherService) -> None:
    service.prepare(State(tokens=0.5, crawler_phase_s=0.0, crawler_waits=True))
    assert status_of(service, "/weather/2013-01-01") == 429
    time.sleep(0.7)
    assert status_of(service, "/weather/2013-01-01") == 429
    time.sleep(1.0)
    assert status_of(service, "/weather/2013-01-01") == 200


def test_control_without_a_stated_state_the_answers_differ(service: WeatherService) -> None:
    """If the pauses alone changed nothing, stating the state would prove nothing."""
    seen: list[list[int]] = []
    service.prepare(State(tokens=1.5, crawler_phase_s=0.2, crawler_waits=False))
    for pause in (0.0, 0.3, 0.6):
        time.sleep(pause)
        seen.append([status_of(service, "/weather/2013-01-01") for _ in range(2)])
    assert seen != [[200, 429]] * 3


def test_unknown_days_and_malformed_states_are_refused(service: WeatherService) -> None:
    assert status_of(service, "/weather/2014-01-01") == 404
    assert status_of(service, "/state", b"{}") == 400
    assert status_of(service, "/state", b"x" * 5000) == 404


def test_crawler_empties_the_bucket_and_rests(weather: pd.DataFrame) -> None:
    limits = Limits(capacity=2, rate=10, crawler_period_s=0.6, crawler_busy=((0.0, 0.3),), crawler_pause_s=0.005)
    running = WeatherService(weather, limits)
    running.start()
    try:
        while_busy, after_rest = [], []
        for _ in range(4):
            running.prepare(State(tokens=0.0, crawler_phase_s=0.0, crawler_waits=False))
            while_busy.append(status_of(running, "/weather/2013-01-01"))
            time.sleep(0.5)
            after_rest.append(status_of(running, "/weather/2013-01-01"))
    finally:
        running.stop()
    assert while_busy == [429] * 4
    assert after_rest == [200] * 4
    assert running.crawler_answers[200] > 0
    assert running.crawler_answers[429] > 0


def test_backup_copies_every_row_in_the_time_it_is_given(warehouse: Path, tmp_path: Path) -> None:
    done = back_up(warehouse, tmp_path / "backup", 0.5, threading.Event())
    assert done is not None
    assert (done.tables, done.rows) == (1, 3000)
    assert done.held_s >= 0.5
    assert duckdb.sql(f"select count(distinct flight) from '{tmp_path}/backup/*.parquet'").fetchall() == [(3000,)]


def test_backup_keeps_other_processes_out_until_it_ends(warehouse: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=back_up, args=(warehouse, tmp_path / "backup", 120, stop))
    thread.start()
    while not list(tmp_path.glob("backup/*.parquet")):
        time.sleep(0.02)
    refused = write_from_another_process(warehouse)
    stop.set()
    thread.join()
    assert "Could not set lock on file" in refused.stderr
    assert write_from_another_process(warehouse).returncode == 0


def test_backup_without_a_warehouse_does_nothing(tmp_path: Path) -> None:
    assert back_up(tmp_path / "none.duckdb", tmp_path / "backup", 0.1, threading.Event()) is None
    assert list(tmp_path.iterdir()) == []


def test_neighbours_start_together_and_end_together(tmp_path: Path, data: Path) -> None:
    with neighbours(tmp_path, data) as running:
        urllib.request.urlopen(
            urllib.request.Request(running.ops_channel.replace("json://", "http://"), data=b'{"title": "late"}'), timeout=10
        ).close()
        running.prepare(State(tokens=2.0, crawler_phase_s=2.9, crawler_waits=False))
        with urllib.request.urlopen(f"{running.weather_service}/weather/2013-05-01", timeout=10) as answer:
            assert len(json.loads(answer.read())) > 60
        (entry,) = running.requests()
        assert (entry.path, entry.status, entry.state.tokens) == ("/weather/2013-05-01", 200, 2)
        assert (tmp_path / "secrets" / "weather_service").read_text() == running.weather_service
        assert (tmp_path / "secrets" / "weather_service").stat().st_mode & 0o077 == 0
        address = running.weather_service
    assert [line["body"] for line in received(tmp_path / "notifications.jsonl")] == [{"title": "late"}]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/log", timeout=2)


def test_a_neighbour_ends_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "assets.neighbours.receiver", "--file", str(tmp_path / "lines")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["port"]
    assert port > 0
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    process.stdout.close()
