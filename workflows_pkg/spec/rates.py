"""What does running cost? A rate card: prices by time and place, the first that fits an attempt counts.

```yaml
rates:
  - {hosts: "spot-*", hours: "22:00-06:00 Europe/Berlin", cpu_hour: 0.012, gib_hour: 0.0015}
  - {hosts: "spot-*", cpu_hour: 0.018, gib_hour: 0.002}
  - {since: 2026-07-01, run_hour: 0.055}
  - {run_hour: 0.049}
```
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, model_validator

from workflows_pkg.errors import Problem, SpecError
from workflows_pkg.spec.mistakes import UnfitError, found
from workflows_pkg.spec.model import Part
from workflows_pkg.spec.source import parse_document, read_text
from workflows_pkg.spec.wording import mistakes_of

FILE = "rates.yaml"
"""Its name in the instance's folder."""

FARGATE_USD_PER_VCPU_HOUR = 0.04048
"""AWS Fargate, on demand, Linux/x86, us-east-1: one vCPU for one hour (aws.amazon.com/fargate/pricing)."""

FARGATE_USD_PER_GIB_HOUR = 0.004445
"""The same price list: one GiB of memory for one hour."""

_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9]) (\S{1,60})")
_PATTERN = r"^[A-Za-z0-9_.*?\[\]-]{1,200}$"
_PAIRED = re.compile(r"(?:[^\[\]]|\[[^\[\]]+\])+")
"""Brackets in pairs around a few characters: what else they could stand for, Python and DuckDB read differently. Asked of a file only: a
history keeps the cards that it was landed with."""
_PRICES = ("run_hour", "cpu_hour", "gib_hour")


@dataclass(frozen=True)
class Hours:
    """A part of the day on the clocks of a zone, in minutes since midnight; where it ends before it begins, it goes over midnight."""

    begin: int
    end: int
    zone: str


