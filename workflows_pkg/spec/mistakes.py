"""What is a mistake in a workflow before it has a place in a file? A path, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workflows_pkg.errors import bounded, suggestion

Path = tuple[str | int, ...]
MOST_MISTAKES = 100
"""Mistakes of one sort that are worded; a hostile file could have thousands, nobody mends them all at a time."""
MANY = 500
"""Looking for the nearest among more names than this takes longer than it helps."""


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    path: keys and list indexes from the workflow down to the offending value.
    at_key: the key is wrong, not its value.
    offset: for a mistake inside an expression, characters from the start of the text at `path`; None elsewhere.
    """

    path: Path
    message: str
    fix: str = ""
    at_key: bool = False
    offset: int | None = None


class UnfitError(ValueError):
    """Raised by validators: a whole sentence about a value, with what to do.

    A plain ValueError whose text begins with 'expected' does as well; what was found is then added by `loader`.
    """

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


def dotted(path: Path) -> str:
    """`path` as an author reads it.

    >>> dotted(("steps", "clean", "checks", 0, "rows"))
    'steps.clean.checks[0].rows'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{bounded(part, 40)}" if text else bounded(part, 40)
    return text


def found(value: object) -> str:
    """What `value` is, in an author's words and bounded.

    >>> found("three"), found(3), found(None), found([1])
    ("text 'three'", 'the number 3', 'nothing', 'a list')
    """
    match value:
        case None:
            return "nothing"
        case "":
            return "empty text"
        case [] | ():
            return "an empty list"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {bounded(value, 30)}"
        case str():
            shown = "".join(letter if letter.isprintable() or letter.isspace() else "�" for letter in value[:50])
            return f"text '{bounded(shown, 40)}'"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str:
    """'Did you mean …?', empty where nothing is near, where `name` is no name, or where there are too many to look at."""
    names = list(known)
    return suggestion(name, names) if len(name) <= 100 and len(names) <= MANY else ""
