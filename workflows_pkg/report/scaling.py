"""How is it said how many workers there should be? As a text with the coming hours and the past weeks, and as a table for programs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from workflows_pkg.advisor.scaling.plan import Moment, Plan
from workflows_pkg.prediction.demand.hours import Hour, Hours
from workflows_pkg.report.tables import Column, count, duration, instant, share, text_table

_BAR = 24
"""Cells of the widest bar."""

_STALE = timedelta(hours=1)
"""Where nothing newer is known, what is present now may not be."""


def scaling_text(plan: Plan, moment: Moment, slots: str, hours: int) -> str:
    """The figure of the moment, the coming hours, and what the past weeks would have cost and waited."""
    parts = [_now(plan, moment, slots)]
    if moment.known_until is not None and moment.at - moment.known_until > _STALE:
        parts.append(
            f"History knows nothing after {instant(moment.known_until)} UTC: if something has run since, bring it in first "
            "(workflows history sync)."
        )
    if plan.hours is not None:
        parts.append(_coming(plan.hours, hours))
    if plan.replayed and plan.replayed_from is not None:
        parts.append(_past(plan, plan.replayed_from, slots))
    elif not plan.why_reactive:
        parts.append("What this would have cost and waited is shown from four weeks of history on.")
    return "\n\n".join(parts)


def _now(plan: Plan, moment: Moment, slots: str) -> str:
    figure = f"{moment.workers} worker{'s' if moment.workers != 1 else ''} now, for {moment.present} {slots} present"
    if plan.why_reactive:
        return f"{figure}.\nNothing is forecast: {plan.why_reactive}. This is what reactive scaling asks for."
    return f"{figure} and {moment.spare} kept idle.\nBy: {plan.way.said}."


def _coming(coming: Hours, hours: int) -> str:
    shown = coming.hours[:hours]
    widest = max(1, *(hour.p95 for hour in shown))
    columns = [Column("hour (UTC)", whole=True), *(Column(title, figures=True) for title in ("usually", "at most"))]
    rows = [[instant(hour.start), count(hour.p50), count(hour.p95), _bar(hour, widest)] for hour in shown]
    table = text_table([*columns, Column("", whole=True)], rows)
    beside = min((name for name in coming.loss if name != coming.by), key=lambda name: coming.loss[name])
    quality = (
        f"By: {coming.by}. Mean quantile loss in the last two weeks {coming.loss[coming.by]:.3g}, "
        f"that of {beside} {coming.loss[beside]:.3g}.\n"
        f"{share(coming.covered_share)} of the last week's hours lay within 5 to 95 of 100, as said by what was known before it."
    )
    return f"The most at once in each hour, usually and at most in 95 of 100 such hours:\n\n{table}\n\n{quality}"


def _bar(hour: Hour, widest: int) -> str:
    usual, high = (round(_BAR * value / widest) for value in (hour.p50, hour.p95))
    return "█" * usual + "░" * (high - usual)


def _past(plan: Plan, begin: datetime, slots: str) -> str:
    columns = [
        Column("way", whole=True),
        *(Column(title, figures=True) for title in ("worker hours", "mean wait", "95 of 100 within")),
    ]
    rows = [[one.name, count(one.worker_hours), duration(one.wait_mean_s), duration(one.wait_p95_s)] for one in plan.replayed]
    wanted = (
        "the shortest wait for what reactive scaling would cost"
        if plan.allowed_wait_s is None
        else f"the cheapest with a mean wait of at most {duration(plan.allowed_wait_s)}"
    )
    return (
        f"The weeks from {instant(begin)} UTC on replayed: {count(len(plan.replayed[0].waits))} {slots}, workers start in "
        f"{duration(plan.starts_in_s)}.\nWanted: {wanted}; each week's way was chosen by the two weeks before it.\n\n"
        f"{text_table(columns, rows)}"
    )


def scaling_value(plan: Plan, moment: Moment, slots: str, hours: int) -> dict[str, Any]:
    """The same as values: the figure, the coming hours, and the past weeks; instants in UTC, times in seconds."""
    return {
        "at": moment.at,
        "slots": slots,
        "workers": moment.workers,
        "present": moment.present,
        "spare": moment.spare,
        "known_until": moment.known_until,
        "way": plan.way.said,
        "why_reactive": plan.why_reactive or None,
        "starts_in_s": plan.starts_in_s,
        "allowed_wait_s": plan.allowed_wait_s,
        "hours": [
            {"start": hour.start, "p05": hour.p05, "p50": hour.p50, "p95": hour.p95}
            for hour in (plan.hours.hours[:hours] if plan.hours else ())
        ],
        "hours_by": plan.hours.by if plan.hours else None,
        "hours_loss": plan.hours.loss if plan.hours else None,
        "hours_covered_share": plan.hours.covered_share if plan.hours else None,
        "replayed_from": plan.replayed_from,
        "replayed": [
            {
                "way": one.name,
                "worker_hours": one.worker_hours,
                "wait_mean_s": one.wait_mean_s,
                "wait_p95_s": one.wait_p95_s,
                "count": len(one.waits),
            }
            for one in plan.replayed
        ],
    }
