"""What does running cost? A rate card: prices by time and place, the first that fits an attempt counts.

```yaml
rates:
  - {hosts: "spot-*", hours: "22:00-06:00 Europe/Berlin", cpu_hour: 0.012, gib_hour: 0.0015}
  - {hosts: "spot-*", cpu_hour: 0.018, gib_hour: 0.002}
  - {pools: language-models, run_hour: 0.049, million_input_tokens: 2.5, million_output_tokens: 10}
  - {since: 2026-07-01, run_hour: 0.055}
  - {run_hour: 0.049, moved_gib: 0.09, call: 0.0004}
```

Time, processor and memory are measured, and a cost that needs one of them and has it not is unknown. Tokens, bytes and calls are told by
the step itself (`spec.used`): one that tells none is taken to have used none, so that a card need not name the steps that do.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date
from fnmatch import fnmatchcase
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, model_validator

from workflows_pkg.errors import Problem, SpecError
from workflows_pkg.spec.mistakes import UnfitError, found
from workflows_pkg.spec.model import Part
from workflows_pkg.spec.source import parse_document, read_text
from workflows_pkg.spec.used import Used
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


@dataclass(frozen=True)
class Price:
    """One price of a rate: `name` in the file, the figures of `Used` that are multiplied, and how many of their units it buys.

    words, unit: what is paid for and in what it is counted, for a person. told: the step says it, so where it does not the price adds
    nothing.
    """

    name: str
    of: tuple[str, ...]
    per: float
    words: str
    unit: str
    told: bool = False


PRICES = (
    Price("run_hour", ("run_time_s",), 3600, "run time", "hours"),
    Price("cpu_hour", ("cpu_s",), 3600, "processor time", "hours"),
    Price("gib_hour", ("run_time_s", "peak_memory_mib"), 3600 * 1024, "memory", "GiB hours"),
    Price("million_input_tokens", ("input_tokens",), 1e6, "input tokens", "million", told=True),
    Price("million_output_tokens", ("output_tokens",), 1e6, "output tokens", "million", told=True),
    Price("moved_gib", ("moved_bytes",), 2**30, "bytes moved", "GiB", told=True),
    Price("call", ("calls",), 1, "calls", "calls", told=True),
)
"""In the order in which a cost is split."""

_PATTERN_OF_POOLS = r"^[A-Za-z0-9_.*?/\[\]-]{1,200}$"


@dataclass(frozen=True)
class Hours:
    """A part of the day on the clocks of a zone, in minutes since midnight; where it ends before it begins, it goes over midnight."""

    begin: int
    end: int
    zone: str


class Rate(Part):
    """Prices of the attempts that begin at some times and places. At least one price is given; the prices add up."""

    hosts: str = Field("*", pattern=_PATTERN, description="Pattern of machine names, such as spot-*; * is any, known or not.")
    pools: str | None = Field(
        None, pattern=_PATTERN_OF_POOLS, description="Pattern of the step's concurrency pool in Dagster; left out: any, or none."
    )
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
    million_input_tokens: float | None = Field(
        None,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="USD for a million tokens given to language models, as the step tells.",
    )
    million_output_tokens: float | None = Field(
        None, ge=0, le=1e6, allow_inf_nan=False, description="USD for a million tokens that they answered, as the step tells."
    )
    moved_gib: float | None = Field(
        None,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="USD for a GiB sent and received, or read and written, as the step tells.",
    )
    call: float | None = Field(
        None, ge=0, le=1e6, allow_inf_nan=False, description="USD for one call of a service, as the step tells."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.prices():
            raise UnfitError(f"expected a price ({', '.join(price.name for price in PRICES)}), found none.", "run_hour: 0.05")
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

    def prices(self) -> list[tuple[Price, float]]:
        """Its prices, in USD."""
        found = ((price, getattr(self, price.name)) for price in PRICES)
        return [(price, usd) for price, usd in found if usd is not None]

    def fits(self, used: Used) -> bool:
        """Whether the rate is for an attempt that began then and there."""
        if self.hosts != "*" and not fnmatchcase(used.host or "", self.hosts):
            return False
        if self.pools is not None and not fnmatchcase(used.pool or "", self.pools):
            return False
        if self.since is not None and used.began.astimezone(UTC).date() < self.since:
            return False
        hours = self.part_of_day()
        if hours is None:
            return True
        local = used.began.astimezone(ZoneInfo(hours.zone))
        minute = 60 * local.hour + local.minute
        if hours.begin < hours.end:
            return hours.begin <= minute < hours.end
        return minute >= hours.begin or minute < hours.end

    def usd(self, used: Used) -> float | None:
        """What an attempt costs at these prices; None where something measured is missing, or nothing of what is priced is known."""
        costs: list[float] = []
        for price, usd in self.prices():
            figures = [getattr(used, name) for name in price.of]
            if None not in figures:
                costs.append(prod(figures) * usd / price.per)
            elif not price.told:
                return None
        return sum(costs) if costs else None


class RateCard(Part):
    """Prices, the first that fits an attempt counts; where none fits, its cost is unknown."""

    rates: list[Rate] = Field(min_length=1, max_length=100, description="The prices.")

    def attempt_usd(self, used: Used) -> float | None:
        """Cost of one attempt, None: unknown. `history.cost` says the same in SQL, of many."""
        rate = next((one for one in self.rates if one.fits(used)), None)
        return None if rate is None else rate.usd(used)

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
        for name, pattern in (("hosts", rate.hosts), ("pools", rate.pools)):
            if pattern is not None and not _PAIRED.fullmatch(pattern):
                mark = document.mark(("rates", place, name))
                message = f"rates[{place}].{name}: expected brackets in pairs around characters, found '{pattern}'."
                problems.append(Problem(file, mark.line, mark.column, message, f"{name}: gpu-[ab]*"))
    if problems:
        raise SpecError(problems)
    return card
