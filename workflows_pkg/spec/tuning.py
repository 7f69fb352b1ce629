"""What is a tuning? Retries, run timeouts and deadlines for definitions that have no spec, by address; and how its file is edited as text.

```yaml
job:nightly:
  timeout: 2h
  deadline: 07:00 Europe/Berlin
  retry: {attempts: 3, delay: 10s, backoff: exponential, jitter: full}
job:nightly/step:load:
  retry: {attempts: 5, delay: 1s}
asset:raw/orders:
  retry: {attempts: 4, delay: 30s}
schedule:daily_orders:
  timeout: 30m
```

Editing keeps every line of the other entries: their order, their comments, their style.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path as FilePath
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from workflows_pkg.errors import Problem, SpecError, WorkflowsError, bounded, listing, suggestion
from workflows_pkg.spec.deadlines import DeadlineText
from workflows_pkg.spec.durations import PositiveDuration
from workflows_pkg.spec.mistakes import Mistake, UnfitError, found
from workflows_pkg.spec.model import Budget, Part, Retry
from workflows_pkg.spec.source import Document, Mark, parse_document, plain_value, read_text
from workflows_pkg.spec.wording import mistakes_of

FILE = "tuning.yaml"
"""The name it has where nobody says another."""
ADDRESS = r"^(job:[A-Za-z0-9_]+(/step:[A-Za-z0-9_.]+(\[.*\])?)?|asset:\S(.*\S)?|(schedule|sensor):[A-Za-z0-9_]+)$"

Sort = Literal["job", "step", "asset", "schedule", "sensor"]

_SORTS = ("job", "asset", "schedule", "sensor")
_FORMS = "job:NAME, job:NAME/step:KEY, asset:KEY, schedule:NAME or sensor:NAME"
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]*[A-Za-z0-9_]")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")


@dataclass(frozen=True, order=True)
class Address:
    """What an entry is about. `name`: of the job, schedule or sensor, or the asset's key with `/`; `step`: step key without mapping key."""

    sort: Sort
    name: str
    step: str = ""

    def __str__(self) -> str:
        return f"job:{self.name}/step:{self.step}" if self.sort == "step" else f"{self.sort}:{self.name}"


