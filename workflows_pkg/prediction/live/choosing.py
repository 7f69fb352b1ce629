"""Which of several predictors answers for a key? The usual one, unless another has been better on the newest outcomes beyond chance.

All of them answer in the shadow of the one that is served. At every tenth run with an outcome the losses of the newest hundred runs are
compared in pairs, and another takes over where it lost less by more than `SURE` standard errors. Outcomes follow each other, and come in
fan-outs: those of one run count as one, and the standard error allows for correlation between runs (Newey and West, "A Simple, Positive
Semi-Definite, Heteroskedasticity and Autocorrelation Consistent Covariance Matrix", 1987). The one that took over is served until
another beats it in the same way, so nothing swings back for less than took it there.

The choice is replayed like the predictors: it rests on outcomes known by then, and what was served when an attempt was submitted can be
scored as it happened. Of earlier trainings one thing counts: which victories the last card tells of. They stand, also where the runs that
showed them are no longer replayed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np

LOOKED_EVERY = 10
"""Runs with an outcome between two looks."""
WINDOW, LEAST = 100, 30
"""Newest runs compared, and how many there must be."""
SURE = 3.0
"""Standard errors by which the mean loss must be less. One look in 741 is further above by chance where two are alike; looks overlap,
there are up to eight rules, and losses have heavy tails: the rate at which that changes anything is measured in the tests."""
LEAST_OF_A_KIND = 5
"""Runs with a failure, and without one, that must be among those compared where failures are foretold: where nothing has failed, whoever
says least looks best."""
WORTH = 0.02
"""Least share that a change must save of what was used, took or cost, or of the rate's loss: below it nobody would notice."""
_LAGS = 5
"""Runs apart to which losses may be correlated."""
MOST_FAULTS, SHOWN, DOUBT = 0.03, 0.05, 0.01
"""Share of runs that may have a fault (a kill). One takes over only where so few faults would be this rare, were that its true share: none
among a hundred runs; a rule that kills one in twenty is cheap until it does. The one that is served has to go where as many faults
would be rarer than the last."""


MOST_TOLD = 20
"""Changes that a card tells of one by one."""


@dataclass(frozen=True)
class Switch:
    """Another began to be served: when (seconds since 1970), after which number of runs of the key, and why."""

    at: float
    runs: int
    before: str
    after: str
    faults: bool


