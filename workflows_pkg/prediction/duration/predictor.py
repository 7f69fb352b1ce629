"""The predictor of durations and costs: one protocol from opinions over weights to a calibrated interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workflows_pkg.prediction.beyond import FROM, TRIED_AT, Pool, tried
from workflows_pkg.prediction.duration.effects import EFFECTS, Effects, Seen
from workflows_pkg.prediction.duration.fitted import Fitted
from workflows_pkg.prediction.duration.intervals import CANDIDATES, REACH, Intervals
from workflows_pkg.prediction.duration.mixing import BINS, Mixer
from workflows_pkg.prediction.duration.opinions import BEYOND, EXPERTS, NAN, PRECEDENTS, Facts, PartsOf, StepHistory, precedent
from workflows_pkg.prediction.duration.settings import Settings
from workflows_pkg.prediction.duration.window import Window
from workflows_pkg.prediction.predictor import Finished, Submitted

FLOOR = 1e-3
"""Seconds below which two run times are not told apart: clocks and process start-up are no finer. Logarithms start here."""
_HALF = 0.5
"""Where nearly all values of a step are whole numbers, a zero stands for anything below one."""
_NEARLY_ALL = 0.9

# Mean losses of the experts by number of values known (1, 2-4, 5-19, 20-59, 60 and more), in units of the typical expert's, beside the
# mean of all: over twelve public traces, each step counting once; 20-59 lies between its neighbours. Left out one family of traces at a
# time, the others' figures did as well.
_START = {
    "last": (-0.08, 0.12, 0.1, 0.16, 0.21),
    "mean_of_2": (-0.08, 0.05, 0.07, 0.1, 0.13),
    "median": (-0.08, 0.02, 0.14, 0.12, 0.09),
    "median_of_10": (-0.08, 0.02, 0.13, 0.09, 0.04),
    "median_of_30": (-0.08, 0.02, 0.14, 0.1, 0.05),
    "smoothed": (-0.08, 0.07, 0.09, 0.08, 0.07),
    "line": (0.0, -0.17, -0.36, -0.24, -0.12),
    "log_line": (0.0, -0.17, -0.3, -0.21, -0.12),
    "stiff_log_line": (0.0, 0.07, -0.11, -0.08, -0.05),
    "nearest_sizes": (0.0, 0.05, -0.03, -0.12, -0.22),
    "proportional": (0.0, -0.64, -0.19, -0.12, -0.06),
    "same_figures": (-0.08, 0.02, -0.03, -0.01, 0.01),
    "same_size": (-0.13, 0.0, -0.16, -0.21, -0.26),
    "same_tag": (-0.23, 0.0, -0.15, -0.2, -0.25),
    "related_tags": (0.0, 0.05, 0.09, -0.01, -0.11),
    "same_weekday": (0.0, 0.0, 0.0, 0.0, 0.0),
    "run_name": (0.0, 0.02, 0.1, 0.08, 0.06),
    "tag_effect": (0.07, 0.01, -0.01, -0.05, -0.1),
    "twins": (0.0, -0.04, -0.23, -0.19, -0.16),
    "ridge": (0.33, -0.11, -0.08, -0.1, -0.13),
    # not measured as the others were: no better than the mean at first, as good as the nearest sizes once there are many values
    "figures_line": (0.0, 0.0, 0.0, 0.0, 0.0),
    "forest": (0.0, 0.0, -0.1, -0.15, -0.2),
    "gaussian_process": (0.0, 0.0, -0.1, -0.15, -0.2),
}
BORROWED = ("same_kind_in_workflow", "same_kind", "workflow", "everything")
"""Where a forecast of a step without history comes from, the closest first."""
BASES = (*EXPERTS, *(f"borrowed_from_{name}" for name in BORROWED))
"""What a forecast can rest on most."""
_LATE_FROM = 1.5
"""Where a step has learned this many times as much by the time an attempt ends as at its submission, the experts are asked again then:
what they would have said from nearly nothing tells little about them."""
_LATE_SHARE = 0.3
"""How much such an answer counts, whatever ends with it: what has just ended beside it makes it easier."""
_MOST_PENDING = 200_000
_NORMAL_95 = 1.645
"""The 95 % quantile of the normal distribution."""
_BORROWED = 300
_NO_FITS = (NAN, NAN, NAN)
"""What `figures_line`, `forest` and `gaussian_process` say where they are not asked."""
_BEYOND_PRIOR = 5.0
"""Errors beyond the sizes seen that those of all steps count for against a step's own."""


