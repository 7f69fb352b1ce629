"""Which version of a workflow runs? Immutable numbered files and one pointer that is moved in one step.

Below the home: `versions/<workflow>/0001.json`, `0002.json`, … and `active`, which names the running one and the digest of the
author's file as it was last seen. A version is never changed or deleted; undoing moves the pointer back.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from workflows_pkg.errors import NotFound, SetupError, WorkflowsError, bounded
from workflows_pkg.history.records import Version
from workflows_pkg.release import durable, version_file
from workflows_pkg.spec.canonical import canonical_json, digest, to_yaml
from workflows_pkg.spec.model import Workflow

AUTHOR_FILE = "file"
"""The author of versions that record an edit of the workflow file."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_NUMBER = re.compile(r"(\d{4,9})\.json")


@dataclass(frozen=True)
class WriteBack:
    """What writing the active version into the author's file did."""

    path: Path
    backup: Path
    number: int
    lost_comments: int

    def __str__(self) -> str:
        lost = f" {self.lost_comments} lines with comments are not in it;" if self.lost_comments else ""
        return f"{self.path} is now version {self.number};{lost} the file as it was: {self.backup}."


@dataclass(frozen=True)
class _Pointer:
    """`number` runs; `file` is the digest of the author's file when it was last seen, None: never seen."""

    number: int
    file: str | None


