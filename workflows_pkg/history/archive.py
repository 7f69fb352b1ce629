"""How are the rows of an orchestrator's log kept outside of it, so that they may be removed there and put back as they were?

An archive is a folder of Parquet files that any tool reads: `day=2026-01-31/<source>-<n>.parquet`, the day (UTC) being the one on
which the runs in it were asked for. A file is written once. Beside it `<n>.json`, its manifest, names the runs in it with the number
of their rows and a hash over them; it is written when the file was read back from the disk and gave the same, so a file with a
manifest is whole, and one without is the rest of a command that died. `<n>.purged.json` beside it, the receipt, says which of its
runs were removed from the source.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.history.archive_files import ArchiveFiles
from workflows_pkg.history.crash import crash_point

FORMAT = 1
"""Of the files; a later one says so in the manifest, and is refused here."""

GROUP_ROWS, GROUP_BYTES = 50_000, 64 * 2**20
"""Most that is in memory of a file being written, and of one being read."""

PART_ROWS, PART_BYTES = 500_000, 512 * 2**20
"""A file that has reached this many rows or bytes of text is followed by another one of the same day: the work lost when a command
dies, and the memory that a purge needs for the hashes of one file (some 200 bytes a row), stay small.
"""

_MANIFEST, _RECEIPT, _ROWS = ".json", ".purged.json", ".parquet"


class StoredRow(NamedTuple):
    """One row of a log as its storage has it; `at` is the storage's own text of the instant, `kind` its word for what happened."""

    event_id: int
    event: bytes
    kind: str | None
    at: str | None
    step_key: str | None
    asset_key: str | None
    partition_key: str | None


SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("run_id", pa.string()),
        ("job_name", pa.string()),
        ("event_id", pa.int64()),
        ("event", pa.binary()),
        *((name, pa.string()) for name in StoredRow._fields[2:]),
    ]
)
"""Columns of an archived row. `event` holds the bytes as stored: a broken text is kept as broken as it is."""


@dataclass(frozen=True)
class ArchivedRun:
    """What a manifest says of one run: how many rows, bytes of their texts, the numbers of the first and the last, and the hash of all."""

    job_name: str
    rows: int
    bytes: int
    first_id: int
    last_id: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """One file of an archive that is whole; `name` is its path without an ending."""

    name: str
    source_id: str
    day: date
    runs: Mapping[str, ArchivedRun] = field(repr=False)


