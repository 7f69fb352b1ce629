"""Where do secrets come from, and how do they stay out of logs and errors?"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from workflows_pkg.errors import Refused, SetupError, bounded, suggestion

SHORTEST_MASKED = 4
"""Values with fewer characters are not masked: they occur in ordinary text, and masking each place would tell what they are."""
SHORTEST_FRAGMENT = 8
"""A line of a long value, or its base64 form inside other base64, is masked from this length on."""
LARGEST_FILE = 64 * 1024
MASK = "***"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class Secrets:
    """The secrets a code location grants to its steps, and the masking of their values.

    A secret comes from the environment variable `WORKFLOWS_SECRET_<NAME>` or, where that is not set, from the file
    `<directory>/<name>`, one line break at its end left out. It is read anew at each use, so a rotated value is found.
    Values that were once given out stay masked.
    """

    def __init__(self, granted: Iterable[str], directory: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._granted = tuple(sorted(granted))
        self._directory = directory
        self._environ = os.environ if environ is None else environ
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._masked: tuple[frozenset[str], re.Pattern[str] | None] = (frozenset(), None)

    def __repr__(self) -> str:
        return f"Secrets(granted={self._granted!r})"

    def value(self, name: str) -> str:
        """The value of the granted secret `name`.

        Raises Refused for a name that is not granted, SetupError where the secret is missing, empty or unreadable.
        """
        if name not in self._granted:
            near = suggestion(name, self._granted)
            raise Refused(
                f"The secret '{bounded(name)}' is not granted to this code location.",
                fix=near or "Add its name where the code location says what it allows.",
            )
        value = self._read(name)
        if value is None:
            places = f"the environment variable {_variable(name)}"
            if self._directory is not None:
                places += f" or the file {self._directory / name}"
            raise SetupError(f"The secret '{name}' has no value.", fix=f"Set {places}.")
        if not value:
            raise SetupError(f"The secret '{name}' is empty.", fix="Set a value.")
        with self._lock:
            self._seen.add(value)
        return value

    def mask(self, text: str) -> str:
        """`text` with every known value replaced by `***`.

        Known are the values given out so far and the present values of all granted secrets. Found are the value, its
        longer lines, and their forms in base64 (also in the middle of other base64, as in a Basic header), in hex, in
        URLs, and escaped in JSON or Python text. Values of fewer than 4 characters are left alone, and so is a value
        that was changed in another way, such as compressed or cut in two.
        """
        values = self._known()
        known, pattern = self._masked
        if values != known:
            forms = {form for value in values for form in _masked_forms(value)}
            longest_first = sorted(forms, key=len, reverse=True)
            pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None
            self._masked = (values, pattern)
        return pattern.sub(MASK, text) if pattern is not None else text

    def _known(self) -> frozenset[str]:
        with self._lock:
            values = set(self._seen)
        for name in self._granted:
            try:
                value = self._read(name)
            except SetupError:
                continue  # `value` reports it; a text without this secret still has to be masked for the others
            if value:
                values.add(value)
        return frozenset(values)

    def _read(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            raise SetupError(
                f"'{bounded(name)}' is not a name of a secret.", fix="Use lower-case letters, digits and underscores."
            )
        value = self._environ.get(_variable(name))
        if value is not None or self._directory is None:
            return value
        return _file_content(self._directory / name)


def _variable(name: str) -> str:
    return f"WORKFLOWS_SECRET_{name.upper()}"


def _file_content(path: Path) -> str | None:
    """The text of a regular file. A symbolic link is refused: who may write links may not choose what is read as a secret."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if path.is_symlink():
            raise SetupError(f"The secret file {path} is a symbolic link.", fix="Put the file itself there.") from None
        raise SetupError(f"The secret file {path} cannot be read: {error.strerror}.") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            raise SetupError(f"The secret file {path} is not a regular file of at most {LARGEST_FILE} bytes.")
        text = os.read(descriptor, LARGEST_FILE).decode("utf-8")
    except UnicodeDecodeError:
        # Without the cause: its text shows bytes of the secret.
        raise SetupError(f"The secret file {path} is not UTF-8 text.", fix="Write binary secrets as base64.") from None
    finally:
        os.close(descriptor)
    return text.removesuffix("\n").removesuffix("\r")


def _masked_forms(value: str) -> Iterator[str]:
    if len(value) < SHORTEST_MASKED:
        return
    pieces = [value, *(line for line in value.splitlines() if SHORTEST_FRAGMENT <= len(line) < len(value))]
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass")
        yield piece
        yield quote(piece, safe="", errors="replace")
        yield quote(piece, errors="replace")
        yield quote_plus(piece, errors="replace")
        yield data.hex()
        yield data.hex().upper()
        yield json.dumps(piece)[1:-1]
        yield json.dumps(piece, ensure_ascii=False)[1:-1]
        yield repr(piece)[1:-1]
        yield repr(data)[2:-1]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield from _base64_forms(data, encode)


def _base64_forms(data: bytes, encode: Callable[[bytes], bytes]) -> Iterator[str]:
    """Base64 of `data` alone, and the part of it that stays the same inside longer text, at each of three alignments."""
    yield encode(data).decode()
    yield encode(data).decode().rstrip("=")
    for before in range(3):
        text = encode(b"\0" * before + data).decode().rstrip("=")
        start = -(-before * 8 // 6)  # characters that hold bits of what comes before
        end = (before + len(data)) * 8 // 6  # the first that may hold bits of what follows
        if end - start >= SHORTEST_FRAGMENT:
            yield text[start:end]
