"""What does a forecast rest on, in words? How many outcomes, whose, what moved it from the usual, and how it did beside the simple rules.

One wording for the command line, asset pages, notebooks and the log of a run. Imported where runs are launched: nothing heavy here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from workflows_pkg.report.tables import count, instant, quantity, share, words


class Said(Protocol):
    """What is needed of a forecast; a `Forecast` is one."""

    @property
    def step(self) -> str: ...
    @property
    def quantity(self) -> str: ...
    @property
    def sample_count(self) -> int: ...
    @property
    def predictor(self) -> str: ...
    @property
    def basis(self) -> str | None: ...


_OWN = {
    "same_tag": "mostly what the same partition took",
    "related_tags": "mostly what partitions like it took",
    "same_weekday": "mostly what the same weekday took",
    "same_size": "mostly what inputs of the same size took",
    "twins": "mostly what the steps of the same run showed",
    "sized_by_cost": "sized by what would have cost least",
    "failure_rate": "their rate",
    "failure_regression": "a regression on streaks, times and what is still open",
}
_BORROWED = {
    "borrowed_from_same_kind_in_workflow": "steps of its kind in the same workflow",
    "borrowed_from_same_kind": "steps of its kind",
    "borrowed_from_workflow": "other steps of the same workflow",
    "borrowed_from_everything": "all other steps",
}
_LIKE = {"partition": "the same partition", "weekday": "the same weekday", "newest": "its newest"}
_SAME = 0.05
"""Differences below 5 % are called none."""


def rests_on(forecast: Said) -> str:
    """One to three sentences.

    >>> from types import SimpleNamespace
    >>> basis = '{"usual": 10.0, "outcomes": 50, "ratio": 1.3, "moved": [["weekday", 1.28, 7]]}'
    >>> rests_on(SimpleNamespace(step="load", quantity="run_time_s", sample_count=48, predictor="median_of_10", basis=basis))
    'Rests on 48 attempts, mostly by median of 10. 30 % above its usual 10 s: 7 of the same weekday were 28 % above it.'
    """
    basis: Mapping[str, Any] = json.loads(forecast.basis) if forecast.basis else {}
    of = "runs" if forecast.step == "" else "attempts"
    if forecast.predictor in _BORROWED:
        said = [f"Has no outcome of its own: borrowed from {_BORROWED[forecast.predictor]}."]
    else:
        said = [f"Rests on {count(forecast.sample_count)} {of}, {by(forecast.predictor)}."]
    if moved := compared(forecast.quantity, basis):
        said.append(moved)
    if forecast.quantity.endswith("failure_share"):
        said += _of_failures(basis)
    if forecast.quantity == "memory_request_mib":
        said += _of_requests(basis)
    if "apart" in basis:
        said += _of_times(forecast.quantity, basis)
    return " ".join(said)


def by(predictor: str) -> str:
    """Which predictor answered, as part of a sentence.

    >>> by("median_of_10"), by("median_of_10_alone"), by("failure_rate_of_newest_10"), by("max_seen")
    ('mostly by median of 10', 'by the rule median of 10 alone', 'the rate of their newest 10', 'by the rule max seen')
    """
    if predictor in _OWN:
        return _OWN[predictor]
    if predictor.startswith("failure_rate_of_newest_"):
        return f"the rate of their newest {predictor.rpartition('_')[2]}"
    if predictor.endswith(_ALONE):
        return f"by the rule {words(predictor.removesuffix(_ALONE))} alone"
    if predictor in _MEMORY_RULES:
        return f"by the rule {words(predictor)}"
    return f"mostly by {words(predictor)}"


_ALONE = "_alone"
"""What the name of a rule ends with that answers by itself, instead of being weighed among others."""
_MEMORY_RULES = frozenset(
    {
        "max_seen", "max_seen_x1.1", "p95", "p99_x1.05", "last_x1.2", "regression_plus_sd", "regression_plus_largest_residual",
        "max_of_5_nearest_x1.1",
    }
)  # fmt: skip


def compared(name: str, basis: Mapping[str, Any]) -> str:
    """How far the middle is from what is usual, and what was as far off before; empty where that is not known."""
    if "usual" not in basis:
        return ""
    usual, ratio = quantity(basis["usual"], name), float(basis["ratio"])
    if abs(ratio - 1) < _SAME:
        return f"As usual ({usual})."
    said = f"{_off(ratio)} its usual {usual}"
    if not basis["moved"]:
        return f"{said}."
    what, own, outcomes = basis["moved"][0]
    like = (
        f"its newest {outcomes} were" if what == "newest" else f"{outcomes} of {_LIKE[what]} {'was' if outcomes == 1 else 'were'}"
    )
    return f"{said}: {like} {_off(own)} it."


def _off(ratio: float) -> str:
    return f"{share(ratio - 1)} above" if ratio > 1 else f"{share(1 - ratio)} below"


def _of_failures(basis: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    if newest := basis.get("newest"):
        usual = f"; {share(newest['failed_share'])} failed in all" if newest["failed_share"] not in (0, 1) else ""
        ended = "failed" if newest["outcome"] == "failure" else "did not fail"
        said.append(f"The newest {'one' if newest['in_a_row'] == 1 else count(newest['in_a_row'])} {ended}{usual}.")
    if causes := basis.get("causes"):
        cause, times = next(iter(causes["by_cause"].items()))
        said.append(f"Likeliest cause: {cause}, {count(times)} of the newest {count(causes['failures'])} failures.")
    if scores := basis.get("scores"):
        best = basis["best_rule"]
        said.append(
            f"Squared error over {count(basis['outcomes'])} outcomes, as served: {_three(basis['as_served'])}; rate "
            f"{_three(scores['failure_rate'])}, regression {_three(scores['failure_regression'])}, best rule ({words(best)}) "
            f"{_three(scores[best])}."
        )
    return said + _since(basis)


def _of_requests(basis: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    if "limit_mib" in basis:
        said.append(f"Its author allows it {quantity(basis['limit_mib'], 'memory_mib')}; no request is above that.")
    if scores := basis.get("scores"):
        others = [f"{words(name)} {_wasted(scores[name], basis)}" for name in scores]
        said.append(
            f"Replayed over {count(basis['outcomes'])} attempts, as served: {_wasted(basis['as_served'], basis)}. "
            f"By predictor: {'; '.join(others)}."
        )
    return said + _since(basis)


def _of_times(name: str, basis: Mapping[str, Any]) -> list[str]:
    off = [f"{words(maker)} {quantity(loss, name)}" for maker, loss in basis["apart"].items()]
    return [f"Off on average over the newest {count(basis['runs'])} runs: {', '.join(off)}.", *_since(basis)]


def _wasted(score: Mapping[str, float], basis: Mapping[str, Any]) -> str:
    return f"{share(score['killed_share'])} killed, {share(score['wasted_gib_h'] / basis['used_gib_h'])} of what was used wasted"


def _since(basis: Mapping[str, Any]) -> list[str]:
    since = basis.get("since")
    if not since:
        return []
    why = "killed too many" if since.get("killed") else "had done worse"
    return [f"Served since {instant(datetime.fromtimestamp(since['at'], UTC))} UTC, as {words(since['after'])} {why}."]


def _three(value: float) -> str:
    return f"{value:.3g}"
