"""Who may read a page of metrics, and how many at once? A small server that neither many readers nor slow ones can tie up."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MOST_AT_ONCE = 8
"""Connections that are answered at once: a Prometheus or two, KEDA, and somebody who looks. Any other is closed, and comes again."""
PATIENCE_S = 10.0
"""Seconds that a reader may take to say what it wants: the time after which Prometheus, by its default, gives up too."""

T = TypeVar("T")


def shared(look: Callable[[], T]) -> Callable[[], T]:
    """`look`, one at a time; whoever waited for one that began after it asked is given its answer. One that failed is shared by nobody."""
    one_at_a_time = Lock()
    last: list[tuple[float, T]] = []

    def found() -> T:
        asked = monotonic()
        with one_at_a_time:
            if not last or last[0][0] < asked:
                begun = monotonic()
                last.clear()
                last.append((begun, look()))
            return last[0][1]

    return found


class _InTime(io.RawIOBase):
    """What comes over a connection within some seconds in all: a limit for each byte would let who sends one now and then stay for ever."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._seconds, self._until = connection, seconds, monotonic() + seconds
        self._raw = connection.makefile("rb", 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._until - monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            return self._raw.readinto(buffer)
        finally:
            self._connection.settimeout(self._seconds)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def setup(self) -> None:
        """Has the request read within `timeout`."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_InTime(self.connection, self.timeout or PATIENCE_S))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line for every look would be most of the log."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 2 * MOST_AT_ONCE

    def __init__(self, *args: Any) -> None:
        self._free = BoundedSemaphore(MOST_AT_ONCE)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins to answer, or closes the connection where as many are being answered as may be."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a reader that went away."""


class _Server6(_Server):
    address_family = socket.AF_INET6


def listen(host: str, port: int, registry: CollectorRegistry) -> tuple[WSGIServer, Thread]:
    """A server of the registry's metrics that has begun to listen, and its thread. Raises OSError where nothing can listen there."""
    from prometheus_client import make_wsgi_app

    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    kind = _Server6 if family == socket.AF_INET6 else _Server
    server = make_server(host, port, make_wsgi_app(registry), kind, handler_class=_Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return server, thread
