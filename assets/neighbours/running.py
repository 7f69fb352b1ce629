"""How are the neighbours started, and how do the workflows learn their addresses?

The addresses are secrets of the code location, kept as files below `<home>/secrets/`: the workflow files name
`secrets.weather_service` and `secrets.ops_channel`, and no port. Every later start takes the same ports again where they are
free, so that commands typed afterwards still find the neighbours: `python -m assets.neighbours.running --home .home`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from assets.data import prepare, write_whole
from assets.neighbours.receiver import received
from assets.neighbours.weather_service import Entry, State
from workflows_pkg.errors import BusyError, SetupError

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 60.0
"""Until a neighbour has said its port; reading the weather takes it a second or two."""


@dataclass(frozen=True)
class Neighbours:
    """The running neighbours: where they answer, and where the receiver's file is."""

    weather_service: str
    ops_channel: str
    notifications: Path

    def prepare(self, state: State) -> None:
        """Lets the weather service's next request meet `state`."""
        body = json.dumps(asdict(state)).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.weather_service}/state", data=body), timeout=10) as answer:  # noqa: S310  loopback
            answer.read()

    def requests(self) -> list[Entry]:
        """What the requests of the workflows met at the weather service since it was started, oldest first."""
        with urllib.request.urlopen(f"{self.weather_service}/log", timeout=10) as answer:  # noqa: S310  loopback
            return [Entry(**{**entry, "state": State(**entry["state"])}) for entry in json.loads(answer.read())["requests"]]

    def received(self) -> list[dict[str, Any]]:
        """What the receiver got, oldest first, earlier starts included."""
        return received(self.notifications)


@contextmanager
def neighbours(home: Path, data: Path) -> Iterator[Neighbours]:
    """Starts the weather service and the receiver for the instance `home` with its data folder, and ends them.

    They also end by themselves when this process is gone, since their standard input then ends. Raises BusyError where somebody
    else has started those of this home, SetupError where one does not come up.
    """
    secrets = home / "secrets"
    secrets.mkdir(parents=True, exist_ok=True)
    secrets.chmod(0o700)
    notifications = home / "notifications.jsonl"
    with ExitStack() as stack:
        stack.enter_context(_alone(secrets, home))
        service = stack.enter_context(
            _running("weather_service", "--data", str(data), "--port", str(_port(secrets / "weather_service")))
        )
        receiver = stack.enter_context(
            _running("receiver", "--file", str(notifications), "--port", str(_port(secrets / "ops_channel")))
        )
        started = Neighbours(
            weather_service=f"http://127.0.0.1:{service['port']}",
            ops_channel=f"json://127.0.0.1:{receiver['port']}/",
            notifications=notifications,
        )
        _keep(secrets / "weather_service", started.weather_service)
        _keep(secrets / "ops_channel", started.ops_channel)
        yield started


@contextmanager
def backup(home: Path, data: Path) -> Iterator[None]:
    """Starts the regular backup of the warehouse in the data folder, and ends it."""
    with _running("backup", "--warehouse", str(data / "warehouse.duckdb"), "--target", str(home / "backup")):
        yield


@contextmanager
def _running(name: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """A neighbour as a process; gives the first line it prints."""
    command = [sys.executable, "-m", f"assets.neighbours.{name}", *arguments]
    # A session of its own: Ctrl-C is for whoever started it, who then ends it.
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first = json.loads(_first_line(process, name))
        threading.Thread(target=_drained, args=(process.stdout,), daemon=True).start()
        yield first
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def _alone(folder: Path, home: Path) -> Iterator[None]:
    """A second start would put other addresses into the same files. The system frees the lock with this process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BusyError(
            f"The neighbours of {home} run already, as `make run` and `make ui` start them.",
            fix="Wait until that is done, or end it with Ctrl-C.",
        ) from None
    finally:
        os.close(descriptor)


def _drained(words: IO[str]) -> None:
    """What a neighbour goes on saying is read, so that it never waits for a full pipe."""
    with suppress(ValueError, OSError), open(os.devnull, "w") as nowhere:  # closed meanwhile
        shutil.copyfileobj(words, nowhere)


def _first_line(process: subprocess.Popen[str], name: str) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_WITHIN_S) else ""
    if not line:
        raise SetupError(f"The neighbour '{name}' did not come up within {START_WITHIN_S:g} s.", fix="Its words are above.")
    return line


def _port(file: Path) -> int:
    """The port that `file` remembers, where it is free; 0 (any free one) otherwise."""
    try:
        port = urlsplit(file.read_text().strip()).port or 0
    except (OSError, ValueError):
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _keep(file: Path, text: str) -> None:
    def write(path: Path) -> None:
        path.write_text(text)
        path.chmod(0o600)

    write_whole(file, write)


def main() -> None:
    """Runs the neighbours in the foreground, so that the example workflows can be run by hand. Ctrl-C ends them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("DAGSTER_HOME", ".home")), help="folder of the instance")
    home = parser.parse_args().home.resolve()
    data = home / "data"
    prepare(data)
    with neighbours(home, data) as started, backup(home, data):
        print(f"weather service  {started.weather_service}\nnotifications    {started.notifications}", flush=True)
        print("The workflows can be run now. Ctrl-C ends the neighbours.", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("ended.")


if __name__ == "__main__":
    main()
