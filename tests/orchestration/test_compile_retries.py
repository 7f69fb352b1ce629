"""Is a failed attempt followed by another exactly where the file says so, and stopped when its time is up?"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import dagster as dg
import duckdb
import pytest

from workflows_pkg.errors import DataProblem, PeerUnavailable, RateLimited, StepTimeout
from workflows_pkg.orchestration.limits import Stops, limited
from workflows_pkg.orchestration.retries import LONGEST_WAIT_S, is_retried, retry_policy
from workflows_pkg.spec.model import Retry


def _retry(**fields: Any) -> Retry:
    return Retry.model_validate({"attempts": 3, "delay": "1ms", **fields})


def _failing(error: Callable[[], Exception], calls: list[int]) -> Callable[[Any, Any], None]:
    def fails(context: Any, params: Any) -> None:
        calls.append(context.attempt)
        raise error()

    return fails


def test_retry_stops_after_the_last_attempt(bench: Any) -> None:
    calls: list[int] = []
    bench.functions = {"a": _failing(lambda: ConnectionError("no"), calls)}
    outcome = bench.run({"steps": {"a": {"retry": {"attempts": 3, "delay": "1ms"}}}})
    assert calls == [1, 2, 3]
    assert len(outcome.events("STEP_UP_FOR_RETRY", "a")) == 2
    assert outcome.error_classes("STEP_FAILURE", "a")[-1] == "ConnectionError"


def test_without_retry_there_is_one_attempt(bench: Any) -> None:
    calls: list[int] = []
    bench.functions = {"a": _failing(lambda: ConnectionError("no"), calls)}
    outcome = bench.run({"steps": {"a": {}}})
    assert calls == [1]
    assert outcome.error_classes("STEP_FAILURE", "a") == ["DagsterExecutionStepExecutionError", "ConnectionError"]


def test_an_error_that_on_does_not_name_is_not_retried(bench: Any) -> None:
    calls: list[int] = []
    bench.functions = {"a": _failing(lambda: KeyError("other"), calls)}
    outcome = bench.run({"steps": {"a": {"retry": {"attempts": 3, "delay": "1ms", "on": ["OSError"]}}}})
    assert calls == [1]
    assert outcome.error_classes("STEP_FAILURE", "a") == ["Failure", "KeyError"]


@pytest.mark.parametrize("named", ["ConnectionRefusedError", "ConnectionError", "OSError", "PeerUnavailable", "StepError"])
def test_on_names_a_class_a_parent_or_the_class_of_the_cause(named: str) -> None:
    error = PeerUnavailable("no answer")
    error.__cause__ = ConnectionRefusedError(111, "refused")
    assert is_retried(error, _retry(on=[named]))
    assert not is_retried(DataProblem("bad"), _retry(on=["RateLimited"]))


def test_the_policy_that_the_ui_shows_is_the_one_of_the_file() -> None:
    retry = _retry(attempts=5, delay="500ms", backoff="exponential", jitter="full")
    assert retry_policy(retry) == dg.RetryPolicy(max_retries=4, delay=0.5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)
    assert retry_policy(_retry(attempts=1)) is None


@pytest.mark.parametrize(("asked_s", "waits"), [(0.05, [0.05, 0.05]), (0.0, [0.001, 0.001]), (None, [0.001, 0.001])])
def test_a_peer_that_asks_for_a_longer_wait_gets_it(bench: Any, asked_s: float | None, waits: list[float]) -> None:
    calls: list[int] = []
    bench.functions = {"a": _failing(lambda: RateLimited("slow down", retry_after_s=asked_s), calls)}
    outcome = bench.run({"steps": {"a": {"retry": {"attempts": 3, "delay": "1ms"}}}})
    assert [event.event_specific_data.seconds_to_wait for event in outcome.events("STEP_UP_FOR_RETRY", "a")] == waits
    assert calls == [1, 2, 3]
    assert outcome.error_classes("STEP_FAILURE", "a")[-1] == "RateLimited"


def test_a_peer_that_asks_for_more_than_an_hour_is_not_waited_for(bench: Any) -> None:
    calls: list[int] = []
    bench.functions = {"a": _failing(lambda: RateLimited("closed", retry_after_s=LONGEST_WAIT_S + 1), calls)}
    outcome = bench.run({"steps": {"a": {"retry": {"attempts": 3, "delay": "1ms"}}}})
    assert calls == [1]
    assert outcome.error_classes("STEP_FAILURE", "a") == ["Failure", "RateLimited"]


def test_an_attempt_over_its_timeout_fails_as_such_and_can_be_retried(bench: Any) -> None:
    def slow_once(context: Any, params: Any) -> float:
        assert context.timeout_s == 0.1
        if context.attempt == 1:
            time.sleep(5)
        return context.timeout_s

    bench.functions = {"a": slow_once}
    started = time.monotonic()
    outcome = bench.run({"steps": {"a": {"timeout": "100ms", "retry": {"attempts": 2, "delay": "1ms", "on": ["TimeoutError"]}}}})
    assert outcome.success
    assert outcome.error_classes("STEP_UP_FOR_RETRY", "a")[-1] == "StepTimeout"
    assert time.monotonic() - started < 5


def test_a_timeout_that_is_still_auto_limits_nothing(bench: Any) -> None:
    seen: list[Any] = []
    bench.functions = {"a": lambda context, params: seen.append(context.timeout_s)}
    assert bench.run({"steps": {"a": {"timeout": "auto"}}}).success
    assert seen == [None]


def _spin() -> None:
    while True:
        try:
            sum(range(1000))
        except Exception:  # noqa: S112 - a body that swallows every error is stopped all the same
            continue


THREADS = ["main", pytest.param("other", marks=pytest.mark.untraced)]


def _on(thread: str, work: Callable[[], Any]) -> Any:
    """What `work` gives or raises, on the main thread or on another one."""
    if thread == "main":
        return work()
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(work())
        except BaseException as error:
            box.append(error)

    other = threading.Thread(target=run)
    other.start()
    other.join(30)
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


@pytest.mark.parametrize("thread", THREADS)
def test_a_body_in_python_is_stopped_on_any_thread(thread: str) -> None:
    started = time.monotonic()
    with pytest.raises(StepTimeout, match="Step 'a' took longer than its timeout of 100ms") as caught:
        _on(thread, lambda: limited(_spin, timedelta(seconds=0.1), Stops(), "a"))
    assert time.monotonic() - started < 3
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("thread", THREADS)
def test_a_body_that_swallows_the_first_stop_is_stopped_by_the_next(thread: str) -> None:
    """As when the exception arrives in a destructor or a tracer, where Python drops it."""
    swallowed: list[BaseException] = []

    def body() -> None:
        try:
            _spin()
        except BaseException as error:
            swallowed.append(error)
        _spin()

    with pytest.raises(StepTimeout):
        _on(thread, lambda: limited(body, timedelta(seconds=0.1), Stops(), "a"))
    assert len(swallowed) == 1


@pytest.mark.parametrize("thread", THREADS)
def test_a_query_is_interrupted_by_what_the_step_registered(thread: str) -> None:
    def query(stops: Stops) -> None:
        with duckdb.connect() as connection:
            stops.register(connection.interrupt)
            connection.execute("select sum(sqrt(a.range * b.range)) from range(1000000) a, range(1000000) b").fetchall()

    stops = Stops()
    started = time.monotonic()
    with pytest.raises(StepTimeout):
        _on(thread, lambda: limited(lambda: query(stops), timedelta(seconds=0.2), stops, "a"))
    assert time.monotonic() - started < 10


def test_a_function_registered_after_the_stop_is_called_at_once() -> None:
    stops, called = Stops(), []
    stops.register(lambda: called.append(1 / 0))  # one that fails keeps the next from nothing
    stops.register(lambda: called.append("first"))
    stops.stop()
    stops.register(lambda: called.append("second"))
    assert called == ["first", "second"]


@pytest.mark.parametrize("thread", THREADS)
def test_nothing_is_hit_after_the_limited_body_has_ended(thread: str) -> None:
    """Bodies that end within a millisecond of their deadline, over and over; what follows them is never interrupted."""

    def storm() -> tuple[int, int]:
        in_time = late = 0
        for number in range(200):
            try:
                limited(lambda n=number: time.sleep(0.002 + (n % 9 - 4) * 0.0002), timedelta(seconds=0.002), Stops(), "a")
                in_time += 1
            except StepTimeout:
                late += 1
            sum(range(500))  # an overrun that leaked would hit here, or in the next round's set-up
        return in_time, late

    in_time, late = _on(thread, storm)
    assert in_time + late == 200
    assert late > 0, "control: some bodies were over their time"
    gc.collect()


def test_an_error_of_the_body_in_time_passes_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        limited(lambda: 1 / 0, timedelta(seconds=5), Stops(), "a")


def test_somebody_elses_alarm_still_rings_during_a_limited_body() -> None:
    import signal

    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    earlier = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        limited(lambda: time.sleep(0.2), timedelta(seconds=5), Stops(), "a")
    finally:
        signal.setitimer(signal.ITIMER_REAL, *earlier)
        signal.signal(signal.SIGALRM, before)
    assert rung == [signal.SIGALRM]
