"""What does an attempt cost? By the rate card that was in force when it began.

Every card that a history was ever landed with stays in it, with the moment from which it counts. So an attempt keeps its cost however
often its run is derived again: a changed card says what comes will cost, and never rewrites what was. The first card counts for
everything before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor, UsedRateCard
from workflows_pkg.history.schema import literal
from workflows_pkg.history.store import Writer
from workflows_pkg.spec.rates import DEFAULT, Hours, Rate, RateCard

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)

Counting = Sequence[tuple[datetime, RateCard]]
"""Cards with the moment from which each counts, in any order."""


def counting(writer: Writer) -> Counting:
    """The cards of this history; the assumed one where there is none."""
    found = read(writer.con, UsedRateCard)
    return [(one.counts_from, RateCard.model_validate_json(one.card)) for one in found] or [(ALWAYS, DEFAULT)]


def use(writer: Writer, card: RateCard, changed_at: datetime) -> None:
    """Has `card` count from the moment it was changed; nothing where it is the one in force.

    It does not count for anything begun before this history was last landed, which has its cost already.
    """
    known = read(writer.con, UsedRateCard)
    if (
        not known and writer.con.execute("select 1 from step_attempts limit 1").fetchone()
    ):  # landed by a version that had one price, the assumed one
        known = [_used(ALWAYS, DEFAULT)]
        writer.upsert(UsedRateCard, known)
    newest = max(known, key=lambda one: one.counts_from, default=None)
    if newest is not None and newest.digest == card.digest:
        return
    if newest is None:
        writer.upsert(UsedRateCard, [_used(ALWAYS, card)])
        return
    landed = max((cursor.updated_at for cursor in read(writer.con, Cursor)), default=ALWAYS)
    now = datetime.now(UTC)
    writer.upsert(UsedRateCard, [_used(max(min(changed_at, now), landed, newest.counts_from), card)])


def _used(counts_from: datetime, card: RateCard) -> UsedRateCard:
    return UsedRateCard(counts_from=counts_from, digest=card.digest, card=card.text)


def price_sql(cards: Counting) -> tuple[str, str]:
    """SQL for the cost of an attempt in USD, and for the digest of the card that says so; NULL where it is unknown.

    Over the columns `started_at`, `run_time_s`, `cpu_s`, `peak_memory_mib` and `host`. What a price needs and was not measured makes
    the cost unknown.
    """
    costs: list[str] = []
    digests: list[str] = []
    for counts_from, card in sorted(cards, key=lambda one: one[0], reverse=True):
        begun = f"started_at >= timestamptz {literal(counts_from.isoformat())}" if counts_from > ALWAYS else "true"
        prices = " ".join(f"when {_fits(rate)} then {_usd(rate)}" for rate in card.rates)
        costs.append(f"when {begun} then case {prices} end")
        digests.append(f"when {begun} then {literal(card.digest)}")
    cost = f"case {' '.join(costs)} end"
    return cost, f"case when run_time_s is not null then case {' '.join(digests)} end end"


def _fits(rate: Rate) -> str:
    conditions = ["true"]
    if rate.hosts != "*":
        conditions.append(f"coalesce(host, '') glob {literal(rate.hosts)}")
    if rate.since is not None:
        conditions.append(f"started_at >= timestamptz {literal(f'{rate.since.isoformat()} 00:00:00+00')}")
    hours = rate.part_of_day()
    if hours is not None:
        conditions.append(_within(hours))
    return " and ".join(conditions)


def _within(hours: Hours) -> str:
    local = f"(started_at at time zone {literal(hours.zone)})"
    minute = f"(60 * hour{local} + minute{local})"
    between = f"{minute} >= {hours.begin}", f"{minute} < {hours.end}"
    return f"({' and '.join(between) if hours.begin < hours.end else ' or '.join(between)})"


def _usd(rate: Rate) -> str:
    parts: list[str] = []
    if rate.run_hour is not None:
        parts.append(f"run_time_s * {rate.run_hour / 3600!r}")
    if rate.cpu_hour is not None:
        parts.append(f"cpu_s * {rate.cpu_hour / 3600!r}")
    if rate.gib_hour is not None:
        parts.append(f"run_time_s * peak_memory_mib * {rate.gib_hour / 3600 / 1024!r}")
    return " + ".join(parts)
