"""How is a change told? In a sentence that claims no more than was seen: it coincides with something, which may account for it."""

from __future__ import annotations

from datetime import datetime

from workflows_pkg.advisor.changes import Change
from workflows_pkg.advisor.coincidence import Coincidence


def say_seconds(seconds: float) -> str:
    """Seconds for a sentence.

    >>> say_seconds(0.4), say_seconds(42.4), say_seconds(600), say_seconds(7200), say_seconds(400_000)
    ('0.4 s', '42 s', '10 min', '2.0 h', '4.6 days')
    """
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:.1f} days"


def say_level(change: Change, value: float) -> str:
    """A level of what changed: seconds, or a share in per cent."""
    return f"{100 * value:.0f} %" if change.quantity == "failed_share" else say_seconds(value)


def headline(change: Change) -> str:
    """What changed, since when and by how much, without its end: "Step 'load' of 'orders' became slower: ..."."""
    what = f"Step '{change.step}' of '{change.job}'" if change.step else f"Runs of '{change.job}'"
    if change.quantity == "failed_share":
        verb = "fails more often" if change.worse else "fails less often"
        counted = f"of its runs, {change.runs_after:,} since and {change.runs_before:,} before"
    else:
        if change.step:
            verb = f"became {'slower' if change.worse else 'faster'}"
        else:
            verb = f"take {'longer' if change.worse else 'less time'}, from being asked for to their end"
        counted = f"medians of {change.runs_after:,} runs since and {change.runs_before:,} before"
    until = f" until {_day(change.until)}" if change.until is not None else ""
    return (
        f"{what} {verb}: {say_level(change, change.before)} before, {say_level(change, change.after)} "
        f"since {_day(change.since)}{until} ({counted})"
    )


def sentence(change: Change) -> str:
    """The change and what is known of why, as one or two sentences."""
    return f"{headline(change)}. {why(change)}"


def why(change: Change) -> str:
    """What coincides with the change, what accounts for it first; or that nothing recorded explains it."""
    accounting = [one for one in change.coincides if one.accounts]
    others = [one for one in change.coincides if not one.accounts]
    said: list[str] = []
    if accounting:
        said.append("; ".join(map(_accounts, accounting)) + ".")
    if others:
        lead = "At the same runs also changed: " if accounting else "It coincides with "
        said.append(lead + "; ".join(map(_coincides, others)) + ".")
    if not said:
        said.append("Nothing recorded explains it.")
    return " ".join(said)


def looked_for(change: Change) -> str:
    """What else was looked at and does not explain it, and what could not be looked at; '' for nothing."""
    said = {
        "changed at the same runs, but so often that this says nothing": change.undecided,
        "changed, but runs alike in it changed as much": change.ruled_out,
        "did not change with it": change.unchanged,
        "not recorded": change.unrecorded,
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in said.items() if names)


def _accounts(one: Coincidence) -> str:
    share = f"{100 * min(max(one.accounted or 0.0, 0.0), 1.0):.0f} %"
    if one.kind in ("queue", "start", "retries", "step") and one.name != "tries":
        return f"{share} of it is {one.name}: {one.before} before, {one.after} since"
    return f"A change of {one.name} accounts for {share} of it: {one.before} before, {one.after} since"


def _coincides(one: Coincidence) -> str:
    near = f", as near by chance in {100 * one.chance:.0f} % of cases" if one.chance >= 0.01 else ""
    another = "" if one.kind in _FIGURES else "another "
    return f"{another}{one.name} ({one.before} before, {one.after} since{near})"


_FIGURES = ("input", "queue", "start", "step")


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
