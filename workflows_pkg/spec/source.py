"""How is a workflow file read without trusting it? Text to plain values that remember line and column, or a refusal.

What a hostile file could make expensive is refused before it costs anything: size before reading, characters before
parsing, depth, aliases, tags and the number of values while the parser's events arrive. Nothing here recurses.

Plain scalars mean what they mean in JSON (and `~` or nothing for null, `True`/`TRUE` as YAML's core schema has it);
everything else, such as `on`, `12:30:45`, `1_000`, `007` or a date, stays text.
"""

from __future__ import annotations

import json
import math
import re
import stat
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from workflows_pkg.errors import Problem, SpecError, bounded

SIZE_LIMIT = 256 * 1024
"""Bytes of one workflow file; the C parser takes well under a tenth of a second for it."""
SLOW_SIZE_LIMIT = 32 * 1024
"""The same where PyYAML has no C parser, which is about thirty times slower."""
DEPTH_LIMIT = 32
"""Mappings and lists inside each other."""
VALUE_LIMIT = 20_000
"""Values in one file: room for a thousand steps of twenty values, read in a tenth of a second."""

_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?(?:\.inf|\.Inf|\.INF|Infinity)|\.nan|\.NaN|\.NAN|NaN")
_LARGEST = 2**63 - 1
"""Whole numbers are kept in 64 bits, as DuckDB and Parquet keep them."""

_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text after them, so that it shows otherwise
    "\u2028\u2029\ufeff\ufffe\uffff"  # line breaks that editors do not show, byte order marks, not characters
    "\ud800-\udfff]"  # halves of characters
)
_SURROGATE_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_JOINED = re.compile(r"\\U000[0-9A-F]{5}")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_JSON_TEXT = re.compile(r'"(?:[^"\\\n]|\\.)*"?')
"""Matches at every quote, closed or not, so that no text makes it try again from the next one."""


class Mark(NamedTuple):
    """A place in the file, both counted from 1."""

    line: int
    column: int


class Located:
    """A value with its place; `parts` holds the same for a mapping's values by key or a list's items by index.

    Not a dataclass: a file has thousands, and scalars share the empty mappings.
    """

    __slots__ = ("keys", "mark", "parts", "value")

    def __init__(self, value: Any, mark: Mark) -> None:
        self.value = value
        self.mark = mark
        holds = isinstance(value, dict | list)
        self.keys: dict[str, Mark] = {} if holds else _NO_KEYS
        self.parts: dict[str | int, Located] = {} if holds else _NO_PARTS


_NO_KEYS: dict[str, Mark] = {}
_NO_PARTS: dict[str | int, Located] = {}


@dataclass(frozen=True)
class Document:
    """One parsed file: its text, its values, and the mistakes that did not keep it from being read (duplicate keys)."""

    file: str
    text: str
    root: Located
    problems: tuple[Problem, ...]

    def mark(self, path: tuple[str | int, ...], *, key: bool = False) -> Mark:
        """Where the value at `path` stands, or its key; the nearest part above where there is no such value."""
        node, mark = self.root, self.root.mark
        for index, name in enumerate(path):
            last = index == len(path) - 1
            child = node.parts.get(name)
            if child is None:
                return mark
            on_key = isinstance(name, str) and name in node.keys and (not last or key)
            mark = node.keys[name] if on_key and isinstance(name, str) else child.mark
            node = child
        return mark

    def inside(self, path: tuple[str | int, ...], offset: int) -> Mark:
        """Where character `offset` of the text at `path` stands, if it belongs to a `${{ }}`; else where that text begins.

        The value of a quoted or folded text differs from what stands in the file, so the place is found by counting `${{`;
        where the expression itself is spelled otherwise in the file, it is the place of its `${{`.
        """
        begin = self.mark(path)
        node = self.root
        for name in path:
            if name not in node.parts:
                return begin
            node = node.parts[name]
        opening = node.value.rfind("${{", 0, offset + 3) if isinstance(node.value, str) else -1
        if opening < 0:
            return begin
        position = _index(self.text, begin) - 1
        for _ in range(node.value.count("${{", 0, opening + 3)):
            position = self.text.find("${{", position + 1)
            if position < 0:
                return begin
        before = node.value[opening:offset]
        for spelled in (before, before.replace("'", "''")):  # as between single quotes
            if self.text.startswith(spelled, position):
                return _mark_at(self.text, position + len(spelled))
        return _mark_at(self.text, position)


