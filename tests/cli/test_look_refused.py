"""What this user may not read or write is one sentence, whatever the system answers; what is optional is left out and told of."""

from __future__ import annotations

import ctypes
import os
import runpy
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARK: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "look.py"))
RUNS = 12
_CAPABILITIES_3, _DAC_OVERRIDE, _DAC_READ_SEARCH = 0x20080522, 1, 2
"""Of linux/capability.h."""

Call = Callable[..., Any]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="2026-11-25: capabilities and /proc are of Linux")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("theirs") / "home"
    BENCHMARK["make_instance"](made, RUNS, {"stock": BENCHMARK["TROUBLED"]["stock"]})
    return made


@pytest.fixture
def home(recorded: Path, tmp_path: Path) -> Iterator[Path]:
    made = Path(shutil.copytree(recorded, tmp_path / "theirs" / "home"))
    yield made
    for path in (made.parent, made, made / "history", made / "history" / "runs", made / "schedules"):
        path.chmod(0o700)


@pytest.fixture
def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rights of files count, for root too: this thread, and those it starts, do without the capabilities that pass over them."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    fewer = (ctypes.c_uint32 * 6)(*before)
    fewer[0] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    assert libc.capset(header, fewer) == 0
    yield
    assert libc.capset(header, before) == 0


def one_sentence(looked: Any) -> str:
    assert looked.code == 1, looked.err
    said = [line for line in looked.err.splitlines() if not line.startswith(("reading ", "read "))]
    assert len(said) == 1, said
    assert said[0].startswith("Error: ")
    assert len(said[0]) < 600
    assert said[0].endswith(".")
    return str(said[0])


@pytest.mark.parametrize("closed", [".", "..", "history", "history/runs.db"])
def test_what_may_not_be_read_is_named(closed: str, home: Path, bound: None, workflows: Call) -> None:
    (home / closed).resolve().chmod(0)
    said = one_sentence(workflows("look", home, "--no-open"))
    assert "Permission denied" in said
    assert str(home) in said


def test_ticks_are_optional(home: Path, bound: None, workflows: Call) -> None:
    (home / "schedules").chmod(0)
    looked = workflows("look", home, "--json")
    assert looked.code == 0, looked.err
    assert looked.value["instance"]["runs"] == RUNS
    told = [item["why"] for item in looked.value["unseen"] if item["what"] == "Something in the instance itself"]
    assert told == [f"ticks: {home}/schedules/schedules.db may not be read: Permission denied."]


def test_logs_that_may_not_be_read_are_not_called_deleted(home: Path, bound: None, workflows: Call) -> None:
    (home / "history" / "runs").chmod(0)
    looked = workflows("look", home, "--json")
    assert looked.code == 0, looked.err
    assert looked.value["instance"]["runs"] == RUNS
    first = looked.value["unseen"][0]
    assert first["what"] == f"{RUNS} run logs could not be read"
    assert first["why"].startswith(f"{home}/history/runs/*.db may not be read: Permission denied. Ask for the right")
    assert not any("deleted" in item["why"] for item in looked.value["unseen"])


def test_control_the_same_instance_with_all_rights(home: Path, bound: None, workflows: Call) -> None:
    looked = workflows("look", home, "--json")
    assert looked.code == 0, looked.err
    assert looked.value["instance"]["events"] > 100


@pytest.mark.parametrize("option", ["--keep", "--out"])
@pytest.mark.parametrize("place", ["/proc/x", "../closed", "../closed/below", "x" * 5000])
def test_what_may_not_be_written_is_named(
    option: str, place: str, home: Path, tmp_path: Path, bound: None, workflows: Call
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500 if option == "--keep" else 0)
    said = one_sentence(workflows("look", home, "--no-open", option, place if option == "--keep" else f"{place}/page.html"))
    assert option in said
    assert place[:90].strip(".") in said


@pytest.mark.parametrize("where", ["/proc/1/root", "x" * 5000, "y" * 200 + "/" + "x" * 300])
def test_odd_paths_get_a_sentence(where: str, bound: None, workflows: Call) -> None:
    one_sentence(workflows("look", where, "--no-open"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (">/dev/full", "Error: Nothing more can be written: No space left on device. Make room, or write somewhere else."),
        (">&-", "Error: Standard output is closed. Open it, or send it to a file."),
    ],
)
def test_a_standard_output_that_takes_nothing_gets_a_sentence(how: str, said: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'from workflows_pkg.cli.main import main; main()' --help {how}"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", said)


@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_look_leaves_the_folder_to_keep_as_it_was(existing: bool, home: Path, tmp_path: Path, workflows: Call) -> None:
    keep = tmp_path / "kept"
    if existing:
        keep.mkdir()
    with sqlite3.connect(home / "history" / "runs.db") as con:
        con.execute("delete from runs")
    con.close()
    looked = workflows("look", home, "--no-open", "--keep", keep, "--out", tmp_path / "page.html")
    assert looked.code == 1
    assert "Nothing has ever run" in looked.err
    assert keep.is_dir() == existing
    assert not existing or not list(keep.iterdir())
