"""What would a retry policy have cost in the failures that happened? A Monte Carlo simulation with a fixed seed.

When an episode's trouble really went away is known only within an interval; the simulation draws that moment, over and
over, from the recovery curve restricted to the interval. Where inside the interval the truth lies is common to all
episodes of one draw (early in some draws, late in others): it is one unknown fact about the other side, not a thousand
coin flips, so the spread of the results shows how much is not known. The middle is taken as likelier than the ends.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflows_pkg import errors
from workflows_pkg.prediction.recovery import RecoveryCurve, curve, error_classes
from workflows_pkg.prediction.rows import Frame, numbers
from workflows_pkg.spec.model import Retry

MOST_ATTEMPTS = 10
DRAWS = 100
SEED = 20130101
TOLERANCE = 0.15
"""Share by which the simulated loss may miss the observed one."""
CALIBRATED_FROM = 8
"""Episodes under the policy in force from which the simulation is held against them; the mean of fewer is mostly chance."""
_CLASS_CURVE_FROM = 5
"""Episodes of a class from which it has a recovery curve of its own; smaller ones share one."""


@dataclass(frozen=True)
class Episodes:
    """Failures as the simulation sees them; arrays of one value per episode, times in seconds from the first failure's end.

    `recovery_s` and `chance` (0 to 1, for jitter) have one row per draw; infinite: it never recovered. `asked_s` is a wait
    the other side asked for, which no policy undercuts. `overhead_s` has a column per further attempt: what passes before it
    beyond the wait. It is the episode's own, since one history mixes runs whose attempts share a process with runs that
    start a process for each; a common figure would read the start of a process as slow recovery.
    """

    run: np.ndarray
    error_class: tuple[str, ...]
    same_version: np.ndarray
    observed_lost_s: np.ndarray
    retry_run_time_s: np.ndarray
    asked_s: np.ndarray
    overhead_s: np.ndarray
    recovery_s: np.ndarray
    chance: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """Per draw and episode: seconds from the first failure to the attempt that succeeds, or to giving up; whether it gave up."""

    lost_s: np.ndarray
    failed: np.ndarray


def prepare(found: Frame, run_ids: Sequence[str], now: Retry, version: int, draws: int = DRAWS, seed: int = SEED) -> Episodes:
    """The episodes (a frame of `prediction.recovery.episodes`) with their recovery times drawn `draws` times."""
    rng = np.random.default_rng(seed)
    place = {run_id: number for number, run_id in enumerate(run_ids)}
    curves = _curves(found)
    centre = rng.beta(2, 2, size=draws)[:, None]
    where = rng.beta(0.5 + 4 * centre, 0.5 + 4 * (1 - centre), size=(draws, len(found)))
    recovery = np.empty((draws, len(found)))
    for number, episode in enumerate(found.itertuples()):
        recovery[:, number] = _within(
            curves.get(str(episode.error_class)), float(episode.low_s), float(episode.high_s), where[:, number]
        )
    longest = max(longest_wait_s(now, number) for number in range(1, now.attempts + 1))
    waits = found["longest_wait_s"].to_numpy(float)
    same_version = numbers(found["version"]).to_numpy(float) == version
    # a wait longer than this version's policy can give was asked for by the other side (Retry-After)
    asked = np.where(same_version & (waits > longest + 0.001), waits, 0.0)
    return Episodes(
        run=np.array([place[run_id] for run_id in found["run_id"]], dtype=int),
        error_class=tuple(str(name) for name in found["error_class"]),
        same_version=same_version,
        observed_lost_s=found["lost_s"].to_numpy(float),
        retry_run_time_s=found["retry_run_time_s"].to_numpy(float),
        asked_s=asked,
        overhead_s=_overheads(found),
        recovery_s=recovery,
        chance=rng.uniform(size=(draws, len(found), MOST_ATTEMPTS)),
    )


def simulate(policy: Retry, episodes: Episodes, retried: frozenset[str]) -> dict[int, Outcome]:
    """The outcome under `policy` for every number of attempts from 1 to ten: the others of its fields stay as they are.

    `retried` names the error classes that the policy tries again; the rest fail at once.
    """
    shape = episodes.recovery_s.shape
    elapsed, lost = np.zeros(shape), np.zeros(shape)
    done = np.zeros(shape, bool)
    matched = np.array([name in retried for name in episodes.error_class])
    outcomes = {1: Outcome(lost.copy(), ~done)}
    for number in range(1, MOST_ATTEMPTS):
        wait = np.maximum(_waits(policy, number, episodes.chance[:, :, number - 1]), episodes.asked_s)
        begun = elapsed + wait + episodes.overhead_s[:, number - 1]
        trying = ~done & matched
        succeeds = trying & (begun >= episodes.recovery_s)
        elapsed = np.where(trying, np.where(succeeds, begun, begun + episodes.retry_run_time_s), elapsed)
        lost = np.where(trying, elapsed, lost)
        done = done | succeeds
        outcomes[number + 1] = Outcome(lost, ~done)
    return outcomes


@dataclass(frozen=True)
class Calibration:
    """What the episodes under the policy in force lost, in seconds per episode, beside what the simulation of it says.

    `low_s` and `high_s` hold 90 % of the draws: jitter alone moves the mean of few episodes.
    """

    episodes: int
    observed_s: float
    simulated_s: float
    low_s: float
    high_s: float

    @property
    def reproduces(self) -> bool:
        """Within `TOLERANCE` or the spread of the draws; true as well where too few episodes could tell."""
        near = abs(self.simulated_s - self.observed_s) <= TOLERANCE * self.observed_s
        return self.episodes < CALIBRATED_FROM or near or self.low_s <= self.observed_s <= self.high_s


def calibrate(current: Outcome, episodes: Episodes) -> Calibration | None:
    """How well the outcome of the policy in force agrees with its own episodes; None where all are of other versions."""
    own = episodes.same_version
    if not own.any():
        return None
    simulated = current.lost_s[:, own].mean(axis=1)
    low, high = np.quantile(simulated, [0.05, 0.95])
    return Calibration(
        int(own.sum()), float(episodes.observed_lost_s[own].mean()), float(simulated.mean()), float(low), float(high)
    )


def _overheads(found: Frame) -> np.ndarray:
    """Seconds before each further attempt beyond the wait: as recorded, then the episode's mean, then the median of all."""
    known = found["overhead_s"].dropna()
    mean = found["overhead_s"].fillna(float(known.median()) if len(known) else 0.0).to_numpy(float)
    filled = np.repeat(mean[:, None], MOST_ATTEMPTS, axis=1)
    for place, recorded in enumerate(found["overheads_s"]):
        own = np.array(recorded[:MOST_ATTEMPTS], dtype=float)
        filled[place, : len(own)] = np.where(np.isnan(own), mean[place], own)
    return filled


