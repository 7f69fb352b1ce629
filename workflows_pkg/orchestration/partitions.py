"""Which slices does a workflow have? Dagster's partitions of its spec, and the time that one key covers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time

import dagster as dg

from workflows_pkg.errors import SetupError, bounded
from workflows_pkg.spec.model import Partitions, Window
from workflows_pkg.steps.contract import PartitionSlice

PARTITION_TAG = "dagster/partition"


def partitions_definition(partitions: Partitions | None) -> dg.TimeWindowPartitionsDefinition | None:
    """Daily or monthly partitions in the window's time zone; None for a workflow without."""
    if partitions is None:
        return None
    if partitions.daily is not None:
        window = partitions.daily
        return dg.DailyPartitionsDefinition(start_date=_midnight(window), end_date=_end(window), timezone=window.timezone)
    if partitions.monthly is not None:
        window = partitions.monthly
        return dg.MonthlyPartitionsDefinition(start_date=_midnight(window), end_date=_end(window), timezone=window.timezone)
    return None


def partition_slice(definition: dg.TimeWindowPartitionsDefinition | None, key: str | None) -> PartitionSlice | None:
    """The time that a partition covers, in its own time zone; None without partitions."""
    if definition is None or key is None:
        return None
    window = definition.time_window_for_partition_key(key)
    return PartitionSlice(key, window.start, window.end)


def _midnight(window: Window) -> datetime:
    return datetime.combine(window.start, time())


def _end(window: Window) -> datetime | None:
    return None if window.end is None else datetime.combine(window.end, time())


def check_partition(job: str, keys: Sequence[str] | None, partition: str | None) -> None:
    """Raises SetupError unless `partition` is one of `keys`, or both are None: the job has no partitions."""
    if keys is None:
        if partition is not None:
            raise SetupError(
                f"'{job}' has no partitions, so '{bounded(partition)}' cannot be run.", fix="Leave the partition out."
            )
    elif partition is None:
        raise SetupError(f"'{job}' is run one partition at a time.", fix=f"Give one, such as {keys[-1]}." if keys else "")
    elif partition not in keys:
        raise SetupError(
            f"'{job}' has no partition '{bounded(partition)}'.", fix=f"They go from {keys[0]} to {keys[-1]}." if keys else ""
        )
