"""Killed at every named point: exactly one version is active, none is half written, and doing it again completes it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import workflows_pkg.release.durable as durable_module
from workflows_pkg.history.crash import EXIT_CODE, VARIABLE
from workflows_pkg.release.versions import VersionStore

POINTS = sorted(set(re.findall(r'crash_point\("([^"]+)"\)', Path(durable_module.__file__).read_text())))

PROGRAM = """
import sys
from pathlib import Path
from workflows_pkg.release.versions import VersionStore
from workflows_pkg.spec.model import Workflow
home, action, value, path = sys.argv[1:5]
store, workflow = VersionStore(Path(home)), Workflow.model_validate_json(value)
if action == "current":
    store.current(workflow)
elif action == "adopt":
    store.adopt(workflow, author="ada", reason="learned", parent=store.active("daily").number, suggestion_id="s1")
elif action == "activate":
    store.activate("daily", 1)
else:
    store.write_back("daily", Path(path))
"""


def run(home, action, workflow, path="", crash_at=""):
    environment = {**os.environ, VARIABLE: crash_at}
    command = [sys.executable, "-c", PROGRAM, str(home), action, workflow.model_dump_json(by_alias=True), str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_points_are_there():
    assert POINTS == ["release.before_replace", "release.created", "release.half_written", "release.replaced"]


@pytest.mark.parametrize("mode", ["", ":kill"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_while_adopting_one_version_is_active_and_again_completes_it(store, workflow, point, mode):
    home = store.folder.parent
    store.current(workflow())
    before = (store.folder / "daily" / "0001.json").read_bytes()
    died = run(home, "adopt", workflow(timeout="9s"), crash_at=point + mode)
    assert died.returncode == (-signal.SIGKILL if mode else EXIT_CODE), died.stderr
    fresh = VersionStore(home)
    assert sum(version.active for version in fresh.log("daily")) == 1
    assert fresh.active("daily").number == (2 if point == "release.replaced" else 1)
    assert (store.folder / "daily" / "0001.json").read_bytes() == before
    again = run(home, "adopt", workflow(timeout="9s") if fresh.active("daily").number == 1 else workflow(timeout="8s"))
    assert again.returncode == 0, again.stderr
    log = fresh.log("daily")
    assert [version.number for version in log] == ([3, 2, 1] if point == "release.replaced" else [2, 1])
    assert fresh.active("daily").number == log[0].number
    fresh.activate("daily", 1)
    assert fresh.workflow(fresh.active("daily")) == workflow()


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_the_first_look_the_next_look_is_version_1(store, workflow, point):
    home = store.folder.parent
    assert run(home, "current", workflow(), crash_at=point).returncode == EXIT_CODE
    assert VersionStore(home).current(workflow()) == (workflow(), 1)
    assert [version.number for version in VersionStore(home).log("daily")] == [1]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_the_first_look_and_edited_before_the_next(store, workflow, point):
    home = store.folder.parent
    run(home, "current", workflow(), crash_at=point)
    run(home, "current", workflow(timeout="20s"), crash_at="release.created")
    current, number = VersionStore(home).current(workflow(timeout="20s"))
    assert current == workflow(timeout="20s")
    assert VersionStore(home).active("daily").number == number
    assert sum(version.active for version in VersionStore(home).log("daily")) == 1


@pytest.mark.parametrize("point", ["release.before_replace", "release.half_written", "release.replaced"])
def test_killed_while_rolling_back_either_version_is_active_and_both_are_whole(store, workflow, point):
    home = store.folder.parent
    store.current(workflow())
    store.current(workflow(timeout="20s"))
    assert run(home, "activate", workflow(), crash_at=point).returncode == EXIT_CODE
    fresh = VersionStore(home)
    assert fresh.active("daily").number == (1 if point == "release.replaced" else 2)
    assert [version.digest for version in fresh.log("daily")] == [version.digest for version in store.log("daily")]
    assert run(home, "activate", workflow()).returncode == 0
    assert fresh.active("daily").number == 1


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_writing_back_the_authors_file_is_the_old_or_the_new_one(store, workflow, tmp_path, point):
    home, path = store.folder.parent, tmp_path / "daily.yaml"
    path.write_text("# mine\n")
    store.current(workflow())
    store.adopt(workflow(timeout="9s"), author="ada", reason="learned", parent=1)
    assert run(home, "write", workflow(), path, crash_at=point).returncode == EXIT_CODE
    text = path.read_text()
    assert (text == "# mine\n") if point != "release.replaced" else ("timeout: 9s" in text)
    if point == "release.replaced":
        assert store.current(workflow(timeout="9s"))[1] == 2, "the pointer was not yet told, but the file says what is active"
    assert [version.number for version in store.log("daily")] == [2, 1]


def test_what_a_dead_writer_left_is_swept_by_the_next(store, workflow):
    home = store.folder.parent
    store.current(workflow())
    run(home, "adopt", workflow(timeout="9s"), crash_at="release.half_written")
    assert list((store.folder / "daily").glob(".fresh-*"))
    store.adopt(workflow(timeout="9s"), author="ada", reason="learned", parent=1)
    assert not list((store.folder / "daily").glob(".fresh-*"))


def test_control_a_pointer_written_in_place_is_torn_by_the_same_kill(tmp_path):
    """What the atomic replacement is for: the same crash, between the halves of a plain write, leaves half a pointer."""
    path = tmp_path / "active"
    path.write_text('{"number": 1}\n')
    program = (
        "import sys\nfrom workflows_pkg.history.crash import crash_point\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    file.write('{\"num'); file.flush(); crash_point('release.half_written'); file.write('ber\": 2}')"
    )
    environment = {**os.environ, VARIABLE: "release.half_written"}
    subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False, timeout=60)
    assert path.read_text() == '{"num'
