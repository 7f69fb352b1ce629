"""Is a job's line found in the published file, whatever names there are and whenever the file is replaced, in bounded time?"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows_pkg.errors import SetupError
from workflows_pkg.history.records import Forecast
from workflows_pkg.prediction.forecasts import publish_table
from workflows_pkg.prediction.lookup import FILE, LONGEST_LINE, JobForecast, expected, job_forecast

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)


def _forecast(job: str, step: str = "", p50: float = 2.0, at: datetime = NOW, quantity: str = "run_time_s") -> Forecast:
    return Forecast(
        job_name=job, step=step, quantity=quantity, p05=p50 / 2, p50=p50, p95=p50 * 2, sample_count=9, predictor="median",
        error_share=None, best_rule=None, best_rule_error_share=None, as_of=at,
    )  # fmt: skip


def _published(folder: Path, forecasts: Iterable[Forecast]) -> Path:
    publish_table(forecasts, folder / FILE)
    return folder / FILE


names = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(published=st.sets(names, max_size=30), many=st.booleans(), others=st.sets(names, max_size=10))
def test_every_published_job_is_found_and_no_other(tmp_path: Path, published: set[str], many: bool, others: set[str]) -> None:
    steps = [f"step_{number}" for number in range(300)] if many else []  # so that jobs fill several blocks
    file = _published(
        tmp_path,
        [_forecast(job, step, number + 1.0) for number, job in enumerate(sorted(published)) for step in ("", *steps)],
    )
    json.loads(file.read_text())  # it stays one JSON document
    for number, job in enumerate(sorted(published)):
        found = job_forecast(file, job)
        assert found is not None
        assert found.by_key["", "run_time_s"].p50 == number + 1.0
    assert all(job_forecast(file, job) is None for job in others - published)


def test_moment_steps_and_figures_come_back_as_they_were(tmp_path: Path) -> None:
    file = _published(tmp_path, [_forecast("etl", p50=1 / 3), _forecast("etl", "load", at=NOW - timedelta(hours=1))])
    found = job_forecast(file, "etl")
    assert isinstance(found, JobForecast)
    assert found.as_of == NOW
    run = found.run("run_time_s")
    assert run is not None
    assert (run.p05, run.p50, run.p95) == pytest.approx((1 / 6, 1 / 3, 2 / 3), rel=1e-5)
    assert (run.sample_count, run.predictor, run.basis) == (9, "median", None)
    assert list(found.steps("run_time_s")) == ["load"]
    assert found.run("cost_usd") is None
    assert expected(tmp_path, "etl") == run


def test_step_keys_of_runs_lead_to_the_steps(tmp_path: Path) -> None:
    found = job_forecast(_published(tmp_path, [_forecast("etl", "load"), _forecast("etl", "graph.inner")]), "etl")
    assert found is not None
    keys = ("load", "load[a.b]", "etl__steps.load", "graph.inner[x]", "unknown", "load.more")
    assert [found.step_of(key) for key in keys] == ["load", "load", "load", "graph.inner", None, None]


def test_of_a_job_with_very_many_steps_the_longest_are_kept(tmp_path: Path) -> None:
    many = [_forecast("wide", f"step_{number:05d}", p50=float(number + 1)) for number in range(6000)]
    file = _published(tmp_path, [_forecast("a"), _forecast("wide"), *many, _forecast("z")])
    assert max(len(line) for line in file.read_bytes().splitlines(keepends=True)) <= LONGEST_LINE
    found = job_forecast(file, "wide")
    assert found is not None
    assert found.run("run_time_s") is not None
    kept = found.steps("run_time_s")
    assert 1000 < len(kept) < 6000
    assert min(quantiles.p50 for quantiles in kept.values()) == 6000 - len(kept) + 1, "the shortest were left out"
    assert job_forecast(file, "a") is not None
    assert job_forecast(file, "z") is not None


def test_a_table_of_the_format_before_is_refused_with_what_to_do(tmp_path: Path) -> None:
    before = {"format": 2, "as_of": None, "jobs": {"etl": {"": {"run_time_s": [1, 2, 3, 9, "median"]}}}}
    for text in (json.dumps(before), json.dumps(before, indent=1)):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(SetupError, match=r"in format 3, found ValueError: format 2\. Delete the file"):
            job_forecast(tmp_path / FILE, "etl")


def test_a_pipe_in_its_place_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(SetupError, match="not a regular file"):
        job_forecast(tmp_path / FILE, "etl")


def test_zeros_behind_the_table_are_not_read(tmp_path: Path) -> None:
    file = _published(tmp_path, [_forecast(name) for name in "abc"])
    with file.open("r+b") as opened:
        opened.truncate(20 * 2**30)  # they take no room
    began = time.perf_counter()
    assert job_forecast(file, "b") is not None
    with file.open("r+b") as opened:
        opened.write(bytes(20))  # nor where the index should be
    with pytest.raises(SetupError, match="Delete the file"):
        job_forecast(file, "b")
    assert time.perf_counter() - began < 2


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = _published(tmp_path, [_forecast(name) for name in "abc"])
    file.write_text(file.read_text().replace('[["a", 0]]', '[["a", 3]]'))
    with pytest.raises(SetupError, match="Delete the file"):
        job_forecast(file, "b")


def test_a_reader_beside_a_writer_sees_one_table_or_the_other(tmp_path: Path) -> None:
    jobs = [f"job_{number}" for number in range(200)]
    file = _published(tmp_path, [_forecast(job, p50=1.0) for job in jobs])
    ended = threading.Event()

    def replace() -> None:
        for round_ in range(2, 30):
            publish_table([_forecast(job, p50=float(round_)) for job in jobs], file)
        ended.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen: list[float] = []
    while not ended.is_set():
        found = expected(tmp_path, "job_77")
        assert found is not None
        seen.append(found.p50)
    writer.join()
    assert seen == sorted(seen)
    assert expected(tmp_path, "job_77").p50 == 29.0  # type: ignore[union-attr]


@pytest.mark.untraced
def test_a_lookup_in_a_large_table_that_was_just_replaced_is_quick(tmp_path: Path) -> None:
    jobs = [f"job_{number}" for number in range(3_000)]
    forecasts = [_forecast(job, step) for job in jobs for step in ("", "load", "clean", "score")]
    taken = []
    for _ in range(3):
        file = _published(tmp_path, forecasts)
        for job in jobs[::100]:
            began = time.perf_counter()
            assert job_forecast(file, job) is not None
            taken.append(time.perf_counter() - began)
    whole = time.perf_counter()
    json.loads(file.read_text())
    whole = time.perf_counter() - whole
    assert sorted(taken)[int(0.95 * len(taken))] < 0.020
    assert sorted(taken)[len(taken) // 2] < whole, "control: reading all of it takes longer"
