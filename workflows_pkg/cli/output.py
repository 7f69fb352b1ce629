"""How does a command answer? As text for a person, or as JSON for a program, from one value."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import click
import pandas as pd

from workflows_pkg.errors import SetupError
from workflows_pkg.history.layout import default_home
from workflows_pkg.report.tables import Column, instant, quantity, text_table, words

json_option = click.option("--json", "as_json", is_flag=True, help="Answer with JSON instead of text.")


def home_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--home`, the folder of the Dagster instance and of the history beside it."""
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="DAGSTER_HOME",
        help="Folder of the Dagster instance and its history. Default: $DAGSTER_HOME, else .home here.",
    )(function)


def project_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--project` and `--module`, which say where the code location is."""
    function = click.option("--module", help="Module of the code location. Default: the one pyproject.toml names.")(function)
    return click.option(
        "--project",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        default=".",
        show_default=True,
        help="Folder of the project.",
    )(function)


def resolve_home(home: Path | None) -> Path:
    """The instance's folder, absolute; raises SetupError where none is given or it does not exist."""
    chosen = default_home() if home is None else home
    if not chosen.is_dir():
        raise SetupError(f"The instance folder {chosen} does not exist.", fix=f"Make it with: mkdir -p {chosen}")
    chosen = chosen.resolve()
    os.environ["DAGSTER_HOME"] = str(chosen)  # code locations and child processes read it from there
    return chosen


def answer(value: Any, as_json: bool, text: str | Callable[[], str]) -> None:
    """Prints `value` as JSON, or `text` for a person."""
    if as_json:
        click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(text if isinstance(text, str) else text())


def plain(value: Any) -> Any:
    """`value` in JSON's own types: frames become lists of rows, instants ISO texts, durations seconds, missing null."""
    if isinstance(value, pd.DataFrame):
        return [plain(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (date, pd.Timestamp)):  # datetime is one
        return None if pd.isna(value) else value.isoformat()
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return None if value is pd.NaT or value is pd.NA else value


def note(text: str) -> None:
    """A line about progress, on standard error."""
    click.echo(text, err=True)


def interactive() -> bool:
    """Whether a person looks at standard error."""
    return sys.stderr.isatty()


def listing(rows: list[dict[str, Any]], figures: tuple[str, ...] = ()) -> str:
    """Rows of equal keys as a text table as wide as the terminal; the named columns are right-aligned."""
    columns = [Column(title, figures=title in figures) for title in rows[0]] if rows else []
    return text_table(
        columns, [[str(cell) for cell in row.values()] for row in rows], width=shutil.get_terminal_size((130, 24)).columns
    )


def frame_text(frame: pd.DataFrame) -> str:
    """A data frame as a text table: column names as words, units by column name, instants to the minute, missing values '-'."""
    rows = [{words(str(name)): _cell(value, str(name)) for name, value in row.items()} for row in frame.to_dict("records")]
    figures = tuple(words(str(name)) for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name]))
    return listing(rows, figures) if rows else "no rows"


def _cell(value: Any, name: str) -> str:
    if value is pd.NaT:
        return "-"
    if isinstance(value, datetime):  # pandas' own instants are ones too
        if value.tzinfo is not None:
            return instant(value)
        return f"{value:%Y-%m-%d}" if value.time() == time.min else str(value)  # pandas keeps a day as its midnight
    value = plain(value)
    if value is None:
        return "-"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return quantity(float(value), name)
    return str(value)[:8] if name == "run_id" else str(value)
