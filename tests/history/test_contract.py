"""One definition of every shape: records, tables, views and data dictionary agree."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from workflows_pkg.history.dictionary import TARGET, data_dictionary
from workflows_pkg.history.records import RECORDS, Record
from workflows_pkg.history.rollup_records import TABLES
from workflows_pkg.history.schema import arrow_schema, columns
from workflows_pkg.history.store import open_history, to_table, writer


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with writer(home):
        pass
    with open_history(home) as found:
        yield found


@pytest.mark.parametrize("record_type", TABLES, ids=lambda r: r.table)
def test_table_view_dictionary_and_record_have_the_same_columns(con, record_type):
    expected = [(column.name, column.sql_type, column.nullable) for column in columns(record_type)]
    table = con.execute(
        "select column_name, data_type, is_nullable from duckdb_columns() "
        "where schema_name = 'live' and table_name = ? order by column_index",
        [record_type.table],
    ).fetchall()
    assert [
        (name, kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), nullable) for name, kind, nullable in table
    ] == expected
    view = con.execute(f"describe main.{record_type.table}").fetchall()
    assert [row[0] for row in view] == [name for name, _, _ in expected]
    section = re.search(rf"\n## {record_type.table}\n(.*?)(\n## |\Z)", data_dictionary(), re.DOTALL).group(1)
    assert re.findall(r"^\| `(\w+)` \| ([\w ]+?) \| (always)? *\|", section, re.MULTILINE) == [
        (c.name, "JSON text" if c.is_json else c.sql_type, "" if c.nullable else "always") for c in columns(record_type)
    ]
    assert arrow_schema(record_type).names == [name for name, _, _ in expected]


@pytest.mark.parametrize("record_type", TABLES, ids=lambda r: r.table)
def test_every_table_and_column_is_described_and_every_key_is_known(record_type):
    assert record_type.__doc__
    found = {column.name: column for column in columns(record_type)}
    assert all(column.description.endswith(".") for column in found.values())
    assert all(name in found and not found[name].nullable for name in record_type.key)
    assert record_type.day is None or found[record_type.day].sql_type == "TIMESTAMPTZ"


def test_the_written_dictionary_is_fresh():
    written = Path(__file__).parents[2] / TARGET
    assert written.read_text(encoding="utf-8") == data_dictionary(), "run: python -m workflows_pkg.history.dictionary"


def test_a_type_that_no_column_can_have_is_refused():
    class Odd(Record):
        table = "odd"
        key = ("things",)
        things: list[str]

    with pytest.raises(TypeError, match="column 'things'"):
        columns(Odd)


def test_an_empty_list_of_records_still_has_typed_columns():
    assert to_table(RECORDS[0], []).schema.field("at").type == pa.timestamp("us", tz="UTC")
