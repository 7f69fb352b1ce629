"""What does an attempt cost? By the rate card that was in force when it began.

Every card that a history was ever landed with stays in it, with the moment from which it counts. So an attempt keeps its cost however
often its run is derived again: a changed card says what comes will cost, and never rewrites what was. The first card counts for
everything before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import duckdb
import pandas as pd

from workflows_pkg.errors import SpecError
from workflows_pkg.history.questions import frame, read
from workflows_pkg.history.records import Cursor, UsedRateCard
from workflows_pkg.history.schema import first_row, literal, names
from workflows_pkg.history.store import Writer
from workflows_pkg.spec.rates import DEFAULT, FILE, PRICES, Hours, Price, Rate, RateCard, load_rates

_log = logging.getLogger("workflows")

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)

_FIGURES = tuple(dict.fromkeys(name for price in PRICES for name in price.of))

Counting = Sequence[tuple[datetime, RateCard]]
"""Cards with the moment from which each counts, in any order."""


def counting(con: duckdb.DuckDBPyConnection) -> Counting:
    """The cards of this history; the assumed one where there is none."""
    found = read(con, UsedRateCard)
    return [(one.counts_from, RateCard.model_validate_json(one.card)) for one in found] or [(ALWAYS, DEFAULT)]


def use_written(writer: Writer) -> None:
    """Has the rate card beside the history count, the assumed one where there is none; a broken one is told of in the log, and the one
    before goes on counting.
    """
    file = writer.files.home / FILE
    try:
        card = load_rates(file)
        changed = datetime.fromtimestamp(file.stat().st_mtime, UTC) if card is not None else datetime.now(UTC)
    except (SpecError, OSError) as error:
        _log.warning("The rate card is not used, costs go on as before: %s", error)
        return
    use(writer, card or DEFAULT, changed)


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

    Over the columns `started_at`, `host`, `pool` and the figures of `spec.used.Used`.
    """
    costs: list[str] = []
    digests: list[str] = []
    for counts_from, card in sorted(cards, key=lambda one: one[0], reverse=True):
        begun = f"started_at >= timestamptz {literal(counts_from.isoformat())}" if counts_from > ALWAYS else "true"
        costs.append(f"when {begun} then {by_rate(card, _usd)}")
        digests.append(f"when {begun} then {literal(card.digest)}")
    cost = f"case {' '.join(costs)} end"
    return cost, f"case when coalesce({', '.join(_FIGURES)}) is not null then case {' '.join(digests)} end end"


def by_rate(card: RateCard, value: Callable[[Rate], str]) -> str:
    """SQL for the value of the first rate of a card that fits an attempt."""
    return f"case {' '.join(f'when {_fits(rate)} then {value(rate)}' for rate in card.rates)} end"


def part_sql(price: Price) -> Callable[[Rate], str]:
    """SQL for what one price adds to the cost of an attempt, at a rate; NULL where it adds nothing."""

    def of(rate: Rate) -> str:
        return next((_amount(price, usd) for one, usd in rate.prices() if one is price), "NULL")

    return of


def cost_by_kind(
    con: duckdb.DuckDBPyConnection, workflow: str | None = None, since: datetime | None = None, card: RateCard | None = None
) -> pd.DataFrame:
    """What was paid for, in the order of `PRICES`; runs of trials are left out, as they are of costs by owner.

    One row per kind that something was paid for: `kind` (run time, processor time, memory, input tokens, output tokens, bytes moved, calls;
    not by a card: the cost came with an import, or from a version before cards), `attempts`, how much they `used` of it in `unit`, and
    `cost_usd`. A million attempts take some seconds.
    workflow: of this workflow or job only. since: attempts that began then or later. card: what they would have cost by this card, those
    of an import too; None: by the card that each was priced by.
    """
    where, values = "trial_id is null", list[object]()
    for condition, value in (("coalesce(workflow, job_name) = ?", workflow), ("started_at >= ?", since)):
        if value is not None:
            where += f" and {condition}"
            values.append(value)
    known = [RateCard.model_validate_json(one.card) for one in read(con, UsedRateCard)] or [DEFAULT]
    parts: list[str] = []
    for place, price in enumerate(PRICES):
        part = part_sql(price)
        by_digest = " ".join(
            f"when {literal(one.digest)} then {by_rate(one, part)}" for one in {one.digest: one for one in known}.values()
        )
        usd = by_rate(card, part) if card is not None else f"case rate_card {by_digest} end"
        used = f"{' * '.join(price.of)} / {price.per!r}::double"
        parts.append(
            f"select {place} as place, {literal(price.words)} as kind, {literal(price.unit)} as unit, {usd} as usd, {used} as used from a"
        )
    if card is None:
        rest = f"{len(PRICES)} as place, 'not by a card' as kind, NULL as unit, cost_usd as usd, NULL as used"
        parts.append(f"select {rest} from a where rate_card is null")
    cost = "cost_usd" if card is None else price_sql([(ALWAYS, card)])[0]
    return frame(
        con,
        f"""
        with a as materialized (
            select * from (
                select started_at, host, pool, rate_card, cost_usd, {names(_FIGURES)}, {cost} as known from step_attempts where {where}
            ) where known is not null
        )
        select kind, count(usd) as attempts, sum(used) filter (usd is not null) as used, any_value(unit) as unit, sum(usd) as cost_usd
        from ({" union all ".join(parts)}) group by place, kind having count(usd) > 0 order by place
        """,
        values,
    )


def attempts_priced_by(con: duckdb.DuckDBPyConnection, workflow: str, since: datetime, card: RateCard) -> tuple[int, int]:
    """How many attempts of a workflow or job that began since then took time, and of how many of them the card says what they cost.

    Runs of trials are left out.
    """
    cost, _ = price_sql([(ALWAYS, card)])
    attempts, priced = first_row(
        con.execute(
            f"""select count(*), count({cost}) from step_attempts
            where trial_id is null and coalesce(workflow, job_name) = ? and started_at >= ?
                and run_time_s is not null and outcome is distinct from 'skipped'""",
            [workflow, since],
        )
    )
    return int(attempts), int(priced)


def _fits(rate: Rate) -> str:
    conditions = ["true"]
    if rate.hosts != "*":
        conditions.append(f"coalesce(host, '') glob {literal(rate.hosts)}")
    if rate.pools is not None:
        conditions.append(f"coalesce(pool, '') glob {literal(rate.pools)}")
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
    measured = [_amount(price, usd) for price, usd in rate.prices() if not price.told]
    told = [_amount(price, usd) for price, usd in rate.prices() if price.told]
    total = " + ".join([*measured, *(f"coalesce({amount}, 0)" for amount in told)])
    return total if measured else f"case when coalesce({', '.join(told)}) is not null then {total} end"


def _amount(price: Price, usd: float) -> str:
    return f"{' * '.join(price.of)} * {usd / price.per!r}::double"
