"""What may a declarative step touch? Authors of workflow files are not trusted with code; the code location grants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from workflows_pkg.errors import Refused, bounded

LONGEST_NAME = 255
"""Bytes in the name of one file or folder that the usual file systems take."""


@dataclass(frozen=True)
class Allow:
    """What the code location grants to its workflow files. The default grants nothing but public HTTP.

    files: the folder below which steps read and write; None: no files.
    modules: dotted prefixes of modules whose functions `python` steps may call.
    hosts: "host:port" of private or local HTTP peers that are reachable all the same; public hosts always are.
    tables: name -> file below `files`, for `data.read_table` sources given by name.
    secrets: names of secrets that steps may use.
    """

    files: Path | None = None
    modules: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    secrets: tuple[str, ...] = ()

    def path(self, relative: str) -> Path:
        """The real path of `relative` below the granted folder; raises Refused where it leads out of it.

        Symbolic links are followed before the check, so a link that points outside is refused as well. The path given
        back has no links in it; whoever can *replace a folder by a link* between this check and the opening wins the
        race, so nobody but the code location itself should write to the granted folder. No step kind makes links.
        """
        if self.files is None:
            raise Refused(f"This code location grants no files, so '{bounded(relative)}' is out of reach.")
        if "\0" in relative or Path(relative).is_absolute():
            raise Refused(f"'{bounded(relative)}' is not a path below the data folder.", fix="Write it relative to it.")
        if any(len(part.encode("utf-8", "surrogateescape")) > LONGEST_NAME for part in Path(relative).parts):
            raise Refused(f"'{bounded(relative)}' has a name of more than {LONGEST_NAME} bytes.", fix="Shorten it.")
        root = self.files.resolve()
        try:
            full = (root / relative).resolve()
        except (OSError, RuntimeError, UnicodeError):
            # Links in a circle (RuntimeError up to Python 3.12), or a path the file system does not take.
            raise Refused(f"'{bounded(relative)}' cannot be followed to a file.", fix="Write another path.") from None
        if not full.is_relative_to(root):
            raise Refused(f"'{bounded(relative)}' leads out of the data folder.", fix="Write a path below it.")
        return full

    def allows_module(self, module: str) -> bool:
        """Whether `python` steps may call functions of `module`: it is one of the granted names or below one."""
        return any(module == prefix or module.startswith(prefix + ".") for prefix in self.modules)