def _waits(policy: Retry, number: int, chance: np.ndarray) -> np.ndarray:
    """Waits before attempt `number` + 1 in seconds: Dagster's formulas (`dagster._core.definitions.policy.calculate_delay`)."""
    delay = policy.delay.total_seconds()
    full = grown_s(policy, number)
    if policy.jitter == "full":
        return full * chance
    if policy.jitter == "plus_minus":
        return full + (2 * chance - 1) * delay
    return np.full(chance.shape, full)


def grown_s(policy: Retry, number: int) -> float:
    """The wait before attempt `number` + 1 without jitter."""
    factor = {"constant": 1, "linear": number, "exponential": 2**number - 1}[policy.backoff]
    return policy.delay.total_seconds() * factor


def longest_wait_s(policy: Retry, number: int) -> float:
    """The longest wait the policy can give before attempt `number` + 1, jitter included."""
    return grown_s(policy, number) + (policy.delay.total_seconds() if policy.jitter == "plus_minus" else 0.0)


def names_of(error_class: str) -> frozenset[str]:
    """The class's own name and those of its parents, where it is one of Python's or of this project's; else its own alone."""
    kind = getattr(errors, error_class, None) or getattr(builtins, error_class, None)
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        return frozenset({error_class})
    return frozenset(parent.__name__ for parent in kind.__mro__)


def _curves(found: Frame) -> dict[str, RecoveryCurve]:
    hopeless = {item.name for item in error_classes(found) if item.hopeless}
    common = curve(found[~found["error_class"].isin(hopeless)], resamples=0)
    curves: dict[str, RecoveryCurve] = {}
    for name, group in found.groupby("error_class"):
        own = curve(group, resamples=0) if len(group) >= _CLASS_CURVE_FROM or name in hopeless else common
        if own is not None:
            curves[str(name)] = own
    return curves


def _within(of_class: RecoveryCurve | None, low: float, high: float, where: np.ndarray) -> np.ndarray:
    """Recovery times in (low, high] at the positions `where` (0 to 1) of the curve's mass there; evenly where it has none."""
    shares = np.array(of_class.shares) if of_class else np.zeros(1)
    waits = np.array(of_class.waits_s) if of_class else np.zeros(1)
    bottom = float(np.interp(low, waits, shares))
    top = float(np.interp(high, waits, shares)) if math.isfinite(high) else 1.0
    if top - bottom < 1e-9:
        return low + where * (high - low) if math.isfinite(high) else np.full(where.shape, np.inf)
    level = bottom + where * (top - bottom)
    drawn = np.interp(level, shares + 1e-12 * np.arange(len(shares)), waits)
    return np.where(level > shares[-1] + 1e-9, np.inf, np.clip(drawn, low, high))
