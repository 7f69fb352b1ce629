"""No event is lost where numbers become visible out of their order, or are used again after a deletion."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import psycopg2
import pytest

from workflows_pkg.history.store import open_history
from workflows_pkg.orchestration import batches, positions
from workflows_pkg.orchestration.events import sync_events
from workflows_pkg.orchestration.positions import OVERLAP, Position, Reading
from workflows_pkg.orchestration.sources import Source
from workflows_pkg.orchestration.sources.rows import Rows


def numbers(history: Path, run_id: str) -> list[int]:
    with closing(open_history(history)) as con:
        return [row[0] for row in con.execute("select event_id from events where run_id = ? order by 1", [run_id]).fetchall()]


def stored(place: Any, run_id: str) -> list[int]:
    sql = "select id from event_logs where run_id = %s and dagster_event_type is not null order by id"
    return [row[0] for row in place.sql(sql, (run_id,))]


def open_run(place: Any, job: str = "works") -> str:
    """A run with events, made to look as if it were still going on."""
    with place.instance() as instance:
        run_id = next(run.run_id for run in instance.get_runs() if run.job_name == job)
    sql = "update runs set status = 'STARTED', end_time = null where run_id = %s"
    if place.server is not None:
        place.sql(sql, (run_id,))
    else:
        import sqlite3

        with closing(sqlite3.connect(place.home / "history" / "runs.db")) as con, con:
            con.execute(sql.replace("%s", "?"), (run_id,))
    return run_id


INSERT = """
insert into event_logs (id, run_id, event, dagster_event_type, timestamp)
select %s, run_id, event, dagster_event_type, timestamp from event_logs where run_id = %s and dagster_event_type is not null limit 1
returning id
"""


def another(cursor: Any, run_id: str) -> int:
    """Stores one more event of the run, as Dagster does: the number is given out before the commit."""
    cursor.execute("select nextval('event_logs_id_seq')")
    number = cursor.fetchone()[0]
    cursor.execute(INSERT, (number, run_id))
    return number


@pytest.fixture
def postgres(copied: Callable[[str], Any]) -> Any:
    return copied("postgres")


def test_a_smaller_number_that_commits_later_is_landed(postgres: Any, tmp_path: Path) -> None:
    run_id = open_run(postgres)
    sync_events(postgres.where, tmp_path)
    url = postgres.where
    with closing(psycopg2.connect(url)) as slow, closing(psycopg2.connect(url)) as quick:
        with slow.cursor() as cursor:
            early = another(cursor, run_id)  # not committed yet
        with quick.cursor() as cursor:
            late = another(cursor, run_id)
        quick.commit()
        assert early < late
        assert sync_events(postgres.where, tmp_path).events == 1
        assert numbers(tmp_path, run_id)[-1] == late
        slow.commit()
    unseen = postgres.sql("select id from event_logs where run_id = %s and id > %s", (run_id, late))
    assert unseen == []  # control: who asks for numbers above the last one finds nothing
    assert sync_events(postgres.where, tmp_path).events == 1
    assert numbers(tmp_path, run_id) == stored(postgres, run_id)
    assert sync_events(postgres.where, tmp_path).runs == 0  # and then there is no news


def test_control_without_a_window_the_late_row_is_lost(postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def naive(source: Any) -> bool:
        return False

    monkeypatch.setattr("workflows_pkg.orchestration.sources.source.Source.out_of_order", property(naive))
    run_id = open_run(postgres)
    sync_events(postgres.where, tmp_path)
    with closing(psycopg2.connect(postgres.where)) as slow, closing(psycopg2.connect(postgres.where)) as quick:
        with slow.cursor() as cursor:
            early = another(cursor, run_id)
        with quick.cursor() as cursor:
            another(cursor, run_id)
        quick.commit()
        sync_events(postgres.where, tmp_path)
        slow.commit()
    assert sync_events(postgres.where, tmp_path).events == 0
    assert early in stored(postgres, run_id)
    assert early not in numbers(tmp_path, run_id)


def test_what_came_later_than_the_window_is_landed_when_the_run_is_over(
    postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "OVERLAP", timedelta(0))  # a row leaves the window at the next look
    run_id = open_run(postgres)
    sync_events(postgres.where, tmp_path)
    with closing(psycopg2.connect(postgres.where)) as slow, closing(psycopg2.connect(postgres.where)) as quick:
        with slow.cursor() as cursor:
            another(cursor, run_id)
        with quick.cursor() as cursor:
            another(cursor, run_id)
        quick.commit()
        for _ in range(4):
            sync_events(postgres.where, tmp_path)
        slow.commit()
    assert sync_events(postgres.where, tmp_path).events == 0
    ended = datetime.now(UTC) - batches.GRACE - timedelta(seconds=5)
    postgres.sql(
        "update runs set status = 'SUCCESS', end_time = %s, update_timestamp = now() where run_id = %s",
        (ended.timestamp(), run_id),
    )
    assert sync_events(postgres.where, tmp_path).events == 1
    assert numbers(tmp_path, run_id) == stored(postgres, run_id)
    with closing(open_history(tmp_path)) as con:
        ((position, complete),) = con.execute("select position, complete from cursors where shard = ?", [run_id]).fetchall()
    assert complete
    assert "window" not in json.loads(position)


def test_between_its_end_and_the_last_look_a_run_is_read_from_its_last_row_on(
    postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = open_run(postgres)
    sync_events(postgres.where, tmp_path)
    asked: list[int] = []
    pieces = Source.log_pieces

    def listened(self: Source, wanted: Any, limit: int, limit_bytes: int) -> Any:
        asked.extend(start for one, start in wanted if one == run_id)
        return pieces(self, wanted, limit, limit_bytes)

    monkeypatch.setattr(Source, "log_pieces", listened)

    def ended(ago: timedelta) -> None:
        moment = datetime.now(UTC) - ago
        postgres.sql(
            "update runs set status = 'SUCCESS', end_time = %s, update_timestamp = now() where run_id = %s",
            (moment.timestamp(), run_id),
        )

    with closing(psycopg2.connect(postgres.where)) as slow, closing(psycopg2.connect(postgres.where)) as quick:
        with slow.cursor() as cursor:
            another(cursor, run_id)  # not committed yet
        with quick.cursor() as cursor:
            late = another(cursor, run_id)
        quick.commit()
        ended(timedelta(seconds=1))
        assert sync_events(postgres.where, tmp_path).events == 1
        first = min(stored(postgres, run_id))
        assert asked[-1] <= first, "its window is looked at once more after its end"
        slow.commit()
        with quick.cursor() as cursor:
            last = another(cursor, run_id)  # its process says good-bye
        quick.commit()
    assert sync_events(postgres.where, tmp_path).events == 1
    assert asked[-1] == late
    assert numbers(tmp_path, run_id)[-1] == last
    assert sync_events(postgres.where, tmp_path).events == 0
    assert asked[-1] == last
    ended(batches.GRACE + timedelta(seconds=5))
    assert sync_events(postgres.where, tmp_path).events == 1, "the late row, at the last look"
    assert numbers(tmp_path, run_id) == stored(postgres, run_id)


def test_a_run_that_ended_a_while_ago_is_asked_about_when_it_has_its_turn(
    postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = open_run(postgres)
    sync_events(postgres.where, tmp_path)

    def ended(ago: timedelta) -> None:
        sql = "update runs set status = 'SUCCESS', end_time = %s, update_timestamp = now() where run_id = %s"
        postgres.sql(sql, ((datetime.now(UTC) - ago).timestamp(), run_id))

    def says_something() -> None:
        with closing(psycopg2.connect(postgres.where)) as con, con, con.cursor() as cursor:
            another(cursor, run_id)

    ended(batches.TALKS_ON + timedelta(seconds=5))
    sync_events(postgres.where, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(batches, "TURN_S", 10**9)  # no turn while the test runs
        says_something()
        assert sync_events(postgres.where, tmp_path).events == 0
    with monkeypatch.context() as patched:
        patched.setattr(batches.Plan, "has_turn", lambda self, run_id: True)
        assert sync_events(postgres.where, tmp_path).events == 1
    ended(batches.GRACE + timedelta(seconds=5))
    says_something()
    assert sync_events(postgres.where, tmp_path).events == 1, "the last look needs no turn"
    assert numbers(tmp_path, run_id) == stored(postgres, run_id)


@pytest.mark.parametrize("pause_s", [0.5, 1.7, 3.3, 5, 9, 10, 60])
def test_every_run_has_its_turn_within_ten_seconds_however_often_is_looked(pause_s: float) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    looks = [begin + timedelta(seconds=pause_s * number) for number in range(200)]
    turns: dict[str, list[datetime]] = {f"run {number}": [] for number in range(50)}
    for before, now in pairwise(looks):
        cursor = batches.Reached("s", batches.RUNS, "", False, before.timestamp())
        plan = batches.Plan(cast("Source", None), "s", {batches.RUNS: cursor}, [], [], "", now)
        for run_id, had in turns.items():
            if plan.has_turn(run_id):
                had.append(now)
    between = [(later - earlier).total_seconds() for had in turns.values() for earlier, later in pairwise(had)]
    assert between
    assert max(between) <= max(10, pause_s)
    assert statistics.mean(between) == pytest.approx(max(batches.TURN_S, pause_s), rel=0.1)


def test_numbers_used_again_after_a_run_was_deleted_are_landed(copied: Callable[[str], Any], tmp_path: Path) -> None:
    place = copied("consolidated")
    sync_events(place.where, tmp_path)
    with place.instance() as instance:
        last = place.sql("select max(id) from event_logs")[0][0]
        newest = place.sql("select run_id from event_logs where run_id <> '' order by id desc limit 1")[0][0]
        instance.delete_run(newest)
        place.sql("delete from event_logs where run_id = ''")
        freed = place.sql("select max(id) from event_logs")[0][0]
        run = instance.create_run_for_job(_job())
        instance.report_run_canceling(run)
        instance.report_run_canceled(run)
    again = stored(place, run.run_id)
    assert freed < again[0] <= last  # the new run has numbers that were read before
    beyond = place.sql("select count(*) from event_logs where run_id = %s and id > %s", (run.run_id, last))[0][0]
    assert beyond < len(again)  # control: one cursor for all runs would lose the others
    sync_events(place.where, tmp_path)
    assert numbers(tmp_path, run.run_id) == again


def _job() -> Any:
    import dagster as dg

    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def empty() -> None:
        nothing()

    return empty


# the rule itself, against every order of commits


def rows_of(ids: list[int]) -> Rows:
    numbers = sorted(ids)
    return Rows.of(numbers, [f"event {number}".encode() for number in numbers], [False] * len(numbers))


def followed(delays: list[float], step_s: float, *, windowed: bool) -> tuple[set[int], set[int]]:
    """Numbers landed and numbers there, of a run that writes one event a second, number n visible `delays[n]` seconds late."""
    visible_at = {number: number + delay for number, delay in enumerate(delays, start=1)}
    landed: set[int] = set()
    position = Position()
    now = 0.0
    while now <= max(visible_at.values()) + 3 * step_s:
        there = [number for number, at in visible_at.items() if at <= now]
        reading = Reading(position, out_of_order=windowed, closing=False, begun=False, now=now)
        while (new := reading.take(rows_of([number for number in there if number >= reading.start]), last=True)) is None:
            pass
        landed |= set(new.numbers)
        position = Position.of(reading.position(updated="").text())
        now += step_s
    return landed, set(visible_at)


def test_any_order_of_commits_within_the_window_is_landed() -> None:
    chance = random.Random(7)
    lost_by_control = 0
    for _ in range(200):
        longest = chance.uniform(0, OVERLAP.total_seconds() - 1)
        delays = [chance.choice((0, 0, 0, chance.uniform(0, longest))) for _ in range(chance.randint(1, 400))]
        step = chance.choice((1, 7, 30, 60, 200))
        landed, there = followed(delays, step, windowed=True)
        assert landed == there
        landed, there = followed(delays, step, windowed=False)
        lost_by_control += landed != there
    assert lost_by_control > 100


def test_a_window_closes_and_then_nothing_is_read_again() -> None:
    position = Position()
    for now in (0, 130, 260, 390):
        reading = Reading(position, out_of_order=True, closing=False, begun=False, now=now)
        rows = rows_of([number for number in (1, 2, 3) if number >= reading.start])
        taken = reading.take(rows, last=True)
        assert taken is not None
        assert list(taken.numbers) == ([1, 2, 3] if now == 0 else [])
        position = reading.position(updated="")
    assert reading.start == 4


def test_the_last_row_replaced_means_reading_anew() -> None:
    reading = Reading(Position(3, "another hash"), out_of_order=False, closing=False, begun=False, now=0)
    assert reading.start == 3
    assert reading.take(rows_of([3]), last=True) is None
    assert reading.start == 1
    assert reading.take(rows_of([1, 2, 3]), last=True) == rows_of([1, 2, 3])