@dataclass(slots=True)
class _Pending:
    """What was said of an attempt when it was submitted."""

    facts: Facts
    known: int
    opinions: list[float]
    seen: Seen
    described: np.ndarray | None
    middle: float
    low: float
    high: float
    lows: list[float]
    highs: list[float]


class DurationPredictor:
    """Quantiles of what an attempt will take, from values of successful attempts; `floor` is the least difference that counts.

    >>> from workflows_pkg.prediction.predictor import Finished, Submitted
    >>> predictor = DurationPredictor()
    >>> for number, value in enumerate([9.5, 10.5, 10.0]):
    ...     predictor.observe([Finished(Submitted(number, "etl", "load", f"r{number}", float(number)), number + 0.5, value)])
    >>> low, middle, high, count, basis = predictor.predict([Submitted(-1, "etl", "load", "next", 4.0)])[0]
    >>> bool(low < middle < high and 9.5 <= middle <= 10.5), int(count), BASES[int(basis)] in EXPERTS
    (True, 3, True)
    """

    columns = ("p05", "p50", "p95", "count", "basis")

    def __init__(self, floor: float = FLOOR) -> None:
        self._floor = floor
        self._seconds = floor == FLOOR
        self._steps: dict[tuple[str, str], StepHistory] = {}
        self._parts = PartsOf()
        self._effects = Effects()
        self._fitted: dict[tuple[str, str], Fitted] = {}
        self._settings: dict[tuple[str, str], Settings] = {}
        self._mixer = Mixer([[_START[name][place] for name in EXPERTS] for place in range(len(BINS) + 1)], PRECEDENTS)
        self._intervals = Intervals()
        self._pending: dict[int, _Pending | None] = {}
        self._wider: dict[object, Window] = {}
        self._beyond = Pool()
        self._off: dict[tuple[str, str], tuple[float, float]] = {}
        self._count = 0

    def observe(self, finished: Sequence[Finished]) -> None:
        """Learns from attempts that have ended; those without a value are forgotten.

        Experts are judged on attempts that were asked about; others only lengthen the histories, which takes a tenth of the time.
        """
        keys: dict[tuple[str, str], int] = {}
        for one in finished:
            keys[one.submitted.key] = keys.get(one.submitted.key, 0) + 1
        for one in finished:
            asked = one.submitted.id in self._pending
            pending = self._pending.pop(one.submitted.id, None)
            if not math.isnan(one.value):
                # attempts that end together were forecast from the same knowledge: together they say less than one after the other
                self._learn(one.submitted, one.value, asked, pending, 1.0 / math.sqrt(keys[one.submitted.key]))

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """The 5, 50 and 95 % quantile of every attempt, the values of its step they rest on, and the place in `BASES` of what counted most.

        Of a step without history, what its wider surroundings show; NaN where nothing at all has ended.
        """
        answers = np.full((len(submitted), len(self.columns)), np.nan)
        warm: list[int] = []
        histories: list[StepHistory] = []
        facts: list[Facts] = []
        seen: list[Seen] = []
        opinions: list[list[float]] = []
        described: list[np.ndarray | None] = []
        for row, one in enumerate(submitted):
            history = self._steps.get(one.key)
            if history is None:
                answers[row] = self._borrowed(one)
                answers[row, :3] = _on_machines([one], np.log(answers[row : row + 1, :3]))
                if one.id >= 0:
                    self._pending[one.id] = None
                continue
            fact = Facts(one, self._parts)
            said, what, figures = self._opinions(one, fact, history)
            described.append(figures)
            warm.append(row)
            histories.append(history)
            facts.append(fact)
            seen.append(what)
            opinions.append(said)
        if not warm:
            return answers
        asked = [submitted[row] for row in warm]
        keys = [one.key for one in asked]
        known = np.array([history.count for history in histories])
        said = np.array(opinions)
        weights = self._mixer.weights(keys, known, said, np.array([precedent(one) for one in opinions]))
        middle = (weights * np.where(np.isnan(said), 0.0, said)).sum(axis=1)
        both = [
            self._intervals.candidates(one, fact, history, float(value))
            for one, fact, history, value in zip(asked, facts, histories, middle, strict=True)
        ]
        lows, highs = np.array([low for low, _ in both]), np.array([high for _, high in both])
        shown = np.array([history.limits(fact.x, REACH) for history, fact in zip(histories, facts, strict=True)])
        low, high = self._intervals.ends(keys, known, middle, lows, highs, shown)
        beyond = np.array(
            [self._off_beyond(key, history, fact.x) for key, history, fact in zip(keys, histories, facts, strict=True)]
        )
        low = np.minimum(low, np.maximum(middle - beyond[:, 0], shown[:, 0]))
        high = np.maximum(high, np.minimum(middle + beyond[:, 1], shown[:, 1]))
        answers[warm, :3] = _on_machines(asked, np.column_stack([low, middle, high]))
        answers[warm, 3], answers[warm, 4] = known, weights.argmax(axis=1)
        for place, one in enumerate(asked):
            if one.id >= 0:
                self._pending[one.id] = _Pending(
                    facts[place], histories[place].count, opinions[place], seen[place], described[place], float(middle[place]),
                    float(low[place]), float(high[place]), *both[place],
                )  # fmt: skip
        while len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]  # never finished, or forgotten by whoever reports it
        return answers

    def card(self) -> dict[str, Any]:
        """What it rests on and how it is set."""
        return self.settings() | {"learned_from": self._count, "steps": len(self._steps)}

    def settings(self) -> dict[str, Any]:
        """How it is set."""
        return {
            "name": "weighed_experts",
            "experts": list(EXPERTS),
            "effects": list(EFFECTS),
            "interval_candidates": list(CANDIDATES),
            "target": "quantiles 5, 50 and 95 %",
            "floor": self._floor,
            "history_bins": list(BINS),
        }

    def _opinions(self, one: Submitted, facts: Facts, history: StepHistory) -> tuple[list[float], Seen, np.ndarray | None]:
        plain, seen = self._without_fits(one, facts, history)
        fitted = self._fitted.get(one.key)
        if fitted is None:
            return [*plain, *_NO_FITS], seen, None
        described = fitted.described(one)
        low, high = history.limits(facts.x, BEYOND)
        new = [*fitted.opinions(described), self._settings[one.key].opinion(one)]
        said = [min(max(value, low), high) if value == value else NAN for value in new]
        return [*plain, *said], seen, described

    def _without_fits(self, one: Submitted, facts: Facts, history: StepHistory) -> tuple[list[float], Seen]:
        own = history.opinions(one, facts)
        others, seen = self._effects.opinions(one, facts, own, history)
        return [*own, *others], seen

    def _learn(self, one: Submitted, value: float, asked: bool, pending: _Pending | None, share: float) -> None:
        history = self._steps.get(one.key)
        whole = value == round(value)
        in_seconds = self._seconds and (whole if history is None else history.whole.mean >= _NEARLY_ALL)
        value = max(value, _HALF if in_seconds else self._floor) / one.machine_factor
        log = math.log(value)
        facts = pending.facts if pending is not None else Facts(one, self._parts)
        seen: Seen | None = None
        if history is None:
            history = self._steps[one.key] = StepHistory()
        elif asked:
            known = history.count
            if pending is not None:
                self._intervals.learn(
                    one.key, pending.known, log, pending.middle, pending.lows, pending.highs, pending.low, pending.high, share
                )
            if pending is not None and known <= _LATE_FROM * pending.known:
                opinions, seen = pending.opinions, pending.seen
            else:
                # a fit would be made anew for each attempt that ends, ten times the work of learning it
                plain, seen = self._without_fits(one, facts, history)
                opinions = [*plain, *_NO_FITS]
                share = _LATE_SHARE
            losses = [abs(math.exp(said) - value) for said in opinions]
            self._mixer.learn(one.key, known, losses, share, precedent(opinions))
        history.add(one, value, log, facts)
        if facts.x == facts.x and len(history.sizes) in TRIED_AT:
            history.beyond = _errors_beyond(np.array(history.sizes), np.array(history.at_sizes))
            if self._beyond.put(one.key, history.beyond):
                self._off.clear()
            self._off.pop(one.key, None)
        history.whole.add(float(whole))
        self._effects.add(one, log, facts, seen, history)
        if facts.figures is not None:
            fitted = self._fitted.get(one.key)
            if fitted is None:
                fitted = self._fitted[one.key] = Fitted(one)
                self._settings[one.key] = Settings(one)
            described = pending.described if pending is not None and pending.described is not None else fitted.described(one)
            fitted.add(one, described, log)
            self._settings[one.key].add(one, log)
        for group in self._surroundings(one):
            window = self._wider.get(group)
            if window is None:
                window = self._wider[group] = Window(_BORROWED)
            window.add(log)
        self._count += 1

    def _off_beyond(self, key: tuple[str, str], history: StepHistory, x: float) -> tuple[float, float]:
        """How much lower and higher than a line, in logarithms, values beyond the sizes of smaller inputs were in 90 of 100 cases."""
        others = self._beyond.errors
        if not x > history.x_high + math.log(FROM) or not len(others):
            return 0.0, 0.0
        off = self._off.get(key)
        if off is None:
            errors = np.concatenate([history.beyond, others])
            mass = np.concatenate([np.ones(len(history.beyond)), np.full(len(others), _BEYOND_PRIOR / len(others))])
            order = np.argsort(errors)
            low, high = np.interp((0.05, 0.95), (np.cumsum(mass[order]) - mass[order] / 2) / mass.sum(), errors[order])
            off = self._off[key] = max(-float(low), 0.0), max(float(high), 0.0)
        return off

    def _surroundings(self, one: Submitted) -> tuple[tuple[str, ...], ...]:
        """Groups an attempt belongs to beside its step, the closest first."""
        kinds = (("", one.workflow, one.kind), ("", one.kind)) if one.kind else ()
        return (*kinds, (one.workflow,), ())

    def _borrowed(self, one: Submitted) -> list[float]:
        for group in self._surroundings(one):
            window = self._wider.get(group)
            if window is not None:
                low, middle, high = (window.quantile(level) for level in (0.05, 0.5, 0.95))
                margin = math.log(3.0) / math.sqrt(len(window.ordered))
                place = len(EXPERTS) + 3 - len(group)
                return [math.exp(low - margin), math.exp(middle), math.exp(high + margin), 0.0, place]
        return [NAN, NAN, NAN, 0.0, NAN]


def _errors_beyond(x: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """By how much values lay above lines through smaller sizes; in logarithms, as sizes and values are."""
    found = tried(np.expm1(x), np.exp(logs))
    return np.log(found.came / np.clip(found.said, found.smallest, found.largest * found.growth))


def _on_machines(submitted: Sequence[Submitted], logs: np.ndarray) -> np.ndarray:
    """Quantiles where each attempt will run, from logarithms of what it would take on the usual machine.

    The error of the factor is independent of that of the forecast, so the squares of their distances add up.
    """
    low, middle, high = logs.T
    factor = np.log([one.machine_factor for one in submitted])
    apart = _NORMAL_95 * np.array([one.machine_spread for one in submitted])
    low, high = middle - np.hypot(middle - low, apart), middle + np.hypot(high - middle, apart)
    return np.exp(np.column_stack([low, middle, high]) + factor[:, None])
