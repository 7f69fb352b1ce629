"""How much memory should the next attempt of each step ask for? The predictor that sizes by cost, or a simple rule that costs less.

A request is judged by what it would have cost: what was asked for and not used, times the run time, and everything a killed attempt had,
by the same code as on recorded traces. Where the author of a step states how much memory it may use, no request is above that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.baselines.memory import BASELINES, MAX_SEEN, MemoryBaselines
from workflows_pkg.prediction.evaluation.memory import Sized, size
from workflows_pkg.prediction.evaluation.replay import replay
from workflows_pkg.prediction.live.attempts import by_key, replayed
from workflows_pkg.prediction.live.basis import text
from workflows_pkg.prediction.live.choosing import MOST_FAULTS, NOTHING_CARRIED, Candidates, Choice, Switch, called, choose
from workflows_pkg.prediction.memory import MemoryPredictor
from workflows_pkg.prediction.rows import Frame

PEAK, REQUEST, RETRY = "peak_memory_mib", "memory_request_mib", "memory_retry_mib"
LEARNED = "sized_by_cost"
"""Served unless a simple rule has done better."""

_MIB, _GB_IN_GIB = 2.0**20, 1e9 / 2**30


@dataclass(frozen=True)
class _Asked:
    """The candidates' requests of every row in bytes, and what became of them."""

    requests: np.ndarray
    again: np.ndarray
    sized: list[Sized]


def requests(
    attempts: Frame, moment: datetime, partitions: Mapping[str, str], carried: Mapping[str, Switch] = NOTHING_CARRIED
) -> tuple[list[Forecast], dict[tuple[str, str], Choice]]:
    """What the next attempt of every step with a metered success should ask for, and its first retry after a kill; the choices made.

    `attempts` as `replayed` takes them; those without a peak say nothing here. `carried`: what an earlier
    training had changed, as `called`.
    """
    metered = attempts[attempts["peak_memory_mib"].notna() & (attempts["peak_memory_mib"] > 0)]
    if metered.empty:
        return [], {}
    shown = replayed(metered, moment, partitions)
    rows = shown.trace.rows
    ours = replay(shown.trace, MemoryPredictor(), asked=shown.asked)
    rules = replay(shown.trace, MemoryBaselines(), asked=shown.asked)
    names = (LEARNED, *BASELINES)
    limit = rows["memory_requested_bytes"].to_numpy(float)
    asked = np.fmin(np.column_stack([ours["request_bytes"], rules[list(BASELINES)]]).astype(float), limit[:, None])
    largest = rules[MAX_SEEN].to_numpy(float)
    again = np.fmin(np.where(largest[:, None] > asked, largest[:, None], 2 * asked), limit[:, None])
    again[:, 0] = ours["retry_bytes"]
    peak, hours = rows["peak_memory_bytes"].to_numpy(float), rows["run_time_s"].to_numpy(float) / 3600
    scored = shown.asked & (rows["failed"] == 0).to_numpy() & ~np.isnan(asked).any(axis=1) & ~np.isnan(hours) & ~np.isnan(peak)
    free = np.where(np.isnan(limit), np.inf, limit)
    sized = [size(asked[:, place], peak, free, largest, hours) for place in range(len(names))]
    told = _Asked(asked, again, sized)
    of_key = by_key(shown, scored)
    found: list[Forecast] = []
    choices: dict[tuple[str, str], Choice] = {}
    for (job, step, retry), place in shown.ahead.items():
        kept, before = of_key.get((job, step, retry), (np.zeros(0, int), 0))
        if np.isnan(asked[place, 0]):
            continue  # metered attempts that all failed: how much is enough was not seen
        used = peak[kept] * hours[kept] / 1e9
        choice = choose(
            Candidates(
                names, np.column_stack([one.wasted_gbh[kept] for one in sized]),
                np.column_stack([(one.kills[kept] > 0).astype(float) for one in sized]), rows["run_id"].iloc[kept].tolist(),
                rows["submitted_s"].to_numpy(float)[kept], rows["finished_s"].to_numpy(float)[kept], before,
                of=used,
            ),
            carried.get(called(job, step)),
        )  # fmt: skip
        choices[job, step] = choice
        teaching = (rows["workflow"] == job) & (rows["step"] == step) & (rows["failed"] == 0)
        found += _forecasts(job, step, moment, told, place, kept, used, choice, int(teaching.sum()), names, limit[place])
    return found, choices


def _forecasts(
    job: str, step: str, moment: datetime, told: _Asked, place: int, kept: np.ndarray, used: np.ndarray, choice: Choice, count: int,
    names: tuple[str, ...], limit: float,
) -> list[Forecast]:  # fmt: skip
    served = names.index(choice.served)
    error, best, best_error, basis = None, None, None, dict[str, Any]()
    if not np.isnan(limit):
        basis["limit_mib"] = limit / _MIB
    if len(kept) >= _SCORED_FROM and used.sum() > 0:
        live = _told([one.wasted_gbh[kept] for one in told.sized], [one.kills[kept] for one in told.sized], choice.by_row)
        scores = {name: _score(told.sized[number], kept) for number, name in enumerate(names)}
        best = _best_rule(scores)
        error, best_error = float(live[0] / used.sum()), scores[best]["wasted_gib_h"] / (used.sum() * _GB_IN_GIB)
        basis |= {
            "outcomes": len(kept),
            "used_gib_h": float(used.sum() * _GB_IN_GIB),
            "as_served": {"wasted_gib_h": float(live[0] * _GB_IN_GIB), "killed_share": float(live[1])},
            "scores": {name: scores[name] for name in dict.fromkeys((LEARNED, best, choice.served))},
        }
    if choice.switches:
        newest = choice.switches[-1]
        basis["since"] = {"at": newest.at, "after": newest.before, "killed": newest.faults}
    request, again = told.requests[place, served] / _MIB, told.again[place, served] / _MIB

    def forecast(quantity: str, value: float) -> Forecast:
        whole = quantity == REQUEST
        return Forecast(
            job_name=job, step=step, quantity=quantity, p05=value, p50=value, p95=value, sample_count=count, predictor=choice.served,
            error_share=error if whole else None, best_rule=best if whole else None,
            best_rule_error_share=best_error if whole else None, as_of=moment, basis=text(basis) if whole and basis else None,
        )  # fmt: skip

    return [forecast(REQUEST, float(request)), forecast(RETRY, float(again))]


_SCORED_FROM = 5


def _score(sized: Sized, kept: np.ndarray) -> dict[str, float]:
    return {
        "wasted_gib_h": float(sized.wasted_gbh[kept].sum() * _GB_IN_GIB),
        "killed_share": float((sized.kills[kept] > 0).mean()),
    }


def _told(wasted: list[np.ndarray], kills: list[np.ndarray], by_row: np.ndarray) -> tuple[float, float]:
    """What was wasted, and the share killed, with the candidate that was served at each submission."""
    rows = np.arange(len(by_row))
    return float(np.column_stack(wasted)[rows, by_row].sum()), float((np.column_stack(kills)[rows, by_row] > 0).mean())


def _best_rule(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The simple rule that wasted least, of those that killed no more than wanted where there are any."""
    gentle = [name for name in BASELINES if scores[name]["killed_share"] <= MOST_FAULTS] or list(BASELINES)
    return min(gentle, key=lambda name: scores[name]["wasted_gib_h"])