class Rate(Part):
    """Prices of the attempts that begin at some times and places. At least one price is given; the prices add up."""

    hosts: str = Field("*", pattern=_PATTERN, description="Pattern of machine names, such as spot-*; * is any, known or not.")
    hours: str | None = Field(
        None, description="Part of the day in which the attempt begins, with its zone: 22:00-06:00 Europe/Berlin."
    )
    since: date | None = Field(None, description="First UTC day on which the attempt begins.")
    run_hour: float | None = Field(
        None, ge=0, le=1e6, allow_inf_nan=False, description="USD for an hour of run time: the place that a step takes."
    )
    cpu_hour: float | None = Field(
        None, ge=0, le=1e6, allow_inf_nan=False, description="USD for an hour of one processor, as measured."
    )
    gib_hour: float | None = Field(
        None, ge=0, le=1e6, allow_inf_nan=False, description="USD for a GiB of peak memory, as measured, for an hour of run time."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if all(getattr(self, name) is None for name in _PRICES):
            raise UnfitError(f"expected a price ({', '.join(_PRICES)}), found none.", "run_hour: 0.05")
        self.part_of_day()
        return self

    def part_of_day(self) -> Hours | None:
        """The part of the day, None: all of it. Raises UnfitError where `hours` is none."""
        if self.hours is None:
            return None
        parts = _HOURS.fullmatch(self.hours)
        try:
            if parts is None:
                raise ValueError
            ZoneInfo(parts[5])
        except (ValueError, OSError, KeyError):
            raise UnfitError("hours: expected a part of the day with its zone.", "hours: 22:00-06:00 Europe/Berlin") from None
        begin, end = 60 * int(parts[1]) + int(parts[2]), 60 * int(parts[3]) + int(parts[4])
        return Hours(begin, end, parts[5])

    def fits(self, began: datetime, host: str | None) -> bool:
        """Whether the rate is for an attempt that began at this instant on this host; None: not known."""
        if self.hosts != "*" and not fnmatchcase(host or "", self.hosts):
            return False
        if self.since is not None and began.astimezone(UTC).date() < self.since:
            return False
        hours = self.part_of_day()
        if hours is None:
            return True
        local = began.astimezone(ZoneInfo(hours.zone))
        minute = 60 * local.hour + local.minute
        if hours.begin < hours.end:
            return hours.begin <= minute < hours.end
        return minute >= hours.begin or minute < hours.end

    def usd(self, run_time_s: float, cpu_s: float | None, peak_memory_mib: float | None) -> float | None:
        """What an attempt costs at these prices; None where what one prices was not measured."""
        total = run_time_s * (self.run_hour or 0.0) / 3600
        if self.cpu_hour is not None:
            if cpu_s is None:
                return None
            total += cpu_s * self.cpu_hour / 3600
        if self.gib_hour is not None:
            if peak_memory_mib is None:
                return None
            total += run_time_s * peak_memory_mib / 1024 * self.gib_hour / 3600
        return total


class RateCard(Part):
    """Prices, the first that fits an attempt counts; where none fits, its cost is unknown."""

    rates: list[Rate] = Field(min_length=1, max_length=100, description="The prices.")

    def attempt_usd(
        self, began: datetime, run_time_s: float, cpu_s: float | None, peak_memory_mib: float | None, host: str | None
    ) -> float | None:
        """Cost of one attempt, None: unknown. `history.cost` says the same in SQL, of many."""
        rate = next((one for one in self.rates if one.fits(began, host)), None)
        return None if rate is None else rate.usd(run_time_s, cpu_s, peak_memory_mib)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that say which card.

        >>> flat(1.0).digest == flat(1.0).digest != flat(2.0).digest
        True
        """
        return blake2b(self.text.encode(), digest_size=6).hexdigest()

    @property
    def text(self) -> str:
        """The card as JSON; `RateCard.model_validate_json` reads it back."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), sort_keys=True, separators=(",", ":"))


def flat(usd_per_slot_hour: float) -> RateCard:
    """One price for an hour of any attempt."""
    return RateCard(rates=[Rate.model_validate({"run_hour": usd_per_slot_hour})])


DEFAULT = flat(FARGATE_USD_PER_VCPU_HOUR + 2 * FARGATE_USD_PER_GIB_HOUR)
"""What is assumed where nobody says a price: a published one of a slot with 1 vCPU and 2 GiB."""


def load_rates(path: Path) -> RateCard | None:
    """The card in a file, None where there is no file. Raises SpecError with every mistake, each with line and column."""
    if path.is_dir():
        raise SpecError(
            [
                Problem(
                    str(path),
                    0,
                    0,
                    "expected a file with rates, found a folder.",
                    "Move it away, or write the file in its place.",
                )
            ]
        )
    return parse_rates(read_text(path), str(path)) if path.exists() else None


def parse_rates(text: str, file: str = FILE) -> RateCard:
    """The card that `text` states; raises SpecError with all its problems."""
    document = parse_document(text, file)
    value: Any = document.root.value
    problems = list(document.problems)
    if not isinstance(value, dict):
        mark = document.root.mark
        raise SpecError([Problem(file, mark.line, mark.column, f"expected rates, found {found(value)}.", "Begin with: rates:")])
    try:
        card = RateCard.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        for mistake in mistakes_of(error, value, RateCard, ()):
            mark = document.mark(mistake.path, key=mistake.at_key)
            problems.append(Problem(file, mark.line, mark.column, mistake.message, mistake.fix))
        raise SpecError(problems) from None
    for place, rate in enumerate(card.rates):
        if not _PAIRED.fullmatch(rate.hosts):
            mark = document.mark(("rates", place, "hosts"))
            message = f"rates[{place}].hosts: expected brackets in pairs around characters, found '{rate.hosts}'."
            problems.append(Problem(file, mark.line, mark.column, message, "hosts: gpu-[ab]*"))
    if problems:
        raise SpecError(problems)
    return card
