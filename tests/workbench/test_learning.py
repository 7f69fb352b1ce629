"""Learning happens where there is news and only then, leaves the workbench's own runs out, and one bad part does not stop the others."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from workflows_pkg.history.records import Suggestion
from workflows_pkg.history.store import open_history, writer
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.prediction.lookup import FILE
from workflows_pkg.workbench.assets import LEARNING_JOB, asset_key
from workflows_pkg.workbench.learning import learn, refresh_suggestions
from workflows_pkg.workbench.learning_sensor import (
    AT_LEAST_EVERY,
    ENOUGH_NEWS,
    LOST_AFTER,
    REST,
    LastRun,
    learning_sensor,
    why_not,
)
from workflows_pkg.workbench.news import CARD, Trained, ended_runs, has_news, last_training, without_own
from workflows_pkg.workbench.workbench import workbench

pytestmark = [
    pytest.mark.filterwarnings("ignore:Parameter `execution_type`"),  # Dagster's own, about any AssetSpec
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),  # the foreign project uses what Dagster calls beta
]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AFTER = timedelta(minutes=1)
STATUS = dg.DagsterRunStatus
ID = "1a2b3c4d-0000-4000-8000-000000000000"


def was(status: dg.DagsterRunStatus, asked: datetime = NOW, changed: datetime = NOW, took_s: float | None = None) -> LastRun:
    return LastRun(ID, status, asked, changed, None if took_s is None else timedelta(seconds=took_s))


@pytest.fixture
def with_runs(foreign: ModuleType, instance: dg.DagsterInstance, instance_home: Path) -> dg.Definitions:
    defs = dg.Definitions.merge(foreign.instrumented(), workbench())
    for name in ("doubling", "doubling", "failing"):
        defs.resolve_job_def(name).execute_in_process(instance=instance, raise_on_error=False)
    sync_events(instance_home, instance_home)
    return defs


def learning_run(defs: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(LEARNING_JOB).execute_in_process(instance=instance, raise_on_error=False)


@pytest.mark.parametrize(
    ("ended", "trained", "last", "after", "reason"),
    [
        pytest.param(0, Trained(), None, AFTER, "No run has ended", id="nothing yet"),
        pytest.param(1, Trained(), None, AFTER, None, id="the first"),
        pytest.param(40, Trained(40, NOW), None, timedelta(days=9), "Nothing new since", id="nothing new"),
        pytest.param(39 + ENOUGH_NEWS, Trained(40, NOW), None, AFTER, "49 new runs since", id="not enough"),
        pytest.param(40 + ENOUGH_NEWS, Trained(40, NOW), None, AFTER, None, id="enough"),
        pytest.param(41, Trained(40, NOW), None, AT_LEAST_EVERY - AFTER, "1 new run since", id="not yet an hour"),
        pytest.param(41, Trained(40, NOW), None, AT_LEAST_EVERY, None, id="an hour"),
        pytest.param(3, Trained(40, NOW), None, AFTER, None, id="the history was begun anew"),
        pytest.param(99, Trained(), was(STATUS.QUEUED), timedelta(days=9), "The learning run 1a2b3c4d is waiting", id="queued"),
        pytest.param(99, Trained(), was(STATUS.STARTED), AFTER, "The learning run 1a2b3c4d is in progress", id="in progress"),
        pytest.param(99, Trained(), was(STATUS.STARTED), LOST_AFTER, None, id="lost"),
        pytest.param(
            99, Trained(), was(STATUS.FAILURE), AFTER, "The learning run 1a2b3c4d failed. The next try is at 13:00", id="failed"
        ),
        pytest.param(99, Trained(), was(STATUS.FAILURE), AT_LEAST_EVERY, None, id="failed, an hour later"),
        pytest.param(99, Trained(), was(STATUS.CANCELED), AFTER, "The learning run 1a2b3c4d was canceled", id="canceled"),
        pytest.param(
            99, Trained(), was(STATUS.SUCCESS), AFTER, "The learning run 1a2b3c4d succeeded, but left", id="other folder"
        ),
        pytest.param(
            99, Trained(40, NOW - AFTER), was(STATUS.FAILURE), AFTER, "The learning run 1a2b3c4d failed", id="failed later on"
        ),
        pytest.param(99, Trained(40, NOW + AFTER), was(STATUS.SUCCESS, took_s=7), 2 * AFTER, None, id="rested"),
        pytest.param(99, Trained(40, NOW), was(STATUS.SUCCESS, took_s=60), AFTER, "59 new runs", id="rests"),
        pytest.param(99, Trained(40, NOW), was(STATUS.SUCCESS, took_s=60), REST * AFTER, None, id="has rested"),
    ],
)
def test_it_learns_where_there_is_news_enough_and_says_why_not(
    ended: int, trained: Trained, last: LastRun | None, after: timedelta, reason: str | None
) -> None:
    said = why_not(ended, trained, last, NOW + after)
    assert said is None if reason is None else said is not None and said.startswith(reason), said


def tick(instance: dg.DagsterInstance, after: timedelta = AFTER) -> str | list[str | None]:
    """The reason why nothing is asked for, or the run keys."""
    sensor = learning_sensor(clock=lambda: datetime.now(UTC) + after)
    with dg.build_sensor_context(instance=instance) as context:
        data = sensor.evaluate_tick(context)
    return data.skip_message or [request.run_key for request in data.run_requests or []]


def test_one_state_asks_for_one_run_and_never_for_its_own(
    with_runs: dg.Definitions, instance: dg.DagsterInstance, instance_home: Path
) -> None:
    assert tick(instance) == tick(instance) == ["after training never, run none"]
    for _ in range(2):
        assert learning_run(with_runs, instance).success
        sync_events(instance_home, instance_home)
        assert str(tick(instance, timedelta(hours=9))).startswith("Nothing new since the training of ")
    with_runs.resolve_job_def("doubling").execute_in_process(instance=instance)
    sync_events(instance_home, instance_home)
    assert str(tick(instance)).startswith("1 new run since")
    (key,) = tick(instance, timedelta(hours=9))
    trained = last_training(instance_home)
    assert trained.at is not None
    assert str(key).startswith(f"after training {trained.at.isoformat()}, run ")


def test_control_with_its_own_runs_counted_it_would_always_ask(
    with_runs: dg.Definitions, instance: dg.DagsterInstance, instance_home: Path
) -> None:
    learning_run(with_runs, instance)
    sync_events(instance_home, instance_home)
    with closing(open_history(instance_home)) as con:
        (all_ended,) = con.execute("select count(*) from runs where outcome is not null").fetchone()  # type: ignore[misc]
    assert all_ended == ended_runs(instance_home) + 1
    assert why_not(all_ended, last_training(instance_home), None, datetime.now(UTC) + 2 * AT_LEAST_EVERY) is None


def test_while_a_learning_run_waits_none_is_asked_for(with_runs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    instance.create_run_for_job(with_runs.resolve_job_def(LEARNING_JOB))
    assert str(tick(instance)).endswith("is waiting.")


def test_a_failed_learning_run_is_made_again_later(
    with_runs: dg.Definitions, instance: dg.DagsterInstance, instance_home: Path
) -> None:
    (instance_home / CARD).mkdir()  # the predictors' card cannot be written
    result = learning_run(with_runs, instance)
    assert not result.success
    made = {event.asset_key for event in result.get_asset_materialization_events()}
    assert made == {asset_key(name) for name in ("history", "findings", "suggestions")}
    assert "failed. The next try is at" in str(tick(instance))
    (instance_home / CARD).rmdir()
    (key,) = tick(instance, timedelta(hours=2))
    assert str(key).endswith(result.run_id)


def test_a_card_that_cannot_be_read_counts_as_no_training(with_runs: dg.Definitions, instance_home: Path) -> None:
    learn(instance_home)
    assert not has_news(instance_home)
    table = instance_home / FILE
    kept = table.read_text()
    for text in (None, kept.replace('"format": ', '"format": 9')):
        table.unlink() if text is None else table.write_text(text)
        assert has_news(instance_home), "launches find no table that they can read"
    table.write_text(kept)
    assert not has_news(instance_home)
    (instance_home / CARD).write_text('{"data": []}')
    assert last_training(instance_home) == Trained()
    assert has_news(instance_home)


def test_the_workbenchs_own_runs_teach_nothing(
    with_runs: dg.Definitions, instance: dg.DagsterInstance, instance_home: Path
) -> None:
    assets = with_runs.resolve_job_def("__ASSET_JOB")
    keys = [asset_key(name) for name in ("history", "predictors", "forecasts", "findings", "suggestions")]
    by_hand = assets.execute_in_process(instance=instance, asset_selection=keys).run_id
    mixed = assets.execute_in_process(instance=instance, asset_selection=[*keys, dg.AssetKey("orders")]).run_id
    learning_run(with_runs, instance)
    sync_events(instance_home, instance_home)
    forecasts, card = learn(instance_home)
    picked = "__ASSET_JOB: orders, orders_orders_are_there"  # what is left of the mixed run
    assert {forecast.job_name for forecast in forecasts} == {"doubling", "failing", "__ASSET_JOB", picked}
    assert "workflows_learn" not in {forecast.step for forecast in forecasts}
    assert card["data"]["ended_runs"] == 4
    with closing(open_history(instance_home)) as con:
        every = {run_id for (run_id,) in con.execute("select run_id from runs").fetchall()}
        assert {by_hand, mixed} < every  # control: they have landed
        kept = {run_id for (run_id,) in without_own(con).execute("select run_id from runs").fetchall()}
    assert mixed in kept
    assert by_hand not in kept


def test_the_writers_turn_is_taken_only_to_write(
    with_runs: dg.Definitions, instance_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workflows_pkg.workbench import learning

    free: list[bool] = []
    train = learning.train_with_card

    def looks(*args: object, **named: object) -> object:
        with writer(instance_home, wait_s=0):
            free.append(True)
        return train(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(learning, "train_with_card", looks)
    learn(instance_home)
    assert free == [True]


def test_one_damaged_version_is_told_of_and_stops_no_other(
    with_runs: dg.Definitions, instance: dg.DagsterInstance, instance_home: Path
) -> None:
    damaged = instance_home / "versions" / "broken"
    damaged.mkdir(parents=True)
    (damaged / "0001.json").write_text("{")
    (said,) = refresh_suggestions(instance_home).unreadable
    assert said.startswith("No suggestions for workflow 'broken': ")
    result = learning_run(with_runs, instance)
    assert result.success
    (made,) = [event for event in result.get_asset_materialization_events() if event.asset_key == asset_key("suggestions")]
    assert "damaged" in str(made.materialization.metadata["versions that cannot be read"].value)


def test_a_decided_suggestion_keeps_its_status_and_an_open_one_without_support_goes(
    with_runs: dg.Definitions, instance_home: Path
) -> None:
    one = Suggestion(
        suggestion_id="a", kind="timeout", workflow="w", step="s", based_on=1, title="t", change="[]", spec="{}", evidence="{}",
        quantity="run_time_s", created_at=NOW,
    )  # fmt: skip
    with writer(instance_home) as history:
        history.upsert(Suggestion, [one, one.model_copy(update={"suggestion_id": "b", "status": "applied"})])
    assert refresh_suggestions(instance_home).suggestions == []
    with closing(open_history(instance_home)) as con:
        assert con.execute("select suggestion_id, status from suggestions").fetchall() == [("b", "applied")]


def test_a_card_is_json_with_what_the_sensor_reads(with_runs: dg.Definitions, instance_home: Path) -> None:
    _, card = learn(instance_home)
    assert json.loads((instance_home / CARD).read_text()) == card
    assert last_training(instance_home).ended_runs == ended_runs(instance_home) == 3