class Archive:
    """The parts of one archive, of all sources."""

    def __init__(self, files: ArchiveFiles) -> None:
        self.files = files

    @property
    def place(self) -> str:
        """Where it is, for a message."""
        return self.files.place

    def parts(self, source_id: str) -> list[Part]:
        """The parts of one source that are whole, the oldest day first. Raises SetupError for a manifest that cannot be used."""
        own = (name for name in self.files.names() if name.endswith(_MANIFEST) and not name.endswith(_RECEIPT))
        return [self._part(name) for name in own if _source_of(name) == source_id]

    def sources(self) -> list[str]:
        """Sources of which something is archived."""
        return sorted({_source_of(name) for name in self.files.names() if name.endswith(_MANIFEST)})

    def sweep(self, source_id: str) -> int:
        """Removes what a command that died left of this source: files without a manifest. Returns their number."""
        names = set(self.files.names())
        left = [
            name
            for name in names
            if _source_of(name) == source_id
            and (name.endswith(".unfinished") or (name.endswith(_ROWS) and name.removesuffix(_ROWS) + _MANIFEST not in names))
        ]
        for name in left:
            self.files.delete(name)
        return len(left)

    def new_name(self, source_id: str, day: date) -> str:
        """A name that no file of this source and day has had."""
        begin = f"day={day}/{source_id}-"
        taken = [int(name.removeprefix(begin).split(".")[0]) for name in self.files.names() if name.startswith(begin)]
        return f"{begin}{max(taken, default=0) + 1:04d}"

    def rows(self, part: Part) -> Iterator[tuple[str, list[StoredRow]]]:
        """The rows of a part by run, in pieces; pieces of a run follow each other.

        Raises SetupError at its end where a run has not the rows that the manifest promises, so a part read to its end is the one that
        was written.
        """
        found = _Sums()
        with self.files.reading(part.name + _ROWS) as stream:
            try:
                with pq.ParquetFile(stream, page_checksum_verification=True) as file:
                    if not file.schema_arrow.equals(SCHEMA):
                        raise self._damaged(part, "it has other columns than an archived log")
                    for batch in file.iter_batches(batch_size=GROUP_ROWS):
                        for run_id, rows in _by_run(batch):
                            found.add(run_id, "", rows)
                            yield run_id, rows
            except (pa.ArrowException, OSError) as error:
                if getattr(error, "errno", None) is not None:  # the disk or the network, not what is on it
                    raise
                raise self._damaged(part, bounded(error, 150)) from error
        promised = {run_id: (run.rows, run.sha256) for run_id, run in part.runs.items()}
        given = {run_id: (run.rows, run.sha256) for run_id, run in found.runs().items()}
        if promised != given:
            wrong = sorted(run_id for run_id in promised.keys() | given.keys() if promised.get(run_id) != given.get(run_id))
            raise self._damaged(part, f"run {wrong[0]} has not the rows that were archived")

    def purged(self, part: Part) -> dict[str, int]:
        """Runs of this part that were removed from the source, with the number of rows that went."""
        name = part.name + _RECEIPT
        if not self.files.size(name):
            return {}
        return {str(run_id): int(rows) for run_id, rows in self._json(name)["runs"].items()}

    def write_receipt(self, part: Part, purged: Mapping[str, int]) -> None:
        """Notes which runs of this part were removed from the source."""
        self.files.put(part.name + _RECEIPT, _text({"format": FORMAT, "written_at": _now(), "runs": dict(purged)}))

    def write_manifest(self, part: Part) -> None:
        """Makes a part count."""
        manifest = {"format": FORMAT, "source_id": part.source_id, "day": str(part.day), "written_at": _now()}
        runs = {run_id: asdict(run) for run_id, run in part.runs.items()}
        self.files.put(part.name + _MANIFEST, _text({**manifest, "runs": runs}))

    def size(self, part: Part) -> int:
        """Bytes of the part's file."""
        return self.files.size(part.name + _ROWS)

    def _part(self, name: str) -> Part:
        stored = self._json(name)
        try:
            runs = {run_id: ArchivedRun(**run) for run_id, run in stored["runs"].items()}
            return Part(name.removesuffix(_MANIFEST), stored["source_id"], date.fromisoformat(stored["day"]), runs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SetupError(
                f"{self.place}/{name} is no manifest of an archive: {bounded(error, 150)}.", fix="Restore it from a backup."
            ) from error

    def _json(self, name: str) -> dict[str, Any]:
        try:
            stored = json.loads(self.files.get(name))
            version = stored["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise SetupError(
                f"{self.place}/{name} cannot be read: {bounded(error, 150)}.", fix="Restore it from a backup."
            ) from error
        if version != FORMAT:
            raise SetupError(
                f"{self.place}/{name} has format {bounded(version, 20)}; this version reads {FORMAT}.",
                fix="Use the version of agentic-workflows that wrote it, or a later one.",
            )
        return stored

    def _damaged(self, part: Part, why: str) -> SetupError:
        return SetupError(
            f"{self.place}/{part.name}{_ROWS} is damaged: {why}.",
            fix="Restore the file from a backup. Until then nothing of it is purged or put back.",
        )


class PartWriter:
    """Writes one part: `add` the rows of its runs, then `finish`. Leaving it in any other way leaves nothing that counts."""

    def __init__(self, archive: Archive, source_id: str, day: date) -> None:
        self._archive = archive
        self._source_id = source_id
        self._day = day
        self._name = archive.new_name(source_id, day)
        self._sums = _Sums()
        self._waiting: list[tuple[str, str, StoredRow]] = []
        self._waiting_bytes = 0
        self._open = ExitStack()
        self._open.enter_context(archive.files.explained("written", self._name + _ROWS))
        stream = self._open.enter_context(archive.files.writing(self._name + _ROWS))
        self._file = self._open.enter_context(
            pq.ParquetWriter(
                stream,
                SCHEMA,
                compression="zstd",
                use_dictionary=[name for name in SCHEMA.names if name not in ("event", "event_id")],  # pyright: ignore[reportArgumentType] its stubs know bool only
                write_page_checksum=True,
            )
        )

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._open.close()

    @property
    def full(self) -> bool:
        """Whether another run belongs into a part of its own."""
        return self._sums.rows >= PART_ROWS or self._sums.bytes >= PART_BYTES

    def add(self, run_id: str, job_name: str, rows: Sequence[StoredRow]) -> None:
        """The next rows of a run, in the order of their numbers; those of one run follow each other."""
        self._sums.add(run_id, job_name, rows)
        for row in rows:
            self._waiting.append((run_id, job_name, row))
            self._waiting_bytes += len(row.event)
            if len(self._waiting) >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
                self._write()

    def finish(self) -> Part:
        """Closes the file, reads it back from the disk, and makes it count when it gives what was added; raises SetupError otherwise."""
        self._write()
        crash_point("archive.before_sync")
        self._open.close()
        crash_point("archive.before_verify")
        part = Part(self._name, self._source_id, self._day, self._sums.runs())
        for _ in self._archive.rows(part):
            pass
        crash_point("archive.before_manifest")
        self._archive.write_manifest(part)
        crash_point("archive.after_manifest")
        return part

    def _write(self) -> None:
        if not self._waiting:
            return
        runs, jobs, rows = zip(*self._waiting, strict=True)
        columns = [[self._source_id] * len(rows), runs, jobs, *zip(*rows, strict=True)]
        # in the order of StoredRow, which is the one of the schema behind its first three columns
        arrays = [pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)]
        with self._archive.files.explained("written", self._name + _ROWS):
            self._file.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self._waiting, self._waiting_bytes = [], 0


