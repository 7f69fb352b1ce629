"""`workflows cost`: by whom and when money was spent, and by which prices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workflows_pkg.cli.output import answer, frame_text, home_option, json_option, resolve_home
from workflows_pkg.history.cost import ALWAYS
from workflows_pkg.history.questions import cost_by_owner_and_month, read
from workflows_pkg.history.records import UsedRateCard
from workflows_pkg.history.store import open_history
from workflows_pkg.report.tables import instant
from workflows_pkg.spec.rates import DEFAULT, FILE, RateCard, load_rates


@click.group(invoke_without_command=True)
@home_option
@json_option
@click.pass_context
def cost(context: click.Context, home: Path | None, as_json: bool) -> None:
    """What runs cost by owner and month; with a subcommand: the prices."""
    if context.invoked_subcommand is not None:
        return
    with open_history(resolve_home(home)) as connection:
        frame = cost_by_owner_and_month(connection)
    answer(frame, as_json, lambda: frame_text(frame))


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


def _from(moment: Any) -> str:
    return "from the beginning" if moment is None else f"from {instant(moment)} UTC"


def _said(card: RateCard) -> str:
    """The card in a line: how many rates, or the one price of a flat card."""
    if len(card.rates) == 1 and card.rates[0].run_hour is not None:
        return f"{card.rates[0].run_hour:g} USD an hour of a step"
    return f"{len(card.rates)} rate{'s' if len(card.rates) > 1 else ''}"
