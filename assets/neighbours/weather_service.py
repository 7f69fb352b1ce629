"""Who answers the workflows' HTTP steps? A service of hourly airport weather that allows its clients only so many requests.

    GET  /weather/2013-01-31   the day's observations at the three airports, a JSON list; 404 for an unknown day;
                               429 without Retry-After where the bucket is empty
    GET  /log                  what each request met, oldest first (see `Entry`); the crawler's are counted only
    POST /state                {"tokens": 0.5, "crawler_phase_s": 0.1, "crawler_waits": true}: the next request of ours finds
                               exactly this, whenever it comes

Two clients share the bucket: our workflows, and a crawler that asks for page after page, rests, and asks again. Whether a
request of ours is refused is thus a matter of when it happens to come; a refused one is served next, so a short wait helps.
A comparison of two workflow versions replays the same states for both with POST /state.

Run as a process: it prints one JSON line with its port, serves until its standard input ends, and keeps nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd

from assets.neighbours.bucket import TokenBucket

CRAWLER = "crawler"
"""What the crawler writes into X-Client; every other client counts as ours."""

LONGEST_BODY = 1000
"""Bytes of a state; a longer body is refused unread."""


@dataclass(frozen=True)
class Limits:
    """How many requests the service allows, and how its other client behaves.

    With these figures about two in three first requests of a workflow are refused, and a refused one is granted 0.2 s later at
    the latest: the crawler, when it is busy, always waits for the next token, and so at most two tokens have to come.
    `crawler_busy` are the stretches of its period in which it asks, in seconds from the period's begin.
    """

    capacity: float = 2
    rate: float = 10
    crawler_period_s: float = 3.7
    crawler_busy: tuple[tuple[float, float], ...] = ((0.0, 1.2), (1.6, 3.0))
    crawler_pause_s: float = 0.015


@dataclass(frozen=True)
class State:
    """What a request of ours meets: tokens in the bucket, how far the crawler is into its period, whether it is next in line."""

    tokens: float
    crawler_phase_s: float
    crawler_waits: bool


@dataclass(frozen=True)
class Entry:
    """One request of ours: when (seconds since 1970), for what, the answer's status, and the state it met."""

    at: float
    path: str
    status: int
    state: State


class WeatherService:
    """The service with its bucket, its log and its crawler; `start` serves on a free port until `stop`."""

    def __init__(self, weather: pd.DataFrame, limits: Limits = Limits(), port: int = 0) -> None:
        self.limits = limits
        self.bucket = TokenBucket(limits.capacity, limits.rate)
        self.days = days_of(weather)
        self.log: list[Entry] = []
        self.crawler_answers: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._period_began = time.monotonic()
        self._prepared: State | None = None
        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _answering(self))
        self._threads = (
            threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True),
            threading.Thread(target=self._crawl, daemon=True),
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_address[1]

    def start(self) -> None:
        """Serves, and lets the crawler loose."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends both; a request under way is answered first."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(timeout=5)

    def prepare(self, state: State) -> None:
        """Lets the next request of ours meet `state`. Until it comes, the crawler rests."""
        with self._lock:
            self._prepared = state

    def answer(self, path: str, client: str) -> tuple[int, bytes]:
        """Status and body for a request of `client`."""
        with self._lock:
            if client != CRAWLER and self._prepared is not None:
                self.bucket.set(self._prepared.tokens, (CRAWLER,) if self._prepared.crawler_waits else ())
                self._period_began = time.monotonic() - self._prepared.crawler_phase_s
                self._prepared = None
            phase = self._phase()
        taking = self.bucket.take(CRAWLER if client == CRAWLER else path)
        body = self.days.get(path.removeprefix("/weather/")) if path.startswith("/weather/") else None
        status = 429 if not taking.granted else 404 if body is None else 200
        with self._lock:
            if client == CRAWLER:
                self.crawler_answers[status] += 1
            else:
                state = State(round(taking.level, 4), round(phase, 4), CRAWLER in taking.waiting)
                self.log.append(Entry(time.time(), path, status, state))
        return status, body if status == 200 and body is not None else b'{"error": "%d"}' % status

    def report(self) -> bytes:
        """The log and the crawler's counts as JSON."""
        with self._lock:
            return json.dumps({"requests": [asdict(entry) for entry in self.log], "crawler": dict(self.crawler_answers)}).encode()

    def _phase(self) -> float:
        return (time.monotonic() - self._period_began) % self.limits.crawler_period_s

    def _crawl(self) -> None:
        days = sorted(self.days)
        position = 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        while not self._stopping.wait(self.limits.crawler_pause_s):
            with self._lock:
                phase = self._phase()
                busy = self._prepared is None and any(begin <= phase < end for begin, end in self.limits.crawler_busy)
            if busy:
                try:
                    connection.request("GET", f"/weather/{days[position % len(days)]}", headers={"X-Client": CRAWLER})
                    answer = connection.getresponse()
                    answer.read()
                except (OSError, http.client.HTTPException):
                    connection.close()
                else:
                    position += answer.status == 200
        connection.close()


def days_of(weather: pd.DataFrame) -> dict[str, bytes]:
    """Day (YYYY-MM-DD, local) -> its hourly observations as a JSON list, UTF-8."""
    columns = ["origin", "date", "hour", "temp", "wind_speed", "precip", "visib", "pressure"]
    return {str(day): rows[columns].to_json(orient="records").encode() for day, rows in weather.groupby("date")}


def _answering(service: WeatherService) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/log":
                self._send(200, service.report())
            else:
                self._send(*service.answer(self.path, self.headers.get("X-Client", "")))

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/state" or length > LONGEST_BODY:
                self.close_connection = True
                self._send(404, b"{}")
                return
            try:
                asked = json.loads(self.rfile.read(length))
                state = State(float(asked["tokens"]), float(asked["crawler_phase_s"]), bool(asked["crawler_waits"]))
            except (ValueError, TypeError, KeyError):
                self._send(400, b'{"error": "expected tokens, crawler_phase_s (numbers) and crawler_waits (true or false)"}')
                return
            service.prepare(state)
            self._send(200, b"{}")

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the service keeps its own log."""

    return Answering


def main() -> None:
    """Serves the weather of a data folder until standard input ends."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with weather.parquet")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    chosen = parser.parse_args()
    service = WeatherService(pd.read_parquet(chosen.data / "weather.parquet"), port=chosen.port)
    service.start()
    print(json.dumps({"port": service.port}), flush=True)
    sys.stdin.read()
    service.stop()


if __name__ == "__main__":
    main()
