"""Which format is a file? Told from what is in it, never from its name."""

from __future__ import annotations

import json
from pathlib import Path

from workflows_pkg.errors import WorkflowsError, bounded
from workflows_pkg.history.imports import nextflow
from workflows_pkg.history.imports.reading import Format

_LOOKED_AT = 64 * 1024
"""Bytes in which a first line ends; the widest of 45 public files with a header had one of 2 KiB."""


def detected(file: Path) -> Format:
    """The format of `file`; raises WorkflowsError where it is none that can be imported."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(_LOOKED_AT)
    except OSError as error:
        raise WorkflowsError(f"{file} cannot be read: {error.strerror}.") from error
    if not begin.strip():
        raise WorkflowsError(f"{file} is empty.")
    if begin.startswith(b"SQLite format 3\0"):
        return "airflow"
    if begin.startswith((b"PAR1", b"\x1f\x8b")):  # Parquet; gzip, of which only a CSV file can be meant
        return "table"
    text = begin.decode("utf-8-sig", "replace")
    if text.lstrip().startswith(("{", "[")):
        return _of_json(file, text)
    first = text.splitlines()[0]
    if "\0" in text:
        raise _unknown(file, "a binary file of another kind")
    if nextflow.is_header(first.split(nextflow.separator(first))):
        return "nextflow"
    if any(mark in first for mark in ",;\t|"):
        return "table"
    raise _unknown(file, f"'{bounded(first)}'")


def _of_json(file: Path, text: str) -> Format:
    if '"workflow"' in text or '"schemaVersion"' in text:
        return "wfformat"
    try:
        value = json.loads(file.read_bytes())
    except ValueError:
        raise _unknown(file, "text that begins like JSON and is none") from None
    keys = ", ".join(sorted(value)[:6]) if isinstance(value, dict) else "a list"
    if isinstance(value, dict) and "workflow" in value:
        return "wfformat"
    raise _unknown(file, f"JSON without 'workflow' (it has {bounded(keys)})")


def _unknown(file: Path, found: str) -> WorkflowsError:
    return WorkflowsError(
        f"{file}: expected a Nextflow trace, WfFormat JSON, Airflow's SQLite database, CSV or Parquet; found {found}.",
        fix="Name the format with --format where you know better.",
    )
