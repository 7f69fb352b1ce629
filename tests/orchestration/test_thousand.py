"""Do many workflows compile and load, and in what time? The seconds are printed (`pytest -s`)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from workflows_pkg.orchestration.compiled import definitions
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.discovery import discover
from workflows_pkg.workbench.folder import compile_folder

WORKFLOW = """\
workflow: w{number}
description: One of many.
owner: data-team
partitions: {{daily: {{start: 2024-01-01, timezone: Europe/Berlin}}}}
schedule: {{cron: "0 6 * * *"}}
steps:
  read:
    uses: data.read_table
    with: {{source: "w{number}.parquet", where: {{date: "${{{{ partition.date }}}}"}}}}
    produces: w{number}/raw
    checks: [{{rows: {{min: 1}}}}]
  clean:
    uses: data.sql
    needs: [read]
    with: {{query: "select * from read where n > $least", params: {{least: {number}}}}}
    produces: w{number}/clean
    retry: {{attempts: 3, delay: 1s}}
  many:
    uses: python
    needs: [clean]
    if: "${{{{ steps.clean.rows > 10 }}}}"
    with: {{call: "assets.flights:summarize_day"}}
"""


def _load(folder: Path, count: int) -> tuple[float, float]:
    """Seconds of reading and compiling, and of loading everything that Dagster makes of it."""
    for number in range(count):
        (folder / f"w{number}.yaml").write_text(WORKFLOW.format(number=number))
    started = time.perf_counter()
    compiled = compile_folder(folder, Allow(files=folder), None, discover())
    compiled_at = time.perf_counter()
    assert compiled.problems == ()
    repository = definitions(compiled.workflows).get_repository_def()
    repository.load_all_definitions()
    ended = time.perf_counter()
    assert len([name for name in repository.job_names if not name.startswith("__")]) == count
    assert len(repository.schedule_defs) == count
    assert len(repository.asset_graph.get_all_asset_keys()) == 3 * count
    return compiled_at - started, ended - compiled_at


def test_a_hundred_workflows_compile_and_load(tmp_path: Path) -> None:
    reading, loading = _load(tmp_path, 100)
    print(f"\n100 workflows: {reading:.1f} s to read and compile, {loading:.1f} s to load")  # noqa: T201  the figure is the point


@pytest.mark.long
def test_a_thousand_workflows_compile_and_load(tmp_path: Path) -> None:
    reading, loading = _load(tmp_path, 1000)
    print(f"\n1,000 workflows: {reading:.1f} s to read and compile, {loading:.1f} s to load")  # noqa: T201  the figure is the point
