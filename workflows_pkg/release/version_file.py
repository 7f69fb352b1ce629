"""What does the file of one version hold, and has it been touched? Readable JSON, sealed by a hash over all of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workflows_pkg.errors import SetupError
from workflows_pkg.history.records import Version


def to_bytes(version: Version) -> bytes:
    """A version's file: readable JSON with the spec as given, sealed. Whether it is active is the pointer's to say."""
    fields = version.model_dump(mode="json", exclude={"active"})
    # The spec is kept as its canonical text: what is restored is what was recorded, byte by byte, whatever wrote it.
    fields["seal"] = _seal(fields)
    return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode()


def from_bytes(content: bytes, path: Path, name: str, number: int, *, active: bool) -> Version:
    """The version in the file `path`; raises SetupError where it is not what was recorded as `number` of `name`."""
    try:
        fields: Any = json.loads(content)
        seal = fields.pop("seal", None)
        version = Version.model_validate({**fields, "active": active})
        whole = seal == _seal(fields) and (version.workflow, version.number) == (name, number)
    except (ValueError, TypeError, AttributeError, ValidationError):
        whole = False
        version = None
    if version is None or not whole:
        raise SetupError(
            f"{path} was changed or damaged after it was recorded; a version never changes.",
            fix="Put the file back from a backup, or make another version the active one.",
        )
    return version


def _seal(fields: dict[str, Any]) -> str:
    """Hash over all of a version's fields: an edit of the reason is noticed as well as one of the spec."""
    text = json.dumps({name: value for name, value in fields.items() if name != "seal"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
