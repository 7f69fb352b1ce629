"""The example data are the package's, whole, and appear whole."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from assets.data import TABLES, deliver_month, prepare, read_table, write_whole
from workflows_pkg.errors import NotFound


def test_every_row_of_the_package_is_there(data: Path) -> None:
    rows = {table: len(pd.read_parquet(data / f"{table}.parquet")) for table in TABLES}
    assert rows == {"flights": 336_776, "weather": 26_115, "airlines": 16, "airports": 1_458, "planes": 3_322}


def test_dates_agree_with_year_month_and_day(data: Path) -> None:
    flights = pd.read_parquet(data / "flights.parquet", columns=["year", "month", "day", "date", "month_start"])
    year, month, day = (flights[part].astype(str).str.zfill(2) for part in ("year", "month", "day"))
    assert (year + "-" + month + "-" + day == flights["date"]).all()
    assert (flights["month_start"] == flights["date"].str[:7] + "-01").all()


def test_preparing_again_leaves_what_is_there(data: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in data.glob("*.parquet")}
    prepare(data)
    assert {file: file.stat().st_mtime_ns for file in data.glob("*.parquet")} == before


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def breaks_off(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "table.parquet", breaks_off)
    assert list(tmp_path.iterdir()) == []


def test_a_delivered_month_is_that_month(data: Path) -> None:
    file = deliver_month(data, "2013-02")
    delivered = pd.read_csv(file, usecols=["date"])
    assert file == data / "inbox" / "flights_2013-02.csv"
    assert len(delivered) == 24_951
    assert set(delivered["date"].str[:7]) == {"2013-02"}


def test_a_month_without_flights_is_named(data: Path) -> None:
    with pytest.raises(NotFound, match="2014-02"):
        deliver_month(data, "2014-02")


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(NotFound, match="Did you mean 'flights'"):
        read_table("flight")