class VersionStore:
    """The versions of all workflows of one home. Any number of processes may use it at once.

    Changes of one workflow exclude each other through a lock file (waiting at most `wait_s` seconds, then BusyError);
    reading takes no lock.
    """

    def __init__(self, home: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC), wait_s: float = 10) -> None:
        self.folder = home / "versions"
        self._clock = clock
        self._wait_s = wait_s

    def names(self) -> list[str]:
        """Workflows that have a version, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if _NAME.fullmatch(entry.name) and self._numbers(entry.name))

    def record(
        self, workflow: Workflow, *, author: str, reason: str, parent: int | None = None, suggestion_id: str | None = None
    ) -> Version:
        """Writes the next version without making it active. The first version of a workflow is active, for want of another."""
        with self._lock(workflow.workflow):
            return self._record(workflow, author, reason, parent, suggestion_id)

    def adopt(
        self, workflow: Workflow, *, author: str, reason: str, parent: int | None = None, suggestion_id: str | None = None
    ) -> Version:
        """Writes the next version and makes it active, provided that `parent` is the active one until then.

        Raises WorkflowsError where another version has become active in between. Called again after a crash between the two
        steps it takes up the version that was written, so that no number is spent twice on one change.
        """
        name = workflow.workflow
        with self._lock(name):
            pointer = self._pointer(name)
            active = pointer.number if pointer else None
            if active != parent:
                raise WorkflowsError(
                    f"{name}: the change was made from version {parent or 'none'}, but version {active or 'none'} is active.",
                    fix="Make the change again from the active version.",
                )
            return self._adopt(workflow, author, reason, pointer, suggestion_id, pointer.file if pointer else None)

    def current(
        self, file_workflow: Workflow, resolve: Callable[[Workflow], Workflow] = lambda written: written
    ) -> tuple[Workflow, int]:
        """What runs for the author's file, with its number: the active version unless the file was edited since.

        An edited file becomes the next version, made from the active one, and is active from then on. A file that says the
        same as the active version (after a write-back) makes none. `resolve` turns what is written as `auto` into numbers,
        so that the version and its digest hold the numbers; it is asked only when a version is made.
        """
        name, found = file_workflow.workflow, digest(file_workflow)
        pointer = self._pointer(name)
        if pointer is None or pointer.file != found:
            with self._lock(name):
                pointer = self._notice_file(file_workflow, found, resolve)
        version = self._read(name, pointer.number, active=True)
        return self.workflow(version), version.number

    def active(self, name: str) -> Version:
        """The version that runs; raises NotFound where the workflow has none."""
        return self._read(name, self._needed_pointer(name).number, active=True)

    def get(self, name: str, number: int) -> Version:
        """One version by its number; raises NotFound where there is none."""
        active = self._needed_pointer(name).number
        return self._read(name, number, active=number == active)

    def log(self, name: str) -> list[Version]:
        """All versions of a workflow, the newest first; raises NotFound where it has none."""
        active = self._needed_pointer(name).number
        return [self._read(name, number, active=number == active) for number in reversed(self._numbers(name))]

    def activate(self, name: str, number: int) -> Version:
        """Makes a recorded version the active one, an earlier one as well; it runs exactly as it was recorded."""
        self._needed_pointer(name)
        with self._lock(name):
            pointer = self._needed_pointer(name)
            version = self._read(name, number, active=True)
            self._point(name, _Pointer(number, pointer.file))
            return version

    def write_back(self, name: str, path: Path) -> WriteBack:
        """Writes the active version into the author's file, in one step, keeping the file as it was under `….bak`.

        The text is the canonical one, so comments and layout of the author's file are lost; the answer counts them. A file
        name that ends in .json is written as JSON.
        """
        target = path.resolve()
        with self._lock(name):
            pointer = self._needed_pointer(name)
            version = self._read(name, pointer.number, active=True)
            workflow = self.workflow(version)
            old = target.read_bytes() if target.exists() else b""
            backup = _free_backup(target)
            if target.suffix == ".json":
                text, comments = json.dumps(json.loads(version.spec), indent=2, ensure_ascii=False) + "\n", 0
            else:
                text, comments = (
                    to_yaml(_in_order_of_needs(workflow)),
                    sum(1 for line in old.splitlines() if re.search(rb"(^|\s)#", line)),
                )
            durable.create(backup, old)
            durable.replace(target, text.encode())
            self._point(name, _Pointer(pointer.number, digest(workflow)))
        return WriteBack(path, backup, version.number, comments)

    @staticmethod
    def workflow(version: Version) -> Workflow:
        """The workflow that a version holds."""
        return Workflow.model_validate_json(version.spec)

    def _notice_file(self, workflow: Workflow, found: str, resolve: Callable[[Workflow], Workflow]) -> _Pointer:
        """The pointer after the author's file was seen to have the digest `found`; the lock is held."""
        name = workflow.workflow
        pointer = self._pointer(name)
        if pointer is not None and pointer.file == found:
            return pointer
        if pointer is not None and self._read(name, pointer.number, active=True).digest == found:
            pointer = _Pointer(pointer.number, found)
            self._point(name, pointer)
            return pointer
        reason = "edited file" if pointer else "first version"
        version = self._adopt(resolve(workflow), AUTHOR_FILE, reason, pointer, None, found)
        return _Pointer(version.number, found)

    def _adopt(
        self, workflow: Workflow, author: str, reason: str, pointer: _Pointer | None, suggestion_id: str | None, file: str | None
    ) -> Version:
        parent = pointer.number if pointer else None
        newest = self._newest(workflow.workflow)
        same = (digest(workflow), author, parent, suggestion_id)
        if newest is not None and (newest.digest, newest.author, newest.parent, newest.suggestion_id) == same:
            version = newest
        else:
            version = self._record(workflow, author, reason, parent, suggestion_id)
        self._point(workflow.workflow, _Pointer(version.number, file))
        return version.model_copy(update={"active": True})

    def _record(self, workflow: Workflow, author: str, reason: str, parent: int | None, suggestion_id: str | None) -> Version:
        name = workflow.workflow
        durable.sweep(self.folder / name)
        numbers = self._numbers(name)
        if parent is not None and parent not in numbers:
            raise NotFound("version", str(parent), map(str, numbers))
        if numbers and not self._pointer_file(name).exists():
            # A crash stopped the very first version before its pointer was written; with a second file beside it,
            # "the only one" would no longer say which is active.
            self._point(name, _Pointer(numbers[0], None))
        number = max(numbers, default=0) + 1
        version = Version(
            workflow=name,
            number=number,
            digest=digest(workflow),
            parent=parent,
            author=author,
            reason=reason,
            suggestion_id=suggestion_id,
            created_at=self._clock(),
            active=not numbers,
            spec=canonical_json(workflow),
        )
        durable.create(self._file(name, number), version_file.to_bytes(version))
        return version

    def _newest(self, name: str) -> Version | None:
        numbers = self._numbers(name)
        return self._read(name, numbers[-1], active=False) if numbers else None

    def _numbers(self, name: str) -> list[int]:
        folder = self.folder / name
        if not folder.is_dir():
            return []
        return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NUMBER.fullmatch(entry.name)))

    def _file(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:04d}.json"

    def _pointer_file(self, name: str) -> Path:
        return self.folder / name / "active"

    def _read(self, name: str, number: int, *, active: bool) -> Version:
        path = self._file(name, number)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"version of {name}", str(number), map(str, self._numbers(name))) from None
        return version_file.from_bytes(content, path, name, number, active=active)

    def _pointer(self, name: str) -> _Pointer | None:
        path = self._pointer_file(name)
        try:
            text = path.read_text()
        except FileNotFoundError:
            numbers = self._numbers(name)
            if len(numbers) > 1:
                raise SetupError(
                    f"{path} is missing, so nothing says which of the versions {numbers[0]} to {numbers[-1]} is active.",
                    fix=f'Write it: {{"number": {numbers[-1]}}}, or another of the numbers.',
                ) from None
            return _Pointer(numbers[0], None) if numbers else None
        try:
            value: Any = json.loads(text)
            pointer = _Pointer(int(value["number"]), value.get("file"))
        except (ValueError, TypeError, KeyError, AttributeError):
            pointer = None
        numbers = self._numbers(name)
        if pointer is None or pointer.number not in numbers:
            raise SetupError(
                f"{path}: expected the number of a version that is there, found '{bounded(text)}'.",
                fix=f'Write it: {{"number": {numbers[-1] if numbers else 1}}}, or another of: {", ".join(map(str, numbers))}.',
            )
        return pointer

    def _needed_pointer(self, name: str) -> _Pointer:
        pointer = self._pointer(name) if _NAME.fullmatch(name) else None
        if pointer is None:
            raise NotFound("workflow with versions", name, self.names())
        return pointer

    def _point(self, name: str, pointer: _Pointer) -> None:
        text = json.dumps({"number": pointer.number, "file": pointer.file})
        durable.replace(self._pointer_file(name), (text + "\n").encode())

    @contextmanager
    def _lock(self, name: str) -> Generator[None]:
        if not _NAME.fullmatch(name):
            raise NotFound("workflow with versions", name, self.names())
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with durable.locked(folder / ".lock", wait_s=self._wait_s, what=f"Versions of {name}"):
            yield


def _in_order_of_needs(workflow: Workflow) -> Workflow:
    """The same workflow with each step after those it needs, as people write it: the canonical text sorts steps by name."""
    steps = workflow.steps
    graph = {name: [needed for needed in steps[name].needs if needed in steps] for name in steps}
    return workflow.model_copy(update={"steps": {name: steps[name] for name in TopologicalSorter(graph).static_order()}})


def _free_backup(path: Path) -> Path:
    """`path` with `.bak` appended, numbered where an earlier backup is there, so that none is lost."""
    candidate, count = path.with_name(f"{path.name}.bak"), 1
    while os.path.lexists(candidate):
        count += 1
        candidate = path.with_name(f"{path.name}.bak{count}")
    return candidate
