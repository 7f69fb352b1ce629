"""`workflows scale`: the figure with the coming hours and the past weeks, served as metrics that Prometheus and KEDA read."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import free_port
from workflows_pkg.cli import metrics_server
from workflows_pkg.history.records import Run
from workflows_pkg.history.store import writer
from workflows_pkg.orchestration.instance import create_instance

ROOT = Path(__file__).parents[2]
Call = Callable[..., Any]


def land(home: Path, days: int) -> None:
    """Three runs of four minutes in every hour, and one that goes on now."""
    now = datetime.now(UTC).replace(microsecond=0)
    rows: list[Run] = []
    for hour in range(24 * days, 0, -1):
        at = now.replace(minute=0, second=0) - timedelta(hours=hour)
        for number in range(3):
            begun, ended = at + timedelta(seconds=4), at + timedelta(minutes=4)
            rows.append(_run(f"r{hour}-{number}", at, begun, ended))
    with writer(home) as landed:
        landed.upsert(Run, [*rows, _run("open", now - timedelta(seconds=20), now, None)])


def _run(run_id: str, asked: datetime, begun: datetime, ended: datetime | None) -> Run:
    took = None if ended is None else (ended - begun).total_seconds()
    outcome = None if ended is None else "success"
    return Run(
        run_id=run_id, source_id="here", job_name="hourly", created_at=asked, started_at=begun, ended_at=ended, outcome=outcome,
        queue_time_s=2.0, start_time_s=2.0, run_time_s=took,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    create_instance(folder)
    land(folder, 36)
    return folder


def test_it_says_how_many_now_and_later_and_what_that_would_have_cost(home: Path, workflows: Call) -> None:
    said = workflows("scale", "--hours", 3, "--home", home)
    assert said.code == 0, said.err
    assert re.search(r"^\d+ workers? now, for \d+ runs present and \d+ kept idle\.\nBy: ", said.out)
    assert len(re.findall(r"^\d{4}-\d\d-\d\d \d\d:00 ", said.out, re.MULTILINE)) == 3
    assert "workers start in 2m00s.\nWanted: the shortest wait for what reactive scaling would cost;" in said.out
    assert re.search(r"^ours +\d+ ", said.out, re.MULTILINE)
    assert re.search(r"^reactive +\d+ ", said.out, re.MULTILINE)


def test_json_has_the_same_and_ours_is_cheaper_and_sooner(home: Path, workflows: Call) -> None:
    value = workflows("scale", "--wait", "30s", "--starts-in", "3m", "--json", "--home", home).value
    assert value["present"] >= 1
    assert value["workers"] == value["present"] + value["spare"]
    assert (value["starts_in_s"], value["allowed_wait_s"], value["why_reactive"]) == (180, 30, None)
    assert len(value["hours"]) == 12
    assert {(hour["p50"], hour["p95"]) for hour in value["hours"][1:]} == {(3, 3)}
    ours, reactive = value["replayed"][:2]
    assert (ours["way"], reactive["way"]) == ("ours", "reactive")
    assert ours["worker_hours"] < reactive["worker_hours"]
    assert ours["wait_mean_s"] <= 30 < reactive["wait_mean_s"]


def test_steps_can_take_the_workers_and_history_may_be_too_short(home: Path, workflows: Call, tmp_path: Path) -> None:
    said = workflows("scale", "--slots", "steps", "--home", home)
    assert said.out.startswith("0 workers now, for 0 steps present.\nNothing is forecast: nothing has asked for a worker yet.")
    create_instance(tmp_path / "young")
    land(tmp_path / "young", 5)
    said = workflows("scale", "--home", tmp_path / "young")
    assert "days of history are known, and 21 are needed. This is what reactive scaling asks for." in said.out
    assert "The most at once" not in said.out
    value = workflows("scale", "--json", "--home", tmp_path / "young").value
    assert (value["hours"], value["replayed"]) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--starts-in", "soon"], "--starts-in"),
        (["--starts-in", "2h"], "expected at most 1h, found 2h"),
        (["--wait", "0s"], "expected a duration longer than 0s"),
        (["--hours", "25"], "25 is not in the range 1<=x<=24"),
        (["--slots", "cores"], "'cores' is not one of 'runs', 'steps'"),
    ],
)
def test_what_is_typed_wrong_is_told(home: Path, workflows: Call, arguments: list[str], expected: str) -> None:
    said = workflows("scale", *arguments, "--home", home)
    assert said.code == 2
    assert expected in said.err


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_port_that_is_taken_is_told(home: Path, workflows: Call, where: str) -> None:
    options = {"before": ("--home", home, "serve"), "after": ("serve", "--home", home)}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = workflows("scale", *options[where], "--port", taken.getsockname()[1])
    assert said.code == 1
    assert "Choose another with --host and --port." in said.err


def test_without_the_extra_it_says_how_to_get_it(home: Path, workflows: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows_pkg.report.scaling_metrics.find_spec", lambda name: None)
    said = workflows("scale", "--home", home, "serve")
    assert said.code == 1
    assert "pip install 'agentic-workflows[metrics]'" in said.err


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """`workflows scale serve` in a process of its own, ended as by Ctrl-C; yields its address."""
    port = free_port()
    code = "import sys; from workflows_pkg.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "scale", "--home", str(home), "serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert f"serving http://127.0.0.1:{port}/metrics" in process.stderr.readline()
            yield f"127.0.0.1:{port}"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def got(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def figures(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_dated_1970_is_neither_history_nor_work(home: Path, workflows: Call, tmp_path: Path) -> None:
    long_ago = datetime(1970, 1, 2, tzinfo=UTC)
    old = _run("old", long_ago, long_ago, long_ago + timedelta(minutes=4))
    create_instance(tmp_path)
    land(tmp_path, 5)
    with writer(tmp_path) as landed:
        landed.upsert(Run, [old])
    said = workflows("scale", "--home", tmp_path)
    assert re.search(r"Nothing is forecast: 5\.\d days of history are known, and 21 are needed", said.out)
    shutil.copytree(home, tmp_path / "long")
    with writer(tmp_path / "long") as landed:
        landed.upsert(Run, [old])
    begun = time.process_time()
    with_it = workflows("scale", "--json", "--home", tmp_path / "long").value
    took = time.process_time() - begun
    begun = time.process_time()
    without = workflows("scale", "--json", "--home", home).value
    assert took < 2 * (time.process_time() - begun) + 1, "control: counted by the minute from 1970 on it was ten times as long"
    assert [one["worker_hours"] for one in with_it["replayed"]] == pytest.approx(
        [one["worker_hours"] for one in without["replayed"]], rel=0.01
    )


def test_more_readers_than_there_is_room_for_are_turned_away_and_slow_ones_do_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_server._Handler, "timeout", 3.0)
    server, thread = metrics_server.listen("127.0.0.1", 0, CollectorRegistry())
    before = threading.active_count()
    port = server.server_address[1]
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * metrics_server.MOST_AT_ONCE)]
    try:
        time.sleep(0.3)
        assert threading.active_count() - before <= metrics_server.MOST_AT_ONCE
        with pytest.raises((OSError, http.client.HTTPException)):
            got(f"http://127.0.0.1:{port}/metrics")
        for _ in range(100):
            if threading.active_count() == before:
                break
            time.sleep(0.1)
        got(f"http://127.0.0.1:{port}/metrics")  # control: when they have gone, there is room
    finally:
        for one in silent:
            one.close()
        server.shutdown()
        server.server_close()
        thread.join()


def test_whoever_sends_a_byte_now_and_then_does_not_stay_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered_while_they_trickle(seconds: float) -> bool:
        monkeypatch.setattr(metrics_server._Handler, "timeout", seconds)
        server, thread = metrics_server.listen("127.0.0.1", 0, CollectorRegistry())
        port = server.server_address[1]
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(metrics_server.MOST_AT_ONCE)]
        try:
            for _ in range(10):
                for one in slow:
                    with suppress(OSError):
                        one.sendall(b"G")
                time.sleep(0.2)
            try:
                got(f"http://127.0.0.1:{port}/metrics")
            except (OSError, http.client.HTTPException):
                return False
            return True
        finally:
            for one in slow:
                one.close()
            server.shutdown()
            server.server_close()
            thread.join()

    assert answered_while_they_trickle(1.0), "each byte came within the second, the request did not"
    assert not answered_while_they_trickle(10.0), "control: their time is not over"


def test_looks_that_come_together_share_one_and_a_later_one_is_its_own() -> None:
    looks: list[int] = []
    free = threading.Event()

    def look() -> int:
        looks.append(len(looks))
        free.wait(10)
        return len(looks)

    found = metrics_server.shared(look)
    first = threading.Thread(target=found)
    first.start()
    while not looks:
        time.sleep(0.01)
    others = [threading.Thread(target=found) for _ in range(20)]
    for one in others:
        one.start()
    time.sleep(0.2)
    free.set()
    for one in (first, *others):
        one.join()
    assert len(looks) == 2, "the first had begun before the others asked"
    assert found() == 3, "control: what is asked for later is looked up anew"


def keda_triggers() -> list[dict[str, Any]]:
    """The triggers that the page shows."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    shown = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    return [trigger for one in shown if one.get("kind") == "ScaledObject" for trigger in one["spec"]["triggers"]]


