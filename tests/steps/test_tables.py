"""Files below the data folder are read, tables are written whole or not at all, and no name is ever taken for SQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from pydantic import ValidationError

from workflows_pkg.errors import CodeProblem, DataProblem, PeerUnavailable, Refused, StepError
from workflows_pkg.security.allow import Allow
from workflows_pkg.steps.data.tables import ReadTable, WriteTable, read, write

FLIGHTS = pd.DataFrame(
    {
        "date": pd.to_datetime(["2013-01-01", "2013-01-01", "2013-01-02"]).date,
        "carrier": ["AA", None, "UA"],
        "delay": [1.5, 2.0, None],
        'odd "name"; drop table x; --': [1, 2, 3],
    }
)


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    FLIGHTS.to_parquet(data / "flights.parquet")
    FLIGHTS.to_csv(data / "flights.csv", index=False)
    (data / "flights.json").write_text(FLIGHTS.astype({"date": str}).to_json(orient="records"))
    (tmp_path / "outside.csv").write_text("a\ncanary\n")
    return data


@pytest.fixture
def allow(folder):
    return Allow(files=folder, tables={"flights": "flights.parquet"})


@pytest.fixture
def read_table(make_context, allow):
    return lambda **fields: read(make_context(allow=allow), ReadTable(**fields))


@pytest.fixture
def write_table(make_context, allow):
    def write_table(table, **fields):
        fields = {"database": "w.duckdb", "table": "t", **fields}
        inputs = table if isinstance(table, dict) else {"clean": table}
        return write(make_context(allow=allow, inputs=inputs), WriteTable(**fields))

    return write_table


@pytest.mark.parametrize("source", ["flights", "flights.parquet", "./flights.csv", "flights.json"])
def test_each_kind_of_file_gives_the_same_rows(read_table, source):
    found = read_table(source=source, columns=["carrier", "delay"], where={"date": "2013-01-01"})
    assert found.columns.tolist() == ["carrier", "delay"]
    assert found["delay"].tolist() == [1.5, 2.0]
    assert len(read_table(source=source)) == 3


def test_where_takes_lists_and_missing_values(read_table):
    def carriers(**where):
        return read_table(source="flights", where=where)["delay"].fillna(-1).tolist()

    assert carriers(carrier=["AA", "UA"]) == [1.5, -1]
    assert carriers(carrier=None) == [2.0]
    assert carriers(carrier=["AA", None]) == [1.5, 2.0]
    assert carriers(carrier=[]) == []
    assert carriers(carrier="AA", date="2013-01-02") == []
    assert carriers(delay=1.5) == [1.5]
    assert carriers(**{'odd "name"; drop table x; --': 2}) == [2.0]


@pytest.mark.parametrize("value", ["AA' or 1=1 --", "'; drop table flights; --", "\\' or true", '" or ""="', "AA\0", "{{7*7}}"])
def test_values_are_never_sql(read_table, value):
    assert len(read_table(source="flights", where={"carrier": value})) == 0
    with pytest.raises(DataProblem, match="has no column"):
        read_table(source="flights", where={value: "AA"})
    with pytest.raises(DataProblem, match="has no column"):
        read_table(source="flights", columns=[value])


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"source": "flights", "where": {"carier": "AA"}}, DataProblem, "has no column 'carier'. Did you mean 'carrier'?"),
        ({"source": "flights", "columns": ["delay", "nope"]}, DataProblem, "Its columns: date, carrier, delay"),
        ({"source": "flights", "where": {"date": "first"}}, DataProblem, "first"),
        ({"source": "flight"}, CodeProblem, "Did you mean 'flights'?"),
        ({"source": "flihgts.csv"}, DataProblem, "Did you mean 'flights.csv'?"),
        ({"source": "weather_2013.xlsx"}, CodeProblem, "Files end in .parquet, .csv, .json or .duckdb."),
        ({"source": "*.csv"}, CodeProblem, "is a pattern"),
        ({"source": "flights.csv", "table": "t"}, CodeProblem, "Leave out table"),
        ({"source": "w.duckdb"}, DataProblem, "There is no file 'w.duckdb'"),
        ({"source": "../outside.csv"}, Refused, "leads out of the data folder"),
        ({"source": "/etc/passwd.csv"}, Refused, "is not a path below the data folder"),
    ],
)
def test_mistakes_are_named(read_table, fields, error, message):
    with pytest.raises(error) as caught:
        read_table(**fields)
    assert message in str(caught.value)


def test_files_that_are_not_what_they_say_are_data_problems(read_table, folder):
    for name in ("a.parquet", "a.json", "a.duckdb"):
        (folder / name).write_bytes(b"\x00junk" * 2000)
        with pytest.raises(DataProblem):
            read_table(source=name, table="t" if name.endswith("duckdb") else None)
    (folder / "ü 'q\".csv").write_text("a\n1\n")
    assert read_table(source="ü 'q\".csv")["a"].tolist() == [1]


def test_a_link_out_of_the_folder_and_files_of_the_system_are_refused(read_table, folder, tmp_path):
    (folder / "link.csv").symlink_to(tmp_path / "outside.csv")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "folder.csv").mkdir()
    os.mkfifo(folder / "pipe.csv")
    for source in ("link.csv", "linked/outside.csv", "folder.csv", "pipe.csv", "../../proc/self/environ.csv", "a" * 290 + ".csv"):
        with pytest.raises(StepError) as caught:
            read_table(source=source)
        assert "canary" not in str(caught.value)


def test_written_rows_can_be_read_again(read_table, write_table):
    assert write_table(FLIGHTS) == {"rows": 3, "table": "t"}
    found = read_table(source="w.duckdb", table="t", where={"date": "2013-01-02"})
    assert found["carrier"].tolist() == ["UA"]
    with pytest.raises(DataProblem, match=r"has no table 'other'. Its tables: t"):
        read_table(source="w.duckdb", table="other")
    with pytest.raises(CodeProblem, match="Say which table"):
        read_table(source="w.duckdb")


def test_modes(read_table, write_table):
    one = pd.DataFrame({"day": ["1"], "n": [1]})
    two = pd.DataFrame({"day": ["2", "2"], "n": [2, 3]})

    def rows():
        return sorted(read_table(source="w.duckdb", table="t")["n"].tolist())

    write_table(one)
    write_table(two, mode="append")
    assert rows() == [1, 2, 3]
    for _ in range(2):
        write_table(two.assign(n=[7, 8]), replace_where={"day": "2"})
        assert rows() == [1, 7, 8]
    write_table(two[:0], replace_where={"day": "2"})
    assert rows() == [1]
    write_table(two)
    assert rows() == [2, 3]
    with pytest.raises(ValidationError, match="either mode: append or replace_where"):
        WriteTable(database="w.duckdb", table="t", mode="append", replace_where={"day": "2"})


def test_a_refused_write_leaves_the_table_as_it_was(read_table, write_table):
    write_table(pd.DataFrame({"day": ["1", "2"], "n": [1, 2]}))
    for rows, message in (
        (pd.DataFrame({"day": ["2", "3"], "n": [5, 6]}), "1 rows lie outside replace_where"),
        (pd.DataFrame({"day": ["2"], "m": [5]}), "they come without n and with new m"),
        (pd.DataFrame({"day": ["2"], "n": ["many"]}), "Could not convert"),
    ):
        with pytest.raises(DataProblem, match=message):
            write_table(rows, replace_where={"day": "2"})
        assert read_table(source="w.duckdb", table="t")["n"].tolist() == [1, 2]


def test_without_the_transaction_the_old_rows_are_lost(tmp_path):
    """The control: the same delete and failing insert, each on its own."""
    plain = duckdb.connect(str(tmp_path / "x.duckdb"))
    plain.execute("create table t as select '2' as day, 1 as n")
    plain.execute("delete from t where day = '2'")
    with pytest.raises(duckdb.ConversionException):
        plain.execute("insert into t select '2', 'many'")
    assert plain.execute("from t").fetchall() == []
    plain.close()


def test_which_rows_are_written_is_said_or_clear(write_table):
    table = pd.DataFrame({"a": [1]})
    assert write_table({"clean": [{"a": 1}], "count": 3})["rows"] == 1
    assert write_table({"x": table, "y": table}, **{"from": "y"})["rows"] == 1
    for inputs, fields, message in (
        ({"x": table, "y": table}, {}, r"found 2 \(x, y\)"),
        ({"x": 1}, {}, "found none"),
        ({"clean": table}, {"from": "claen"}, "Did you mean 'clean'?"),
    ):
        with pytest.raises(CodeProblem, match=message):
            write_table(inputs, **fields)
    with pytest.raises(DataProblem, match="found a number"):
        write_table({"x": 1}, **{"from": "x"})


@pytest.mark.parametrize("database", ["../w.duckdb", "/tmp/w.duckdb", "w.db", "w", "a/../../w.duckdb", "w.duckdb/../../x.duckdb"])
def test_databases_lie_below_the_folder(write_table, tmp_path, database):
    with pytest.raises((Refused, CodeProblem)):
        write_table(FLIGHTS, database=database)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "outside.csv"]


@pytest.mark.parametrize("table", ["t; drop table x", 't"', "T", "main.t", "", "1t", "t" * 70, "t\n"])
def test_table_names_are_plain(table):
    with pytest.raises(ValidationError):
        WriteTable(database="w.duckdb", table=table)


def test_a_neighbour_s_lock_is_named_with_its_holder(read_table, write_table, folder):
    write_table(FLIGHTS)
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "w.duckdb")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    for attempt in (lambda: write_table(FLIGHTS), lambda: read_table(source="w.duckdb", table="t")):
        with pytest.raises(PeerUnavailable, match=rf"'w.duckdb' is locked by process {holder.pid} \(python") as caught:
            attempt()
        assert caught.value.cause == "dependency"
        assert str(folder) not in str(caught.value)
    holder.communicate("")
    assert write_table(FLIGHTS)["rows"] == 3


def test_a_connection_of_this_process_with_other_settings_is_a_neighbour_too(write_table, folder):
    write_table(FLIGHTS)
    other = duckdb.connect(str(folder / "w.duckdb"))
    with pytest.raises(PeerUnavailable, match="another step that uses the same database"):
        write_table(FLIGHTS)
    other.close()


def test_two_steps_of_one_process_can_write_to_one_database(make_context, allow):
    from concurrent.futures import ThreadPoolExecutor

    def one(number):
        table = pd.DataFrame({"n": [number]})
        return write(make_context(allow=allow, inputs={"x": table}), WriteTable(database="w.duckdb", table=f"t{number}"))

    with ThreadPoolExecutor(4) as pool:
        assert [value["rows"] for value in pool.map(one, range(8))] == [1] * 8


def test_reading_reaches_the_one_file_only(folder, tmp_path):
    from workflows_pkg.steps.data.engine import reading_connection

    connection = reading_connection(str(folder / "flights.csv"))
    assert connection.execute("select count(*) from read_csv($1)", [str(folder / "flights.csv")]).fetchone() == (3,)
    for other in (tmp_path / "outside.csv", folder / "flights.parquet", Path("/etc/passwd")):
        with pytest.raises(duckdb.PermissionException):
            connection.execute("select * from read_text($1)", [str(other)])
    with pytest.raises(duckdb.InvalidInputException):
        connection.execute("set enable_external_access = true")
    connection.close()


def test_the_answer_is_json(write_table):
    assert json.loads(json.dumps(write_table(FLIGHTS))) == {"rows": 3, "table": "t"}