@dataclass(frozen=True)
class Choice:
    """What is served for a key. `by_row`: the place of the one served when each row was submitted. `switches`: oldest first.

    `losses`, `faults`: mean loss and share of faults of each candidate over the newest `runs` runs compared.
    """

    served: str
    switches: tuple[Switch, ...]
    by_row: np.ndarray
    runs: int
    losses: dict[str, float]
    faults: dict[str, float]

    def at(self, submitted: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The place in `names` of the one served at each instant, in seconds; also of what has no outcome."""
        if not self.switches:
            return np.full(len(submitted), list(names).index(self.served))
        served = [self.switches[0].before, *(one.after for one in self.switches)]
        places = np.array([list(names).index(name) for name in served])
        return places[np.searchsorted([one.at for one in self.switches], submitted, side="left")]


@dataclass(frozen=True)
class Candidates:
    """What each candidate lost on attempts with an outcome, one row per attempt and one column per name; the first is the usual one.

    `runs`: the run of each row; `submitted`, `finished`: seconds. `faults`: 1 where an answer did harm; None where none can. `before`: runs
    of the key that had an outcome before the first row, so that looks fall on the same runs whatever the rows begin with. `of`: what the
    losses are a share of, in their unit, by which it is decided what a change is worth; None: any gain is. `failed`: 1 where the attempt
    failed, if failures are foretold.
    """

    names: Sequence[str]
    losses: np.ndarray
    faults: np.ndarray | None
    runs: Sequence[str]
    submitted: np.ndarray
    finished: np.ndarray
    before: int = 0
    of: np.ndarray | None = None
    failed: np.ndarray | None = None


def choose(candidates: Candidates, carried: Switch | None = None) -> Choice:
    """Which candidate is served by now, and which was when each row was submitted.

    `carried`: the last change to another than the usual one, as an earlier training told of it; it is taken as it was.
    """
    names = list(candidates.names)
    # of a version with other predictors nothing can be carried on
    carried = carried if carried is not None and {carried.before, carried.after} <= set(names) else None
    codes, count, ends = _by_end(candidates.runs, candidates.finished)
    rows = np.bincount(codes, minlength=count).astype(float)
    losses = np.column_stack([np.bincount(codes, candidates.losses[:, place], count) / rows for place in range(len(names))])
    harmful = candidates.faults is not None
    harms = np.zeros_like(candidates.losses) if candidates.faults is None else candidates.faults
    faults = np.column_stack([np.bincount(codes, harms[:, place], count) / rows for place in range(len(names))])
    of = np.zeros(count) if candidates.of is None else np.bincount(codes, candidates.of, count) / rows
    came = None if candidates.failed is None else np.bincount(codes, candidates.failed, count) > 0
    served, state, switches = 0, np.zeros(count + 1, int), list[Switch]()
    if carried is not None and (not count or carried.at < ends[0]):
        served, switches, carried = names.index(carried.after), [carried], None
        state[0] = served
    for known in range(1, count + 1):
        if carried is not None and ends[known - 1] >= carried.at:
            if names[served] != carried.after:
                served = names.index(carried.after)
                switches.append(carried)
            carried = None
        elif (candidates.before + known) % LOOKED_EVERY == 0 and known >= LEAST:
            newest = slice(max(0, known - WINDOW), known)
            if came is not None and not LEAST_OF_A_KIND <= came[newest].sum() <= len(came[newest]) - LEAST_OF_A_KIND:
                state[known] = served
                continue
            better, forced = _better(losses[newest], faults[newest], served, WORTH * float(of[newest].mean()), harmful)
            if better != served:
                switches.append(Switch(float(ends[known - 1]), candidates.before + known, names[served], names[better], forced))
                served = better
        state[known] = served
    by_row = state[np.searchsorted(ends, candidates.submitted, side="left")]
    newest = slice(max(0, count - WINDOW), count)
    return Choice(
        names[served], tuple(switches), by_row, min(count, WINDOW),
        dict(zip(names, losses[newest].mean(axis=0).tolist(), strict=True)) if count else {},
        dict(zip(names, faults[newest].mean(axis=0).tolist(), strict=True)) if count else {},
    )  # fmt: skip


def _by_end(runs: Sequence[str], finished: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """The place of each row's run in the order in which runs ended, how many runs there are, and when each ended."""
    found, code = np.unique(np.asarray(runs, dtype=str), return_inverse=True)
    ends = np.full(len(found), -math.inf)
    np.maximum.at(ends, code, finished)
    order = np.lexsort((found, ends))
    place = np.empty(len(found), int)
    place[order] = np.arange(len(found))
    return place[code], len(found), ends[order]


def _better(losses: np.ndarray, faults: np.ndarray, served: int, least: float, harmful: bool) -> tuple[int, bool]:
    """The place of the one to serve from now on, and whether the one before did too much harm."""
    count = len(losses)
    means = losses.mean(axis=0)
    if not harmful:
        return _sure_winner(losses, means, served, least, np.arange(len(means))), False
    harm = faults.sum(axis=0)
    safe = np.array([_chance_of_at_most(math.floor(one + 1e-9), count) <= SHOWN for one in harm])
    if 1 - _chance_of_at_most(math.ceil(harm[served] - 1e-9) - 1, count) < DOUBT:
        # of those that do no such harm the cheapest; where all do, the one that does least
        able = np.flatnonzero(safe) if safe.any() else np.flatnonzero(harm == harm.min())
        chosen = int(able[np.argmin(means[able])])
        return (chosen, True) if harm[chosen] < harm[served] else (served, False)
    return _sure_winner(losses, means, served, least, np.flatnonzero(safe)), False


def _sure_winner(losses: np.ndarray, means: np.ndarray, served: int, least: float, able: np.ndarray) -> int:
    """Of those that are able and better beyond chance the one that lost least; the one that is served where there is none."""
    gained = [
        int(place)
        for place in able
        if place != served and means[served] - means[place] > least and _sure(losses[:, served] - losses[:, place])
    ]
    return min(gained, key=lambda place: means[place]) if gained else served


def _sure(gains: np.ndarray) -> bool:
    """Whether the mean is above zero by more than `SURE` standard errors."""
    count = len(gains)
    apart = gains - gains.mean()
    variance = own = float(apart @ apart) / count
    for lag in range(1, _LAGS + 1):
        variance += 2 * (1 - lag / (_LAGS + 1)) * float(apart[lag:] @ apart[:-lag]) / count
    # correlation below zero is not believed: it would make sure of what is not
    return float(gains.mean()) > SURE * math.sqrt(max(variance, own) / count)


def _chance_of_at_most(faults: int, count: int) -> float:
    """How likely so few faults among `count` runs are, were `MOST_FAULTS` their share."""
    return sum(math.comb(count, k) * MOST_FAULTS**k * (1 - MOST_FAULTS) ** (count - k) for k in range(faults + 1))


def summary(choices: Mapping[str, Choice], usual: str, before: Mapping[str, str] | None) -> dict[str, Any]:
    """What a card says of the choices of one question, by key, in JSON's types.

    `served`: how many keys each predictor serves; `in_shadow`: how many it answers for unheard; `others`: the keys that another than the
    usual one serves, and `since` which change, for the next training; `changed`: what is served otherwise than at the last training, whose
    `others` are `before` (None: there was none), with the mean losses and shares of faults that speak for it, newest first; at most
    `MOST_TOLD`.
    """
    others = {key: choice.served for key, choice in choices.items() if choice.served != usual}
    names = dict.fromkeys(name for choice in choices.values() for name in choice.losses)
    served = Counter(choice.served for choice in choices.values())
    now = {key: others.get(key, usual) for key in choices}
    changed = [key for key in choices if before is not None and now[key] != before.get(key, usual)]
    changed.sort(key=lambda key: -max((one.at for one in choices[key].switches), default=0.0))
    return {
        "usual": usual,
        "keys": len(choices),
        "served": dict(served.most_common()),
        "in_shadow": {name: len(choices) - served[name] for name in names},
        "others": others,
        "since": {key: asdict(choices[key].switches[-1]) for key in others},
        "changed": [_change(key, choices[key], before or {}, usual) for key in changed[:MOST_TOLD]],
        "changed_keys": len(changed),
    }


NOTHING_CARRIED: Mapping[str, Switch] = MappingProxyType({})
"""Where there was no earlier training."""


def called(job: str, step: str, quantity: str = "") -> str:
    """What a card calls a key; `step` is empty for the whole run, `quantity` where there is only one.

    >>> called("etl", "", "run_time_s"), called("etl", "load")
    ('etl / whole run: run_time_s', 'etl / load')
    """
    whole = f"{job} / {step or 'whole run'}"
    return f"{whole}: {quantity}" if quantity else whole


def carried(card: Mapping[str, Any], question: str) -> dict[str, Switch]:
    """The changes that a card tells of as in force, as `called`; none where it tells nothing of the question, or in another way."""
    try:
        since: Mapping[str, Mapping[str, Any]] = card["choices"][question]["since"]
        return {key: _told(one) for key, one in since.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _told(one: Mapping[str, Any]) -> Switch:
    if not (isinstance(one["before"], str) and isinstance(one["after"], str) and math.isfinite(one["at"])):
        raise ValueError
    return Switch(**one)


def others_before(card: Mapping[str, Any], question: str) -> dict[str, str] | None:
    """The keys that another than the usual one served, by a card; None where it tells nothing of the question, or in another way."""
    try:
        others: Mapping[str, Any] = card["choices"][question]["others"]
        return {key: str(name) for key, name in others.items()}
    except (KeyError, TypeError, AttributeError):
        return None


def _change(key: str, choice: Choice, before: Mapping[str, str], usual: str) -> dict[str, Any]:
    old = before.get(key, usual)
    newest = choice.switches[-1] if choice.switches else None
    return {
        "key": key,
        "promoted": choice.served,
        "withdrawn": old,
        "at": None if newest is None else datetime.fromtimestamp(newest.at, UTC).isoformat(),
        "runs": choice.runs,
        "loss": choice.losses.get(choice.served),
        "loss_of_withdrawn": choice.losses.get(old),
        "faults": choice.faults.get(choice.served),
        "faults_of_withdrawn": choice.faults.get(old),
    }


RULE_OF_CHOICE = {
    "window": f"the newest {WINDOW} runs of the key, at least {LEAST}; looked at every {LOOKED_EVERY} runs",
    "test": f"mean paired difference of losses above {SURE:g} standard errors (Newey and West, {_LAGS} lags), each run counting once",
    "worth": f"at least {WORTH:.0%} of what came, of what was used, or of the rate's squared error",
    "kept": "until another beats it, also where the runs that showed it are no longer replayed",
    "faults": f"one takes over only where more than {MOST_FAULTS:.0%} killed is ruled out at {SHOWN:.0%}, and goes where it is likely",
}
"""How it is chosen, for a card."""
