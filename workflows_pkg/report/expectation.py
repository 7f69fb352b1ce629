"""How is it said what a run will take, what is left of it, and how wrong that was? One wording for run pages and logs.

Texts come in two lengths: a tag beside a run in a list, and a sentence in its log.
"""

from __future__ import annotations

from datetime import datetime

from workflows_pkg.prediction.deadline import WARN_FROM
from workflows_pkg.prediction.lookup import JobForecast, Quantiles
from workflows_pkg.prediction.remaining import Remaining
from workflows_pkg.report.rests_on import by, compared
from workflows_pkg.report.tables import count, duration, instant, usd, words

_SAME = 0.02
"""Differences below 2 % are called none: the forecast's own last digit is as large."""
_TIMES_FROM = 3.0


def span(low: float, high: float) -> str:
    """An interval of times; the unit stands once where both ends have the same.

    >>> span(20.1, 41.2), span(0.2, 3), span(185, 200)
    ('20.1–41.2 s', '200 ms–3 s', '3m05s–3m20s')
    """
    first, last = duration(low), duration(high)
    if first == last:
        return last
    number, _, unit = first.partition(" ")
    return f"{number}–{last}" if unit and last.endswith(f" {unit}") else f"{first}–{last}"


def brief(seconds: float) -> str:
    """A time in as few characters as tell it: two figures below a minute.

    >>> brief(27.34), brief(3.78), brief(0.484), brief(185)
    ('27 s', '3.8 s', '480 ms', '3m05s')
    """
    return duration(float(f"{seconds:.2g}") if seconds < 60 else seconds)


def expected_tag(run_time: Quantiles) -> str:
    """A tag for a run that waits or has begun.

    >>> expected_tag(Quantiles(20.1, 27.3, 41.2, 48, "median"))
    '27 s (20–41 s)'
    """
    low, high = (float(f"{end:.2g}") if end < 60 else end for end in (run_time.p05, run_time.p95))
    return f"{brief(run_time.p50)} ({span(low, high)})"


def expected_sentence(job: JobForecast, run_time: Quantiles, part: str = "") -> str:
    """What is expected of a run before it starts, and what that rests on. `part`: which part of the job it is, where it is one."""
    said = [f"Expected {duration(run_time.p50)} (9 of 10 runs take {span(run_time.p05, run_time.p95)})"]
    queue, start = (job.run(name) for name in ("queue_time_s", "start_time_s"))
    if queue is not None and start is not None:
        said[0] += f", after {duration(queue.p50)} in the queue and {duration(start.p50)} to start"
    risk, cost = job.run("failure_share"), job.run("cost_usd")
    if risk is not None and not part:
        said.append(f"{of_hundred(risk.p50)} fail (between {100 * risk.p05:.0f} and {100 * risk.p95:.0f})")
    if cost is not None and not part:
        said.append(f"costs {usd(cost.p50)} by the rate card")
    basis = f"Rests on {count(run_time.sample_count)} runs, {maker(run_time.predictor)}, as of {instant(job.as_of)} UTC."
    moved = compared("run_time_s", run_time.basis) if run_time.basis and not part else ""
    return f"{'; '.join(said)}. {part}{basis} {moved}".rstrip()


def deadline_sentence(due: datetime, probability: float) -> str:
    """When a run should have ended, and how likely it has not by then.

    >>> deadline_sentence(datetime(2026, 10, 2, 5, 0), 0.62)
    'Due 2026-10-02 05:00 UTC; 62 of 100 such runs miss that: probably late.'
    """
    probably = ": probably late" if probability >= WARN_FROM else ""
    return f"Due {instant(due)} UTC; {of_hundred(probability)} such runs miss that{probably}."


def at_risk_sentence(due: datetime, within_s: float, probability: float) -> str:
    """The early warning of a run that will probably miss its deadline; `within_s`: how far away that is."""
    if within_s <= 0:
        return f"Deadline missed: due {instant(due)} UTC, and not ended."
    return (
        f"Will probably miss its deadline, {instant(due)} UTC, in {duration(within_s)}: {of_hundred(probability)} such runs do."
    )


def kept_sentence(due: datetime, late_s: float) -> str:
    """What came of a deadline; `late_s`: seconds after it, negative before it.

    >>> kept_sentence(datetime(2026, 10, 2, 5, 0), 75)
    'Missed its deadline, 2026-10-02 05:00 UTC, by 1m15s.'
    """
    if late_s > 0:
        return f"Missed its deadline, {instant(due)} UTC, by {duration(late_s)}."
    return f"Ended {duration(-late_s)} before its deadline, {instant(due)} UTC."


