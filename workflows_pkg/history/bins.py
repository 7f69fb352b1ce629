"""How are the quantiles of millions of durations kept in few rows that can be added up? Counts of bins of equal relative width.

A duration falls into the bin whose ends are 2 % apart, and any duration of a bin is told by one value within 1 % of it: the logarithmic
mapping of DDSketch (Masson, Rim and Lee, VLDB 2019), kept as plain counts. Counts of two days, or of what was taken back, just add up,
which a sketch of fixed size or a sample could not do exactly.

A quantile is the value of the nearest rank, the duration at place `ceil(q * n)` in ascending order, told within 1 %; durations of at most
1 ms are told as 0.
"""

from __future__ import annotations

import math

ERROR_SHARE = 0.01
"""Largest relative error of a quantile. Half of it would double the rows, and durations of one step vary by far more."""

LEAST_S = 0.001
"""Durations up to this are one bin, told as 0: Dagster's own bookkeeping around a step takes longer."""

_WIDTH = math.log((1 + ERROR_SHARE) / (1 - ERROR_SHARE))


def bin_of(seconds: str) -> str:
    """SQL: the number of the bin of a duration that is known, from 0."""
    return f"case when {seconds} <= {LEAST_S!r} then 0 else ceil(ln({seconds} / {LEAST_S!r}) / {_WIDTH!r})::bigint end"


def seconds_of(number: str) -> str:
    """SQL: the duration that stands for all of the bin, at most `ERROR_SHARE` from each."""
    return (
        f"case when {number} > 0 then {LEAST_S * (1 - ERROR_SHARE)!r} * exp({number} * {_WIDTH!r}) when {number} = 0 then 0 end"
    )


def quantiles(counted: str, group: tuple[str, ...], shares: dict[str, str], count: str) -> str:
    """SQL: one row per `group` with `count` durations and a column for each of `shares` (name -> share as decimal digits), and `max_s`.

    counted: a SELECT of the columns of `group`, `bin` and `n`, with each bin once per group.
    """
    keys = "".join(f"{name}, " for name in group)
    over = f"partition by {', '.join(group)}" if group else ""
    wanted = {name: f"min(bin) filter (where upto >= ceil({share} * total))" for name, share in shares.items()} | {
        "max_s": "max(bin)"
    }
    columns = ", ".join(f"{seconds_of(f'({bin})')} as {name}" for name, bin in wanted.items())
    return f"""
        select {keys}any_value(total)::bigint as {count}, {columns} from (
            select {keys}bin, sum(n) over ({over} order by bin) as upto, sum(n) over ({over}) as total from ({counted}) where n > 0
        ) {f"group by {', '.join(group)}" if group else ""}"""
