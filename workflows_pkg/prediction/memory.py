"""How much memory should an attempt ask for? What costs least on the step's past, being killed and tried again included.

Too much is wasted for as long as the attempt runs; too little wastes everything up to the kill, and the attempt starts again with more
(Tovar et al., "A Job Sizing Strategy for High-Throughput Scientific Workflows", 2018; Witt et al., "Learning Low-Wastage Memory
Allocations for Scientific Workflows at IceCube", 2019). Each step has a few guesses of the next peak: the largest so far, the largest of
its newest, what the same sample took, least squares on the size, the largest of the nearest sizes. How far peaks were above each guess is
remembered; a request is the guess times the margin that would have cost least, where a kill has a price besides. The price is the same
for every attempt, so it weighs little in heavy steps, which are sized tightly, and much in light ones, whose waste is nothing; it
begins high, rises when more attempts are killed than wanted, and falls when fewer are.

At sizes above all seen, errors at sizes within tell little: there the guess is the line, no lower than the largest peak and growing no
faster than the size, and its errors are those that lines through the smaller sizes of this and other steps made at the larger ones.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workflows_pkg.prediction.baselines.duration import Line
from workflows_pkg.prediction.beyond import FROM, TRIED_AT, Pool, tried
from workflows_pkg.prediction.predictor import Finished, Submitted

GUESSES = ("largest", "largest_of_10", "last_of_tag", "largest_of_tag", "log_line", "line", "largest_of_5_nearest")
MARGINS = np.array([1.0, 1.01, 1.03, 1.05, 1.08, 1.12, 1.17, 1.25, 1.35, 1.5, 1.75, 2.0, 2.5, 3.5, 5.0, 8.0, 16.0])
"""Factors on a guess: finer than the noise of peaks at the low end, beyond any use at the high."""

WANTED_KILLS = 0.02
"""Share of attempts that may be killed; the target of the evaluation is 3 %, and the price follows with delay."""

_LARGEST = GUESSES.index("largest")
_BEYOND_MARGIN = 4
"""Place of the least margin, 1.08, for sizes above all seen where no line has been tried beyond its sizes yet."""
_RECENT, _NEIGHBOURS, _LINE_FROM, _MOST_ABOVE = 10, 5, 3, 2.0
_REMEMBERED = 256
"""Errors kept per step."""
_HALF = 100.0
"""Errors after which one counts half."""
_SAME_SIZE = 0.7
"""Standard deviation, in logarithms of the size, within which errors at other sizes tell of this one."""
_PROVEN = 10
"""Errors from which a guess other than the largest peak is believed: the best of several on fewer is best by luck."""
_PRIOR = 5.0
"""Errors that the prior counts for."""
_TAIL, _TAIL_SCALE = 0.5, 0.3
"""Chance, over one plus the number of values, that a peak lies above all errors seen, and its mean excess in logarithms."""
_PRICES = 0.05, 10.0
"""Least and largest price of a kill, in what an average attempt uses."""
_FIRST_PRICE = 4.0
"""At first: of a fan-out that is asked about at once many are killed before the first kill is known."""
_PACE = 0.3
"""How fast the price moves: a kill raises it by a third."""
_EXCESS = 3.0
"""Logarithm to which errors are cut."""
_LEAST_SPREAD = 0.01
_SAME_SPREAD = 0.7
"""Standard deviation, in logarithms of the spread, within which imagined steps resemble a real one."""
_COUNTS = (1, 2, 3, 5, 9, 17, 33, 65)


def _imagined(draws: int = 200, middle: float = 0.05, spread: float = 1.2) -> list[tuple[np.ndarray, np.ndarray]]:
    """What is believed before a step has errors of its own: for each of `_COUNTS` values seen of imagined steps, by how much the next
    lies above the largest, and how much those seen vary; both in logarithms, the second in logarithms of the standard deviation.

    The steps' peaks are log-normal, with standard deviations about `middle`, themselves log-normal: most steps vary little, some a lot.
    """
    rng = np.random.default_rng(0)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for count in _COUNTS:
        values = middle * np.exp(spread * rng.standard_normal((draws, 1))) * rng.standard_normal((draws, count + 1))
        seen = values[:, :-1]
        varied = np.log(np.maximum(seen.std(axis=1, ddof=1), _LEAST_SPREAD)) if count > 1 else np.full(draws, np.nan)
        found.append((np.clip(values[:, -1] - seen.max(axis=1), -_EXCESS, _EXCESS), varied))
    return found


@dataclass(frozen=True, slots=True)
class _Guessed:
    """The guesses of one attempt's peak in bytes, NaN where there is none, and how many values each rests on.

    `largest`: the largest peak; `spread`: logarithm of the standard deviation of the peaks' logarithms, NaN for a single one.
    """

    peaks: np.ndarray
    counts: np.ndarray
    largest: float
    spread: float


@dataclass
class _Step:
    count: int = 0
    largest: float = 0.0
    smallest: float = math.inf
    used: float = 0.0
    mean_log: float = 0.0
    squares: float = 0.0
    recent: list[float] = field(default_factory=list[float])
    tags: dict[str, tuple[float, float, int]] = field(default_factory=dict[str, tuple[float, float, int]])
    by_size: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    line: Line = field(default_factory=Line)
    log_line: Line = field(default_factory=Line)
    beyond: np.ndarray = field(default_factory=lambda: np.zeros(0))
    errors: np.ndarray = field(default_factory=lambda: np.full((_REMEMBERED, len(GUESSES)), np.nan))
    sizes: np.ndarray = field(default_factory=lambda: np.full(_REMEMBERED, np.nan))
    learnt: int = 0

    def guesses(self, one: Submitted) -> _Guessed:
        peaks, counts = np.full(len(GUESSES), np.nan), np.zeros(len(GUESSES), int)
        peaks[0], counts[0] = self.largest, self.count
        peaks[1], counts[1] = max(self.recent), len(self.recent)
        if one.tag is not None and one.tag in self.tags and len(self.tags) > 1:
            last, largest, count = self.tags[one.tag]
            peaks[2:4], counts[2:4] = (last, largest), count
        if not math.isnan(one.size) and self.log_line.count >= _LINE_FROM:
            log_line = self.log_line.at(_log_size(one.size))
            lines = math.exp(min(log_line, 60.0)) if not math.isnan(log_line) else math.nan, self.line.at(one.size)
            peaks[4:6] = np.clip(lines, self.smallest, _MOST_ABOVE * self.largest)
            counts[4:6] = self.line.count
        if not math.isnan(one.size) and len(self.by_size) >= _NEIGHBOURS:
            place = bisect_left(self.by_size, (one.size, -math.inf))
            around = self.by_size[max(0, place - _NEIGHBOURS) : place + _NEIGHBOURS]
            nearest = sorted(around, key=lambda pair: abs(pair[0] - one.size))[:_NEIGHBOURS]
            peaks[6], counts[6] = max(peak for _, peak in nearest), len(self.by_size)
        spread = math.log(max(math.sqrt(self.squares / (self.count - 1)), _LEAST_SPREAD)) if self.count > 1 else math.nan
        return _Guessed(peaks, counts, self.largest, spread)

    def learn(self, one: Submitted, guessed: _Guessed, peak: float) -> None:
        place = self.learnt % _REMEMBERED
        self.errors[place] = np.clip(math.log(peak) - np.log(guessed.peaks), -_EXCESS, _EXCESS)
        self.sizes[place] = _log_size(one.size)
        self.learnt += 1

    def add(self, one: Submitted, peak: float, hours: float) -> None:
        self.count += 1
        off = math.log(peak) - self.mean_log
        self.mean_log += off / self.count
        self.squares += off * (math.log(peak) - self.mean_log)
        self.largest, self.smallest = max(self.largest, peak), min(self.smallest, peak)
        self.used += peak * hours
        self.recent = [*self.recent[1 - _RECENT :], peak]
        if one.tag is not None:
            _, largest, count = self.tags.get(one.tag, (0.0, 0.0, 0))
            self.tags[one.tag] = peak, max(largest, peak), count + 1
        if not math.isnan(one.size):
            self.line.add(one.size, peak)
            self.log_line.add(_log_size(one.size), math.log(peak))
            insort(self.by_size, (one.size, peak))

    def line_beyond(self, size: float) -> float:
        """The peak at a size above all seen; NaN without a line, and where all inputs were empty: nothing is a multiple of their size."""
        if len(self.by_size) < _LINE_FROM or not self.by_size[-1][0] > 0:
            return math.nan
        return float(np.clip(self.line.at(size), self.largest, self.largest * size / self.by_size[-1][0]))

    def weights(self, size: float) -> np.ndarray:
        """What each remembered error counts for: the newer and the nearer in size, the more."""
        places = np.arange(_REMEMBERED)
        found = np.where(places < self.learnt, 0.5 ** ((self.learnt - 1 - places) % _REMEMBERED / _HALF), 0.0)
        if math.isnan(size) or np.isnan(self.sizes).all():
            return found
        away = np.abs(self.sizes - _log_size(size))
        away = away - np.nanmin(away)
        return found * np.where(np.isnan(away), 1.0, np.maximum(np.exp(-0.5 * (away / _SAME_SIZE) ** 2), 0.02))


class MemoryPredictor:
    """Requests in bytes; NaN for a step of which no attempt has succeeded, whose preset nothing can better.

    `retry_bytes`: what to ask for when an attempt with `request_bytes` has been killed for want of memory: the largest peak seen, or
    twice the request where that was no less. Neither is above what the user asked for, where that is known. Learns from the peaks of
    successful attempts: a killed one's says only how much was not enough.
    """

    columns = ("request_bytes", "retry_bytes")

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], _Step] = {}
        self._asked: dict[int, tuple[float, _Guessed]] = {}
        self._prior = _imagined()
        self._used, self._count = 0.0, 0
        self._price = _FIRST_PRICE
        self._beyond = Pool()

    def observe(self, finished: Sequence[Finished]) -> None:
        """Learns how far each peak was above the guesses made when the attempt was submitted."""
        for one in finished:
            asked = self._asked.pop(one.submitted.id, None)
            peak = one.peak_memory_bytes
            if one.failed is not False or not peak > 0:
                continue
            step = self._steps.setdefault(one.submitted.key, _Step())
            if asked:
                self._price *= math.exp(_PACE * ((peak > asked[0]) - WANTED_KILLS))
                self._price = min(max(self._price, _PRICES[0]), _PRICES[1])
            if step.count:
                step.learn(one.submitted, asked[1] if asked else step.guesses(one.submitted), peak)
            hours = 0.0 if math.isnan(one.run_time_s) else one.run_time_s / 3600
            step.add(one.submitted, peak, hours)
            if not math.isnan(one.submitted.size) and len(step.by_size) in TRIED_AT:
                step.beyond = _errors_beyond(step.by_size)
                self._beyond.put(one.submitted.key, step.beyond)
            self._used += peak * hours
            self._count += 1

    def predict(self, submitted: Sequence[Submitted]) -> np.ndarray:
        """The request of each attempt, and of its first retry."""
        answers = np.full((len(submitted), len(self.columns)), np.nan)
        for row, one in enumerate(submitted):
            step = self._steps.get(one.key)
            if step is None:
                continue
            guessed = step.guesses(one)
            request = self._request(step, one, guessed)
            again = step.largest if step.largest > request else 2 * request
            answers[row] = np.fmin((request, again), one.memory_requested_bytes)
            if one.id >= 0:
                self._asked[one.id] = float(answers[row, 0]), guessed
        return answers

    def card(self) -> dict[str, Any]:
        """What it rests on and how it is set."""
        return {
            "guesses": list(GUESSES),
            "margins": MARGINS.tolist(),
            "steps": len(self._steps),
            "attempts": self._count,
            "wanted_kills_share": WANTED_KILLS,
            "price_of_a_kill": self._price,
        }

    def _request(self, step: _Step, one: Submitted, guessed: _Guessed) -> float:
        share = step.used / step.count / (self._used / self._count) if self._used and step.used else 1.0
        price = self._price / max(share, 1e-6)
        weights = step.weights(one.size)
        beyond = bool(step.by_size) and one.size > FROM * step.by_size[-1][0]
        others = self._beyond.errors
        if beyond and len(others) and not math.isnan(peak := step.line_beyond(one.size)):
            errors = np.exp(np.concatenate([step.beyond, others]))
            mass = np.concatenate([np.ones(len(step.beyond)), np.full(len(others), _PRIOR / len(others))])
            costs = _costs(errors, mass / mass.sum(), step.largest / peak, max(len(step.beyond), 1), price)
            return peak * float(MARGINS[np.argmin(costs)])
        least, request = math.inf, step.largest
        for guess in range(len(GUESSES)):
            peak = float(guessed.peaks[guess])
            own = ~np.isnan(step.errors[:, guess]) & (weights > 0)
            if math.isnan(peak) or (guess != _LARGEST and own.sum() < _PROVEN):
                continue
            count = int(guessed.counts[guess])
            prior, spreads = self._prior[bisect_left(_COUNTS, count + 1) - 1]
            alike = np.maximum(np.exp(-0.5 * ((spreads - guessed.spread) / _SAME_SPREAD) ** 2), 0.01)
            alike = np.where(np.isnan(alike), 0.5, alike)
            errors = np.exp(np.concatenate([step.errors[own, guess], prior]))
            mass = np.concatenate([weights[own], alike * (_PRIOR / alike.sum())])
            costs = _costs(errors, mass / mass.sum(), guessed.largest / peak, count, price * guessed.largest / peak)
            best = int(np.argmin(costs[_BEYOND_MARGIN:])) + _BEYOND_MARGIN if beyond else int(np.argmin(costs))
            if costs[best] * peak < least:
                least, request = costs[best] * peak, peak * MARGINS[best]
        return request


def _errors_beyond(by_size: list[tuple[float, float]]) -> np.ndarray:
    """By how much peaks lay above what would have been requested beyond the sizes of smaller inputs; in logarithms."""
    found = tried(*np.array(by_size).T)
    guesses = np.clip(found.said, found.largest, found.largest * found.growth)
    return np.clip(np.log(found.came / guesses), -_EXCESS, _EXCESS)


def _costs(errors: np.ndarray, mass: np.ndarray, largest: float, count: int, price: float) -> np.ndarray:
    """Expected bytes wasted with each margin, `price` per kill included; all in units of the guess.

    `errors`: peaks over guesses, `mass`: what each counts for. A killed attempt gets the largest peak seen or twice the
    request, then twice that, then what it needs.
    """
    again = np.where(largest > MARGINS, largest, 2 * MARGINS)
    order = np.argsort(errors)
    errors, mass = errors[order], mass[order]
    # mass, and mass times error, of the errors below each of three heights
    masses, moments = np.append(0.0, np.cumsum(mass)), np.append(0.0, np.cumsum(mass * errors))
    first, second, third = (np.searchsorted(errors, height * (1 + 1e-9), side="right") for height in (MARGINS, again, 2 * again))
    killed = 1 - masses[first]
    wasted = MARGINS + killed * again - moments[third] + (masses[third] - masses[np.maximum(first, second)]) * 2 * again
    tail = _TAIL * MARGINS ** (-1 / _TAIL_SCALE) / (count + 1)
    return wasted + tail * (MARGINS + 1) + price * (killed + tail)


def _log_size(size: float) -> float:
    return math.log1p(max(size, 0.0)) if not math.isnan(size) else math.nan
