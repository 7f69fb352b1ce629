"""Which processes serve an instance, and how do they start and end together? Code server, daemon and, where asked for, webserver.

The code server listens on a unix socket in a folder that only this user may enter: whoever reaches it can start runs. Each
process leads a group of its own, so that whatever it started ends with it. Logs, the generated `workspace.yaml` and the lock
are in `<home>/services`. The daemon holds the lock: a second start for the same home is refused for as long as it lives, even
where the process that started it was killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import dagster as dg

# No public name asks a code server whether it is ready; tests/orchestration/test_services.py fails when one of these moves.
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient
from dagster._serdes import deserialize_value
from dagster_shared.error import SerializableErrorInfo

from workflows_pkg.errors import BusyError, MissingExtra, SetupError, bounded
from workflows_pkg.orchestration.instance import create_instance, open_instance
from workflows_pkg.orchestration.location import location_module

LONGEST_SOCKET_PATH = 100
"""Unix allows 107 bytes; the code server appends nothing, so this leaves room for other systems, where it is 103."""
READY_WITHIN_S = 120.0
"""A cold start imports everything once for each process; loaded machines have needed a minute."""
ENDS_WITHIN_S = 15.0
"""After this a group that was asked to end is killed."""
_LOOK_EVERY_S = 0.1
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class _Child:
    """One running process and the file it writes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        with suppress(OSError):
            text = _COLOUR.sub("", self.log.read_text(errors="replace"))
            return "\n".join(text.splitlines()[-lines:])
        return ""