def row_digest(row: StoredRow) -> bytes:
    """Hash of all of a row, the same whether it came from a storage or from a file; 16 bytes of blake2b."""
    parts = [struct.pack(">q", row.event_id)]
    for value in row[1:]:
        if value is None:
            parts.append(b"\xff" * 8)
        else:
            data = value.encode() if isinstance(value, str) else value
            parts += (struct.pack(">q", len(data)), data)
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


class _Sums:
    """Counts and hashes of the rows of each run, while they pass in the order of their numbers."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self._runs: dict[str, ArchivedRun] = {}
        self._hashes: dict[str, Any] = {}  # hashlib publishes no type for them

    def add(self, run_id: str, job_name: str, rows: Sequence[StoredRow]) -> None:
        if not rows:
            return
        before = self._runs.get(run_id) or ArchivedRun(job_name, 0, 0, rows[0].event_id, 0, "")
        sha = self._hashes.setdefault(run_id, hashlib.sha256())
        for row in rows:
            sha.update(row_digest(row))
        size = sum(len(row.event) for row in rows)
        self._runs[run_id] = replace(before, rows=before.rows + len(rows), bytes=before.bytes + size, last_id=rows[-1].event_id)
        self.rows += len(rows)
        self.bytes += size

    def runs(self) -> dict[str, ArchivedRun]:
        return {run_id: replace(run, sha256=self._hashes[run_id].hexdigest()) for run_id, run in self._runs.items()}


def _by_run(batch: pa.RecordBatch) -> Iterator[tuple[str, list[StoredRow]]]:
    """The rows of a batch, cut where another run begins."""
    runs = batch.column("run_id").to_pylist()
    rows = list(map(StoredRow._make, zip(*(batch.column(name).to_pylist() for name in StoredRow._fields), strict=True)))
    begin = 0
    for at in range(1, len(runs) + 1):
        if at == len(runs) or runs[at] != runs[begin]:
            yield runs[begin], rows[begin:at]
            begin = at


def _source_of(name: str) -> str:
    """`day=2026-01-31/<source>-0001.json` -> `<source>`; empty for a file of somebody else."""
    folder, _, file = name.rpartition("/")
    source, dash, _ = file.rpartition("-")
    return source if dash and folder.startswith("day=") else ""


def _text(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