def read_text(path: Path) -> str:
    """The text of a workflow file; raises SpecError where it is missing, too large, or not UTF-8."""
    file = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            refuse(file, Mark(1, 1), "this is not a file.", "Name a workflow file, such as workflows/daily.yaml.")
        _check_size(file, status.st_size)
        with path.open("rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)  # it may have grown since
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        refuse(file, Mark(1, 1), f"this file cannot be read: {reason}.", "Look at the path.", cause=error)
    _check_size(file, len(content))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        byte = content[error.start]
        refuse(file, _mark_at(before, len(before)), f"byte 0x{byte:02x} is not UTF-8.", "Save the file as UTF-8.", cause=error)


def parse_document(text: str, file: str) -> Document:
    """The values of one YAML file (JSON where `file` ends in .json); raises SpecError with the reason for a refusal."""
    _check_size(file, len(text))
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        refuse_character(file, _mark_at(text, forbidden.start()), forbidden.group())
    _check_size(file, len(text.encode()))
    source = text
    if file.endswith(".json"):
        _check_json(file, text)
        source = _SURROGATE_PAIR.sub(_joined, text)
    elif directive := re.search(r"(?m)^%", text):
        refuse(file, _mark_at(text, directive.start()), "YAML directives (%) are refused.", "Delete this line.")
    return _Reader(file, text).read(source)


def forbidden_character(text: str) -> str | None:
    """The first character of `text` that a workflow may not contain, None where there is none."""
    match = _FORBIDDEN.search(text)
    return match.group() if match else None


def plain_value(text: str) -> Any:
    """What a scalar without quotes means; raises ValueError for numbers that cannot be kept.

    >>> [plain_value(text) for text in ("3", "1.5", "true", "~", "on", "12:30:45", "1_000", "007")]
    [3, 1.5, True, None, 'on', '12:30:45', '1_000', '007']
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a number that can be kept.")
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text
    if number.group(1) is None and number.group(2) is None:
        if len(text) > 20 or not -_LARGEST - 1 <= int(text) <= _LARGEST:
            raise ValueError(f"the whole number {bounded(text, 24)} needs more than 64 bits.")
        return int(text)
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {bounded(text, 24)} is too large.")
    return value


def refuse(file: str, mark: Mark, message: str, fix: str = "", *, cause: BaseException | None = None) -> NoReturn:
    """Raise SpecError with this one problem."""
    raise SpecError([Problem(file, mark.line, mark.column, message, fix)]) from cause


def refuse_character(file: str, mark: Mark, character: str) -> NoReturn:
    """Raise SpecError for a character that shows nothing or deceives the eye."""
    refuse(file, mark, f"character U+{ord(character):04X} is refused: it cannot be seen.", "Delete it.")


class _Reader:
    """Turns the parser's events into located values, with a stack of its own instead of recursion."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._stack: list[Located] = []
        self._key: list[tuple[str, Mark] | None] = []
        self._root: Located | None = None
        self._count = 0
        self._problems: list[Problem] = []
        self._refused: list[Problem] = []
        self._shifts: dict[int, list[int]] = {}

    def read(self, source: str) -> Document:
        if source != self._text:
            self._note_shifts(source)
        for event in self._events(source):
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event)
                case yaml.MappingStartEvent():
                    self._open(event, {})
                case yaml.SequenceStartEvent():
                    self._open(event, [])
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    self._stack.pop()
                    self._key.pop()
                case yaml.AliasEvent():
                    refuse(self._file, self._mark(event), "aliases (*) are refused.", "Write the value again.")
                case yaml.DocumentStartEvent() if self._root is not None:
                    refuse(self._file, self._mark(event), "a second document begins here.", "Keep one workflow in a file.")
                case _:
                    pass
        if self._refused:
            raise SpecError(self._refused)
        root = self._root or Located(None, Mark(1, 1))
        return Document(self._file, self._text, root, tuple(self._problems))

    def _events(self, source: str) -> Iterator[Any]:
        loader: Any = getattr(yaml, "CSafeLoader", None)
        if loader is None:
            loader = yaml.SafeLoader
            if len(source) > SLOW_SIZE_LIMIT:
                refuse(
                    self._file,
                    Mark(1, 1),
                    f"without PyYAML's C parser a file has at most {SLOW_SIZE_LIMIT // 1024} KiB.",
                    "Install a PyYAML wheel that has it: pip install --force-reinstall --only-binary :all: pyyaml",
                )
        try:
            yield from yaml.parse(source, Loader=loader)
        except yaml.MarkedYAMLError as error:
            message, fix, at_context = _plain_words(error)
            mark = error.context_mark if at_context and error.context_mark else error.problem_mark or error.context_mark
            place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
            self._refused.append(Problem(self._file, place.line, place.column, message, fix))
            raise SpecError(self._refused) from error
        except yaml.YAMLError as error:
            refuse(self._file, Mark(1, 1), f"this is not YAML: {bounded(error)}.", cause=error)

    def _open(self, event: Any, value: dict[str, Any] | list[Any]) -> None:
        if len(self._stack) >= DEPTH_LIMIT:
            refuse(self._file, self._mark(event), f"more than {DEPTH_LIMIT} mappings and lists stand inside each other here.")
        if self._stack and isinstance(self._stack[-1].value, dict) and self._key[-1] is None:
            refuse(self._file, self._mark(event), "expected a key, found a list or a mapping.", "Quote text in brackets.")
        node = self._add(event, value)
        self._stack.append(node)
        self._key.append(None)

    def _scalar(self, event: Any) -> None:
        mark = self._mark(event)
        if self._stack and isinstance(self._stack[-1].value, dict) and self._key[-1] is None:
            self._guard(event, mark)
            self._key[-1] = (self._clean(event.value, mark), mark)
            return
        value: Any = None
        if event.implicit[0]:
            try:
                value = plain_value(event.value)
            except ValueError as error:
                problem = Problem(self._file, mark.line, mark.column, str(error), "Put it in quotes if text is meant.")
                self._refused.append(problem)
        else:
            value = event.value
        self._add(event, self._clean(value, mark) if isinstance(value, str) else value)

    def _add(self, event: Any, value: Any) -> Located:
        mark = self._mark(event)
        self._guard(event, mark)
        node = Located(value, mark)
        if not self._stack:
            self._root = node
            return node
        parent = self._stack[-1]
        key = self._key[-1]
        if key is None:
            parent.parts[len(parent.value)] = node
            parent.value.append(value)
            return node
        name, key_mark = key
        self._key[-1] = None
        if name in parent.parts:
            first = parent.keys[name]
            message = f"the key '{bounded(name)}' is given twice; the first is in line {first.line}."
            self._problems.append(Problem(self._file, key_mark.line, key_mark.column, message, "Keep one of them."))
            return node
        parent.keys[name] = key_mark
        parent.parts[name] = node
        parent.value[name] = value
        return node

    def _guard(self, event: Any, mark: Mark) -> None:
        """Refuse what costs or hides: anchors, tags, and more values than a workflow has."""
        if event.anchor is not None:
            refuse(
                self._file, mark, f"anchors (&{bounded(event.anchor, 20)}) are refused.", "Write the value where it is needed."
            )
        if event.tag is not None:
            tag = bounded(event.tag.replace("tag:yaml.org,2002:", "!!"), 40)
            refuse(self._file, mark, f"tags ({tag}) are refused.", "Delete it; put text in quotes.")
        self._count += 1
        if self._count > VALUE_LIMIT:
            refuse(self._file, mark, f"expected at most {VALUE_LIMIT} values in a file.", "Split the workflow.")

    def _clean(self, text: str, mark: Mark) -> str:
        """`text`, refused where an escape put a character into it that the file itself may not contain."""
        character = forbidden_character(text)
        if character is not None:
            refuse_character(self._file, mark, character)
        return text

    def _mark(self, event: Any) -> Mark:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if line in self._shifts:
            column += 2 * bisect_left(self._shifts[line], column)
        return Mark(line, column)

    def _note_shifts(self, source: str) -> None:
        """Remember where joining surrogate pairs made the parsed text two characters shorter than the file."""
        for number, line in enumerate(_LINE_BREAK.split(source), start=1):
            columns = [match.start() + 1 for match in _JOINED.finditer(line)]
            if columns:
                self._shifts[number] = columns


