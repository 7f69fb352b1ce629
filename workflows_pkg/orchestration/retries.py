"""Is a failed attempt followed by another, and when? Dagster's retry policy does it; this says where it must not."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from workflows_pkg.errors import RateLimited
from workflows_pkg.spec.model import Retry

LONGEST_WAIT_S = 3600.0
"""A peer that asks to wait longer than an hour is not waited for: a run that sleeps holds a place in the queue."""

_BACKOFF = {"constant": None, "linear": dg.Backoff.LINEAR, "exponential": dg.Backoff.EXPONENTIAL}
_JITTER = {"none": None, "full": dg.Jitter.FULL, "plus_minus": dg.Jitter.PLUS_MINUS}


def retry_policy(retry: Retry | None) -> dg.RetryPolicy | None:
    """Dagster's policy for a step's `retry`, shown in its UI; None: one attempt only."""
    if retry is None or retry.attempts == 1:
        return None
    return dg.RetryPolicy(
        max_retries=retry.attempts - 1,
        delay=retry.delay.total_seconds(),
        backoff=_BACKOFF[retry.backoff],
        jitter=_JITTER[retry.jitter],
    )


def is_retried(error: BaseException, retry: Retry) -> bool:
    """Whether `retry.on` names the class of the error, of what caused it, or a parent of either; an empty list names all."""
    if not retry.on:
        return True
    names = {kind.__name__ for link in causes(error) for kind in type(link).__mro__}
    return not names.isdisjoint(retry.on)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on to the innermost."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def for_dagster(error: Exception, matched: bool, retry: Retry | None, attempt: int, shown: Exception) -> Exception:
    """What the op raises so that Dagster does what `retry` says. `shown` (the error without secrets) stays its cause.

    `matched` is `is_retried` of the error as it was raised; `attempt` is the one that just failed, 1 for the first.
    """
    policy = retry_policy(retry)
    if policy is None:
        return shown
    if not matched:
        return _caused(dg.Failure(description=str(shown), allow_retries=False), shown)
    asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
    if asked_s is None:
        return shown
    if asked_s > LONGEST_WAIT_S:
        return _caused(dg.Failure(description=f"{shown} It asks to wait {asked_s:.0f} s.", allow_retries=False), shown)
    wait_s = float(policy.calculate_delay(attempt))
    if asked_s <= wait_s:
        return shown
    return _caused(dg.RetryRequested(max_retries=policy.max_retries, seconds_to_wait=asked_s), shown)


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error
