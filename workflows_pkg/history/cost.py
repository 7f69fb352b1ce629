"""What does an attempt cost? Run time by the rate card."""

from __future__ import annotations

from dataclasses import dataclass

FARGATE_USD_PER_VCPU_HOUR = 0.04048
"""AWS Fargate, on demand, Linux/x86, us-east-1: one vCPU for one hour (aws.amazon.com/fargate/pricing)."""

FARGATE_USD_PER_GIB_HOUR = 0.004445
"""The same price list: one GiB of memory for one hour."""


@dataclass(frozen=True)
class RateCard:
    """Price of one slot, the place that one step occupies while it runs, in USD per hour.

    The default is a published price of such a slot, 1 vCPU with 2 GiB on AWS Fargate; put in your own where you know it.

    >>> round(RateCard().attempt_usd(3600), 5)
    0.04937
    >>> RateCard().attempt_usd(None) is None
    True
    """

    usd_per_slot_hour: float = FARGATE_USD_PER_VCPU_HOUR + 2 * FARGATE_USD_PER_GIB_HOUR

    @property
    def usd_per_second(self) -> float:
        """Price of one second of a slot, USD."""
        return self.usd_per_slot_hour / 3600

    def attempt_usd(self, run_time_s: float | None) -> float | None:
        """Cost of an attempt in USD; `None` where its run time is unknown."""
        return None if run_time_s is None else run_time_s * self.usd_per_second
