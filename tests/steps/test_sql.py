"""SQL sees the tables of the needed steps, and nothing else of the machine."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import threading
import time

import duckdb
import pandas as pd
import pytest
from pydantic import ValidationError

from workflows_pkg.errors import CodeProblem, DataProblem, MemoryLimit, Refused, SpecError, StepError, StepTimeout
from workflows_pkg.spec.loader import load_text
from workflows_pkg.steps.data.sql import Sql, run

FLIGHTS = pd.DataFrame(
    {"day": pd.to_datetime(["2013-01-01", "2013-01-02", None]), "carrier": ["AA", None, "UA"], "delay": [1.5, None, 3.0]}
)


@pytest.fixture
def query(make_context):
    def query(text, inputs=None, **fields):
        # Past the model's own look at the query, so that what the run refuses by itself is seen.
        params = Sql(query="select 1", **fields).model_copy(update={"query": text})
        return run(make_context(inputs={"flights": FLIGHTS} if inputs is None else inputs), params)

    return query


def test_tables_and_records_of_needed_steps_are_read_by_name(query):
    records = [{"carrier": "AA", "name": "American"}]
    found = query(
        "select name, delay from flights join names using (carrier) where day = $day",
        {"flights": FLIGHTS, "names": records, "nothing": None, "blob": b"x"},
        params={"day": "2013-01-01"},
    )
    assert found.to_dict("records") == [{"name": "American", "delay": 1.5}]


def test_values_are_bound_with_their_types(query):
    given = {"text": "x'; drop table flights; --", "n": 1, "f": 0.5, "d": dt.date(2013, 1, 1), "l": [1, 2], "no": None, "b": True}
    found = query("select $text a, $n b, $f c, $d d, $l e, $no f, $b g, (select count(*) from flights) h", params=given)
    row = found.iloc[0]
    assert (row["a"], row["b"], row["c"], list(row["e"]), row["g"], row["h"]) == (given["text"], 1, 0.5, [1, 2], True, 3)
    assert row["d"] == pd.Timestamp("2013-01-01")
    assert pd.isna(row["f"])


def test_the_caller_s_table_is_not_changed_and_an_empty_table_keeps_its_columns(query):
    before = FLIGHTS.copy()
    assert list(query("from flights where false").columns) == ["day", "carrier", "delay"]
    pd.testing.assert_frame_equal(FLIGHTS, before)


SENTINEL = "{folder}/sentinel"
HOSTILE = [
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from '{folder}/secret.csv'",
    "select * from read_csv_auto('{folder}/secret.csv')",
    "select * from read_text('{folder}/secret.csv')",
    "select * from read_blob('{folder}/secret.csv')",
    "select * from read_json('{folder}/secret.csv')",
    "select * from read_parquet('{folder}/*')",
    "select * from parquet_metadata('{folder}/secret.csv')",
    "select * from sniff_csv('{folder}/secret.csv')",
    "select * from glob('{folder}/*')",
    "select * from read_duckdb('{folder}/secret.csv')",
    "select * from query('select * from read_text(''{folder}/secret.csv'')')",
    "select * from query('select * from pan' || 'das_scan(null)')",
    "select * from query_table('{folder}/secret.csv')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select (select content from read_text('{folder}/secret.csv'))",
    "with x as (select * from read_text('{folder}/secret.csv')) select * from x",
    "describe select * from read_text('{folder}/secret.csv')",
    "summarize select * from read_text('{folder}/secret.csv')",
    "select * from which_secret('s3://x', 's3')",
    "select * from duckdb_secrets()",
    "select * from enable_logging(storage = 'file', storage_path = '{folder}/sentinel')",
    "call enable_logging(storage = 'file', storage_path = '{folder}/sentinel')",
    "select * from pandas_scan(null)",
    "select * from PANDAS_SCAN(null)",
    'select * from main."pandas_scan"(null)',
    "select * from python_map_function(null, null, null, null)",
    "select * from arrow_scan(null, null, null)",
    "select * from 'http://127.0.0.1:9/x.csv'",
    "select * from read_csv('http://127.0.0.1:9/x.csv')",
    "select * from read_parquet('s3://bucket/x')",
    "select * from sqlite_scan('{folder}/secret.csv', 'x')",
    "copy flights to '{folder}/sentinel'",
    "copy (select 1) to '{folder}/sentinel' (format parquet)",
    "copy flights from '{folder}/secret.csv'",
    "export database '{folder}/sentinel'",
    "import database '{folder}'",
    "attach '{folder}/sentinel' as other",
    "attach '{folder}/sentinel' as o; select 1",
    "install httpfs",
    "load httpfs",
    "load '{folder}/sentinel'",
    "set enable_external_access = true",
    "set lock_configuration = false",
    "set memory_limit = '100GB'",
    "set temp_directory = '{folder}/sentinel'",
    "reset all",
    "pragma database_list",
    "pragma enable_profiling = 'json'",
    "create table t as select 1",
    "create or replace macro f() as 1",
    "create secret s (type s3)",
    "drop view flights",
    "delete from flights",
    "insert into flights values (1)",
    "update flights set delay = 0",
    "vacuum",
    "checkpoint",
    "begin; select 1; commit",
    "prepare p as select 1",
    "execute p",
    "use memory",
    "select 1; select 2",
    "select 1; copy flights to '{folder}/sentinel'",
    "explain analyze select 1",
    "select getenv('HOME')",
    "select * from hidden",
    "select * from flights_of_the_caller",
    "",
    ";",
    "-- nothing",
]
BIG = "select hash(range) as h, range::varchar || repeat('x', 50) as t from range(3000000) order by h"
hidden = pd.DataFrame({"secret": ["of the module"]})


def test_hostile_statements_read_and_write_nothing(query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.csv").write_text("a\ncanary\n")
    assert len(HOSTILE) > 60
    flights_of_the_caller = pd.DataFrame({"a": [1]})  # noqa: F841 - what replacement scans would find
    for statement in HOSTILE:
        text = statement.format(folder=tmp_path)
        with pytest.raises((StepError, ValidationError)) as caught:
            query(text)
        assert "canary" not in str(caught.value), statement
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


def test_a_plain_connection_is_open_to_them(tmp_path):
    """The control: the same statements do read, write and crash on DuckDB as it comes."""
    (tmp_path / "secret.csv").write_text("a\ncanary\n")
    plain = duckdb.connect()
    caller_s = pd.DataFrame({"a": [1]})  # noqa: F841
    assert "canary" in str(plain.execute(f"select * from read_text('{tmp_path}/secret.csv')").fetchall())
    assert plain.execute("select * from caller_s").fetchall() == [(1,)]
    plain.execute(f"copy (select 1) to '{tmp_path}/sentinel'")
    assert (tmp_path / "sentinel").exists()
    plain.close()
    crashed = subprocess.run([sys.executable, "-c", "import duckdb; duckdb.sql('select * from pandas_scan(null)')"], check=False)
    assert crashed.returncode < 0, "DuckDB has mended pandas_scan(null); the list of table functions stays for the others"


@pytest.mark.parametrize(
    ("text", "params", "error", "message"),
    [
        ("selec 1", {}, CodeProblem, 'not valid SQL: syntax error at or near "selec"'),
        ("select * from flight", {}, CodeProblem, "Tables here: flights."),
        ("select dealy from flights", {}, CodeProblem, 'Candidate bindings: "delay"'),
        ("select nosuch(1)", {}, CodeProblem, "nosuch"),
        ("select $day", {"dya": 1}, CodeProblem, "has $day, which params does not give. Did you mean 'dya'?"),
        ("select 1", {"day": 1}, CodeProblem, "params gives 'day', which the query does not use."),
        ("select ?", {}, CodeProblem, "bound by name"),
        ("select cast(carrier as int) from flights", {}, DataProblem, "Could not convert string"),
        ("pivot flights on carrier", {}, CodeProblem, "PIVOT without its values"),
        ("select 1; select 2", {}, Refused, "Expected one SELECT statement, found SELECT and SELECT."),
        ("delete from flights", {}, Refused, "found DELETE"),
        ("select * from read_csv('x.csv')", {}, Refused, "does not read from 'read_csv'"),
    ],
)
def test_mistakes_are_named(query, text, params, error, message):
    with pytest.raises(error) as caught:
        query(text, params=params)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


FILE = "workflow: w\nsteps:\n  q:\n    uses: data.sql\n    with: {params: {t: '${{ run.id }}'}, query: %s}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("selec 1", 'the query is not valid SQL: syntax error at or near "selec" - LINE 1: selec 1'),
        ("select * from\n  (select 1", "the query is not valid SQL: syntax error at end of input"),
        ("", "expected at least 1 characters, found empty text."),
        ("  ", "expected one SELECT statement, found none. Write one SELECT"),
        ("-- later", "expected one SELECT statement, found none."),
        ("select 1; drop table x", "expected one SELECT statement, found SELECT and DROP."),
        ("select * from read_csv('x.csv')", "a query does not read from 'read_csv'."),
        ("select " + "(" * 40_000, "the query is not valid SQL: memory exhausted"),
    ],
)
def test_a_query_that_cannot_run_is_found_in_the_file(text, message):
    with pytest.raises(SpecError) as caught:
        load_text(FILE % json.dumps(text), file="w.yaml", kinds={"data.sql": Sql})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"w.yaml:5:49: steps.q.with.query: {message}")
    assert len(line) < 500


def test_what_only_the_run_can_know_is_left_to_it():
    """The control: unknown tables, columns and functions, and values that come later, do not make a file wrong."""
    for text in ("select nosuch(a) from nowhere where b = $t", "select 1"):
        assert load_text(FILE % json.dumps(text), file="w.yaml", kinds={"data.sql": Sql}).workflow == "w"


def test_looking_at_queries_does_not_hold_up_loading():
    started = time.monotonic()
    for number in range(500):
        Sql(query=f"select {number}")
    assert time.monotonic() - started < 4  # a connection for each takes 8 s


def test_a_secret_is_not_bound_because_the_result_is_kept_in_clear():
    text = FILE.replace("run.id", "secrets.tok") % "select $t as t"
    with pytest.raises(SpecError, match=r"w\.yaml:5:29: steps\.q\.with\.params\.t: a secret is refused here") as caught:
        load_text(text, file="w.yaml", kinds={"data.sql": Sql})
    assert len(caught.value.problems) == 1


def test_an_input_that_is_no_table_is_named(query):
    with pytest.raises(CodeProblem, match="'totals' gave a JSON object"):
        query("select * from totals", {"totals": {"a": 1}})


def test_ordinary_queries_are_not_in_the_way(query):
    for text in (
        "with recursive n as (select 1 as i union all select i + 1 from n where i < 4) select sum(i) as x from n;",
        "select unnest([1, 2]) as x",
        "from range(3)",
        "pivot flights on carrier in ('AA', 'UA') using sum(delay)",
        "summarize flights",
        "select *, row_number() over (partition by carrier order by day) from flights qualify true",
        "select json_extract('{\"a\": 1}', '$.a') as x",
        "select list_transform([1, 2], lambda x: x + 1) as x -- comment",
        "values (1), (2)",
        "select strftime(day, '%Y') from flights union all by name select carrier from flights",
    ):
        assert isinstance(query(text), pd.DataFrame), text


def test_the_memory_limit_is_a_limit_and_nothing_is_spilled(query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MemoryLimit, match="needs more memory than its limit of 64MB") as caught:
        query(BIG, memory_limit="64MB", threads=2)
    assert caught.value.cause == "memory"
    assert "one partition" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_plain_connection_spills_instead(tmp_path, monkeypatch):
    """The control: DuckDB as it comes moves the same sort to the disk, and the limit stops nothing."""
    monkeypatch.chdir(tmp_path)
    plain = duckdb.connect(config={"memory_limit": "100MB", "threads": "1"})
    plain.execute(
        "create temp table t as select hash(range) as h, range::varchar || repeat('x', 50) as t from range(3000000) order by h"
    )
    assert list(tmp_path.iterdir()) != []
    plain.close()


@pytest.mark.parametrize("limit", ["64", "64 MB", "0MB", "-1GB", "80%", "64MB; x", "none"])
def test_memory_limits_that_are_none_are_refused(limit):
    with pytest.raises(ValidationError):
        Sql(query="select 1", memory_limit=limit)


def test_a_stop_interrupts_the_query(make_context):
    stops = []
    context = make_context(on_stop=stops.append)
    threading.Timer(0.3, lambda: stops[0]()).start()
    started = time.monotonic()
    with pytest.raises(StepTimeout):
        run(context, Sql(query="select count(*) from range(1000000000000) where hash(range) = 1", threads=1))
    assert time.monotonic() - started < 5
    stops[0]()  # late, when the connection is gone


def test_a_column_of_mixed_types_is_named(query):
    with pytest.raises(DataProblem, match="mixes types"):
        query("from mixed", {"mixed": pd.DataFrame({"a": [1, "x", b"y"]})})
