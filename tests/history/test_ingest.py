"""Raw rows become events exactly once; what cannot be read stops nothing."""

from __future__ import annotations

import json
import random

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workflows_pkg.history.ingest import RAW_SCHEMA, LandResult, land
from workflows_pkg.history.questions import read
from workflows_pkg.history.records import Cursor, Event, Quarantined
from workflows_pkg.history.store import writer


def test_rows_and_cursor_land_and_a_second_reading_changes_nothing(tmp_path, whole_run, translate):
    log = whole_run()
    with writer(tmp_path) as history:
        assert land(history, log.batch(), translate, [log.cursor()]) == LandResult(len(log.rows), 0)
        published = history.publish()
        assert published
        assert land(history, log.batch(), translate, [log.cursor()]) == LandResult(0, 0)
        assert not history.publish(), "nothing changed, the cursor's time included"
        assert [c.position for c in read(history.con, Cursor)] == [str(len(log.rows))]


def test_overlapping_batches_and_doubled_rows_land_once(tmp_path, whole_run, translate):
    log = whole_run()
    with writer(tmp_path) as history:
        landed = sum(land(history, log.batch(first, first + 7), translate, []).events for first in range(0, len(log.rows), 3))
        doubled = pa.concat_tables([log.batch(), log.batch()])
        assert landed == len(log.rows)
        assert land(history, doubled, translate, []).events == 0


def test_a_number_that_the_source_uses_again_is_another_event(tmp_path, new_log, translate):
    with writer(tmp_path) as history:
        land(history, new_log().say("run_started", 1).batch(), translate, [])
        assert land(history, new_log().say("run_started", 2).batch(), translate, []).events == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"kind": "other", "at"', "not JSON"),
        ("", "not JSON"),
        ("null", "kind is unknown"),
        ('{"at": 1}', "kind is unknown"),
        ('{"kind": "other"}', "instant is unknown"),
        ('{"kind": "other", "at": "soon"}', "Could not convert string 'soon'"),
        ('{"kind": "other", "at": 1e300}', "instant is unknown"),
    ],
)
def test_a_row_that_cannot_be_read_is_put_aside_once_with_the_reason(tmp_path, new_log, text, reason):
    # this translation fails for some rows as a whole
    translate = """select source_id, run_id, event_id, event_hash, j ->> '$.kind' as kind,
        case when (j ->> '$.at')::double < 1e12 then to_timestamp((j ->> '$.at')::double) end as "at"
        from (select *, try(event::json) as j from raw)"""
    log = new_log().say("run_started", 1).say_text(text).say("run_succeeded", 2)
    with writer(tmp_path) as history:
        assert land(history, log.batch(), translate, [log.cursor()]) == LandResult(2, 1)
        assert land(history, log.batch(), translate, [log.cursor()]) == LandResult(0, 0)
        (aside,) = read(history.con, Quarantined)
        assert aside.event_id == 2
        assert reason in aside.reason


def test_a_batch_of_nothing_but_a_broken_row_lands_nothing(tmp_path, new_log):
    translate = "select source_id, run_id, event_id, event_hash, event::json ->> '$.kind' as kind, now() as \"at\" from raw"
    with writer(tmp_path) as history:
        assert land(history, new_log().say_text("{broken").batch(), translate, []) == LandResult(0, 1)


@pytest.mark.parametrize("doubled", ["union all select * from made", "union all select * replace (null as kind) from made"])
def test_a_row_that_the_translation_doubles_lands_once(tmp_path, new_log, translate, doubled):
    log = new_log().say("run_started", 1).say("run_succeeded", 2)
    with writer(tmp_path) as history:
        assert land(history, log.batch(), f"with made as ({translate}) from made {doubled}", []) == LandResult(2, 0)


def test_runs_that_had_no_events_before_are_given_whole(tmp_path, new_log, translate):
    old, new = new_log("old").say("run_started", 1).say("run_succeeded", 2), new_log("new").say("run_started", 1)
    with writer(tmp_path) as history:
        land(history, old.batch(0, 1), translate, [])
        landed = land(history, pa.concat_tables([old.batch(), new.batch()]), translate, [])
        assert landed == LandResult(2, 0)
        assert landed.whole_runs is not None
        assert landed.whole_runs["run_id"].to_pylist() == ["new"]


def test_a_row_lost_in_translation_is_put_aside(tmp_path, new_log, translate):
    log = new_log().say("run_started", 1).say("run_succeeded", 2)
    with writer(tmp_path) as history:
        assert land(history, log.batch(), translate + " where event_id <> 2", []) == LandResult(1, 1)
        assert read(history.con, Quarantined)[0].reason == "The translation gave no row for it."


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(poison=st.sets(st.integers(0, 299), max_size=12), batch=st.integers(20, 300))
def test_every_good_row_lands_whatever_stands_beside_it(tmp_path_factory, poison, batch, new_log):
    translate = """select source_id, run_id, event_id, event_hash, event ->> '$.kind' as kind,
        to_timestamp((event ->> '$.at')::double) as "at" from raw"""
    log = new_log()
    for number in range(300):
        log.say_text("{broken" if number in poison else json.dumps({"kind": "other", "at": number}))
    with writer(tmp_path_factory.mktemp("home")) as history:
        for first in range(0, 300, batch):
            land(history, log.batch(first, first + batch), translate, [])
        assert {event.event_id - 1 for event in read(history.con, Event)} == set(range(300)) - poison
        assert {row.event_id - 1 for row in read(history.con, Quarantined)} == poison


def test_a_wrong_select_is_a_mistake_of_its_author_and_puts_nothing_aside(tmp_path, new_log):
    batch = new_log().say("run_started", 1).batch()
    with writer(tmp_path) as history:
        with pytest.raises(duckdb.Error):
            land(history, batch, "select nothing from raw", [])
        with pytest.raises(ValueError, match="no column 'kind', 'at'"):
            land(history, batch, "select * exclude event from raw", [])
        assert land(history, batch.slice(0, 0), "select nothing from raw", []) == LandResult(0, 0)
        assert (read(history.con, Event), read(history.con, Quarantined)) == ([], [])


def test_batches_in_any_order_and_size_give_the_same_rows(tmp_path, whole_run, translate):
    logs = [whole_run(f"r{n}") for n in range(4)]
    table = pa.concat_tables([log.batch() for log in logs])
    order = list(range(len(table)))
    random.Random(7).shuffle(order)
    contents = []
    for name, batches in {"whole": [table], "shuffled": [table.take(order[i : i + 9]) for i in range(0, len(order), 9)]}.items():
        with writer(tmp_path / name) as history:
            for batch in batches:
                land(history, batch, translate, [])
            contents.append(read(history.con, Event))
    assert contents[0] == contents[1]


def test_a_batch_has_the_documented_columns():
    assert RAW_SCHEMA.names == ["source_id", "run_id", "event_id", "event_hash", "event"]
