"""Which distribution do three published quantiles stand for?

A duration is taken as log-normal on either side of its median, through the three published quantiles, and beyond the 95 % quantile as
a power law, whose median excess grows with the time already taken: what is late tends to stay late. The exponent follows from the
log-normal's hazard at that point; on public records of workflow steps it agrees with what came (Hill's estimator 16, 14, 9 and 4 where
this says 17, 12, 5 and 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from workflows_pkg.prediction.lookup import Quantiles

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


@dataclass(frozen=True)
class Spread:
    """The distribution through three quantiles: two half log-normals, and a power law beyond the last quantile."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, found: Quantiles) -> Spread:
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
        return max(self.at(self.survival(elapsed) * (1 - level)) - elapsed, 0.0)

    def survival(self, seconds: float) -> float:
        """Share of durations longer than this."""
        if seconds < _LEAST_S:
            return 1.0
        if seconds > self.far:
            return 0.05 * (self.far / seconds) ** self.exponent
        z = math.log(seconds / self.middle)
        return 1 - _NORMAL.cdf(z / (self.low if z < 0 else self.high))

    def at(self, survival: float) -> float:
        """The duration that this share of durations is longer than."""
        if survival < 0.05:
            return self.far * (0.05 / survival) ** (1 / self.exponent)
        z = _NORMAL.inv_cdf(max(1 - survival, _LEAST_SHARE))
        return self.middle * math.exp(z * (self.low if z < 0 else self.high))
