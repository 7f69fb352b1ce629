"""An archive on a real S3 server keeps what one in a folder keeps."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from workflows_pkg.cli.main import exit_code
from workflows_pkg.errors import SetupError
from workflows_pkg.history.archive import Archive
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.orchestration.archiving import archive_runs, restore
from workflows_pkg.orchestration.purge import purge

MONTH = timedelta(days=30)
KEY, SECRET = "somebody", "their-secret"


def free_port() -> int:
    """A port that is free, and the one 10,000 above it, which SeaweedFS takes for its own talk, can be one."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = int(found.getsockname()[1])
        if port < 55_000:
            return port


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a SeaweedFS with one bucket and one user."""
    folder = tmp_path_factory.mktemp("s3")
    user = {
        "name": "somebody",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    ports = {part: free_port() for part in ("master", "volume", "filer", "s3")}
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-volume.max=5", "-master.volumeSizeLimitMB=64", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += [f"-{part}.port={port}" for part, port in ports.items()]
    command += [f"-{part}.port.grpc={free_port()}" for part in ports]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # services of fixed ports that nobody asks
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            address = f"127.0.0.1:{ports['s3']}"
            make_bucket(address, process, folder / "log")
            yield address
        finally:
            process.kill()  # told to stop, it takes half a minute
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def make_bucket(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    system = fs.S3FileSystem(
        access_key=KEY,
        secret_key=SECRET,
        endpoint_override=address,
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    for last in range(300):
        try:
            system.create_dir("kept")
            return
        except OSError:
            if last == 299 or process.poll() is not None:
                raise AssertionError(log.read_text()[-2000:]) from None
            time.sleep(0.2)


@pytest.fixture
def url(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return f"s3://kept/{request.node.name}?endpoint_override={s3_server}&scheme=http&region=us-east-1"


def test_an_archive_in_a_bucket_is_written_read_back_purged_by_and_restored_from(
    url: str, aged_copy: Callable[[str], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    aged = aged_copy("sharded")
    before = aged.logs()
    assert exit_code(["history", "archive", "--older-than", "30d", "--to", url, "--home", str(aged.home), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["runs"] == len(aged.old)
    assert said["archive"] == url.partition("?")[0]
    archive = Archive(archive_files(url))
    done = purge(aged.home, archive, MONTH, do=True)
    assert done.total.rows > 0
    assert aged.logs() != before
    (source,) = archive.sources()
    (part,) = archive.parts(source)
    assert set(archive.purged(part)) == set(aged.old)
    assert restore(aged.home, archive).rows == done.total.rows
    assert aged.logs() == before
    archive.files.delete(f"{part.name}.json")
    assert archive.parts(source) == []
    assert archive.sweep(source) == 1, "without its manifest it is the rest of a command that died"
    assert archive_runs(aged.home, archive, MONTH).runs == len(aged.old)


def test_a_wrong_key_is_told_in_a_sentence_without_it(
    url: str, aged_copy: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    aged = aged_copy("sharded")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-theirs")
    with pytest.raises(SetupError, match="s3://kept/") as told:
        archive_runs(aged.home, Archive(archive_files(url)), MONTH)
    assert "not-theirs" not in str(told.value)
    assert "\n" not in str(told.value)
    with pytest.raises(SetupError, match="AWS_ACCESS_KEY_ID") as told:
        archive_files(f"s3://{KEY}:{SECRET}@kept/x")
    assert SECRET not in str(told.value)
