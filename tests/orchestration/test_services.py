"""Do code server, daemon and webserver start together, do the work, and leave nothing behind? Real processes on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
import pytest

from workflows_pkg.errors import BusyError, NotFound, SetupError
from workflows_pkg.orchestration.instance import open_instance
from workflows_pkg.orchestration.launch import submit, wait_until_ended
from workflows_pkg.orchestration.services import Services

PROJECT = Path(__file__).parent / "project"


@dataclass
class Running:
    """The services of the sample project with the instance they serve."""

    services: Services
    instance: dg.DagsterInstance
    files: Path


def _processes_of(home: Path) -> list[psutil.Process]:
    """Every process that was started for this home, however far down."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DAGSTER_HOME") == str(home) and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def _project(folder: Path) -> Path:
    """A copy of the sample project, whose files tests may change."""
    return Path(shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    before = os.environ.get("DAGSTER_HOME")
    home, files = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("files")
    (files / "inbox").mkdir()
    project = _project(tmp_path_factory.mktemp("project") / "copy")
    with Services(home, project, module="sample_location", port=0, env={"SAMPLE_FILES": str(files)}) as services:
        with open_instance(home) as instance:
            yield Running(services, instance, files)
        assert len(_processes_of(home)) >= 3, "control: code server with its proxy, and webserver are seen"
    assert _processes_of(home) == []
    if before is None:
        os.environ.pop("DAGSTER_HOME", None)
    else:
        os.environ["DAGSTER_HOME"] = before


def _first_run(instance: dg.DagsterInstance, job: str, tag: str, within_s: float) -> dg.DagsterRun:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        runs = [run for run in instance.get_runs(dg.RunsFilter(job_name=job)) if tag in run.tags]
        if runs:
            return runs[-1]
        time.sleep(0.2)
    raise AssertionError(f"no run of {job} with the tag {tag} within {within_s} s")


def test_schedule_and_sensor_fire_and_their_runs_succeed(running: Running) -> None:
    (running.files / "inbox" / "today.csv").write_text("a,b\n")
    arrived = _first_run(running.instance, "arrivals", "dagster/sensor_name", 60)
    assert wait_until_ended(running.instance, arrived.run_id, 90)
    assert arrived.tags["workflows/sensor_file"] == "inbox/today.csv"
    scheduled = _first_run(running.instance, "sales", "dagster/schedule_name", 120)
    assert wait_until_ended(running.instance, scheduled.run_id, 120)
    assert scheduled.tags["dagster/partition"] == "2024-01-01"
    assert scheduled.tags["workflows/version"] == "1"
    assert running.instance.get_materialized_partitions(dg.AssetKey(["sales", "summary"])) == {"2024-01-01"}
    arrivals = running.instance.get_runs(dg.RunsFilter(job_name="arrivals"))
    assert len(arrivals) == 1, "the same file starts one run, however often the sensor looks"


def test_a_run_goes_through_queue_and_code_server_with_a_process_per_step(running: Running) -> None:
    run_id = submit(running.instance, running.services.workspace_file, "sales", partition="2024-01-03", tags={"asked/by": "me"})
    assert wait_until_ended(running.instance, run_id, 120)
    run = running.instance.get_run_by_id(run_id)
    assert run is not None
    assert (run.tags["asked/by"], run.tags["dagster/partition"], run.tags[".dagster/workflows_workflow"]) == (
        "me",
        "2024-01-03",
        "sales",
    )
    events = [entry.dagster_event for entry in running.instance.all_logs(run_id) if entry.dagster_event]
    kinds = [event.event_type_value for event in events]
    assert "PIPELINE_ENQUEUED" in kinds
    assert "PIPELINE_STARTING" in kinds
    assert {event.step_key for event in events if event.event_type_value == "STEP_SUCCESS"} == {
        f"sales__steps.{step}" for step in ("sold", "summary", "praise", "done")
    }
    processes = {event.pid for event in events if event.event_type_value == "STEP_SUCCESS"}
    assert len(processes) == 4
    metered = [
        event.event_specific_data.metadata for event in events if event.event_type_value == "ENGINE_EVENT" and event.step_key
    ]
    dedicated = [metadata["workflows/dedicated"].value for metadata in metered if "workflows/dedicated" in metadata]
    assert dedicated == [True, True, True]


def test_what_cannot_be_submitted_is_one_sentence(running: Running, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"There is no job 'sale'\. Did you mean 'sales'\?"):
        submit(running.instance, running.services.workspace_file, "sale")
    with pytest.raises(SetupError, match="'sales' is run one partition at a time"):
        submit(running.instance, running.services.workspace_file, "sales")
    with pytest.raises(SetupError, match="'arrivals' has no partitions"):
        submit(running.instance, running.services.workspace_file, "arrivals", partition="2024-01-01")
    gone = tmp_path / "workspace.yaml"
    gone.write_text('load_from:\n  - grpc_server: {"socket": "/tmp/nobody-listens-here.sock", "location_name": "x"}\n')
    with pytest.raises(SetupError, match="does not serve"):
        submit(running.instance, gone, "sales", partition="2024-01-01")


def test_only_this_user_can_reach_the_code_server(running: Running) -> None:
    folder = running.services.socket.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(str(running.services.socket)) < 104
    listening = {
        connection.laddr.ip
        for process in _processes_of(running.services.home)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_the_webserver_shows_the_code_location(running: Running) -> None:
    query = json.dumps({"query": "{repositoriesOrError{... on RepositoryConnection{nodes{jobs{name}}}}}"}).encode()
    asked = urllib.request.Request(f"{running.services.url}/graphql", data=query, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        nodes = json.loads(answer.read())["data"]["repositoriesOrError"]["nodes"]
    assert {job["name"] for job in nodes[0]["jobs"]} >= {"sales", "arrivals", "resumed"}


def test_a_second_start_for_the_same_home_is_refused(running: Running) -> None:
    with pytest.raises(BusyError, match="run already"), Services(running.services.home, PROJECT, module="sample_location"):
        pass
    running.services.check()  # the first is untouched


def test_a_new_version_of_a_file_is_served_after_a_reload(running: Running) -> None:
    """Last of the tests on the shared services: it changes what they serve."""
    project = running.services._project
    file = project / "workflows" / "resumed.yaml"
    file.write_text(file.read_text().replace("  second:", "  another:"))
    running.services.reload()
    run_id = submit(running.instance, running.services.workspace_file, "resumed")
    run = running.instance.get_run_by_id(run_id)
    assert run is not None
    assert run.tags["workflows/version"] == "2"


def test_a_process_that_ended_is_told_with_the_end_of_its_log(running: Running) -> None:
    """Very last on the shared services: it kills one of them."""
    os.kill(running.services.process_ids["daemon"], signal.SIGKILL)
    time.sleep(1)
    with pytest.raises(
        SetupError, match=r"The daemon ended with code -9\. The end of .*daemon\.log:[\s\S]*dagster\.daemon"
    ) as caught:
        running.services.check()
    assert "\x1b" not in str(caught.value), "the colours of the log stay in the log"


def test_a_code_location_that_does_not_load_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "wrong_location.py").write_text("import nothing_of_this_name\n")
    home = tmp_path / "home"
    with pytest.raises(SetupError, match=r"'wrong_location' does not load: .*No module named 'nothing_of_this_name'") as caught:
        Services(home, project, module="wrong_location").__enter__()
    assert "code-server.log" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert _processes_of(home) == []


def test_settings_that_dagster_refuses_are_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("no_such_setting: 1\n")
    with pytest.raises(SetupError, match=r"cannot be opened: .*no_such_setting.*Look at .*dagster\.yaml"):
        Services(home, PROJECT, module="sample_location").__enter__()
    assert not (home / "services" / "code-server.log").exists()


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"Port {port} is taken"):
            Services(tmp_path / "home", PROJECT, module="sample_location", port=port).__enter__()


def test_a_long_temporary_folder_does_not_make_the_socket_path_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    from workflows_pkg.orchestration.services import _private_folder

    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = _private_folder()
    try:
        assert len(str(folder / "code.sock")) < 104
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        folder.rmdir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.long
def test_serving_ends_with_a_signal_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"
    program = (
        "import sys, pathlib; from workflows_pkg.orchestration.services import serve;"
        "serve(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), module='sample_location', port=int(sys.argv[3]),"
        " say=lambda line: print(line, flush=True))"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", program, str(home), str(PROJECT), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Starting")
        assert process.stdout.readline().startswith(f"Dagster UI: http://127.0.0.1:{port}")
        assert len(_processes_of(home)) >= 4
        process.send_signal(number)
        assert process.stdout.readline() == "Ended.\n"
        assert process.wait(30) == 0
    assert _processes_of(home) == []
