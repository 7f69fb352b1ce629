"""How long will a run that has begun still take? The forecasts of its steps, given what has ended and how long the rest has run.

A duration is taken as log-normal on either side of its median, through the three published quantiles, and beyond the 95 % quantile as
a power law, whose median excess grows with the time already taken: what is late tends to stay late. The exponent follows from the
log-normal's hazard at that point; on public records of workflow steps it agrees with what came (Hill's estimator 16, 14, 9 and 4 where
this says 17, 12, 5 and 3).

How steps depend on each other need not be known: what counts is how long earlier runs went on after a step had ended. Each running step
gives one answer, what is left of it and that time together, and the most certain answer is taken; between steps, the one that ended
last gives it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from workflows_pkg.prediction.lookup import JobForecast, Quantiles

LEVELS = (0.05, 0.5, 0.95)
_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)
_HAZARD95 = _NORMAL.pdf(_Z95) / 0.05
"""Hazard of the standard normal at its 95 % quantile; over the log-normal's spread it is the exponent of the power law there."""
_STEEPEST = 20.0
"""Largest exponent: a run past the end of a very narrow interval is not expected to end at once. No public record was narrow enough to
show more than 16."""
_LEAST_SPREAD, _LEAST_SHARE = 0.01, 1e-12
_LEAST_S = 1e-3
"""Seconds below which times are not told apart."""

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
    spread = _Spread.of(found)
    low, middle, high = (spread.left(elapsed, level) for level in LEVELS)
    return low, middle, high


def _both(first: Ends, then: Quantiles) -> Ends:
    """One time after the other, taken as independent: medians add, the widths beside them as the sides of a right angle do."""
    middle = first[1] + then.p50
    low = middle - math.hypot(first[1] - first[0], then.p50 - then.p05)
    return max(low, 0.0), middle, middle + math.hypot(first[2] - first[1], then.p95 - then.p50)


@dataclass(frozen=True)
class _Spread:
    """The distribution through three quantiles: two half log-normals, and a power law beyond the last quantile."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Quantiles) -> _Spread:
        middle = max(found.p50, _LEAST_S)
        return cls(
            middle,
            max(math.log(middle / max(found.p05, _LEAST_S)) / _Z95, _LEAST_SPREAD),
            max(math.log(max(found.p95, _LEAST_S) / middle) / _Z95, _LEAST_SPREAD),
        )

    @property
    def far(self) -> float:
        """The 95 % quantile."""
        return self.middle * math.exp(self.high * _Z95)

    @property
    def exponent(self) -> float:
        return min(_HAZARD95 / self.high, _STEEPEST)

    def left(self, elapsed: float, level: float) -> float:
        """The quantile of what is left of a duration that has lasted `elapsed`."""
        if elapsed >= self.far:
            return elapsed * ((1 - level) ** (-1 / self.exponent) - 1)
        return max(self._at(self._survival(elapsed) * (1 - level)) - elapsed, 0.0)

    def _survival(self, seconds: float) -> float:
        """Share of durations longer than this, at most the 95 % quantile."""
        if seconds < _LEAST_S:
            return 1.0
        z = math.log(seconds / self.middle)
        return 1 - _NORMAL.cdf(z / (self.low if z < 0 else self.high))

    def _at(self, survival: float) -> float:
        """The duration that this share of durations is longer than."""
        if survival < 0.05:
            return self.far * (0.05 / survival) ** (1 / self.exponent)
        z = _NORMAL.inv_cdf(max(1 - survival, _LEAST_SHARE))
        return self.middle * math.exp(z * (self.low if z < 0 else self.high))
