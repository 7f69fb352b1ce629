"""`workflows cost`: by whom and when money was spent, and by which prices."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import duckdb
import pandas as pd

from workflows_pkg.cli.output import answer, frame_text, home_option, json_option, resolve_home
from workflows_pkg.errors import NotFound, SetupError
from workflows_pkg.history.cost import ALWAYS, attempts_priced_by, cost_by_kind
from workflows_pkg.history.questions import cost_by_owner_and_month, read
from workflows_pkg.history.records import UsedRateCard
from workflows_pkg.history.store import open_history
from workflows_pkg.report.tables import instant, usd
from workflows_pkg.spec.durations import format_duration, parse_positive_duration
from workflows_pkg.spec.rates import DEFAULT, FILE, RateCard, load_rates


@click.group(invoke_without_command=True)
@click.option(
    "--by",
    type=click.Choice(["owner", "kind"]),
    default="owner",
    show_default=True,
    help="owner: who answers for the runs, and the month; kind: what was paid for, such as run time and tokens.",
)
@home_option
@json_option
@click.pass_context
def cost(context: click.Context, by: str, home: Path | None, as_json: bool) -> None:
    """What runs cost by owner and month, or by what was paid for; with a subcommand: the prices, and what would have been."""
    if context.invoked_subcommand is not None:
        return
    with open_history(resolve_home(home)) as connection:
        frame = cost_by_kind(connection) if by == "kind" else cost_by_owner_and_month(connection)
    text = frame_text(frame)
    answer(frame, as_json, text)


@cost.command()
@home_option
@json_option
def rates(home: Path | None, as_json: bool) -> None:
    """Check the rate card (rates.yaml in the instance's folder), and say which cards count from when.

    A changed card counts for what begins after it was changed and after the last sync; it never changes what something has cost.
    """
    folder = resolve_home(home)
    written = load_rates(folder / FILE)
    with open_history(folder) as connection:
        used = sorted(read(connection, UsedRateCard), key=lambda one: one.counts_from)
    value: list[dict[str, Any]] = [
        {"from": None if one.counts_from == ALWAYS else one.counts_from, "digest": one.digest, "card": one.card} for one in used
    ]
    current = written or DEFAULT
    lines = [f"{_from(one['from'])}  {one['digest']}  {_said(RateCard.model_validate_json(one['card']))}" for one in value]
    if not used or used[-1].digest != current.digest:
        source = FILE if written else "assumed, as there is no " + FILE
        lines.append(f"from the next sync with news on  {current.digest}  {_said(current)}  ({source})")
        value.append({"from": None, "digest": current.digest, "card": current.text, "pending": True})
    answer(value, as_json, "\n".join(lines))


@cost.command(name="what-if")
@click.argument("job")
@click.option("--every", metavar="DURATION", help="Least time between two scheduled runs, such as 2h.")
@click.option(
    "--rates",
    "card_file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Another rate card, as rates.yaml is.",
)
@click.option("--days", type=click.IntRange(1, 366), default=28, show_default=True, help="How far back to look.")
@home_option
@json_option
def what_if(job: str, every: str | None, card_file: Path | None, days: int, home: Path | None, as_json: bool) -> None:
    """What the scheduled runs of JOB (or a workflow) would have cost, had they been less often, or all its attempts by other prices.

    From the runs that there were: it changes nothing.
    """
    if (every is None) == (card_file is None):
        raise click.UsageError("Say what would be otherwise: --every or --rates, and not both.")
    if every is None:
        _other_prices(job, load_rates(card_file) if card_file is not None else None, days, home, as_json)
    else:
        _less_often(job, every, days, home, as_json)


def _other_prices(job: str, card: RateCard | None, days: int, home: Path | None, as_json: bool) -> None:
    since = datetime.now(UTC) - timedelta(days=days)
    with open_history(resolve_home(home)) as connection:
        known = _known(connection)
        if job not in known:
            raise NotFound("job", job, known)
        was, would = cost_by_kind(connection, job, since), cost_by_kind(connection, job, since, card)
        attempts, priced = attempts_priced_by(connection, job, since, card or DEFAULT)
    before, after = (dict(zip(one["kind"].tolist(), one["cost_usd"].tolist(), strict=True)) for one in (was, would))
    both = pd.DataFrame(
        [
            {"kind": kind, "was_usd": before.get(kind), "would_be_usd": after.get(kind)}
            for kind in dict.fromkeys([*before, *after])
        ]
    )
    lines = [
        f"{attempts} attempts in {days:g} days cost {usd(sum(before.values()))}; by these prices {usd(sum(after.values()))}.",
        frame_text(both),
    ]
    if priced < attempts:
        lines.append(f"{attempts - priced} of them have no known cost by these prices.")
    answer(both, as_json, "\n".join(lines))


def _known(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [
        name for (name,) in connection.execute("select distinct coalesce(workflow, job_name) from runs order by 1").fetchall()
    ]


def _less_often(job: str, every: str, days: int, home: Path | None, as_json: bool) -> None:
    from workflows_pkg.advisor.cadence import LEAST_RUNS, less_often

    try:
        apart = parse_positive_duration(every)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--every") from None
    with open_history(resolve_home(home)) as connection:
        found = less_often(connection, job, apart, datetime.now(UTC), days)
        known = _known(connection)
    if found is None and job not in known:
        raise NotFound("job", job, known)
    if found is None:
        raise SetupError(
            f"Of '{job}' there are fewer than {LEAST_RUNS} scheduled runs with a known cost in the last {days:g} days.",
            fix="See which jobs have runs: workflows history runs; look further back with --days.",
        )
    lines = [
        f"At least {format_duration(apart)} apart, {found.kept} of {found.runs} scheduled runs in {found.days:.1f} days would have run.",
        f"They cost {usd(found.cost_usd)}.",
        f"If a run costs the same however long ago the last was: {usd(found.same_usd)}.",
        f"If it has to do the work of those left out: {usd(found.carried_usd)}.",
    ]
    if found.between_usd is not None:
        low, middle, high = found.between_usd
        lines.append(f"By what longer gaps did to the cost so far: {usd(middle)} (9 of 10: {usd(low)} to {usd(high)}).")
    else:
        lines.append("Which of the two is nearer is not known: the times between runs have hardly varied.")
    if found.unpriced:
        lines.append(f"{found.unpriced} further runs have no known cost and are left out.")
    answer(asdict(found), as_json, "\n".join(lines))


def _from(moment: Any) -> str:
    return "from the beginning" if moment is None else f"from {instant(moment)} UTC"


def _said(card: RateCard) -> str:
    """The card in a line: how many rates, or the one price of a flat card."""
    if len(card.rates) == 1 and [price.name for price, _ in card.rates[0].prices()] == ["run_hour"]:
        return f"{card.rates[0].run_hour:g} USD an hour of a step"
    return f"{len(card.rates)} rate{'s' if len(card.rates) > 1 else ''}"
