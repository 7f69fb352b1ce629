"""How does an error reach the event log without the secrets that its text may hold?"""

from __future__ import annotations

from collections.abc import Callable

from workflows_pkg.orchestration.retries import causes


def masked(error: Exception, mask: Callable[[str], str]) -> Exception:
    """The error itself where `mask` changes none of its texts; else a copy of it and its causes with masked texts.

    A copy keeps the class name, which history and retry policies go by, and the traceback, which holds no values.
    """
    chain = list(causes(error))
    if all(_harmless(link, mask) for link in chain):
        return error
    copy: Exception | None = None
    for link in reversed(chain):
        outer: Exception = type(type(link).__name__, (Exception,), {})(mask(str(link)))
        outer.__cause__ = copy
        outer.__traceback__ = link.__traceback__
        copy = outer
    return copy or error


def _harmless(link: BaseException, mask: Callable[[str], str]) -> bool:
    """Whether everything that a printed traceback shows of the error, what it was raised in the middle of included, is clean."""
    seen: set[int] = set()
    waiting: list[BaseException] = [link]
    while waiting:
        error = waiting.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        texts = [str(error), repr(error), *getattr(error, "__notes__", ())]
        if any(mask(text) != text for text in texts):
            return False
        if error.__context__ is not None:
            waiting.append(error.__context__)
    return True
