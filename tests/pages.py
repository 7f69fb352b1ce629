"""What does a page of documentation show, and does it work? Finds its fenced blocks and does what each says; used by test_docs.py.

    shell    each command in a scratch copy of the project, environment and folder carried on; failing, or silent where it should
             serve, is a failure with page, line, command and output
    python   in one Python for the page; a block that makes `defs` is loaded as Dagster would load it
    yaml     as what it is: a workflow, a tuning, a rate card, a component, or settings of an instance or a workspace
    sql      on the history
    json, toml  read;  text, mermaid  shown only

A first line `# some/file.py` (or .yaml, .toml) puts the block there, for the blocks that follow. `<!-- not run: reason -->` in the
line before a block keeps it from being run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.config_schema import process_workspace_config

from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration.location import load_location
from workflows_pkg.spec.loader import load_text
from workflows_pkg.spec.rates import parse_rates
from workflows_pkg.spec.tuning import parse_tuning
from workflows_pkg.steps.discovery import discover

ROOT = Path(__file__).parents[1]
WITHIN_S = 150.0
"""Of one command, or until something that serves answers."""

STANDS_IN: dict[str, tuple[str, str]] = {
    r"make (run|test|test-all|check|bench|reference|format|plain|clean|help)\b.*": ("make", "tests/assets/test_tour.py"),
    r"make ui\b.*": ("make", "tests/orchestration/test_services.py"),
    r"(python3? -m )?pip install\b.*": ("pip", "tests/packaging/test_requirements.py"),
    r"(python3? -m )?pip uninstall\b.*": ("pip", "tests/packaging/test_uninstall.py"),
    r"git clone\b.*": ("nothing", "tests/test_tree.py"),
    r"export (PGPASSWORD|AWS_\w+|WORKFLOWS_HISTORY)=.*": ("nothing", "tests/history/team/test_team.py"),
}
"""Commands that are not run as they stand: what is done with them instead, and the test that proves what they promise."""
SERVING = r"(workflows ui|workflows scale serve|dagster dev|dagster-webserver)\b.*"
"""Commands that run until Ctrl-C: started on a free port, asked until they answer, and stopped by it."""


@dataclass(frozen=True)
class Block:
    """One fenced block. line: of its first line of text; reason: why it is not run, empty where it is."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None = None

    def fails(self, line: int, what: str) -> AssertionError:
        return AssertionError(f"{self.page}:{line}: {what}")


@dataclass
class Reader:
    """Somebody who works through a page: in a folder, with an environment and a Python that carry on from block to block."""

    folder: Path
    state: Path
    history: Path
    names: dict[str, object] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def do(self, block: Block) -> None:
        if block.reason is not None:
            assert block.reason, f"{block.page}:{block.line}: says that it is not run, but not why"
            return
        placed = re.match(r"# ([\w./-]+\.(?:py|ya?ml|toml))\n", block.text)
        if placed:
            target = self.folder / placed[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        if block.language not in DOES:
            raise block.fails(block.line, f"nothing is known of blocks of '{block.language}'; known are {', '.join(DOES)}")
        DOES[block.language](self, block)
        self.ran.append(block.language)


def blocks(text: str, page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    lines, number = text.splitlines(), 0
    while number < len(lines):
        fence = re.match(r"(\s*)(```+)\s*(\S*)", lines[number])
        if not fence:
            number += 1
            continue
        end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == fence[2]), None)
        assert end is not None, f"{page}:{number + 1}: the block has no end"
        marker = re.fullmatch(r"\s*<!-- not run:(.*?)-->\s*", lines[number - 1]) if number else None
        inside = [line.removeprefix(fence[1]) for line in lines[number + 1 : end]]
        reason = marker[1].strip() if marker else None
        found.append(Block(page, number + 2, fence[3], "\n".join(inside) + "\n", reason))
        number = end + 1
    return found


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """(line, command) of a shell block; a command that goes on over lines (loop, continuation, here-document) is one."""
    waiting: list[str] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if not waiting and (not line.strip() or line.lstrip().startswith("#")):
            continue
        waiting.append(line)
        told = subprocess.run(["bash", "-n"], input="\n".join(waiting) + "\n", capture_output=True, text=True, check=False)
        if "unexpected end of file" in told.stderr or "here-document" in told.stderr or line.endswith("\\"):
            continue
        yield number - len(waiting) + 1, "\n".join(waiting)
        waiting = []
    if waiting:
        raise block.fails(block.line, f"the command does not end: {waiting[0]}")


def do_shell(reader: Reader, block: Block) -> None:
    for line, command in commands(block):
        stripped = re.sub(r"\s+#.*$", "", command).strip()
        instead = next((done for pattern, done in STANDS_IN.items() if re.fullmatch(pattern, stripped)), None)
        if instead is not None:
            assert (ROOT / instead[1]).is_file(), (
                f"{block.page}:{line}: {instead[1]}, which should prove '{stripped}', is not there"
            )
            if instead[0] == "make":
                # Not `make -n`: a recipe that calls make again is carried out even then.
                target = stripped.split()[1]
                if f"\n{target}:" not in (ROOT / "Makefile").read_text():
                    raise AssertionError(f"{block.page}:{line}: there is no target '{target}' in the Makefile")
            elif instead[0] == "pip":
                _check_requirement(block, line, stripped)
        elif re.fullmatch(SERVING, stripped):
            _serve(reader, block, line, stripped)
        else:
            _run(reader, block, line, command)