class Services:
    """The processes that serve the instance in `home` with the code location of `project`; a context manager.

    module: the code location's module; None: the one that the project's pyproject.toml names.
    port: of the webserver on 127.0.0.1; 0: a free one; None: no webserver.
    env: environment variables for all of them, beside those of this process.

    Entering waits until all are ready, and raises SetupError with the end of the log of the one that is not; BusyError where
    the services of this home run already.
    """

    def __init__(
        self,
        home: Path,
        project: Path,
        *,
        module: str | None = None,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.resolve()
        self.folder = self.home / "services"
        self.workspace_file = self.folder / "workspace.yaml"
        self.port = _free_port() if port == 0 else port
        self._project = project.resolve()
        self._module = module or location_module(self._project)
        self._env = dict(env or {})
        self._private: Path | None = None
        self._children: list[_Child] = []
        self._lock = -1

    @property
    def socket(self) -> Path:
        """Where the code server listens; raises SetupError while it does not run."""
        if self._private is None:
            raise SetupError("The services are not running.")
        return self._private / "code.sock"

    @property
    def url(self) -> str | None:
        """The address of the webserver, None without one."""
        return None if self.port is None else f"http://127.0.0.1:{self.port}"

    @property
    def process_ids(self) -> dict[str, int]:
        """The process of each service by its name; the group has the same number."""
        return {child.name: child.process.pid for child in self._children}

    def __enter__(self) -> Services:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def check(self) -> None:
        """Raises SetupError with the end of its log where one of the processes has ended."""
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                raise SetupError(
                    f"The {child.name} ended with code {code}. The end of {child.log}:\n{child.tail()}",
                    fix="Mend it and start again.",
                )

    def reload(self) -> None:
        """Has the code server load the code location anew, as after a new version; runs that go on are not touched.

        Raises SetupError where it does not load; what was loaded before then no longer serves.
        """
        DagsterGrpcClient(socket=str(self.socket)).reload_code(timeout=int(READY_WITHIN_S))
        self._wait("code server", self._code_server_is_ready)

    def stop(self) -> None:
        """Ends all processes and what they started, at the latest by killing their groups; safe to call again."""
        groups = [child.process.pid for child in reversed(self._children)]
        try:
            for group in groups:
                _signal_group(group, signal.SIGTERM)
            deadline = time.monotonic() + ENDS_WITHIN_S
            while time.monotonic() < deadline and not all(self._ended(child) for child in self._children):
                time.sleep(_LOOK_EVERY_S)
        finally:  # also where a second Ctrl-C cuts the waiting short
            for child in self._children:
                _signal_group(child.process.pid, signal.SIGKILL)
                child.process.wait()
            self._children.clear()
            if self._private is not None:
                shutil.rmtree(self._private, ignore_errors=True)
                self._private = None
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def _start(self) -> None:
        if self.port is not None and find_spec("dagster_webserver") is None:
            raise MissingExtra("The Dagster UI", "ui")
        create_instance(self.home)
        self.folder.mkdir(exist_ok=True)
        self._lock = _locked(self.folder / "lock", self.home)
        if self.port is not None and _is_taken(self.port):
            raise SetupError(f"Port {self.port} is taken.", fix="Choose another one with --port.")
        with open_instance(self.home) as instance:  # settings that Dagster refuses are told before anything is started
            self._start_processes(instance)

    def _start_processes(self, instance: dg.DagsterInstance) -> None:
        self._private = _private_folder()
        started_at = time.time()
        origin = json.dumps({"socket": str(self.socket), "location_name": self._module})
        self.workspace_file.write_text(f"load_from:\n  - grpc_server: {origin}\n")  # JSON is YAML
        python = [sys.executable, "-m"]
        code = ["dagster", "code-server", "start", "-m", self._module, "-d", str(self._project), "-s", str(self.socket)]
        self._child("code server", [*python, *code, "--location-name", self._module])
        self._wait("code server", self._code_server_is_ready)
        workspace = ["-w", str(self.workspace_file)]
        self._child("daemon", [*python, "dagster._daemon", "run", *workspace], keep=(self._lock,))
        if self.port is not None:
            self._child("webserver", [*python, "dagster_webserver", "-h", "127.0.0.1", "-p", str(self.port), *workspace])
        self._wait("daemon", lambda: _daemon_is_ready(instance, started_at))
        if self.port is not None:
            self._wait("webserver", self._webserver_is_ready)

    def _child(self, name: str, command: Sequence[str], keep: tuple[int, ...] = ()) -> None:
        log = self.folder / f"{name.replace(' ', '-')}.log"
        environment = {
            **os.environ,
            **self._env,
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "TMPDIR": str(self._private),  # the code server puts the sockets of its own children there
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=keep,
            )
        self._children.append(_Child(name, process, log))

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            self.check()
            if is_ready():
                return
            if time.monotonic() > deadline:
                child = next(child for child in self._children if child.name == name)
                end = f"The end of {child.log}:\n{child.tail()}"
                raise SetupError(f"The {name} was not ready within {READY_WITHIN_S:.0f} s. {end}")
            time.sleep(_LOOK_EVERY_S)

    def _code_server_is_ready(self) -> bool:
        if not self.socket.exists():
            return False
        try:
            answer = deserialize_value(DagsterGrpcClient(socket=str(self.socket)).list_repositories())
        except DagsterUserCodeUnreachableError:
            return False
        if isinstance(answer, SerializableErrorInfo):
            cause = answer
            while cause.cause is not None:
                cause = cause.cause
            raise SetupError(
                f"The code location '{self._module}' does not load: {bounded(cause.message, 500)}",
                fix=f"The whole trace is in {self.folder / 'code-server.log'}.",
            )
        return True

    def _webserver_is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/server_info", timeout=5) as answer:  # noqa: S310  loopback
            return answer.status == 200
        return False

    def _ended(self, child: _Child) -> bool:
        return child.process.poll() is not None and not _group_lives(child.process.pid)


def serve(home: Path, project: Path, *, module: str | None = None, port: int = 3000, say: Callable[[str], None]) -> None:
    """Serves the instance with its UI until Ctrl-C or a signal to end; `say` gets a line for the person who waits."""

    asked: list[int] = []

    def end(number: int, frame: object) -> None:
        asked.append(number)  # what is raised is lost where it finds SQLAlchemy in one of its callbacks
        raise KeyboardInterrupt

    earlier = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    services = Services(home, project, module=module, port=port)
    try:
        say("Starting code server, daemon and webserver ...")
        with suppress(KeyboardInterrupt), services:
            say(f"Dagster UI: {services.url}  (logs in {services.folder}; Ctrl-C ends all)")
            while not asked:
                time.sleep(0.5)
                services.check()
        say("Ended.")
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)


def refuse_where_served(home: Path) -> None:
    """Raises BusyError where services of this home run, for work that will start some itself, but only later."""
    lock = home.resolve() / "services" / "lock"
    if lock.exists():
        os.close(_locked(lock, home))


def _daemon_is_ready(instance: dg.DagsterInstance, started_at: float) -> bool:
    """Whether every daemon that the instance needs has given a sign of life since the start."""
    seen = instance.get_daemon_heartbeats()
    return all(name in seen and seen[name].timestamp >= started_at for name in ("SCHEDULER", "SENSOR", "QUEUED_RUN_COORDINATOR"))


def _private_folder() -> Path:
    """A folder for sockets that only this user may enter, with a path short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="workflows-"))  # mkdtemp makes it 0700
    if len(str(folder / "code.sock")) > LONGEST_SOCKET_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="workflows-", dir="/tmp"))
    return folder


def _locked(path: Path, home: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BusyError(f"The services of {home} run already.", fix="Stop them, or choose another home.") from None
    return descriptor


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended; on macOS a group of zombies answers with the latter
        os.killpg(group, number)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
