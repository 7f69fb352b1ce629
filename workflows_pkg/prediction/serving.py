"""Which predictor answers for a key, and how wide is its interval?

Served is the candidate with the smallest mean error in the key's own past; the learned predictor only where it beats
the best simple rule. With few outcomes, what all keys together showed is blended in. The interval is conformal: quantiles
of the served predictions' own past errors, corrected online so that misses stay near 5 % on either side (Gibbs and
Candès, "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from workflows_pkg.prediction.duration import NAME, learned
from workflows_pkg.prediction.features import FLOOR, RULE_PREFIX, feature_table, timeline
from workflows_pkg.prediction.rows import Frame
from workflows_pkg.prediction.rules import RULES

CANDIDATES = (*RULES, NAME)

# _MARGIN, _PRIOR and _FORGET are the best of 16 combinations on seven small public traces; the largest was not among them.
_MARGIN = 0.1
"""Share by which the learned predictor must be better than the best rule: a tie is given to the simpler one."""
_PRIOR = 25.0
"""Outcomes that the experience of all keys counts for against a key's own."""
_FORGET = 0.99
"""Weight of a key's error after each further one: about the newest hundred decide."""
_FORGET_ALL = 0.998
_ERROR_CAP = 2.0
"""Absolute log errors are cut here, so that one stray value does not choose the predictor."""
_TAIL = 0.05
_STEP = 0.015
"""How far one outcome moves the level of a tail."""
_FULL = 20
"""Own errors from which an interval rests on them alone: the 95 % quantile of fewer is their maximum."""
_NEWEST = 200
_REACH = math.log(10.0)
"""While an interval rests on fewer than `_FULL` outcomes, its ends stay within a factor of ten of what the key has shown: the
spread of other keys says little about this one's extremes, and "at most two days" for a run of seconds helps nobody."""
_EQUAL = 1e-9
"""Values equal to an end of the interval lie inside, whatever a logarithm and its inverse round."""
_DEFAULT_SCALE = 0.3
"""Mean absolute log error assumed before any outcome at all: a third more or less."""


@dataclass
class _All:
    """What all keys together showed."""

    regret: np.ndarray = field(default_factory=lambda: np.zeros(len(CANDIDATES)))
    weight: np.ndarray = field(default_factory=lambda: np.zeros(len(CANDIDATES)))
    scaled: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    size: float = _DEFAULT_SCALE
    count: int = 0
    tail_low: float = _TAIL
    tail_high: float = _TAIL

    @classmethod
    def of_repeated(cls) -> _All:
        """The start for rows whose partition ran before: its own median is expected to be a third better than other rules."""
        everyone = cls()
        everyone.weight += np.array([_PRIOR] * len(RULES) + [0.0])
        everyone.regret += everyone.weight
        everyone.regret[list(RULES).index("median_of_partition")] *= 2 / 3
        return everyone


@dataclass
class _Key:
    """What one key showed."""

    error: np.ndarray = field(default_factory=lambda: np.zeros(len(CANDIDATES)))
    weight: np.ndarray = field(default_factory=lambda: np.zeros(len(CANDIDATES)))
    level: float = 0.0
    level_weight: float = 0.0
    residuals: deque[float] = field(default_factory=lambda: deque(maxlen=_NEWEST))
    tail_low: float = _TAIL
    tail_high: float = _TAIL
    interval_loss: np.ndarray = field(default_factory=lambda: np.zeros(2))
    interval_weight: float = 0.0
    lowest: float = math.inf
    highest: float = -math.inf


def predictions(observations: Frame, floor: float = FLOOR) -> Frame:
    """What is served for every observation, made at its submission from what had finished strictly before.

    One row per observation on the same index; columns `p05`, `p50`, `p95`, `predictor` (its name), `count` (finished
    values of the key then known), one column per simple rule and one for the learned predictor, `rule_p05` and
    `rule_p95` (quantiles of history). All but `count` are missing for cold rows: unknown, never zero.
    """
    features = feature_table(observations, floor)
    table = features[["count", "rule_p05", "rule_p95"]].copy()
    for name in RULES:
        table[name] = features[RULE_PREFIX + name]
    table[NAME] = learned(observations, features, floor)
    table["partition_count"] = features["partition_count"]
    return pd.concat([_serve(observations, table, floor), table], axis=1)


def _serve(observations: Frame, table: Frame, floor: float) -> Frame:
    keys = observations.groupby(["job_name", "step"], sort=False, dropna=False).ngroup().to_list()
    repeated = (table["partition_count"] > 0).to_list()
    with np.errstate(invalid="ignore"):
        logs = np.log(np.maximum(table[list(CANDIDATES)].to_numpy(float), floor))
        history = np.log(np.maximum(table[["rule_p05", "rule_p95"]].to_numpy(float), floor)) + np.array([-_EQUAL, _EQUAL])
        truth = np.log(np.maximum(observations["value"].to_numpy(float), floor))
    by_key: dict[tuple[int, bool], _Key] = {}
    commons = {False: _All(), True: _All.of_repeated()}
    chosen = np.full(len(observations), -1)
    bounds = np.full((len(observations), 3), np.nan)
    conformal = np.full((len(observations), 2), np.nan)
    for row, finishes in timeline(observations):
        key = by_key.setdefault((keys[row], repeated[row]), _Key())
        everyone = commons[repeated[row]]
        if finishes:
            if not math.isnan(truth[row]):
                key.lowest, key.highest = min(key.lowest, truth[row]), max(key.highest, truth[row])
            if chosen[row] >= 0 and not math.isnan(truth[row]):
                _learn(key, everyone, logs[row], truth[row], bounds[row, 1], conformal[row])
                _compare(key, truth[row], conformal[row], history[row])
        elif not math.isnan(logs[row, 0]):
            chosen[row] = _choose(key, everyone, logs[row])
            middle = logs[row, chosen[row]]
            low, high = _offsets(key, everyone)
            ends = middle + min(low, 0.0) - _EQUAL, middle + max(high, 0.0) + _EQUAL
            conformal[row] = _within_reach(key, middle, *ends)
            low, high = history[row] if _history_is_sharper(key, history[row]) else conformal[row]
            bounds[row] = min(low, middle), middle, max(high, middle)
    names = np.array([*CANDIDATES, None], dtype=object)
    return pd.DataFrame(
        {"p05": np.exp(bounds[:, 0]), "p50": np.exp(bounds[:, 1]), "p95": np.exp(bounds[:, 2]), "predictor": names[chosen]},
        index=observations.index,
    )


