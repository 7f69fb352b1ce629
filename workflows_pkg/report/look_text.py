"""What does the terminal say of a first look? A dozen lines: the span, where the time goes, what stands out, the suggestions."""

from __future__ import annotations

from collections.abc import Iterator

from workflows_pkg.report.look import Look
from workflows_pkg.report.tables import count, duration, instant, paint, printable, readable, share, usd

_MOST_FINDINGS = 3


def render_look(seen: Look, *, colour: bool = False) -> str:
    """The summary as text, one fact a line; names from the instance cannot steer the terminal."""
    lines = [(head, printable(readable(text))) for head, text in _facts(seen)]
    width = max(len(head) for head, _ in lines)
    return "\n".join(f"{paint(head.ljust(width), 'dim', colour=colour)}  {text}" for head, text in lines)


def _facts(seen: Look) -> Iterator[tuple[str, str]]:
    yield "instance", f"{seen.told.description}, {instant(seen.since)} to {instant(seen.until)} UTC"
    outcomes = ", ".join(f"{count(number)} {outcome}" for outcome, number in seen.outcomes.items())
    yield "runs", f"{count(seen.runs)} of {_jobs(len(seen.jobs))}: {outcomes}; {usd(seen.cost_usd)} by an assumed rate"
    if seen.own_runs:
        yield "", f"{count(seen.own_runs)} run{'s' if seen.own_runs != 1 else ''} of the workbench itself left out"
    if seen.total_s:
        parts = (("queue", "queue_s"), ("start", "start_s"), ("run", "run_s"), ("retry wait", "retry_wait_s"))
        yield (
            "time",
            f"{duration(seen.total_s)}: " + ", ".join(f"{name} {share(seen.part_share(part))}" for name, part in parts),
        )
    if seen.slowest:
        slow = seen.slowest[0]
        yield (
            "slowest",
            f"{slow.job} / {slow.step}: {duration(slow.total_s)} in all, {share(slow.share)} of all steps, {usd(slow.cost_usd)}",
        )
    if seen.failing:
        bad = seen.failing[0]
        yield (
            "fails most",
            f"{bad.job} / {bad.step}: {count(bad.failures)} failures, mostly {bad.error_class or bad.cause}; {duration(bad.lost_s)} lost",
        )
    crowd = next((crowd for crowd in seen.crowds if crowd.costs), None)
    if crowd is not None:
        yield "same minute", f"{', '.join(crowd.names)}: {count(crowd.times)} times, {duration(crowd.lost_s)} lost in the queue"
    overall = seen.forecast.of_runs
    if overall is not None:
        ours, ten = share(overall.error_share), share(overall.mean_of_ten_share)
        yield "forecasts", f"off by {ours}, the mean of ten by {ten} (median errors of run time, {_jobs(overall.compared)})"
    for place, found in enumerate(seen.changes):
        yield ("what changed" if place == 0 else ""), found.sentence
    shown = [found for found in seen.others if found.kind != "colliding_ticks"][:_MOST_FINDINGS]
    for place, found in enumerate(shown):
        yield ("stands out" if place == 0 else ""), found.sentence
    if not seen.suggestions:
        yield "suggestions", "none is supported by the evidence"
    for place, suggestion in enumerate(seen.suggestions):
        yield ("suggestions" if place == 0 else ""), suggestion.title


def _jobs(number: int) -> str:
    return f"{count(number)} job{'s' if number != 1 else ''}"
