"""The real tables, written once for all tests of the examples."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from assets.data import prepare


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as `prepare` makes it; tests only read it."""
    folder = tmp_path_factory.mktemp("data")
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def weather(data: Path) -> pd.DataFrame:
    return pd.read_parquet(data / "weather.parquet")
