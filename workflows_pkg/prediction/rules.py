"""What do simple rules say about the next value of a series? The bar that every learned predictor has to clear.

Each rule is a pure function of the past. `mean_of_10` is what Airflow shows as a task's expected duration.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

INTERVAL_FROM = 5
"""Past values from which the quantiles of history make an interval; with fewer, a 90 % interval is a guess."""


@dataclass
class Past:
    """The finished values of one key: by time of finishing, by size and by partition; not empty where a rule is asked."""

    values: list[float] = field(default_factory=list[float])
    ordered: list[float] = field(default_factory=list[float])
    by_partition: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, value: float, partition: str | None = None) -> None:
        """Appends the newest finished value."""
        self.values.append(value)
        insort(self.ordered, value)
        if partition is not None:
            insort(self.by_partition.setdefault(partition, []), value)

    @classmethod
    def of(cls, values: Iterable[float], partitions: Iterable[str | None] | None = None) -> Past:
        """The past made of `values` in order of finishing, each with its partition where `partitions` are given."""
        past = cls()
        listed = list(values)
        for value, partition in zip(listed, partitions or [None] * len(listed), strict=True):
            past.add(value, partition)
        return past


Rule = Callable[[Past, str | None], float]


def last(past: Past, partition: str | None = None) -> float:
    """The newest value.

    >>> last(Past.of([3, 1, 2]))
    2
    """
    return past.values[-1]


def mean_of_2(past: Past, partition: str | None = None) -> float:
    """Mean of the newest two values."""
    return _mean(past.values[-2:])


def mean_of_10(past: Past, partition: str | None = None) -> float:
    """Mean of the newest ten values."""
    return _mean(past.values[-10:])


def median(past: Past, partition: str | None = None) -> float:
    """Median of all values.

    >>> median(Past.of([3, 1, 2]))
    2
    """
    return quantile(past.ordered, 0.5)


def median_of_10(past: Past, partition: str | None = None) -> float:
    """Median of the newest ten values."""
    return quantile(sorted(past.values[-10:]), 0.5)


def median_of_partition(past: Past, partition: str | None = None) -> float:
    """Median of the same partition's values; the median of all where the partition has none yet.

    >>> median_of_partition(Past.of([3, 1, 2], ["a", "b", "c"]), "a")
    3
    """
    same = past.by_partition.get(partition, []) if partition is not None else []
    return quantile(same, 0.5) if same else median(past)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "last": last,
        "mean_of_2": mean_of_2,
        "mean_of_10": mean_of_10,
        "median": median,
        "median_of_10": median_of_10,
        "median_of_partition": median_of_partition,
    }
)
"""Every simple rule by name."""


def interval(past: Past) -> tuple[float, float] | None:
    """The 5 % and 95 % quantile of the past; None below `INTERVAL_FROM` values: unknown."""
    if len(past.ordered) < INTERVAL_FROM:
        return None
    return quantile(past.ordered, 0.05), quantile(past.ordered, 0.95)


def quantile(ordered: Sequence[float], level: float) -> float:
    """The quantile of values already in order of size, interpolated linearly between its neighbours.

    >>> quantile([0, 10], 0.25)
    2.5
    """
    place = level * (len(ordered) - 1)
    below = int(place)
    share = place - below
    if share == 0:
        return ordered[below]
    return ordered[below] + share * (ordered[below + 1] - ordered[below])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
