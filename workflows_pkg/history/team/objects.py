"""How do sealed files get into the bucket? Each once, under a name made of its content: copied again, it replaces itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyarrow import fs

from workflows_pkg.history.layout import Layout
from workflows_pkg.history.team.lake import CONNECT_S, REQUEST_S
from workflows_pkg.history.team.place import ObjectStore

_AT_ONCE = 4
"""Files that are copied at once: S3 answers each request after some 50 ms, and a first publication may have thousands."""

_BLOCK = 8 * 2**20


def carry_files(files: Layout, store: ObjectStore, sealed: Iterable[str]) -> dict[str, str]:
    """Copies files of `files.sealed` into the bucket and returns the URL of each; raises OSError where that fails."""
    wanted = list(sealed)
    if not wanted:
        return {}
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

    def carry(name: str) -> tuple[str, str]:
        path = files.sealed / name
        target = f"{store.folder}/{SEALED_FOLDER}/{Path(name).with_suffix('')}-{_digest(path)}.parquet"
        with path.open("rb") as source, system.open_output_stream(target) as stream:
            while block := source.read(_BLOCK):
                stream.write(block)
        return name, f"s3://{target}"

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(pool.map(carry, wanted))


SEALED_FOLDER = "sealed"


def _digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()[:16]
