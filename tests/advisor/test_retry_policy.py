"""A retry policy is proposed where the failures call for another one, and nothing is said where they do not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows_pkg.advisor.suggestions import suggest
from workflows_pkg.history.records import Suggestion
from workflows_pkg.spec.loader import load_value
from workflows_pkg.spec.model import Retry, Workflow
from workflows_pkg.steps.discovery import discover

NOW = datetime(2024, 6, 1, tzinfo=UTC)
NEVER = math.inf


def _mixed(recoveries: list[float], healthy: int, seed: int = 1) -> list[float]:
    """Failing and healthy runs in a random but fixed order."""
    items = [*recoveries, *([0.0] * healthy)]
    return [items[place] for place in np.random.default_rng(seed).permutation(len(items))]


def _only(found: list[Suggestion]) -> Suggestion:
    assert [item.kind for item in found] == ["retry_policy"]
    return found[0]


def _retry(suggestion: Suggestion) -> Retry:
    retry = Workflow.model_validate(json.loads(suggestion.spec)).steps["fetch"].retry
    assert retry is not None
    return retry


def test_a_wait_far_longer_than_recovery_takes_is_shortened(history: Callable, workflow: Callable):
    """The other side is back after 50 to 300 ms; the policy waits 3 s. Retries after 3 s always succeed."""
    rng = np.random.default_rng(0)
    con = history(_mixed(list(rng.uniform(0.05, 0.3, 30)), 30), delay_s=3.0)
    spec = workflow(retry={"attempts": 3, "delay": "3s"})
    found = _only(suggest(con, {"daily": (1, spec)}, NOW))
    assert _retry(found).delay < timedelta(seconds=3)
    assert found.quantity == "step_time_s"
    assert found.effect is not None
    assert found.effect_low is not None
    assert found.effect_high is not None
    assert found.effect_low <= found.effect <= found.effect_high < 0
    # half of the runs fail once and lose 3 s: nobody can gain more than 1.5 s a run
    assert found.effect_low >= -1.51
    assert found.title.startswith("Step 'fetch': ")
    assert json.loads(found.change)[0]["path"].startswith("steps.fetch.retry")


def test_waits_that_varied_tell_more_than_one_wait_alone(history: Callable, workflow: Callable):
    """Where earlier retries came at many moments, the interval is narrower than where all came after 3 s."""
    rng = np.random.default_rng(0)
    spec = workflow(retry={"attempts": 3, "delay": "3s"})
    blind = _only(suggest(history(_mixed(list(rng.uniform(0.05, 0.3, 40)), 40), delay_s=3.0), {"daily": (1, spec)}, NOW))
    seeing = history(_mixed(list(rng.uniform(0.05, 0.3, 40)), 40), delay_s=3.0)
    other = history(list(rng.uniform(0.05, 0.3, 40)), delay_s=0.1, attempts=6, version=0)
    rows = other.execute("select * replace ('v' || run_id as run_id) from step_attempts").df()
    seeing.execute("insert into step_attempts select * from rows")
    assert len(rows)
    found = _only(suggest(seeing, {"daily": (1, spec)}, NOW))
    assert found.effect_high is not None
    assert blind.effect_high is not None
    assert found.effect_low is not None
    assert blind.effect_low is not None
    assert found.effect_high - found.effect_low < blind.effect_high - blind.effect_low


def test_a_policy_that_gives_up_too_early_is_made_to_last(history: Callable, workflow: Callable):
    """Recovery takes 1 to 4 s; three attempts 200 ms apart mostly fail, an earlier, more patient version recovered."""
    rng = np.random.default_rng(2)
    con = history(_mixed(list(rng.uniform(1, 4, 30)), 30), delay_s=0.2)
    patient = history(list(rng.uniform(1, 4, 20)), delay_s=1.0, attempts=6, version=0)
    rows = patient.execute("select * replace ('v' || run_id as run_id) from step_attempts").df()
    con.execute("insert into step_attempts select * from rows")
    assert len(rows)
    found = _only(suggest(con, {"daily": (1, workflow(retry={"attempts": 3, "delay": "200ms"}))}, NOW))
    assert found.quantity == "failure_share"
    assert found.effect_high is not None
    assert found.effect_high < 0
    figures = json.loads(found.evidence)["simulation"]
    assert figures["proposed"]["failure_share"] < figures["now"]["failure_share"] / 2


def test_errors_that_never_recover_are_no_longer_retried(history: Callable, workflow: Callable):
    runs = [0.0] * 40
    for place in range(0, 40, 4):
        runs[place] = (NEVER, "MemoryLimit")
    con = history(runs, delay_s=5.0)
    found = _only(suggest(con, {"daily": (1, workflow(retry={"attempts": 3, "delay": "5s"}))}, NOW))
    retry = _retry(found)
    assert "MemoryLimit" not in retry.on
    assert {"RateLimited", "PeerUnavailable", "TimeoutError", "ConnectionError"} <= set(retry.on)
    assert (retry.attempts, retry.delay) == (3, timedelta(seconds=5))
    # a quarter of the runs lose two waits of 5 s and two attempts
    assert found.effect == pytest.approx(-2.5, rel=0.05)
    assert "MemoryLimit" in found.title


def test_a_hopeless_class_is_taken_out_and_the_others_stay(history: Callable, workflow: Callable):
    runs = [0.0] * 20 + [(NEVER, "MemoryLimit")] * 6 + [(0.9, "DuckLocked")] * 14
    con = history(runs, delay_s=1.0)
    found = _only(suggest(con, {"daily": (1, workflow(retry={"attempts": 3, "delay": "1s"}))}, NOW))
    retry = _retry(found)
    assert "MemoryLimit" not in retry.on
    assert "DuckLocked" in retry.on


@pytest.mark.parametrize(
    ("case", "runs", "delay_s", "retry"),
    [
        ("too few failures", [0.1] * 7 + [0.0] * 20, 3.0, {"attempts": 3, "delay": "3s"}),
        ("no failures", [0.0] * 60, 3.0, {"attempts": 3, "delay": "3s"}),
        ("gain too small", [0.05] * 10 + [0.0] * 300, 0.2, {"attempts": 3, "delay": "200ms"}),
        ("no retry to change", [0.1] * 30, 3.0, None),
        ("two of a hopeless kind", [(NEVER, "MemoryLimit")] * 2 + [0.0] * 20, 5.0, {"attempts": 3, "delay": "5s"}),
        ("unlucky but not hopeless", [(NEVER, "PeerUnavailable")] * 6 + [0.0] * 20, 5.0, {"attempts": 3, "delay": "5s"}),
    ],
)
def test_silent(case: str, runs: list, delay_s: float, retry: dict | None, history: Callable, workflow: Callable):
    fields = {} if retry is None else {"retry": retry}
    assert suggest(history(runs, delay_s=delay_s), {"daily": (1, workflow(**fields))}, NOW) == []


def test_silent_where_the_wait_is_already_right(history: Callable, workflow: Callable):
    """Recovery takes 0.8 to 1 s, an earlier version saw retries fail until then, and the policy waits 1 s."""
    rng = np.random.default_rng(3)
    con = history(_mixed(list(rng.uniform(0.8, 1.0, 30)), 30), delay_s=1.0)
    early = history(list(rng.uniform(0.8, 1.0, 30)), delay_s=0.1, attempts=10, version=0)
    rows = early.execute("select * replace ('v' || run_id as run_id) from step_attempts").df()
    con.execute("insert into step_attempts select * from rows")
    assert len(rows)
    assert suggest(con, {"daily": (1, workflow(retry={"attempts": 3, "delay": "1s"}))}, NOW) == []


def test_waits_the_other_side_asks_for_are_not_promised_away(history: Callable, workflow: Callable):
    """Retry-After made every wait 3 s, though the policy says 100 ms: a shorter delay changes nothing."""
    con = history(_mixed([2.9] * 30, 30), delay_s=3.0)
    assert suggest(con, {"daily": (1, workflow(retry={"attempts": 3, "delay": "100ms"}))}, NOW) == []
    # the control: the same history under a policy that itself waits 3 s is worth a suggestion
    assert suggest(con, {"daily": (1, workflow(retry={"attempts": 3, "delay": "3s"}))}, NOW)


def test_trial_runs_and_the_future_are_no_evidence(history: Callable, workflow: Callable):
    rng = np.random.default_rng(0)
    runs = _mixed(list(rng.uniform(0.05, 0.3, 30)), 30)
    spec = {"daily": (1, workflow(retry={"attempts": 3, "delay": "3s"}))}
    assert suggest(history(runs, delay_s=3.0, trial_id="t1"), spec, NOW) == []
    assert suggest(history(runs, delay_s=3.0), spec, datetime(2023, 1, 1, tzinfo=UTC)) == []
    assert suggest(history(runs, delay_s=3.0), spec, NOW)


def test_the_same_history_gives_the_same_suggestions(history: Callable, workflow: Callable):
    rng = np.random.default_rng(0)
    runs = _mixed(list(rng.uniform(0.05, 0.3, 30)), 30)
    spec = {"daily": (1, workflow(retry={"attempts": 3, "delay": "3s"}))}
    first, second = (suggest(history(runs, delay_s=3.0), spec, NOW) for _ in range(2))
    assert first == second
    other = suggest(history(runs, delay_s=3.0), {"daily": (2, spec["daily"][1])}, NOW)
    assert other[0].suggestion_id != first[0].suggestion_id


def test_the_evidence_is_enough_to_recompute_the_loss(history: Callable, workflow: Callable):
    rng = np.random.default_rng(0)
    con = history(_mixed(list(rng.uniform(0.05, 0.3, 30)), 30), delay_s=3.0)
    found = _only(suggest(con, {"daily": (1, workflow(retry={"attempts": 3, "delay": "3s"}))}, NOW))
    evidence = json.loads(found.evidence)
    assert len(con.execute(evidence["query"]).fetchall()) == evidence["attempts"]
    lost = sum(row["lost_s"] for row in evidence["rows"]) / evidence["runs"]
    assert evidence["simulation"]["now"]["lost_s_per_run"] == pytest.approx(lost, rel=0.05)
    assert evidence["simulation"]["overhead_s"] == pytest.approx(0.02, abs=0.005)
    assert evidence["recovery"][-1]["share"] == pytest.approx(1)


def test_the_changed_spec_is_one_the_loader_takes(history: Callable, workflow: Callable):
    con = history([0.1] * 30, delay_s=3.0)
    spec = workflow(retry={"attempts": 3, "delay": "3s"})
    found = _only(suggest(con, {"daily": (1, spec)}, NOW))
    changed = load_value(
        {
            **json.loads(found.spec),
            "steps": {"fetch": {**json.loads(found.spec)["steps"]["fetch"], "with": {"url": "https://a.example"}}},
        },
        kinds=discover().params(),
    )
    assert changed.steps["fetch"].retry == _retry(found)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    recoveries=st.lists(st.one_of(st.floats(0.001, 900), st.just(NEVER)), min_size=8, max_size=16),
    delay_ms=st.integers(0, 1_200_000),
    attempts=st.integers(2, 20),
    backoff=st.sampled_from(["constant", "linear", "exponential"]),
    jitter=st.sampled_from(["none", "full", "plus_minus"]),
)
def test_every_proposal_stays_within_the_guard_rails(
    recoveries: list[float], delay_ms: int, attempts: int, backoff: str, jitter: str, history: Callable, workflow: Callable
):
    spec = workflow(retry={"attempts": attempts, "delay": timedelta(milliseconds=delay_ms), "backoff": backoff, "jitter": jitter})
    con = history([*recoveries, 0.0, 0.0], delay_s=delay_ms / 1000, attempts=attempts)
    for found in suggest(con, {"daily": (1, spec)}, NOW):
        retry = _retry(found)
        assert 1 <= retry.attempts <= 10
        assert timedelta(milliseconds=50) <= retry.delay <= timedelta(minutes=10)
        assert jitter == "none" or retry.jitter != "none"
        assert found.effect_low is not None
        assert found.effect is not None
        assert found.effect_high is not None
        assert found.effect_low <= found.effect <= found.effect_high < 0
