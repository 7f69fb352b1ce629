"""What can go wrong, grouped by what the reader can do about it.

WorkflowsError            everything this project raises on purpose
├── SpecError             mend the workflow file (carries every problem of the file)
├── SetupError            mend the installation or the instance
│   └── MissingExtra      install an optional extra
├── BusyError             wait and try again: somebody else is writing
├── NotFound              the named workflow, run, version or suggestion does not exist
└── StepError             a step could not do its work; `cause` says why
    ├── DataProblem       the data are not as the step expects
    ├── CodeProblem       the query, or the function it calls, is wrong
    ├── RateLimited       the other side asks to slow down
    ├── PeerUnavailable   the other side did not answer, or is locked
    ├── MemoryLimit       the step needs more memory than it was given
    ├── StepTimeout       the step took longer than its timeout (also a TimeoutError)
    └── Refused           the instance does not allow this step to do that

A message has up to four parts: where, what was expected, what was found, what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

FailureCause = Literal["code", "data", "timeout", "memory", "dependency", "infrastructure", "unknown"]
"""Closed classes of failure; retry policies and predictors read them."""


class WorkflowsError(Exception):
    """Root of all errors raised on purpose; `str()` is the whole message for a person."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        # what another library said often ends without a full stop
        end = "." if self.fix and self.message[-1:] not in "'\".!?:…" else ""
        return f"{self.message}{end} {self.fix}".rstrip()


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file: where it is, what is wrong, what to do. Line 0: there is no line to name."""

    file: str
    line: int
    column: int
    message: str
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message} {self.fix}".rstrip()


class SpecError(WorkflowsError):
    """A workflow file that cannot be used; `problems` holds every mistake found, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SetupError(WorkflowsError):
    """The installation or the instance lacks something; the fix names the command."""


class MissingExtra(SetupError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the extra '{extra}', which is not installed.",
            fix=f"Run: pip install 'agentic-workflows[{extra}]'",
        )
        self.extra = extra


class BusyError(WorkflowsError):
    """Somebody else holds what this needs; trying again later can work."""


class NotFound(WorkflowsError):
    """Something named does not exist; the message offers the nearest name."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(f"There is no {kind} '{bounded(name)}'.", fix=suggestion(name, names) or listing(kind, names))


class StepError(WorkflowsError):
    """A step could not do its work. `cause` is one of `FailureCause`."""

    cause: FailureCause = "unknown"


class DataProblem(StepError):
    """The data are not as the step expects; another attempt finds the same data."""

    cause: FailureCause = "data"


class CodeProblem(StepError):
    """The step's query, call or function is wrong; another attempt fails the same way until somebody mends it."""

    cause: FailureCause = "code"


class RateLimited(StepError):
    """The other side answered 'too many requests'. `retry_after_s` is its own wish in seconds, None if it had none."""

    cause: FailureCause = "dependency"

    def __init__(self, message: str, *, retry_after_s: float | None = None, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.retry_after_s = retry_after_s


class PeerUnavailable(StepError):
    """The other side did not answer, answered with a server error, or holds a lock."""

    cause: FailureCause = "dependency"


class MemoryLimit(StepError):
    """The step needs more memory than its limit; the same input with the same limit fails again."""

    cause: FailureCause = "memory"


class StepTimeout(StepError, TimeoutError):
    """The attempt was stopped because it took longer than the step's timeout."""

    cause: FailureCause = "timeout"


class Refused(StepError):
    """The instance does not allow this step to do that; a person with access to the instance can."""

    cause: FailureCause = "code"


def bounded(text: object, limit: int = 60) -> str:
    """`text` cut to `limit` characters and one line, for quoting in a message."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def suggestion(found: str, known: Iterable[str]) -> str:
    """'Did you mean …?' with the nearest known name, or an empty string where none is near."""
    near = get_close_matches(found, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def listing(kind: str, names: list[str], most: int = 8) -> str:
    """The known names, sorted and cut, as a sentence."""
    if not names:
        return f"No {kind} is known here."
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"Known: {', '.join(names[:most])}{more}."
