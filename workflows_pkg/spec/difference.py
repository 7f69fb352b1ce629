"""What changed between two workflows, in meaning and not in spelling?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from workflows_pkg.errors import bounded
from workflows_pkg.spec.canonical import canonical
from workflows_pkg.spec.model import Workflow

Json = None | bool | int | float | str | list[Any] | dict[str, Any]


@dataclass(frozen=True)
class Change:
    """One difference.

    path: dotted keys, such as `steps.score.retry.delay`; lists are compared as a whole.
    before, after: JSON values; None on the side that has nothing (see `kind`).
    """

    path: str
    before: Json
    after: Json
    kind: Literal["changed", "added", "removed"] = "changed"

    def __str__(self) -> str:
        if self.kind == "added":
            return f"{self.path}: added {_shown(self.after)}"
        if self.kind == "removed":
            return f"{self.path}: removed {_shown(self.before)}"
        return f"{self.path}: {_shown(self.before)} -> {_shown(self.after)}"


def difference(old: Workflow, new: Workflow) -> tuple[Change, ...]:
    """Every change from `old` to `new`, in the order of `old`'s fields; empty exactly where their digests are equal.

    A default that is spelled out on one side only is no change, and is named where the other side has another value.
    """
    return tuple(_changes("", canonical(old), canonical(new), _full(old), _full(new)))


def _full(workflow: Workflow) -> dict[str, Any]:
    """All fields with their defaults, to name the value that holds where one side leaves it out."""
    return workflow.model_dump(mode="json", by_alias=True)


def _changes(
    path: str, old: dict[str, Any], new: dict[str, Any], old_full: dict[str, Any], new_full: dict[str, Any]
) -> Iterator[Change]:
    for key in [*old, *(key for key in new if key not in old)]:
        place = f"{path}.{key}" if path else key
        before, after = old.get(key, old_full.get(key)), new.get(key, new_full.get(key))
        if key in old and key in new and isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(place, before, after, _below(old_full, key), _below(new_full, key))
        elif key not in old and _is_absent(before):
            yield Change(place, None, after, "added")
        elif key not in new and _is_absent(after):
            yield Change(place, before, None, "removed")
        elif not _same(before, after):
            yield Change(place, before, after)


def _below(full: dict[str, Any], key: str) -> dict[str, Any]:
    value = full.get(key)
    return value if isinstance(value, dict) else {}


def _is_absent(value: object) -> bool:
    """Whether a default stands for nothing: no value, no items, no text."""
    return value is None or value in ({}, [], "")


def _same(before: Json, after: Json) -> bool:
    """Equality as JSON has it: true is not 1, and 1 is not 1.0."""
    return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)


def _shown(value: Json) -> str:
    return bounded(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 80)
