"""No path a workflow file can write leads out of the granted folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows_pkg.errors import Refused
from workflows_pkg.security.allow import Allow

OUTSIDE = [
    "..",
    "../",
    "../data2",
    "../data2/x",
    "../../etc/passwd",
    "a/../../x",
    "a/b/../../../x",
    "./../x",
    ".//..//x",
    "a/./../../x",
    "/",
    "/etc/passwd",
    "//etc/passwd",
    "///etc/passwd",
    "/proc/self/environ",
    "/dev/mem",
    "../../../../../../../../proc/self/environ",
    "link/passwd",
    "link",
    "link/../../etc/passwd",
    "deep/up/x",
    "relative_link/x",
    "first_hop/x",
    "loop/x",
    "a\0b",
    "../\0",
    "x\0/../..",
    "n" * 256,
    "ok/" + "ü" * 200,
]


@pytest.fixture
def allow(tmp_path):
    """A granted folder with links that lead out of it, directly, by a relative path, in two hops, and in a circle."""
    root = tmp_path / "data"
    (root / "deep").mkdir(parents=True)
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "x").write_text("outside")
    (root / "inside.txt").write_text("inside")
    (root / "link").symlink_to("/etc")
    (root / "deep" / "up").symlink_to("../../data2")
    (root / "relative_link").symlink_to("../data2")
    (root / "first_hop").symlink_to("deep/up")
    (root / "loop").symlink_to("loop")
    (root / "inner_link").symlink_to("deep")
    return Allow(files=root)


@pytest.mark.parametrize("relative", OUTSIDE, ids=lambda text: repr(text)[:30])
def test_paths_out_of_the_folder_are_refused_in_one_line(allow, relative):
    with pytest.raises(Refused) as caught:
        allow.path(relative)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert caught.value.cause == "code"


@pytest.mark.parametrize("relative", ["../data2/x", "deep/up/x", "relative_link/x", "first_hop/x"])
def test_joining_paths_plainly_does_lead_out(allow, relative):
    """The control: each of these opens a file outside when it is only joined to the folder."""
    assert (allow.files / relative).read_text() == "outside"


def test_paths_below_the_folder_are_real_paths(allow):
    root = allow.files.resolve()
    assert allow.path("inside.txt") == root / "inside.txt"
    assert allow.path("deep/../inside.txt") == root / "inside.txt"
    assert allow.path("inner_link/new/file.csv") == root / "deep" / "new" / "file.csv"
    assert allow.path("..data") == root / "..data"
    assert allow.path("~/x") == root / "~" / "x"
    assert allow.path("$HOME/x") == root / "$HOME" / "x"
    assert allow.path(".") == root


def test_a_folder_whose_name_only_begins_the_same_is_outside(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(Refused):
        Allow(files=tmp_path / "data").path("../database/x")


def test_nothing_is_granted_by_default():
    with pytest.raises(Refused, match="grants no files"):
        Allow().path("x")
    assert not Allow().allows_module("os")


def test_a_link_made_after_the_check_is_not_seen(allow, tmp_path):
    """The known limit (see `Allow.path`): who can replace a folder by a link between check and opening wins the race."""
    checked = allow.path("deep/x")
    os.unlink(allow.files / "deep" / "up")
    (allow.files / "deep").rmdir()
    (allow.files / "deep").symlink_to(tmp_path / "data2")
    assert checked.read_text() == "outside"
    with pytest.raises(Refused):
        allow.path("deep/x")


pieces = st.lists(
    st.sampled_from(["..", ".", "", "a", "deep", "up", "link", "first_hop", "loop", "inside.txt", "~", "\0"])
    | st.text(max_size=5)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(pieces)
def test_whatever_is_given_back_lies_below_the_folder(allow, parts):
    root = allow.files.resolve()
    try:
        found = allow.path("/".join(parts))
    except Refused:
        return
    assert Path(os.path.realpath(found)).is_relative_to(root)


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("assets", True),
        ("assets.flights", True),
        ("assets.a.b", True),
        ("assetsx", False),
        ("asset", False),
        ("other.assets", False),
        ("Assets", False),
        ("", False),
        ("assets-flights", False),
    ],
)
def test_modules_are_granted_by_whole_names(module, allowed):
    assert Allow(modules=("assets",)).allows_module(module) is allowed
