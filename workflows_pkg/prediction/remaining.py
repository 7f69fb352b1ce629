"""How long will a run that has begun still take? The forecasts of its steps, given what has ended and how long the rest has run.

How steps depend on each other need not be known: what counts is how long earlier runs went on after a step had ended. Each running step
gives one answer, what is left of it and that time together, and the most certain answer is taken; between steps, the one that ended
last gives it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workflows_pkg.prediction.lookup import JobForecast, Quantiles
from workflows_pkg.prediction.spread import Spread

LEVELS = (0.05, 0.5, 0.95)

Ends = tuple[float, float, float]
"""The 5, 50 and 95 % quantile in seconds."""


@dataclass(frozen=True)
class SeenStep:
    """A step of a running run that has begun, by its name without mapping key; all its attempts and mapped copies are one.

    for_s: seconds since it began, or, where it has `ended`, since then.
    """

    step: str
    for_s: float
    ended: bool = False


@dataclass(frozen=True)
class SlowStep:
    """A running step that has lasted `for_s` seconds, longer than 95 of 100 of its kind; `usual` is what was forecast."""

    step: str
    for_s: float
    usual: Quantiles


@dataclass(frozen=True)
class Remaining:
    """What a run will still take, in seconds with its 90 % interval.

    late: the run has taken longer than 95 of 100 do; the figures then say what is usual from where it stands, or extrapolate.
    done, steps: how many of the steps that are known have ended, and how many are known.
    by_steps: whether steps say it, and not only how long the run has lasted.
    slow: the running step that has exceeded its own 95 % quantile by the largest factor; None where none has.
    """

    p05: float
    p50: float
    p95: float
    late: bool
    done: int
    steps: int
    by_steps: bool
    slow: SlowStep | None


def remaining(job: JobForecast, elapsed_s: float, seen: Sequence[SeenStep]) -> Remaining | None:
    """What is left of a run that began `elapsed_s` ago; None where the job's run time was not forecast.

    Steps that nothing was published of are not counted; where the others say nothing, the run's own forecast answers, given that it
    has lasted so long.
    """
    run = job.run("run_time_s")
    if run is None:
        return None
    takes = job.steps("run_time_s") | job.steps("whole_time_s")
    after = job.steps("time_left_s")
    running = {one.step: max(one.for_s, 0.0) for one in seen if not one.ended and one.step in takes}
    ended = {one.step: max(one.for_s, 0.0) for one in seen if one.ended}
    left_of = {step: _left(takes[step], since) for step, since in running.items()}
    answers = [_both(left_of[step], after[step]) for step in running if step in after]
    if not answers and (last := min((step for step in ended if step in after), key=lambda step: ended[step], default=None)):
        answers = [_left(after[last], ended[last])]
    by_steps = bool(answers)
    if not by_steps:
        answers = [_left(run, max(elapsed_s, 0.0))]
    surest = min(answers, key=lambda ends: (ends[2] - ends[0], ends))
    # whatever else is left, each running step takes its own time
    p05, p50, p95 = (max(ends) for ends in zip(surest, *left_of.values(), strict=True))
    beyond = {step: since / takes[step].p95 for step, since in running.items() if since > takes[step].p95 > 0}
    slowest = max(beyond, key=lambda step: (beyond[step], step), default="")
    return Remaining(
        p05,
        p50,
        p95,
        late=elapsed_s > run.p95,
        done=sum(step in takes for step in ended),
        steps=len(takes),
        by_steps=by_steps,
        slow=SlowStep(slowest, running[slowest], takes[slowest]) if slowest else None,
    )


def _left(found: Quantiles, elapsed: float) -> Ends:
    spread = Spread.of(found)
    low, middle, high = (spread.left(elapsed, level) for level in LEVELS)
    return low, middle, high


def _both(first: Ends, then: Quantiles) -> Ends:
    """One time after the other, taken as independent: medians add, the widths beside them as the sides of a right angle do."""
    middle = first[1] + then.p50
    low = middle - math.hypot(first[1] - first[0], then.p50 - then.p05)
    return max(low, 0.0), middle, middle + math.hypot(first[2] - first[1], then.p95 - then.p50)
