"""Who answers about times, costs and peaks? The predictor that weighs rules and learned opinions, or a simple rule that has been nearer.

What is compared is the distance of the middle from what came, in the quantity's own unit. The weighing takes rules in already and mostly
finds the best of them by itself; a rule takes over where that fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workflows_pkg.prediction.live.choosing import Candidates, Choice, Switch, choose
from workflows_pkg.prediction.rows import Frame
from workflows_pkg.prediction.rules import RULES

TIMES = "run_time_s"
"""What a card calls the question who serves times, costs and peaks."""
LEARNED = "weighed_experts"
"""Served unless a simple rule has been nearer."""
ALONE = {name: f"{name}_alone" for name in RULES}
"""What a rule is called where it answers by itself, and is not only what counts most in the weighing."""


@dataclass(frozen=True)
class Judged:
    """The middles and ends as served, one row each as given; which rows a rule answered, by its name; and the choice of each key."""

    ends: np.ndarray
    rule: np.ndarray
    choices: dict[tuple[str, str], Choice]


def judged(table: Frame, carried: Mapping[tuple[str, str], Switch] | None = None) -> Judged:
    """What is served of `table`: one row per observation, with `workflow`, `step`, `run_id`, `submitted_s`, `finished_s` and `value`,
    the answers `p05`, `p50`, `p95` and `count`, and one column per simple rule.

    Where a rule answers, its middle takes the place of that of the weighing. The interval stays, since what came has calibrated it, and
    reaches to the rule's middle where that lies outside: so it holds no less than before. Quantiles of the rule's own errors were tried
    instead, and were up to ten times as bad by interval score on a public trace: they remember a shift for longer.
    """
    ends = table[["p05", "p50", "p95"]].to_numpy(float, copy=True)
    said = np.column_stack([ends[:, 1], table[list(RULES)].to_numpy(float)])
    value = table["value"].to_numpy(float)
    submitted, finished = table["submitted_s"].to_numpy(float), table["finished_s"].to_numpy(float)
    scored = ~np.isnan(value) & ~np.isnan(finished) & (table["count"].to_numpy(float) > 0) & ~np.isnan(said).any(axis=1)
    known = table["value"].notna().to_numpy()
    runs = table["run_id"].to_numpy(object)
    names = (LEARNED, *RULES)
    rule = np.full(len(table), None, dtype=object)
    choices: dict[tuple[str, str], Choice] = {}
    for (job, step), places in table.groupby(["workflow", "step"], sort=True).indices.items():
        key = str(job), str(step)
        kept = places[scored[places]]
        before = places[(places < kept[0]) & known[places]] if len(kept) else places[:0]
        choice = choices[key] = choose(
            Candidates(
                names, np.abs(said[kept] - value[kept, None]), None, runs[kept].tolist(), submitted[kept], finished[kept],
                len(set(runs[before])), of=value[kept],
            ),
            (carried or {}).get(key),
        )  # fmt: skip
        if not choice.switches:
            continue
        served = choice.at(submitted[places], names)
        for number in set(served.tolist()) - {0}:
            mine = places[(served == number) & ~np.isnan(said[places, number])]
            middle = said[mine, number]
            ends[mine] = np.column_stack([np.fmin(ends[mine, 0], middle), middle, np.fmax(ends[mine, 2], middle)])
            rule[mine] = names[number]
    return Judged(ends, rule, choices)
