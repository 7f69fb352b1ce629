"""What do the pages of predictors and forecasts say? The card, every forecast with its interval, and how wrong such forecasts were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflows_pkg.history.records import Forecast
from workflows_pkg.report import sketch, svg
from workflows_pkg.report.asset_choices import choices_page, memory_page, reasons
from workflows_pkg.report.asset_pages import MOST_ROWS, Cell, Page, Table, Verdict, behind_link, whole
from workflows_pkg.report.expectation import span
from workflows_pkg.report.reading import Connection, rows
from workflows_pkg.report.tables import count, duration, quantity, share, words

MARGIN, MARGIN_BY_NUMBER = 0.05, 1.75
"""Share by which the forecasts' error may exceed that of the rules best in hindsight before the check warns: the first, and the second
over the square root of the runs per job. Choosing the rule afterwards flatters it, the more the fewer runs there are. Measured on times
that are nothing but noise (log-normal, 0.2 and 0.6 wide), where nothing could do better than the median: with 20 runs of one job the
error is 42 to 50 % above that mark in 5 of 100 histories, with 40 runs 29 %, with 10 jobs of 40 runs 13 %.
"""

LEAST_OUTCOMES = 20
"""Outcomes behind all errors together below which nothing is said of them: each needs five, and five say little."""

ACTUAL_RUNS = 8
"""Newest runs shown beside a forecast."""

_BY_RUN = "run_time_s"


def predictors_page(card: Mapping[str, Any]) -> Page:
    """The card: what was trained on what, what serves, and the error of each quantity beside that of the best rules."""
    scores: Mapping[str, Mapping[str, Any]] = card["scores"]
    table = [
        {
            "what": _named(name),
            "forecasts": score["forecasts"],
            "scored": score["scored"],
            "error": share(score["mean_error_share"]),
            "best rule's": share(score["mean_best_rule_error_share"]),
            "served by": ", ".join(f"{words(maker)} ({times})" for maker, times in sorted(score["served"].items())),
        }
        for name, score in scores.items()
    ]
    columns = {
        "scored": "Forecasts of which at least five outcomes are known.",
        "error": "Median absolute relative error of each, replayed in order; the mean over them. Of a memory request what it wasted.",
        "best rule's": "The same of the simple rule that was best for each in hindsight.",
        "served by": "Which predictor makes the forecast, and for how many.",
    }
    compared = [
        (_named(name), float(score["mean_error_share"]), float(score["mean_best_rule_error_share"]))
        for name, score in scores.items()
        if score["mean_error_share"] is not None and score["mean_best_rule_error_share"] is not None
    ]
    data, predictor = card["data"], card["predictor"]
    said = (
        f"Trained on {count(data['ended_runs'])} ended runs and {count(data['attempts'])} step attempts"
        + (f", {str(data['first'])[:16]} to {str(data['last'])[:16]} UTC" if data["first"] else "")
        + f". Left out: {data['left_out']}."
    )
    texts = {
        "trained on": said,
        "predictor": f"{len(predictor['experts'])} experts for {predictor['target']}, served {card['served_where']}.",
        "experts": ", ".join(map(words, predictor["experts"])),
    }
    drawn = sketch.pairs(
        "Our mean error, and that of the best rules",
        [sketch.Pair(name, a, b, _two(a, b)) for name, a, b in compared],
    )
    if drawn:
        texts["error (mark: best rule)"] = drawn
    narrow = [{name: row[name] for name in ("what", "error", "best rule's")} for row in table]
    if table:
        texts["scores in full"] = behind_link(Table(table, columns))
    figures = {
        "ended runs": int(data["ended_runs"]), "step attempts": int(data["attempts"]),
    }  # fmt: skip
    said = {name: columns[name] for name in ("error", "best rule's")}
    chosen = choices_page(card)
    return Page({**figures, **chosen.figures}, {**texts, **chosen.texts}, {"scores": Table(narrow, said)}, {"card": dict(card)})


def forecasts_page(forecasts: Sequence[Forecast], con: Connection) -> Page:
    """Every forecast of the next runs and their steps, drawn beside what the newest runs took, and how wrong such forecasts were."""
    runs = sorted((f for f in forecasts if f.step == "" and f.quantity == _BY_RUN), key=lambda f: (-f.p50, f.job_name))
    texts: dict[str, str] = {}
    if not runs:
        texts["run times"] = "Nothing to forecast from yet: no job has a run that succeeded."
    drawn = [sketch.Row(f.job_name, f.p05, f.p50, f.p95, duration(f.p50)) for f in runs]
    if small := sketch.intervals("Expected run time, 90 % interval", drawn, zero=True):
        texts["run times"] = small
    actual = _actual(con)
    together = [
        svg.Interval(f.job_name, f.p05, f.p50, f.p95, f"{duration(f.p50)}, n {count(f.sample_count)}", actual.get(f.job_name, ()))
        for f in runs
    ]
    title = "Run time of the next run of every job"
    if picture := svg.picture(title, svg.interval_plot(title, together, _BY_RUN)):
        texts["run times, and the newest runs"] = picture
    errors = [
        (f.job_name, f.error_share, f.best_rule_error_share, words(f.best_rule or ""))
        for f in runs
        if f.error_share is not None and f.best_rule_error_share is not None
    ]
    small_pairs = [sketch.Pair(job, a, b, _two(a, b)) for job, a, b, _ in errors]
    if small := sketch.pairs("Error of run times, and that of the best rule", small_pairs):
        texts["error (mark: best rule)"] = small
    title = "Error of run time forecasts, replayed"
    whole_pairs = [svg.Pair(job, a, b, f"{share(a)}, rule {share(b)}") for job, a, b, _ in errors]
    if picture := svg.picture(title, svg.pair_plot(title, whole_pairs, "error_share", "forecast", "best simple rule")):
        texts["errors of all jobs"] = picture
    figures: dict[str, float | int] = {"jobs": len({f.job_name for f in forecasts}), "forecasts": len(forecasts)}
    figures |= _errors([f for f in forecasts if f.step == ""])
    figures |= {f"{name} of steps": value for name, value in _errors([f for f in forecasts if f.step]).items()}
    place = {f.job_name: number for number, f in enumerate(runs)}
    steps = sorted(
        (f for f in forecasts if f.step and f.quantity == _BY_RUN), key=lambda f: (place.get(f.job_name, 0), -f.p50, f.step)
    )
    by_key = {(f.job_name, f.step, f.quantity): f for f in forecasts}
    for name, chosen in (("next runs in full", runs), ("their steps", steps)):
        if chosen:
            texts[name] = behind_link(Table([_forecast(f, by_key) for f in chosen[:MOST_ROWS]], _FORECAST_COLUMNS))
    narrow = [
        {
            "job": f.job_name,
            "expected": whole(duration(f.p50)),
            "9 of 10": span(f.p05, f.p95),
            "fails": whole(quantity(getattr(by_key.get((f.job_name, "", "failure_share")), "p50", None), "failure_share")),
        }
        for f in runs[:MOST_ROWS]
    ]
    columns = {
        "expected": _FORECAST_COLUMNS["expected"],
        "9 of 10": "Nine of ten runs take a time between these.",
        "fails": _FORECAST_COLUMNS["fails"],
    }
    memory = memory_page(forecasts)
    if said := reasons(forecasts):
        texts["what they rest on"] = said
    return Page({**figures, **memory.figures}, {**texts, **memory.texts}, {"next runs": Table(narrow, columns)})


def error_check(forecasts: Sequence[Forecast]) -> Verdict:
    """How wrong the run-time forecasts of whole runs were beside the rules best in hindsight; passes where that is not known yet."""
    runs = [f for f in forecasts if f.step == "" and f.quantity == _BY_RUN]
    scored = [f for f in runs if f.error_share is not None and f.best_rule_error_share is not None]
    outcomes = sum(f.sample_count for f in scored)
    if outcomes < LEAST_OUTCOMES:
        said = f"Unknown: {outcomes} outcomes of {len(scored)} jobs to compare with; from {LEAST_OUTCOMES} on the error is told."
        return Verdict(True, said, {"outcomes": outcomes, "jobs": len(scored)})
    ours = sum(f.error_share or 0.0 for f in scored) / len(scored)
    best = sum(f.best_rule_error_share or 0.0 for f in scored) / len(scored)
    margin = MARGIN + MARGIN_BY_NUMBER / (outcomes / len(scored)) ** 0.5
    said = (
        f"Mean error {share(ours)} beside {share(best)} of the simple rule best for each job in hindsight, over {len(scored)} jobs "
        f"with {count(outcomes)} outcomes; up to {share(margin)} above the rule's may be chance."
    )
    figures = {"error share": ours, "best rule error share": best, "jobs": len(scored), "outcomes": outcomes, "margin": margin}
    return Verdict(ours <= best * (1 + margin), said, figures)


_FORECAST_COLUMNS = {
    "expected": "Run time: half of the runs take less.",
    "from": "Below this in 5 of 100 cases.",
    "to": "Below this in 95 of 100 cases.",
    "n": "Runs or attempts that it rests on.",
    "by": "What counted most in the forecast.",
    "error": "Median absolute relative error of such forecasts in the past; unknown before five outcomes.",
    "best rule": "The simple rule that was best in hindsight.",
    "waits": "Expected time in the queue.",
    "fails": "Expected share that fails.",
    "cost": "Expected, by the rate card, US dollars.",
}


def _forecast(f: Forecast, by_key: Mapping[tuple[str, str, str], Forecast]) -> dict[str, Cell]:
    """One row: the run time with its interval and error, then what else is forecast of the same run or step."""

    def middle(name: str) -> str:
        other = by_key.get((f.job_name, f.step, name))
        return quantity(None if other is None else other.p50, name)

    return {
        "job": f.job_name,
        **({"step": f.step} if f.step else {}),
        "expected": whole(duration(f.p50)),
        "from": whole(duration(f.p05)),
        "to": whole(duration(f.p95)),
        "n": f.sample_count,
        "error": whole(share(f.error_share)),
        "by": words(f.predictor),
        "best rule": words(f.best_rule) if f.best_rule else "-",
        "its error": whole(share(f.best_rule_error_share)),
        **({} if f.step else {"waits": whole(middle("queue_time_s"))}),
        "fails": whole(middle("failure_share")),
        "cost": middle("cost_usd"),
    }


def _errors(forecasts: Sequence[Forecast]) -> dict[str, float]:
    """Mean error of the run-time forecasts that have one, each counting once, beside that of the best rules; empty where none has."""
    scored = [
        (f.error_share, f.best_rule_error_share)
        for f in forecasts
        if f.quantity == _BY_RUN and f.error_share is not None and f.best_rule_error_share is not None
    ]
    if not scored:
        return {}
    return {
        "error share": sum(ours for ours, _ in scored) / len(scored),
        "best rule error share": sum(rule for _, rule in scored) / len(scored),
    }


def _actual(con: Connection) -> dict[str, list[float]]:
    """Run times of the newest successful runs of each job, the newest first."""
    newest = rows(
        con,
        f"""select job_name, list(run_time_s order by created_at desc) as seconds from (
              select job_name, run_time_s, created_at from runs where outcome = 'success' and run_time_s is not null and trial_id is null
              qualify row_number() over (partition by job_name order by created_at desc) <= {ACTUAL_RUNS}
            ) group by job_name""",
    )
    return {row["job_name"]: row["seconds"] for row in newest}


def _two(ours: float, rule: float) -> str:
    return f"{share(ours).removesuffix(' %')} / {share(rule)}"


def _named(score: str) -> str:
    """'run run_time_s' as 'run: run time'."""
    of, _, what = score.partition(" ")
    return f"{of}: {words(what) if what != 'failure_share' else 'risk of failure'}"
