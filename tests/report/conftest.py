"""A history with something of everything, one with nothing, and one in which every text attacks the page."""

import runpy
from pathlib import Path

import pytest

from workflows_pkg.history.store import open_history


@pytest.fixture(scope="session")
def sample():
    """The names of sample_history.py."""
    return runpy.run_path(str(Path(__file__).parent / "sample_history.py"))


@pytest.fixture(scope="session")
def history_home(tmp_path_factory, sample):
    home = tmp_path_factory.mktemp("history")
    sample["write"](home)
    return home


@pytest.fixture
def con(history_home):
    with open_history(history_home) as connection:
        yield connection


@pytest.fixture
def empty(tmp_path):
    with open_history(tmp_path / "empty") as connection:
        yield connection


@pytest.fixture
def writable(tmp_path, sample):
    """Opens a history of the given records."""
    opened = []

    def made(rows):
        sample["write"](tmp_path / "own", rows)
        opened.append(open_history(tmp_path / "own"))
        return opened[-1]

    yield made
    for connection in opened:
        connection.close()


@pytest.fixture
def hostile_con(writable, sample):
    return writable(sample["hostile_records"]())
