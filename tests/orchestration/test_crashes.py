"""Attempts that die, raise and end are measured as the operating system accounts for them, whatever executor runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from multiprocessing import forkserver, popen_fork, popen_forkserver, popen_spawn_posix, process
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from tests.orchestration.dying_project import MIB, SECONDS
from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration import crashes, waiting
from workflows_pkg.orchestration.compile import STEP_PROCESSES
from workflows_pkg.orchestration.crashes import telling_of_crashes
from workflows_pkg.orchestration.events import sync_events

CASES = ("spawned", "forked", "in_process", "served", "plain", "served_before")
DYING = ("forked", "served", "spawned")
"""Those whose first attempt is killed, and whose processes are waited for by somebody who keeps an account."""

Ran = Mapping[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    (made / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return made


@pytest.fixture(scope="module")
def ran(home: Path) -> dict[str, Ran]:
    """Every case once, in one process that has none of this one's memory, fork server and threads."""
    command = [sys.executable, "-m", "tests.orchestration.dying_project", str(home), *CASES]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pairs(of: Ran) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(what the attempt read of its own accounts, what was measured) of each attempt; one measurement for each."""
    assert [own["attempt"] for own in of["own"]] == [1, 2, 3]
    assert [measured["attempt"] for measured in of["measured"]] == [1, 2, 3]
    assert [own["process_id"] for own in of["own"]] == [measured["process_id"] for measured in of["measured"]]
    return list(zip(of["own"], of["measured"], strict=True))


@pytest.mark.parametrize("case", DYING)
def test_killed_failed_and_ended_attempts_agree_with_the_kernels_account(ran: dict[str, Ran], case: str) -> None:
    for own, measured in pairs(ran[case]):
        sys.stdout.write(
            f"{case} {own['attempt']}: own {own['cpu_s']:.4f} s {own['peak_mib']:.1f} MiB; measured {measured}\n"
        )  # shown with -s
        assert measured["dedicated"]
        assert measured["pool"] == "dying"
        assert measured["cpu_s"] == pytest.approx(own["cpu_s"], rel=0.05)
        assert measured["peak_memory_mib"] == pytest.approx(own["peak_mib"], rel=0.05)


@pytest.mark.parametrize("case", DYING)
def test_control_the_measure_of_another_attempt_would_not_agree(ran: dict[str, Ran], case: str) -> None:
    first, second, third = (own for own, _ in pairs(ran[case]))
    assert first["cpu_s"] != pytest.approx(second["cpu_s"], rel=0.5)
    peaks = [attempt["peak_mib"] for attempt in (first, second, third)]
    assert [peak - peaks[-1] for peak in peaks] == pytest.approx([MIB[0] - MIB[2], MIB[1] - MIB[2], 0], abs=3)
    assert sum(SECONDS) == pytest.approx(sum(own["cpu_s"] for own in ran[case]["own"]), rel=0.05)


def test_attempts_in_the_runs_own_process_agree_and_memory_is_unknown(ran: dict[str, Ran]) -> None:
    for own, measured in pairs(ran["in_process"]):
        assert measured["cpu_s"] == pytest.approx(own["cpu_s"], rel=0.05)
        assert not measured["dedicated"]
        assert "peak_memory_mib" not in measured
        assert own["peak_mib"] > MIB[0]  # control: of the process, for the third attempt as well, which took far less


def test_a_fork_server_that_was_not_asked_to_measure_leaves_it_unknown(ran: dict[str, Ran]) -> None:
    (_, first), *others = pairs(ran["served_before"])
    assert {"cpu_s", "peak_memory_mib"} & set(first) == set()
    assert all("cpu_s" in other and "peak_memory_mib" in other for _, other in others)


def test_it_is_one_event_for_each_attempt_and_nothing_else(ran: dict[str, Ran]) -> None:
    assert all(of["succeeded"] for of in ran.values())
    assert ran["plain"]["measured"] == []
    assert Counter(ran["served"]["kinds"]) - Counter(ran["plain"]["kinds"]) == {"ENGINE_EVENT": 3}
    assert Counter(ran["plain"]["kinds"]) - Counter(ran["served"]["kinds"]) == Counter()


def test_history_has_what_a_killed_attempt_used(ran: dict[str, Ran], home: Path) -> None:
    sync_events(home, home)
    with closing(open_history(home)) as history:
        asked = "select attempt, outcome, will_retry, round(cpu_s, 1), peak_memory_mib > 90 from step_attempts"
        attempts = history.execute(f"{asked} where run_id = ? order by attempt", [ran["served"]["run_id"]]).fetchall()
    assert attempts[0] == (1, "failure", True, 0.6, True)
    assert [attempt[:4] for attempt in attempts[1:]] == [(2, "failure", True, 0.2), (3, "success", False, 0.2)]


def test_the_processes_of_our_own_workflows_are_measured() -> None:
    assert telling_of_crashes(STEP_PROCESSES) is STEP_PROCESSES
    assert isinstance(STEP_PROCESSES.executor_creation_fn, crashes._Creation)


def test_a_kind_of_executor_that_somebody_made_is_left_alone() -> None:
    class Theirs(MultiprocessExecutor):
        pass

    made = Theirs(RetryMode.ENABLED, 1)
    executor = dg.ExecutorDefinition(name="theirs", executor_creation_fn=lambda _: made)
    creation = telling_of_crashes(executor).executor_creation_fn
    assert creation is not None
    assert type(creation(None)) is Theirs


def test_what_this_names_of_others_private_parts_is_still_there() -> None:
    assert hasattr(process, "_children")
    assert {popen_spawn_posix.Popen, popen_fork.Popen, popen_forkserver.Popen} == set(waiting._KINDS)
    assert hasattr(dg.in_process_executor, crashes._CREATION)
    assert {"_start_method", "_explicit_forkserver_preload"} <= set(vars(MultiprocessExecutor(RetryMode.ENABLED, 1)))
    assert forkserver.SIGNED_STRUCT.size == 8
    assert callable(forkserver.write_signed)
