"""A verdict calls noise a gain no more often than it says, finds a planted gain, and is not fooled by a machine that drifts."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from workflows_pkg.history.records import Suggestion
from workflows_pkg.release.trial import FEWEST_PAIRS, Measured, Pair, interleaved, interval, ledger_entry, run_trial, verdict

TRIALS = 1_500


def paired(index, old, new):
    """A pair of these values; None: that run failed and has none."""
    return Pair(index, Measured(old, old is None), Measured(new, new is None))


def simulated(generator, *, gain=0.0, noise=0.08, drift=0.0, pairs=12, order=interleaved):
    """A trial whose runs take about 10 s; the machine grows slower by `drift` of that over the trial, with a bend and noise."""
    arms = order(pairs)
    values = {"baseline": [], "candidate": []}
    for place, arm in enumerate(arms):
        slower = 1 + drift * place / len(arms)
        expected = 10 * slower * (1 - gain if arm == "candidate" else 1)
        values[arm].append(expected * generator.lognormal(0, noise))
    return [paired(index, old, new) for index, (old, new) in enumerate(zip(values["baseline"], values["candidate"], strict=True))]


def share_of_gains(decide, **how):
    generator = np.random.default_rng(7)
    return sum(decide(simulated(generator, **how)) == "gain" for _ in range(TRIALS)) / TRIALS


def by_rule(pairs):
    return verdict(pairs).name


def test_runs_that_fail_either_way_are_compared_by_the_time_they_lost():
    pairs = [Pair(index, Measured(3.0 + index % 2 * 0.1, True), Measured(1.0, True)) for index in range(12)]
    found = verdict(pairs)
    assert (found.name, found.pairs, found.failures) == ("gain", 12, (12, 12))


def test_runs_are_interleaved_abba():
    assert interleaved(4) == ["baseline", "candidate", "candidate", "baseline"] * 2


def test_trial_runs_both_versions_on_each_input_in_that_order():
    calls = []

    def run(arm):
        def one(index):
            calls.append((arm, index))
            failed = (arm, index) == ("candidate", 1)
            return Measured(None if failed else float(index), failed)

        return one

    pairs = run_trial(run("baseline"), run("candidate"), 3)
    assert calls == [
        ("baseline", 0),
        ("candidate", 0),
        ("candidate", 1),
        ("baseline", 1),
        ("baseline", 2),
        ("candidate", 2),
    ]
    assert pairs[1] == paired(1, 1.0, None)
    assert (pairs[1].failures, pairs[1].difference, pairs[2].difference) == ((0, 1), None, 0.0)


@pytest.mark.parametrize("noise", [0.02, 0.08, 0.5])
@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_equal_versions_are_called_a_gain_at_most_in_one_of_twenty_trials(noise, drift):
    assert share_of_gains(by_rule, noise=noise, drift=drift) <= 0.05


def test_planted_gain_is_found_in_nine_of_ten_trials_and_under_drift():
    assert share_of_gains(by_rule, gain=0.12) >= 0.9
    assert share_of_gains(by_rule, gain=0.12, drift=0.6) >= 0.85


def test_control_an_unpaired_comparison_misses_the_same_gain_under_drift():
    def unpaired(pairs):
        old, new = (np.array([getattr(pair, arm).value for pair in pairs]) for arm in ("baseline", "candidate"))
        error = math.sqrt(old.var(ddof=1) / len(old) + new.var(ddof=1) / len(new))
        return "gain" if (new.mean() - old.mean()) / error < -2.07 else "not shown"

    assert share_of_gains(unpaired, gain=0.12, drift=0.6) < 0.6


def test_control_running_one_version_after_the_other_takes_drift_for_an_effect():
    def in_blocks(pairs):
        return ["baseline"] * pairs + ["candidate"] * pairs

    found = share_of_gains(by_rule, order=in_blocks, drift=-0.3)
    assert found > 0.5, "equal versions on a machine that grows faster: blocks must call it a gain"


def test_control_a_verdict_on_the_mean_alone_is_caught_by_the_error_rate():
    def eager(pairs):
        return "gain" if np.mean([pair.difference for pair in pairs]) < 0 else "not shown"

    assert share_of_gains(eager) > 0.4


def test_control_plain_percentiles_are_too_narrow_for_a_dozen_pairs():
    generator = np.random.default_rng(3)
    plain = expanded = 0
    for _ in range(TRIALS):
        differences = generator.normal(0, 1, 12)
        means = differences[generator.integers(0, 12, (2000, 12))].mean(axis=1)
        plain += not np.quantile(means, 0.025) <= 0 <= np.quantile(means, 0.975)
        low, high = interval(list(differences))
        expanded += not low <= 0 <= high
    assert expanded / TRIALS < 0.065 < plain / TRIALS


def test_same_pairs_give_the_same_verdict():
    pairs = simulated(np.random.default_rng(1), gain=0.1)
    assert verdict(pairs) == verdict(pairs)


def test_gain_needs_no_more_failures_than_before():
    pairs = [paired(index, 10.0 + index % 3, 8.0 + index % 3) for index in range(11)]
    assert verdict([*pairs, paired(11, 10.0, 8.0)]).name == "gain"
    worse = verdict([*pairs, paired(11, 10.0, None)])
    assert (worse.name, worse.failures, worse.pairs) == ("not shown", (0, 1), 11)
    assert "1 runs failed against 0" in worse.reason
    assert verdict([*pairs, paired(11, None, None)]).name == "gain"


def test_no_gain_means_that_every_gain_worth_having_is_excluded():
    equal = [paired(index, 10.0, 10.0 + (-1) ** index * 0.1) for index in range(12)]
    assert verdict(equal).name == "no gain"
    assert verdict(equal).smallest_worth == pytest.approx(0.5)
    noisy = [paired(index, 10.0, 10.0 + (-1) ** index * 4) for index in range(12)]
    assert verdict(noisy).name == "not shown"
    sure_but_tiny = [paired(index, 10.0, 9.99) for index in range(12)]
    assert verdict(sure_but_tiny).name == "no gain"


def test_slower_version_is_no_gain():
    assert verdict([paired(index, 10.0, 12.0 + index % 2) for index in range(12)]).name == "no gain"


def test_too_few_complete_pairs_show_nothing_however_clear_they_look():
    few = [paired(index, 10.0, 5.0) for index in range(FEWEST_PAIRS - 1)]
    assert verdict(few).name == "not shown"
    assert verdict([*few, paired(9, 10.0, 5.0)]).name == "gain"
    nothing = verdict([paired(0, None, None)])
    assert (nothing.name, nothing.pairs, nothing.failures) == ("not shown", 0, (1, 1))
    assert math.isnan(nothing.mean)
    assert verdict([]).name == "not shown"


def test_ledger_sets_the_prediction_beside_what_came_of_it():
    now = datetime(2026, 5, 1, tzinfo=UTC)
    suggestion = Suggestion(
        suggestion_id="s-1",
        kind="timeout",
        workflow="daily",
        step="score",
        based_on=3,
        title="t",
        change="[]",
        spec="{}",
        evidence="{}",
        quantity="run_time_s",
        effect=-2.0,
        effect_low=-3.0,
        effect_high=-1.0,
        created_at=now,
    )
    found = verdict([paired(index, 10.0, 8.5 + 0.1 * (index % 2)) for index in range(12)], predicted=suggestion.effect)
    entry = ledger_entry(suggestion, found, trial_id="t-1", version=4, decided_at=now)
    assert (entry.baseline_version, entry.version, entry.pairs, entry.verdict) == (3, 4, 12, "gain")
    assert (entry.predicted, entry.predicted_low, entry.predicted_high) == (-2.0, -3.0, -1.0)
    assert entry.realised == pytest.approx(-1.45)
    assert entry.realised_low < entry.realised < entry.realised_high
    assert "paired differences" in entry.test