def keda_value(text: str, location: str) -> float:
    """What KEDA's metrics-api trigger takes from a page in the format of Prometheus: the first sample of that name with those labels."""
    name, labels = re.fullmatch(r"(\w+)\{(.*)\}", location).groups()  # type: ignore[union-attr]
    wanted = set(re.findall(r'(\w+)="([^"]*)"', labels))
    return next(value for (sample, found), value in figures(text).items() if sample == name and wanted <= found)


def test_what_is_served_is_the_figure_and_follows_the_history(tmp_path: Path) -> None:
    mine = tmp_path / "home"
    create_instance(mine)
    land(mine, 36)
    (trigger,) = [one for one in keda_triggers() if one["type"] == "metrics-api"]
    assert trigger["metadata"]["format"] == "prometheus"
    location = trigger["metadata"]["valueLocation"]
    runs = frozenset({("slots", "runs")})
    with serving(mine) as address:
        before = got(f"http://{address}/metrics")
        assert figures(before)["workflows_scale_up", runs] == 1
        assert figures(before)["workflows_scale_forecast", runs] == 1
        assert keda_value(before, location) == figures(before)["workflows_scale_workers", runs] >= 1
        peaks = [dict(labels) for name, labels in figures(before) if name == "workflows_scale_peak"]
        assert {int(one["hours_ahead"]) for one in peaks} >= set(range(23))
        now = datetime.now(UTC)
        with writer(mine) as landed:
            landed.upsert(Run, [_run(f"more{number}", now - timedelta(seconds=5), now, None) for number in range(7)])
        after = got(f"http://{address}/metrics")
        assert figures(after)["workflows_scale_present", runs] == figures(before)["workflows_scale_present", runs] + 7
        assert keda_value(after, location) >= 8
        (published,) = mine.glob("history.duckdb")
        aside = published.rename(tmp_path / "aside")
        gone = figures(got(f"http://{address}/metrics"))
        assert gone == {("workflows_scale_up", runs): 0}, "no history is not a history in which nothing is asked for"
        aside.rename(published)
        assert figures(got(f"http://{address}/metrics"))["workflows_scale_up", runs] == 1
        for file in mine.rglob("history*.duckdb"):
            file.write_bytes(b"not a database")
        broken = figures(got(f"http://{address}/metrics"))
        assert broken == {("workflows_scale_up", runs): 0}


