"""What do the pages say of who serves what? Predictors in the shadow, promoted and withdrawn ones, memory to ask for, and the reasons."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workflows_pkg.history.records import Forecast
from workflows_pkg.report.asset_pages import MOST_ROWS, Cell, Page, Table, behind_link, whole
from workflows_pkg.report.rests_on import rests_on
from workflows_pkg.report.tables import count, quantity, share, words

_QUESTIONS = {
    "run_time_s": "times, cost and peak memory",
    "memory_request_mib": "memory to ask for",
    "failure_share": "risk of failure",
}
_PEAK, _REQUEST, _RETRY = "peak_memory_mib", "memory_request_mib", "memory_retry_mib"


def choices_page(card: Mapping[str, Any]) -> Page:
    """Who serves and who answers in the shadow, what was promoted and withdrawn since the last training, and by what rule."""
    choices: Mapping[str, Any] = card["choices"]
    # a card of an earlier version says nothing of times
    asked = {question: choices[question] for question in _QUESTIONS if choices.get(question, {}).get("keys")}
    serving = [
        {
            "question": _QUESTIONS[question],
            "keys": one["keys"],
            "served by": _counted(one["served"]),
            "in the shadow": _counted({name: times for name, times in one["in_shadow"].items() if times}),
            "changed": one["changed_keys"],
        }
        for question, one in asked.items()
    ]
    changed = [
        {
            "of": change["key"],
            "promoted": words(change["promoted"]),
            "withdrawn": words(change["withdrawn"]),
            "since": (change["at"] or "-")[:16],
            "runs": change["runs"],
            "loss": _figure(change["loss"]),
            "loss of withdrawn": _figure(change["loss_of_withdrawn"]),
            "killed": share(change["faults"]) if question == _REQUEST else "-",
            "killed by withdrawn": share(change["faults_of_withdrawn"]) if question == _REQUEST else "-",
        }
        for question, one in asked.items()
        for change in one["changed"]
    ]
    how: Mapping[str, str] = choices["how"]
    texts = {"how predictors are chosen": " ".join(f"**{name}**: {said}." for name, said in how.items())} if asked else {}
    if serving:
        texts["who serves, who answers in the shadow"] = behind_link(Table(serving, _SERVING))
    if changed:
        texts["promoted and withdrawn since the last training"] = behind_link(Table(changed, _CHANGED))
    others = [
        {"of": key, "served by": words(name)} for one in asked.values() for key, name in list(one["others"].items())[:MOST_ROWS]
    ]
    if others:
        texts["served by another than usual"] = behind_link(Table(others, {}))
    figures: dict[str, float | int] = {"promoted since the last training": sum(one["changed_keys"] for one in asked.values())}
    for name, one in card["calibration"].items():
        if one:
            figures |= {
                f"calibration error, {_told(name)}": one["calibration_error"],
                f"squared error, {_told(name)}": one["brier"],
            }
    return Page(figures, texts)


def memory_page(forecasts: Sequence[Forecast]) -> Page:
    """What memory each metered step is expected to take and should ask for, and what asking so would have cost, the largest first."""
    by_key = {(one.job_name, one.step, one.quantity): one for one in forecasts}
    asked = sorted((one for one in forecasts if one.quantity == _REQUEST), key=lambda one: (-one.p50, one.job_name, one.step))
    if not asked:
        return Page()

    def of(one: Forecast, name: str) -> Forecast | None:
        return by_key.get((one.job_name, one.step, name))

    rows: list[Mapping[str, Cell]] = []
    for one in asked[:MOST_ROWS]:
        peak, retry = of(one, _PEAK), of(one, _RETRY)
        served: Mapping[str, float] = (json.loads(one.basis) if one.basis else {}).get("as_served", {})
        rows.append(
            {
                "job": one.job_name,
                "step": one.step,
                "peak": whole(quantity(None if peak is None else peak.p50, _PEAK)),
                "9 of 10": "-" if peak is None else f"{quantity(peak.p05, 'mib')}–{quantity(peak.p95, _PEAK)}",
                "ask for": whole(quantity(one.p50, _REQUEST)),
                "after a kill": whole(quantity(None if retry is None else retry.p50, _RETRY)),
                "n": one.sample_count,
                "killed": share(served.get("killed_share")),
                "wasted": share(one.error_share),
                "by": words(one.predictor),
                "best rule": words(one.best_rule) if one.best_rule else "-",
                "it wasted": share(one.best_rule_error_share),
            }
        )
    return Page({"steps with memory": len(asked)}, {"memory of steps": behind_link(Table(rows, _MEMORY))})


def reasons(forecasts: Sequence[Forecast]) -> str:
    """A link to what the forecasts of run times, memory and failure rest on, whole runs first; of the `MOST_ROWS` that take longest."""
    wanted = ("run_time_s", _REQUEST, "failure_share")
    longest = {(one.job_name, one.step): one.p50 for one in forecasts if one.quantity == wanted[0]}
    chosen = sorted(
        (one for one in forecasts if one.quantity in wanted and (one.job_name, one.step) in longest),
        key=lambda one: (one.step != "", -longest[one.job_name, one.step], one.job_name, one.step, wanted.index(one.quantity)),
    )
    rows = [
        {"job": one.job_name, "step": one.step or "whole run", "what": words(one.quantity), "rests on": rests_on(one)}
        for one in chosen[:MOST_ROWS]
    ]
    return behind_link(Table(rows, {})) if rows else ""


_SERVING = {
    "keys": "Runs and steps that are asked about, tries and retries apart.",
    "in the shadow": "Predictors that answer too, are judged, and are not heard.",
    "changed": "Served by another than at the last training.",
}
_CHANGED = {
    "since": "End of the run after which it was served, UTC.",
    "runs": "Newest runs compared.",
    "loss": "Mean over them: squared error of a risk; GB hours wasted by a request; how far off the others were, in their own unit.",
    "killed": "Share of attempts that had too little memory.",
}
_MEMORY = {
    "peak": "Half of the attempts take less.",
    "ask for": "The request that costs least, kills included; never above the step's own limit.",
    "after a kill": "What to ask for when that was too little.",
    "killed": "In replay, as served.",
    "wasted": "Asked for and not used, times time, kills included, over what was used; in replay, as served.",
}


def _counted(times: Mapping[str, int]) -> str:
    return ", ".join(f"{words(name)} ({count(number)})" for name, number in times.items()) or "-"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _told(calibrated: str) -> str:
    """'run failure_share' as 'runs', 'step failure_share' as 'steps', 'step tries' as 'tries'."""
    of, _, what = calibrated.partition(" ")
    return "tries" if what == "tries" else f"{of}s"