def over_budget_sentence(cost: Quantiles, budget_usd: float) -> str:
    """Why a run is not begun.

    >>> over_budget_sentence(Quantiles(0.3, 0.4, 0.6, 48, "median"), 0.05)
    'Budget: not begun. 95 of 100 such runs cost $0.30 or more by the rate card, and this one may cost $0.05.'
    """
    return f"Budget: not begun. 95 of 100 such runs cost {usd(cost.p05)} or more by the rate card, and this one may cost {usd(budget_usd)}."


def of_hundred(risk: float) -> str:
    """A share of runs in words.

    >>> of_hundred(0.003), of_hundred(0.031), of_hundred(0.6)
    ('fewer than 1 of 100', '3 of 100', '60 of 100')
    """
    return "fewer than 1 of 100" if risk < 0.01 else f"{risk * 100:.0f} of 100"


def maker(predictor: str) -> str:
    """What a forecast rests on: 'mostly by median of 10', since many opinions are weighed, or one rule alone."""
    return by(predictor) if predictor.endswith("_alone") else f"mostly by {words(predictor)}"


def revised_tag(elapsed_s: float, left: Remaining, run_time: Quantiles) -> str:
    """A tag for a run in progress: the time it should take in all by now, which stays true while the clock goes on."""
    return f"{brief(run_time.p50)}, late" if left.late else f"{brief(run_time.p50)}, now {brief(elapsed_s + left.p50)}"


def left_sentence(elapsed_s: float, left: Remaining, run_time: Quantiles) -> str:
    """What is left of a run in progress, and what is known of a late one."""
    done = f" Done: {left.done} of {left.steps} steps." if left.steps else ""
    slow = ""
    if left.slow is not None:
        usual = left.slow.usual
        slow = f" The step '{left.slow.step}' has run for {duration(left.slow.for_s)}; it usually takes {span(usual.p05, usual.p95)}."
    if left.late:
        rest = f" What is left from here usually takes {duration(left.p50)}." if left.by_steps and left.slow is None else ""
        unknown = " How much longer it takes is not known." if not rest else ""
        by = duration(run_time.p95)
        return f"Late: it has run for {duration(elapsed_s)}; 95 of 100 runs have ended by {by}.{done}{slow}{rest}{unknown}"
    about = f"About {duration(left.p50)} left (9 of 10: {span(left.p05, left.p95)}), {duration(elapsed_s + left.p50)} in all"
    return f"{about}; expected {duration(run_time.p50)}.{done}{slow}"


def took_tag(took_s: float | None, run_time: Quantiles, outcome: str) -> str:
    """A tag for a run that has ended; `outcome`: success, failure or canceled; `took_s` None: it never began.

    It stands in Dagster's list of runs, which has a column for what the run took, and room for some thirty characters.

    >>> forecast = Quantiles(20.1, 27.3, 41.2, 48, "median")
    >>> took_tag(31.2, forecast, "success"), took_tag(12, forecast, "failure"), took_tag(None, forecast, "canceled")
    ('27 s, +14 %', '27 s, failed', '27 s, canceled')
    """
    came = _deviation(took_s, run_time) if outcome == "success" and took_s is not None else _ended(outcome)
    return f"{brief(run_time.p50)}, {came}"


def took_sentence(took_s: float | None, run_time: Quantiles, outcome: str) -> str:
    """What came of the forecast of a run that has ended."""
    expected = f"expected {duration(run_time.p50)} (9 of 10: {span(run_time.p05, run_time.p95)})"
    if outcome != "success" or took_s is None:
        after = "before it began" if took_s is None else f"after {duration(took_s)}"
        return f"{_ended(outcome).capitalize()} {after}; {expected}. Only a run that succeeds is compared with its forecast."
    if run_time.p05 <= took_s <= run_time.p95:
        where = "inside the interval"
    else:
        where = f"{'above' if took_s > run_time.p95 else 'below'} the interval, as 1 run in 20 should be"
    return f"Took {duration(took_s)}; {expected}: {_deviation(took_s, run_time)}, {where}."


def _ended(outcome: str) -> str:
    return "failed" if outcome == "failure" else "canceled"


def _deviation(took_s: float, run_time: Quantiles) -> str:
    """Took against expected: '+14 %', 'as expected', or '3.2 times' where a percentage would be hard to read."""
    if run_time.p50 <= 0:
        return "unexpected"
    ratio = took_s / run_time.p50
    if abs(ratio - 1) < _SAME:
        return "as expected"
    return f"{ratio:.2g} times" if ratio >= _TIMES_FROM else f"{100 * (ratio - 1):+.0f} %"