class Entry(Part):
    """What is laid over the definition at an address. At least one of the fields is given."""

    timeout: PositiveDuration | None = Field(None, description="Longest time of a run; for jobs, schedules and sensors.")
    deadline: DeadlineText | None = Field(
        None, description="By when a run should have ended: 30m after it was asked for, or 07:00 Europe/Berlin."
    )
    budget: Budget | None = Field(None, description="What a run may cost: {usd_per_run: 0.5}; for jobs, schedules and sensors.")
    retry: Retry | None = Field(None, description="Further attempts after a failure; for jobs, their steps and assets.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if all(value is None for value in (self.timeout, self.deadline, self.budget, self.retry)):
            raise UnfitError("expected timeout, deadline, budget or retry, found none.", "Remove the entry to undo it.")
        return self


@dataclass(frozen=True)
class Tuning:
    """The entries of a file, in its order, and the line and column of each. Without entries it changes nothing."""

    entries: Mapping[Address, Entry]
    file: str = FILE
    marks: Mapping[Address, Mark] = field(default_factory=dict)

    def problem(self, address: Address, message: str, fix: str = "") -> Problem:
        """What is wrong with the entry at `address`, at its place in the file."""
        mark = self.marks.get(address, Mark(0, 0))
        return Problem(self.file, mark.line, mark.column, f"{address}: {message}", fix)


def load_tuning(path: FilePath) -> Tuning:
    """The tuning in a file; empty where there is no file. Raises SpecError with every mistake, each with line and column."""
    return parse_tuning(read_text(path), str(path)) if path.exists() else Tuning({}, str(path))


def parse_tuning(text: str, file: str = FILE) -> Tuning:
    """The tuning that `text` states; raises SpecError with all its problems."""
    document = parse_document(text, file)
    value = document.root.value
    problems = list(document.problems)
    if not isinstance(value, dict | None):
        mark = document.root.mark
        message = f"expected entries by address, found {found(value)}."
        raise SpecError([Problem(file, mark.line, mark.column, message, "Begin with: job:NAME:")])
    made: dict[Address, Entry] = {}
    marks: dict[Address, Mark] = {}
    for key, given in (value or {}).items():
        entry, mistakes = _entry(key, given)
        problems += [_placed(document, mistake) for mistake in mistakes]
        if entry is not None and not mistakes:
            address = parse_address(key)
            made[address], marks[address] = entry, document.mark((key,), key=True)
    if problems:
        raise SpecError(problems)
    return Tuning(made, file, marks)


def parse_address(text: str) -> Address:
    """The address that `text` writes; raises UnfitError with the forms there are."""
    if not re.fullmatch(ADDRESS, text):
        sort = text.split(":", 1)[0]
        near = suggestion(sort, _SORTS)
        raise UnfitError(f"expected {_FORMS}, found '{bounded(text)}'.", "" if sort in _SORTS else near)
    sort, rest = text.split(":", 1)
    if sort == "job" and "/step:" in rest:
        job, step = rest.split("/step:", 1)
        return Address("step", job, step.split("[", 1)[0])
    return Address(sort, rest)  # pyright: ignore[reportArgumentType] - ADDRESS has no other sorts


def entry_value(entry: Entry) -> dict[str, Any]:
    """The entry as plain values, without what is not given."""
    return entry.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def tuning_digest(entries: Mapping[Address, Entry]) -> str:
    """Twelve hexadecimal digits that say which entries; their order in the file does not matter.

    >>> tuning_digest({}) == tuning_digest(parse_tuning("").entries)
    True
    """
    value = {}
    for address, entry in entries.items():
        # an entry from before there were these keeps its digest
        later = {name for name in ("deadline", "budget") if getattr(entry, name) is None}
        value[str(address)] = entry.model_dump(mode="json", exclude=later)
    return blake2b(json.dumps(value, sort_keys=True, separators=(",", ":")).encode(), digest_size=6).hexdigest()


def entries(text: str) -> dict[str, dict[str, Any]]:
    """The entries of a file's text as plain values by address, in its order; raises SpecError where the text is not a tuning."""
    value = parse_document(text, FILE).root.value
    parse_tuning(text)
    return dict(value or {})


def with_entry(text: str, address: str, entry: Mapping[str, Any]) -> str:
    """`text` in which `entry` (plain values) stands at `address`: in place of the one that was there, else at the end.

    Raises SpecError where the entry cannot be laid over or `text` is not a tuning.
    """
    document = parse_document(text, FILE)
    _, mistakes = _entry(address, dict(entry))
    if mistakes:
        raise SpecError([Problem(FILE, 0, 0, mistake.message, mistake.fix) for mistake in mistakes])
    lines, end = _lines(document)
    new = [line + end for line in _written(address, entry)]
    span = _span(document, lines, address)
    if span is None:
        last = len(lines)
        if lines and not lines[-1].endswith(("\n", "\r")):
            lines[-1] += end
        span = (last, last)
    lines[span[0] : span[1]] = new
    return _checked("".join(lines), {**entries(text), address: dict(entry)})


def without_entry(text: str, address: str) -> str:
    """`text` less the entry at `address`; the same text where it has none. Comments above it stay."""
    document = parse_document(text, FILE)
    lines, _ = _lines(document)
    span = _span(document, lines, address)
    if span is None:
        return text
    del lines[span[0] : span[1]]
    return _checked("".join(lines), {key: value for key, value in entries(text).items() if key != address})


def _entry(key: str, value: object) -> tuple[Entry | None, list[Mistake]]:
    """The entry, or None, with every mistake of it."""
    try:
        address = parse_address(key)
    except UnfitError as error:
        return None, [Mistake((key,), str(error), error.fix, at_key=True)]
    if not isinstance(value, dict):
        return None, [
            Mistake((key,), f"{key}: expected timeout, deadline, budget or retry, found {found(value)}.", "timeout: 2h")
        ]
    try:
        entry = Entry.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return None, mistakes_of(error, value, Entry, (key,))
    return entry, list(_unfit(address, entry, key))


def _unfit(address: Address, entry: Entry, key: str) -> Iterator[Mistake]:
    """What Dagster cannot do at this sort of address."""
    if entry.timeout is not None and address.sort in ("asset", "step"):
        job = f"job:{address.name}" if address.sort == "step" else "the job that makes it (job:NAME)"
        yield Mistake(
            (key, "timeout"),
            f"{key}: a timeout belongs to a run, and Dagster times no single step.",
            f"Put it at {job}.",
            at_key=True,
        )
    if entry.deadline is not None and address.sort in ("asset", "step"):
        job = f"job:{address.name}" if address.sort == "step" else "the job that makes it (job:NAME)"
        yield Mistake((key, "deadline"), f"{key}: a deadline belongs to a run.", f"Put it at {job}.", at_key=True)
    if entry.budget is not None and address.sort in ("asset", "step"):
        job = f"job:{address.name}" if address.sort == "step" else "the job that makes it (job:NAME)"
        yield Mistake((key, "budget"), f"{key}: a budget belongs to a run.", f"Put it at {job}.", at_key=True)
    if entry.retry is not None and address.sort in ("schedule", "sensor"):
        fix = "Put it at the job that it asks for (job:NAME)."
        yield Mistake(
            (key, "retry"), f"{key}: retries belong to the steps of a job, not to what asks for runs.", fix, at_key=True
        )
    if entry.retry is not None and entry.retry.on:
        yield Mistake(
            (key, "retry", "on"),
            f"{key}: Dagster's retry policy cannot tell errors apart, so 'on' cannot be laid over code.",
            "Leave it out, or raise dagster.Failure(allow_retries=False) in the code for errors that should not be retried.",
            at_key=True,
        )


def _placed(document: Document, mistake: Mistake) -> Problem:
    mark = document.mark(mistake.path, key=mistake.at_key)
    return Problem(document.file, mark.line, mark.column, mistake.message, mistake.fix)


def _lines(document: Document) -> tuple[list[str], str]:
    """The lines with their ends, and the end that new ones get. Raises SpecError where entries do not stand on lines of their own."""
    value, marks = document.root.value, list(document.root.keys.values())
    in_block = all(mark.column == marks[0].column for mark in marks) and len({mark.line for mark in marks}) == len(marks)
    if value is not None and (not isinstance(value, dict) or not in_block or document.text.lstrip().startswith("{")):
        place = document.root.mark
        fix = "Write each address on a line of its own."
        raise SpecError([Problem(document.file, place.line, place.column, "expected entries on lines of their own.", fix)])
    return document.text.splitlines(keepends=True), "\r\n" if "\r\n" in document.text else "\n"


def _span(document: Document, lines: list[str], address: str) -> tuple[int, int] | None:
    """First line and the line after the last of an entry, counted from 0; blank lines and comments at the margin after it are not its."""
    if address not in document.root.keys:
        return None
    starts = sorted(mark.line - 1 for mark in document.root.keys.values())
    first = document.root.keys[address].line - 1
    last = next((start for start in starts if start > first), len(lines))
    while last > first + 1 and (not lines[last - 1].strip() or lines[last - 1].startswith(("#", "...", "---"))):
        last -= 1
    return first, last


def _written(address: str, entry: Mapping[str, Any]) -> Iterator[str]:
    yield f"{address if _PLAIN_KEY.fullmatch(address) else json.dumps(address)}:"
    for name, value in entry.items():
        yield f"  {name}: {_flow(value)}"


def _flow(value: object) -> str:
    match value:
        case Mapping():
            return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case str() if _PLAIN_TEXT.fullmatch(value) and plain_value(value) == value:
            return value
        case _:
            return json.dumps(value)


def _checked(text: str, expected: Mapping[str, Any]) -> str:
    """`text`, if it says what it should; else nothing is changed: an unusual file is better edited by its author."""
    try:
        said = entries(text)
    except SpecError:
        said = None
    if said != expected:
        raise WorkflowsError("This file could not be edited without changing more of it.", fix="Edit it by hand.")
    return text


def nearest_address(address: Address, known: Iterable[Address]) -> str:
    """'Did you mean …?' among the addresses of the same sort; else those there are."""
    same: list[str] = sorted(str(one) for one in known if one.sort == address.sort)
    return suggestion(str(address), same) or listing(address.sort, same, 5)