def test_the_keda_object_of_the_page_is_one_of_its_published_form() -> None:
    """Names and types as in KEDA's CustomResourceDefinition of ScaledObject and its pages of both triggers; all metadata are texts."""
    triggers = keda_triggers()
    required = {"metrics-api": {"url", "valueLocation", "targetValue"}, "prometheus": {"serverAddress", "query", "threshold"}}
    assert {one["type"] for one in triggers} == set(required)
    for one in triggers:
        assert required[one["type"]] <= set(one["metadata"])
        assert all(isinstance(value, str) for value in one["metadata"].values())
        assert one["metricType"] == "AverageValue"
        assert one["metadata"].get("targetValue", one["metadata"].get("threshold")) == "1"


@pytest.mark.long
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="2026-11-28: needs a Prometheus of the system (apt-get install prometheus)"
)
def test_a_real_prometheus_scrapes_it_and_answers_the_query_of_the_page(home: Path, tmp_path: Path) -> None:
    (trigger,) = [one for one in keda_triggers() if one["type"] == "prometheus"]
    with serving(home) as address:
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [{"job_name": "w", "static_configs": [{"targets": [address]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        with (tmp_path / "log").open("w") as log, subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        ) as process:  # fmt: skip
            try:
                found = asked(f"http://127.0.0.1:{port}", trigger["metadata"]["query"])
                served = figures(got(f"http://{address}/metrics"))
                assert len(found) == 1  # KEDA refuses a query with more than one element
                assert float(found[0]["value"][1]) == served["workflows_scale_workers", frozenset({("slots", "runs")})]
                tomorrow = asked(f"http://127.0.0.1:{port}", 'max(workflows_scale_peak{quantile="0.95"})')
                assert float(tomorrow[0]["value"][1]) >= 3
            finally:
                process.kill()


def asked(prometheus: str, query: str) -> list[dict[str, Any]]:
    """What it answers, as soon as it has scraped."""
    for _ in range(120):
        try:
            answer = json.loads(got(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
            if answer["data"]["result"]:
                return answer["data"]["result"]
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"nothing was scraped for {query}")
