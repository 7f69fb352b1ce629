"""A history with nothing in it, and what was read into it as plain rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from workflows_pkg.history.records import RECORDS
from workflows_pkg.history.store import open_history

Asked = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def ask(home: Path) -> Asked:
    """Rows of a query on the published history."""

    def do(sql: str) -> list[tuple[Any, ...]]:
        with closing(open_history(home)) as con:
            return con.execute(sql).fetchall()

    return do


@pytest.fixture
def everything(home: Path) -> Callable[[], dict[str, list[tuple[Any, ...]]]]:
    """All rows of all tables as readers see them."""

    def do() -> dict[str, list[tuple[Any, ...]]]:
        with closing(open_history(home)) as con:
            return {r.table: con.execute(f"select * from {r.table} order by all").fetchall() for r in RECORDS}

    return do
