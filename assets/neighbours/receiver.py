"""Where do the workflows' notifications arrive? In a file of JSON lines, written by a small HTTP receiver.

Run as a process: it prints one JSON line with its port and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LONGEST_BODY = 100_000
"""Bytes of a notification; a longer one is refused unread."""


def receiver(file: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server, not yet serving, that appends every JSON document posted to it to `file` with the time of arrival.

    One line a document: {"at": ISO 8601, "path": "/", "body": {...}}.
    """
    lock = threading.Lock()

    class Receiving(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > LONGEST_BODY:
                self.send_error(413)
                return
            try:
                body = json.loads(self.rfile.read(length))
            except ValueError:
                self.send_error(400)
                return
            line = json.dumps({"at": datetime.now(UTC).isoformat(), "path": self.path, "body": body})
            with lock, file.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the file is the log."""

    return ThreadingHTTPServer(("127.0.0.1", port), Receiving)


def received(file: Path) -> list[dict[str, Any]]:
    """The documents in `file`, oldest first; none where there is no file yet."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Receives until standard input ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--file", type=Path, required=True, help="where the lines go")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    chosen = parser.parse_args()
    server = receiver(chosen.file, chosen.port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    sys.stdin.read()
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


if __name__ == "__main__":
    main()
