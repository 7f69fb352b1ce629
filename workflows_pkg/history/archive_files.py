"""Where do the files of an archive lie, and when is one safe? A local folder, or a bucket of S3 behind the same few verbs.

A file counts when it is named by another one that is written after it and whole or not at all (`put`), so nothing is ever renamed
but that small one, and both places keep the same promise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.history.publish import sync

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_UNFINISHED = ".unfinished"


class ArchiveFiles:
    """The files of one archive, by their names relative to its root. `place` is for messages: no password, no parameters."""

    def __init__(self, system: fs.FileSystem, root: str, place: str) -> None:
        self._system = system
        self._root = root.rstrip("/")
        self._local = isinstance(system, fs.LocalFileSystem)
        self.place = place

    def names(self) -> list[str]:
        """Every file, sorted."""
        with self.explained("looked through"):
            found = self._system.get_file_info(fs.FileSelector(self._root, allow_not_found=True, recursive=True))
        return sorted(one.path.removeprefix(f"{self._root}/") for one in found if one.type == fs.FileType.File)

    @contextmanager
    def writing(self, name: str) -> Generator[pa.NativeFile]:
        """A new file to write to; on leaving the block it is closed, and safe from a power cut."""
        with self.explained("written", name):
            self._make_folder(name)
            with self._system.open_output_stream(self._path(name)) as stream:
                yield stream
            if self._local:
                _settle(Path(self._path(name)))

    @contextmanager
    def reading(self, name: str) -> Generator[pa.NativeFile]:
        """A file to read from, at any position."""
        with self.explained("read", name):
            with self._system.open_input_file(self._path(name)) as stream:
                yield stream

    def put(self, name: str, content: bytes) -> None:
        """Writes a small file in place of the one of that name: whole, or not at all."""
        with self.explained("written", name):
            self._make_folder(name)
            path = self._path(name)
            written = f"{path}{_UNFINISHED}" if self._local else path
            with self._system.open_output_stream(written) as stream:
                stream.write(content)
            if self._local:
                _settle(Path(written))
                os.replace(written, path)
                sync(Path(path).parent)

    def get(self, name: str) -> bytes:
        """All of a small file."""
        with self.reading(name) as stream:
            return stream.read()

    def size(self, name: str) -> int:
        """Bytes of a file; 0 where there is none."""
        with self.explained("looked at", name):
            (found,) = self._system.get_file_info([self._path(name)])
        return found.size or 0

    def delete(self, name: str) -> None:
        """Removes a file."""
        with self.explained("removed", name):
            self._system.delete_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folder(self, name: str) -> None:
        if self._local:
            folder = Path(self._path(name)).parent
            if not folder.is_dir():
                folder.mkdir(parents=True)
                sync(folder.parent)

    @contextmanager
    def explained(self, what: str, name: str = "") -> Generator[None]:
        """Turns what a file system says of the block into a SetupError that names the file."""
        where = f"{self.place}/{name}" if name else self.place
        try:
            yield
        except FileNotFoundError as error:
            raise SetupError(f"{where} is not there.", fix="Check the name of the archive.") from error
        except OSError as error:
            raise SetupError(
                f"{where} could not be {what}: {bounded(error.strerror or error, 200)}.",
                fix="Check that the archive is reachable, may be written and has room; then run the same command again.",
            ) from error


def archive_files(where: str) -> ArchiveFiles:
    """The files below a local folder, or below `s3://bucket/folder`; raises SetupError where `where` is neither.

    S3 takes its credentials as every AWS tool does, from the environment or the machine, and another server from
    `?endpoint_override=host:port&scheme=http`.
    """
    kind = _URL.match(where)
    if kind is None:
        root = str(Path(where).expanduser().absolute())
        return ArchiveFiles(fs.LocalFileSystem(), root, root)
    place = where.partition("?")[0].rstrip("/")
    if kind[1].lower() != "s3" or "@" in place:
        found = "one with a login in it" if "@" in place else f"one of kind '{bounded(kind[1], 20)}'"
        raise SetupError(
            f"An archive lies in a folder or at an s3:// URL; found {found}.",
            fix="Write s3://bucket/folder, and put the login into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        )
    try:
        system, root = fs.FileSystem.from_uri(where)
    except (pa.ArrowInvalid, OSError) as error:
        raise SetupError(f"{place} cannot be opened: {bounded(error, 200)}.", fix="Write s3://bucket/folder.") from error
    return ArchiveFiles(system, root, place)


def _settle(file: Path) -> None:
    """Makes a file and its name safe, and lets go of its pages: who reads it next reads what is on the disk."""
    sync(file)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    sync(file.parent)
