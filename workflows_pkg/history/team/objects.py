"""How do sealed files get into the bucket? Each once, under a name made of its content: copied again, it replaces itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyarrow import fs

from workflows_pkg.history.layout import Layout
from workflows_pkg.history.team.lake import CONNECT_S, REQUEST_S
from workflows_pkg.history.team.place import ObjectStore

_AT_ONCE = 4
"""Files that are copied at once: most of the time goes into waiting for S3, and a first publication may have thousands."""

_FOLDER = "sealed"
_BLOCK = 8 * 2**20


def object_url(files: Layout, store: ObjectStore, name: str) -> str:
    """Where a file of `files.sealed` belongs: two homes never mean the same object, nor do two contents of a file of one home."""
    with (files.sealed / name).open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()[:16]
    return f"{store.url}/{_FOLDER}/{Path(name).with_suffix('')}-{files.team_id.read_text()[:8]}-{digest}.parquet"


def carry_files(files: Layout, store: ObjectStore, urls: Mapping[str, str]) -> None:
    """Copies files of `files.sealed` to their URLs; raises OSError where that fails."""
    if not urls:
        return
    system = fs.S3FileSystem(
        access_key=store.key_id or None,
        secret_key=store.secret or None,
        session_token=store.session_token or None,
        endpoint_override=store.endpoint or None,
        scheme="https" if store.use_ssl else "http",
        region=store.region,
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
    )

    def carry(name: str) -> None:
        with (
            (files.sealed / name).open("rb") as source,
            system.open_output_stream(urls[name].removeprefix("s3://")) as stream,
        ):
            while block := source.read(_BLOCK):
                stream.write(block)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(carry, urls))
