"""An archive on a real S3 server keeps what one in a folder keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.servers import KEY, SECRET, s3
from workflows_pkg.cli.main import exit_code
from workflows_pkg.errors import SetupError
from workflows_pkg.history.archive import Archive
from workflows_pkg.history.archive_files import archive_files
from workflows_pkg.orchestration.archiving import archive_runs, restore
from workflows_pkg.orchestration.purge import purge

MONTH = timedelta(days=30)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with one bucket and one user."""
    with s3(tmp_path_factory.mktemp("s3")) as server:
        yield server.address


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