def _choose(key: _Key, everyone: _All, logs: np.ndarray) -> int:
    """The position of the candidate with the smallest blended mean error; the first rule on a tie."""
    with np.errstate(invalid="ignore", divide="ignore"):
        common = np.where(everyone.weight > 0, everyone.regret / everyone.weight, 1.0)
        level = key.level / key.level_weight if key.level_weight else everyone.size
        score = (key.error + _PRIOR * level * common) / (key.weight + _PRIOR)
    score = np.where(np.isnan(logs), np.inf, score)
    best_rule = int(np.argmin(score[:-1]))
    if everyone.weight[-1] >= _PRIOR and score[-1] < (1 - _MARGIN) * score[best_rule]:
        return len(score) - 1
    return best_rule


def _offsets(key: _Key, everyone: _All) -> tuple[float, float]:
    """Lower and upper end of the interval as log distances from the prediction."""
    own = np.fromiter(key.residuals, float)
    borrowed = _FULL - len(own)
    if borrowed > 0:
        scale = _scale(key, everyone)
        places = (np.arange(borrowed) + 0.5) / borrowed
        shape = np.quantile(np.fromiter(everyone.scaled, float), places) if len(everyone.scaled) >= _FULL else 4 * (places - 0.5)
        own = np.concatenate([own, scale * shape])
    tails = key if borrowed <= 0 else everyone
    own.sort()
    count = len(own)
    # the (n + 1) correction makes the quantile of n exchangeable errors cover the next one
    low = max(0, math.floor(tails.tail_low * (count + 1)) - 1)
    high = min(count - 1, math.ceil((1 - tails.tail_high) * (count + 1)) - 1)
    return float(own[low]), float(own[high])


def _within_reach(key: _Key, middle: float, low: float, high: float) -> tuple[float, float]:
    if len(key.residuals) >= _FULL or key.lowest > key.highest:
        return low, high
    return max(low, min(key.lowest, middle) - _REACH), min(high, max(key.highest, middle) + _REACH)


def _scale(key: _Key, everyone: _All) -> float:
    return (sum(abs(residual) for residual in key.residuals) + 2 * everyone.size) / (len(key.residuals) + 2)


def _history_is_sharper(key: _Key, history: np.ndarray) -> bool:
    """Whether the plain quantiles of history lost clearly less than the conformal interval: values of several kinds do that."""
    if key.interval_weight < _FULL or math.isnan(history[0]):
        return False
    return bool(key.interval_loss[1] < (1 - _MARGIN) * key.interval_loss[0])


def _compare(key: _Key, truth: float, conformal: np.ndarray, history: np.ndarray) -> None:
    """Adds the pinball losses of both intervals, for rows on which both were there; losses are log distances."""
    if math.isnan(history[0]):
        return
    losses = [
        sum(max(level * (truth - end), (level - 1) * (truth - end)) for level, end in zip((_TAIL, 1 - _TAIL), ends, strict=True))
        for ends in (conformal, history)
    ]
    key.interval_loss = key.interval_loss * _FORGET + np.array(losses)
    key.interval_weight += 1


def _learn(key: _Key, everyone: _All, logs: np.ndarray, truth: float, middle: float, conformal: np.ndarray) -> None:
    error = np.minimum(np.abs(logs - truth), _ERROR_CAP)
    known = ~np.isnan(error)
    level = float(np.mean(error[:-1]))
    key.weight *= np.where(known, _FORGET, 1.0)
    key.error *= np.where(known, _FORGET, 1.0)
    key.error[known] += error[known]
    key.weight[known] += 1
    key.level = key.level * _FORGET + level
    key.level_weight = key.level_weight * _FORGET + 1
    usual = key.level / key.level_weight
    if usual > 0:
        everyone.weight *= np.where(known, _FORGET_ALL, 1.0)
        everyone.regret *= np.where(known, _FORGET_ALL, 1.0)
        everyone.regret[known] += error[known] / usual
        everyone.weight[known] += 1
    residual = truth - middle
    scale = _scale(key, everyone)
    if scale > 0:
        everyone.scaled.append(residual / scale)
    everyone.count += 1
    share = max(0.01, 1 / everyone.count)
    everyone.size += share * (min(abs(residual), _ERROR_CAP) - everyone.size)
    tails = key if len(key.residuals) >= _FULL else everyone
    tails.tail_low = _moved(tails.tail_low, bool(truth < conformal[0]))
    tails.tail_high = _moved(tails.tail_high, bool(truth > conformal[1]))
    key.residuals.append(residual)


def _moved(level: float, missed: bool) -> float:
    return min(0.15, max(0.002, level + _STEP * (_TAIL - missed)))