def _run(reader: Reader, block: Block, line: int, command: str) -> None:
    script = f'set -e\n[ -f "$S" ] && . "$S"\n{command}\nexport -p > "$S"; printf "cd %q\\n" "$PWD" >> "$S"\n'
    with subprocess.Popen(
        ["bash", "-c", script], cwd=reader.folder, env=_environment(reader), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise block.fails(line, f"`{command}` has not ended within {WITHIN_S:.0f} s") from None
    if process.returncode:
        raise block.fails(line, f"`{command}` ended with {process.returncode}:\n{said[-3000:]}")


def _serve(reader: Reader, block: Block, line: int, command: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = reader.folder.parent / "serving.log"
    script = f'[ -f "$S" ] && . "$S"\nexec {command} --port {port}\n'
    with log.open("wb") as output, subprocess.Popen(
        ["bash", "-c", script], cwd=reader.folder, env=_environment(reader), stdin=subprocess.DEVNULL, stdout=output,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + WITHIN_S
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise block.fails(line, f"`{command}` does not answer on port {port}:\n{log.read_text()[-3000:]}")
                time.sleep(0.2)
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)
        except subprocess.TimeoutExpired:
            raise block.fails(line, f"`{command}` does not end on Ctrl-C:\n{log.read_text()[-3000:]}") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not _answers(port), f"{block.page}:{line}: `{command}` still answers after Ctrl-C"


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as answer:
        return answer.status == 200
    return False


def _environment(reader: Reader) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE", "PYTEST"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    home = {"DAGSTER_HOME": str(reader.folder / ".home"), "S": str(reader.state), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    return {**kept, **home, "PATH": path, "PYTHONPATH": str(ROOT)}


def _check_requirement(block: Block, line: int, command: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {extra for text in re.findall(r"\[([\w,-]+)\]", command) for extra in text.split(",")}
    if unknown := extras - set(project["optional-dependencies"]):
        raise block.fails(line, f"`{command}`: there is no extra {', '.join(sorted(unknown))}")
    if project["name"] not in command and not re.search(r"\s\.(\[|'|\"|\s|$)|['\"]\.\[", command):
        raise block.fails(line, f"`{command}` does not name {project['name']}")


def do_python(reader: Reader, block: Block) -> None:
    try:
        code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
        before = reader.names.pop("defs", None)
        exec(code, reader.names)  # noqa: S102  the code is the documentation's own
    except BaseException as error:
        raise block.fails(block.line, f"the block raises {type(error).__name__}: {error}") from error
    if "defs" not in reader.names:
        if before is not None:
            reader.names["defs"] = before
        return
    module = "page_" + re.sub(r"\W", "_", f"{block.page}_{block.line}")
    (reader.folder / f"{module}.py").write_text(block.text)
    try:
        load_location(reader.folder, module)
    except Exception as error:
        raise block.fails(block.line, f"Dagster does not load the block as a module: {error}") from error


def do_yaml(reader: Reader, block: Block) -> None:
    where = f"{block.page}:{block.line}"
    try:
        _load_yaml(reader, block.text, where)
    except AssertionError:
        raise
    except Exception as error:
        raise block.fails(block.line, f"the yaml is refused: {error}") from error


def _load_yaml(reader: Reader, text: str, where: str) -> None:
    keys = yaml.safe_load(text)
    assert isinstance(keys, dict), f"{where}: is no mapping"
    if "workflow" in keys:
        assert load_text(text, file=where, kinds=discover().params()).steps
    elif any(re.match(r"(job|asset|schedule|sensor):", str(key)) for key in keys):
        assert parse_tuning(text, where).entries
    elif "rates" in keys:
        assert parse_rates(text, where).rates
    elif keys.get("kind") == "ScaledObject":  # of KEDA; tests/cli/test_scale.py reads what its triggers say
        assert keys["apiVersion"] == "keda.sh/v1alpha1", where
        assert all(trigger["type"] in ("metrics-api", "prometheus") for trigger in keys["spec"]["triggers"]), where
    elif "load_from" in keys:
        assert process_workspace_config(keys).success, f"{where}: {process_workspace_config(keys).errors}"
    elif "type" in keys and "attributes" in keys:
        _load_component(reader.folder, text)
    else:
        home = reader.state.parent / "settings"
        home.mkdir(exist_ok=True)
        (home / "dagster.yaml").write_text(text)
        dagster_instance_config(str(home))
        for section in ("run_coordinator", "run_launcher", "compute_logs"):
            if str((keys.get(section) or {}).get("module", "")).startswith("workflows_pkg."):
                with dg.DagsterInstance.from_config(str(home)) as instance:
                    assert type(getattr(instance, section)).__name__ == keys[section]["class"]


def _load_component(folder: Path, text: str) -> None:
    """Loads the whole project with the component in it."""
    target = folder / "assets" / "defs" / "shown" / "defs.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    try:
        command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", "assets.definitions"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    finally:
        shutil.rmtree(target.parent)


def do_sql(reader: Reader, block: Block) -> None:
    with open_history(reader.history) as connection:
        try:
            connection.execute(block.text).fetchall()
        except Exception as error:
            raise block.fails(block.line, f"the query is refused: {error}") from error


DOES: dict[str, Callable[[Reader, Block], object]] = {
    "shell": do_shell,
    "python": do_python,
    "yaml": do_yaml,
    "sql": do_sql,
    "json": lambda _, block: json.loads(block.text),
    "toml": lambda _, block: tomllib.loads(block.text),
    "text": lambda _, block: None,
    "mermaid": lambda _, block: None,
}