def _check_size(file: str, size: int) -> None:
    if size > SIZE_LIMIT:
        message = f"expected at most {SIZE_LIMIT // 1024} KiB, found {size / 1024:.0f} KiB."
        refuse(file, Mark(1, 1), message, "Split the workflow, or move its data into files.")


def _check_json(file: str, text: str) -> None:
    """Refuse what is not JSON; depth first, because the standard library's parser recurses."""
    depth = 0
    for match in re.finditer(r"[\[\]{}]", _JSON_TEXT.sub(lambda found: " " * len(found.group()), text)):
        depth += 1 if match.group() in "[{" else -1
        if depth > DEPTH_LIMIT:
            message = f"more than {DEPTH_LIMIT} mappings and lists stand inside each other here."
            refuse(file, _mark_at(text, match.start()), message)
    try:
        json.loads(text, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        refuse(file, Mark(error.lineno, error.colno), f"this is not JSON: {error.msg}.", cause=error)


def _joined(pair: re.Match[str]) -> str:
    """The escape of one character for two halves: YAML has no surrogate pairs, JSON writes little else."""
    high, low = int(pair.group(2), 16), int(pair.group(3), 16)
    return f"{pair.group(1)}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08X}"


def _mark_at(text: str, index: int) -> Mark:
    lines = _LINE_BREAK.split(text[:index])
    return Mark(len(lines), len(lines[-1]) + 1)


def _index(text: str, mark: Mark) -> int:
    """The character index of a place in `text`."""
    breaks = _LINE_BREAK.finditer(text)
    start = 0
    for _ in range(mark.line - 1):
        found = next(breaks, None)
        if found is None:
            return len(text)
        start = found.end()
    return start + mark.column - 1


_WORDS: tuple[tuple[str, str, str, bool], ...] = (
    ("mapping values are not allowed", "unexpected ':' here.", "Look at the indentation; quote text that contains ': '.", False),
    ("found unexpected end of stream", "this quoted text has no closing quote.", "", True),
    ("did not find expected ',' or ']'", "this list has no closing ], or a comma is missing.", "", True),
    (
        "did not find expected ',' or '}'",
        "this mapping has no closing }, or a comma is missing.",
        "Quote text with { } [ ] , : in it.",
        True,
    ),
    ("did not find expected '-' indicator", "expected a list item ('- ') here.", "Look at the indentation.", False),
    ("did not find expected key", "expected a key here.", "Look at indentation and quotes, also in the line above.", False),
    ("did not find expected node content", "expected a value here.", "", False),
    ("could not find expected ':'", "expected 'key: value' here.", "", True),
    ("found unknown escape character", "this escape is not known in double quotes.", "Use single quotes.", False),
    ("invalid Unicode character escape", "this escape is half a character.", "Write the character itself.", False),
    ("block sequence entries are not allowed", "a list cannot begin here.", "Put '- ' on a line of its own.", False),
    (
        "found character that cannot start any token",
        "text cannot begin with this character.",
        "Indent with spaces; put text that begins with @ ` or % in quotes.",
        False,
    ),
    ("did not find expected <document start>", "this is not part of the value above.", "Look at the indentation.", False),
)
"""What libyaml says (contained), what an author reads, what to do, and whether the place is where the construct began."""


def _plain_words(error: yaml.MarkedYAMLError) -> tuple[str, str, bool]:
    said = f"{error.problem}"
    for contained, message, fix, at_context in _WORDS:
        if contained in said:
            return message, fix, at_context
    return f"this is not YAML: {bounded(said)}.", "", False
