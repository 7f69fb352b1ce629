"""Everything that README and documentation show works as it stands: every block of every page is run, page by page, in order."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from tests.pages import ROOT, Reader, blocks
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.instance import create_instance
from workflows_pkg.workbench.learning import learn

GENERATED = ("docs/reference", "docs/decisions")
"""Generated pages show outputs and parameters, decisions show what was weighed; neither tells the reader to type anything."""
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in ROOT.glob("docs/**/*.md") if not str(page.relative_to(ROOT)).startswith(GENERATED)),
]
NOT_RUN = 0
"""Blocks that carry a marker not to be run, over all pages. Who adds one, counts it here."""
COPIED = (
    "assets",
    "resources",
    "notebooks",
    "pyproject.toml",
    "Makefile",
    "constraints.txt",
    "dagster.yaml",
    "workspace.yaml",
    "README.md",
)


@pytest.fixture(scope="session")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance in which something has run, landed and been learned from, as after `make run`."""
    home = tmp_path_factory.mktemp("lived_in")
    create_instance(home)

    @dg.op
    def work() -> int:
        return sum(range(10_000))

    @dg.job
    def nightly() -> None:
        work()

    with dg.DagsterInstance.from_config(str(home)) as instance:
        for _ in range(6):
            nightly.execute_in_process(instance=instance, run_config=QUIET)
    with closing(sqlite3.connect(home / "history" / "runs.db")) as con, con:  # two of them were long ago
        con.execute("update runs set end_time = end_time - 40 * 86400 where id <= 2")
    sync_events(home, home)
    learn(home)
    return home


@pytest.fixture
def reader(lived_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    shutil.copytree(lived_in, folder / ".home")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder / ".home"))
    return Reader(folder, tmp_path / "shell-state", folder / ".home")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_the_page_works(page: Path, reader: Reader) -> None:
    found = blocks(page.read_text(), str(page.relative_to(ROOT)))
    for block in found:
        reader.do(block)
    assert len(reader.ran) == sum(block.reason is None for block in found)


def test_blocks_that_are_not_run_are_counted() -> None:
    marked = [block for page in PAGES for block in blocks(page.read_text(), page.name) if block.reason is not None]
    assert len(marked) == NOT_RUN, [f"{block.page}:{block.line}: {block.reason}" for block in marked]


QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
CONTROLS = {
    "a command that fails": ("```shell\ntrue\nworkflows history runs --limits 3\n```", r"p:3: `workflows history .*ended with 2"),
    "a command that is not there": ("```shell\nworkflow doctor\n```", "ended with 127"),
    "a failure inside of a pipe of commands": ("```shell\nfalse\ntrue\n```", "p:2: `false` ended with 1"),
    "a folder that is not there": ("```shell\ncd nowhere\n```", "ended with 1"),
    "a make target that is not there": ("```shell\nmake rum\n```", "ended with 2"),
    "an extra that is not there": ("```shell\npip install 'agentic-workflows[uii]'\n```", "no extra uii"),
    "a server that does not start": ("```shell\nworkflows ui --module nowhere\n```", "does not answer"),
    "a command without an end": ("```shell\nfor a in 1 2; do\n```", "does not end"),
    "code that raises": ("```python\nx = 1\n```\n\n```python\nx / 0\n```", "p:6: the block raises ZeroDivisionError"),
    "definitions that Dagster does not load": (
        "```python\nimport dagster as dg\nmine = dg.Definitions()\ndefs = dg.Definitions.merge(mine)\n```",
        "more than one Definitions",
    ),
    "a workflow with an unknown key": ("```yaml\nworkflow: a\nsteps: {b: {uses: data.sql, wiht: {}}}\n```", "wiht"),
    "a tuning with an unknown key": ("```yaml\njob:a: {timeuot: 1m}\n```", "timeuot"),
    "a rate card with an unknown key": ("```yaml\nrates: [{run_huor: 1}]\n```", "run_huor"),
    "settings with an unknown key": ("```yaml\ntelemetri: {enabled: false}\n```", "telemetri"),
    "settings that name a class that is not there": (
        "```yaml\nrun_coordinator: {module: workflows_pkg.instance.coordinator, class: Nobody}\n```",
        "Nobody",
    ),
    "a workspace with an unknown key": ("```yaml\nload_from: [{python_modul: a}]\n```", "python_modul"),
    "a query that does not parse": ("```sql\nselect nothing_of_this_name from runs\n```", "nothing_of_this_name"),
    "a language nobody knows": ("```pyhton\nx = 1\n```", "nothing is known of blocks of 'pyhton'"),
    "a block without a language": ("```\nx = 1\n```", "nothing is known of blocks of ''"),
    "a marker without a reason": ("<!-- not run: -->\n```shell\nfalse\n```", "but not why"),
    "a block without an end": ("```shell\nfalse\n", "has no end"),
}


@pytest.mark.parametrize(("text", "seen"), CONTROLS.values(), ids=CONTROLS.keys())
def test_control_a_page_that_does_not_work_is_seen(text: str, seen: str, reader: Reader) -> None:
    def work_through() -> None:
        for block in blocks(text, "p"):
            reader.do(block)

    with pytest.raises(AssertionError, match=seen):
        work_through()


def test_what_one_block_leaves_is_there_for_the_next(reader: Reader) -> None:
    page = """```shell
export GREETING=hello
mkdir -p there && cd there
```

```yaml
# assets/workflows/shown.yaml
workflow: shown
steps:
  only: {uses: data.sql, with: {query: select 1}}
```

```shell
test "$GREETING" = hello && test "$(basename "$PWD")" = there
for one in 1 2; do
  echo "$one"
done
cat <<'END' > file.txt
not a command
END
cd ..
grep -q shown assets/workflows/shown.yaml
```
<!-- not run: it would take the machine down -->
```shell
false
```
"""
    for block in blocks(page, "p"):
        reader.do(block)
    assert reader.ran == ["shell", "yaml", "shell"]


def test_a_command_that_serves_is_started_asked_and_stopped(reader: Reader) -> None:
    (block,) = blocks("```shell\nworkflows ui   # until Ctrl-C\n```", "p")
    reader.do(block)
    assert "Ended." in (reader.folder.parent / "serving.log").read_text()
