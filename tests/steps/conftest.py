"""Contexts for steps, and servers on loopback that count who connects."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from workflows_pkg.errors import SetupError
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.contract import StepContext


@dataclass
class Peer:
    """An HTTP server on loopback: paths to functions of the handler; what was asked of it."""

    port: int
    routes: dict[str, Callable[[BaseHTTPRequestHandler], None]]
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}{path}"

    def answer(self, path: str, status: int, body: bytes = b"", **headers: str) -> None:
        """Make `path` answer with this."""

        def send(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(body)

        self.routes[path] = send


def _serve(peer: Peer) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            peer.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            peer.routes[self.path.split("?")[0]](self)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _any  # noqa: N815 - names that http.server looks for

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> Any:
            peer.connections += 1
            return super().get_request()

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that hang up are part of these tests

    server = Server(("127.0.0.1", 0), Handler)
    peer.port = server.server_address[1]
    return server


@pytest.fixture
def new_peer() -> Iterator[Callable[[], Peer]]:
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def make() -> Peer:
        peer = Peer(0, {})
        server = _serve(peer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return peer

    yield make
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def peer(new_peer: Callable[[], Peer]) -> Peer:
    return new_peer()


@pytest.fixture
def make_context() -> Callable[..., StepContext]:
    """A context as orchestration gives it; keyword arguments replace its fields. `lines` collects its log."""

    def no_secret(name: str) -> str:
        raise SetupError(f"The secret '{name}' has no value.")

    def make(lines: list[str] | None = None, **fields: Any) -> StepContext:
        standard: dict[str, Any] = {
            "workflow": "daily",
            "step": "here",
            "run_id": "r1",
            "attempt": 1,
            "partition": None,
            "inputs": {},
            "allow": Allow(),
            "secret": no_secret,
            "log": (lines if lines is not None else []).append,
        }
        return StepContext(**{**standard, **fields})

    return make


@dataclass
class Connects:
    """Every address this process tried to connect a socket to; those outside loopback are stopped."""

    addresses: list[tuple[Any, ...]] = field(default_factory=list)
    watching: bool = False


_CONNECTS = Connects()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _CONNECTS.watching and isinstance(args[1], tuple):
        _CONNECTS.addresses.append(args[1][:2])
        if not str(args[1][0]).startswith("127."):
            raise ConnectionRefusedError(111, "connection refused")


@pytest.fixture(scope="session")
def _audit_hook() -> None:
    sys.addaudithook(_audit)  # cannot be removed, so it is added once and listens only while a test asks


@pytest.fixture
def connects(_audit_hook: None) -> Iterator[Connects]:
    _CONNECTS.addresses = []
    _CONNECTS.watching = True
    yield _CONNECTS
    _CONNECTS.watching = False


@dataclass
class Listener:
    port: int
    connections: int = 0


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Counts connections to any address of this machine, IPv4 and, where there is one, IPv6."""
    both = socket.has_dualstack_ipv6()
    server = socket.create_server(("", 0), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both)
    server.settimeout(0.05)
    found = Listener(server.getsockname()[1])
    done = threading.Event()

    def accept() -> None:
        while not done.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            found.connections += 1
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    yield found
    done.set()
    thread.join()
    server.close()
