"""What does a table of somebody's own say? CSV or Parquet, one row per try of a step, or per run where it has no steps.

Columns with our names are taken as they are; `--map COLUMN=THEIRS` names the others. The unit is the ending of their name
(`duration_ms`, `peak_memory_bytes`); without one a figure is in the unit that our name says. Read and converted by DuckDB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import duckdb

from workflows_pkg.errors import FailureCause, WorkflowsError, bounded, listing, suggestion
from workflows_pkg.history.imports.nextflow import OUT_OF_MEMORY
from workflows_pkg.history.imports.reading import Reading, Source, between, count, finished, unreadable
from workflows_pkg.history.imports.units import MIB, OTHER_DATES, SECONDS
from workflows_pkg.history.schema import literal, quoted
from workflows_pkg.spec.used import EXPECTED, MOST

Kind = Literal["text", "count", "instant", "seconds", "mib", "usd", "outcome", "figure"]

OURS: dict[str, Kind] = {
    "run_id": "text",
    "job_name": "text",
    "step": "text",
    "step_key": "text",
    "attempt": "count",
    "partition_key": "text",
    "outcome": "outcome",
    "exit_code": "count",
    "created_at": "instant",
    "submitted_at": "instant",
    "started_at": "instant",
    "ended_at": "instant",
    "queue_time_s": "seconds",
    "start_time_s": "seconds",
    "run_time_s": "seconds",
    "retry_wait_s": "seconds",
    "cpu_s": "seconds",
    "peak_memory_mib": "mib",
    "failure_cause": "text",
    "error_class": "text",
    "error_message": "text",
    "input_tokens": "figure",
    "output_tokens": "figure",
    "moved_bytes": "figure",
    "calls": "figure",
    "host": "text",
    "pool": "text",
    "process_id": "count",
    "cost_usd": "usd",
}
"""What a table can say. Beside columns of `StepAttempt`: created_at, when the run was asked for; submitted_at, when the try was;
exit_code, whose 0 is success and 137 a try killed for its memory.
"""

OUTCOMES: dict[str, str | None] = {
    **dict.fromkeys(
        ("success", "succeeded", "successful", "completed", "complete", "ok", "passed", "done", "finished"), "success"
    ),
    **dict.fromkeys(
        ("failure", "failed", "fail", "error", "errored", "timeout", "timed_out", "out_of_memory", "broken"), "failure"
    ),
    **dict.fromkeys(("canceled", "cancelled", "aborted", "stopped", "terminated", "killed", "revoked"), "canceled"),
    **dict.fromkeys(("skipped", "cached", "upstream_failed"), "skipped"),
    **dict.fromkeys(("running", "pending", "queued", "submitted", "started", "new", "scheduled"), None),
}
"""Others' words for how a try ended, in any case of letters; None: it is still open."""

_EPOCHS = {"s": (1e8, 4.2e9, 1e6), "ms": (1e11, 4.2e12, 1e3), "us": (1e14, 4.2e15, 1.0), "ns": (1e17, 4.2e18, 1e-3)}
"""Unit -> range of numbers that are instants in it, and microseconds in one: between 1973 and 2103 the ranges do not meet."""

_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-")
"""What stands in a CSV file for nothing."""


@dataclass(frozen=True)
class _Column:
    """One of our columns, and the SQL of what the file says: raw, and in our unit. theirs: None for a value given by hand."""

    ours: str
    theirs: str | None
    raw: str
    value: str


def read(con: duckdb.DuckDBPyConnection, source: Source) -> Reading:
    """The runs in a table. Raises WorkflowsError with the nearest name for an unknown column, or a value that is not understood."""
    try:
        con.execute(f"create view theirs as select * from {_scan(source)}")
        types = {str(row[0]): str(row[1]) for row in con.execute("describe theirs").fetchall()}
    except duckdb.Error as error:
        raise unreadable(source, error) from error
    columns = _columns(source, types)
    _refuse_missing(source, columns, types)
    remarks = _checked(con, source, columns)
    selected = ", ".join(f"{column.value} as {quoted(column.ours)}" for column in columns.values())
    con.execute(f"create temp table mapped as select row_number() over () as n, {selected} from theirs")
    if "step" not in columns and "step_key" not in columns:
        return _rows_are_runs(con, source, columns, remarks)
    con.execute(f"create temp view tries as {_tries(source, columns)}")
    return finished(con, source, "tries", remarks=remarks)


def _scan(source: Source) -> str:
    place = literal(re.sub(r"([\[*?])", r"[\1]", str(source.file)))  # read_parquet and read_csv take these for patterns
    with source.file.open("rb") as opened:
        if opened.read(4) == b"PAR1":
            return f"read_parquet({place})"
        opened.seek(0)
        compressed = ", compression = 'gzip'" if opened.read(2) == b"\x1f\x8b" else ""
    # As text: what a value means is decided here, and one odd value far down must not make the file unreadable.
    nothing = ", ".join(map(literal, _MISSING))
    return f"read_csv({place}, header = true, all_varchar = true, nullstr = [{nothing}]{compressed})"


def _columns(source: Source, types: Mapping[str, str]) -> dict[str, _Column]:
    found: dict[str, _Column] = {}
    for ours in source.columns:
        if ours not in OURS:
            raise WorkflowsError(
                f"--map {bounded(ours)}=…: there is no such column.", fix=suggestion(ours, OURS) or f"Known: {', '.join(OURS)}."
            )
    for ours, kind in OURS.items():
        theirs = source.columns.get(ours, ours if ours in types else "")
        given = re.fullmatch(r"'(.*)'", theirs)
        if given:
            found[ours] = _Column(ours, None, literal(given[1]), _converted(source, ours, kind, literal(given[1]), "VARCHAR", ""))
        elif theirs:
            if theirs not in types:
                fix = suggestion(theirs, types) or listing("column", sorted(types), most=20)
                raise source.refuse(f"has no column '{bounded(theirs)}' for {ours}.", fix)
            found[ours] = _Column(
                ours, theirs, quoted(theirs), _converted(source, ours, kind, quoted(theirs), types[theirs], theirs)
            )
    return found


def _converted(source: Source, ours: str, kind: Kind, raw: str, sql_type: str, theirs: str) -> str:
    """SQL of the value in our type and unit, NULL where it is not understood."""
    unit = _unit(theirs)
    if kind == "outcome":
        return _outcome(source, raw, sql_type)
    if kind == "text":
        return f"{raw}::varchar"
    if kind == "instant":
        return _instant(source, raw, sql_type, unit)
    if kind == "figure":
        number = f"try_cast({raw} as double)"
        if ours == "moved_bytes" and unit in MIB:
            number = f"round({number} * {MIB[unit] * 2**20!r})"
        return f"(case when {number} between 0 and {MOST} and {number} = floor({number}) then {number}::bigint end)"
    if kind == "count":
        return f"try_cast(try_cast({raw} as double) as bigint)"
    if sql_type == "INTERVAL" and kind == "seconds":
        return f"epoch({raw})"
    factors = {"seconds": SECONDS, "mib": MIB, "usd": {}}[kind]
    if unit and unit not in factors and unit in {**SECONDS, **MIB} and kind != "usd":
        raise source.refuse(f"'{theirs}' is in {unit} by its name, which {ours} cannot be.")
    figure = f"try_cast({raw} as double)"
    return f"(case when not isnan({figure}) and {figure} >= 0 then {figure} end * {factors.get(unit, 1.0)!r})"


def _unit(theirs: str) -> str:
    ending = theirs.lower().rpartition("_")[2]
    return ending if "_" in theirs and ending in {**SECONDS, **MIB} else ""


def _instant(source: Source, raw: str, sql_type: str, unit: str) -> str:
    if sql_type.startswith("TIMESTAMP") or sql_type == "DATE":
        return f"{raw}::timestamptz"
    number = f"try_cast({raw} as double)"
    if unit in _EPOCHS:
        return f"make_timestamptz(({number} * {_EPOCHS[unit][2]!r})::bigint)"
    cases = " ".join(
        f"when {number} between {low!r} and {high!r} then {number} * {factor!r}" for low, high, factor in _EPOCHS.values()
    )
    epoch = f"make_timestamptz(case {cases} end::bigint)"
    if sql_type != "VARCHAR":
        return epoch
    forms = ", ".join(map(literal, OTHER_DATES))
    return f"coalesce(try_cast({raw} as timestamptz), try_strptime({raw}, [{forms}])::timestamptz, {epoch})"


def _outcome(source: Source, raw: str, sql_type: str) -> str:
    if sql_type != "VARCHAR" and not sql_type.startswith("ENUM"):
        raise source.refuse(
            f"outcome is to be a word, and {raw} is {sql_type}.", "Map a number of which 0 means success to exit_code instead."
        )
    cases = " ".join(f"when {literal(word)} then {literal(outcome or '')}" for word, outcome in OUTCOMES.items())
    return f"case lower({raw}) {cases} end"


def _refuse_missing(source: Source, columns: Mapping[str, _Column], types: Mapping[str, str]) -> None:
    if "run_id" not in columns:
        raise source.refuse(
            "nothing says which run a row belongs to.", f"Add --map run_id=THEIRS. {listing('column', sorted(types), most=20)}"
        )


def _checked(con: duckdb.DuckDBPyConnection, source: Source, columns: Mapping[str, _Column]) -> list[str]:
    """Refuses values that are not understood, with the first; remarks on figures below zero, which mean unknown to who writes them."""
    looked_at = [column for column in columns.values() if OURS[column.ours] != "text"]
    parts: list[str] = []
    for column in looked_at:
        figure = OURS[column.ours] in ("seconds", "mib", "usd", "figure")
        below = f"coalesce(try_cast({column.raw} as double) < 0, false)" if figure else "false"
        nan = f"lower({column.raw}::varchar) = 'nan'"
        bad = f"{column.raw} is not null and {column.value} is null and not {below} and not {nan}"
        parts += [f"count(*) filter ({bad})", f"any_value({column.raw}::varchar) filter ({bad})", f"count(*) filter ({below})"]
    remarks: list[str] = []
    if not parts:
        return remarks
    row = con.execute(f"select {', '.join(parts)} from theirs").fetchall()[0]
    for column, number, example, below in zip(looked_at, row[::3], row[1::3], row[2::3], strict=True):
        named = f"'{column.theirs}'" if column.theirs else "--map"
        if number:
            raise source.refuse(
                f"{named} has '{bounded(example)}' for {column.ours}; expected {_EXPECTED[OURS[column.ours]]}. Such values: {number:,}."
            )
        if below:
            remarks.append(f"values of {named} below zero are taken as unknown: {below:,}")
    if "failure_cause" in columns:
        _refuse_causes(con, source, columns["failure_cause"])
    return remarks


_EXPECTED: dict[Kind, str] = {
    "count": "a whole number",
    "instant": "ISO text such as 2024-05-11T13:17:49Z, or seconds, ms, us or ns since 1970",
    "seconds": "a number",
    "mib": "a number",
    "usd": "a number",
    "figure": EXPECTED,
    "outcome": "a word such as success, failed, canceled, skipped, running",
}


def _refuse_causes(con: duckdb.DuckDBPyConnection, source: Source, column: _Column) -> None:
    known = ", ".join(map(literal, get_args(FailureCause)))
    rows = con.execute(f"select {column.value} from theirs where {column.value} not in ({known}) limit 1").fetchall()
    if rows:
        raise source.refuse(f"failure_cause '{bounded(rows[0][0])}' is none of {', '.join(get_args(FailureCause))}.")


def _tries(source: Source, columns: Mapping[str, _Column]) -> str:
    def known(name: str, otherwise: str = "NULL") -> str:
        return quoted(name) if name in columns else otherwise

    # Dagster's form for one of many of a step, unless their name has the step's in it already.
    key = "step_key" if "step_key" in columns else "step"
    if "step" in columns and "step_key" in columns:
        key = "case when starts_with(step_key, step) then step_key else step || coalesce('[' || step_key || ']', '') end"
    step = known("step", r"regexp_replace(step_key, '\[.*\]$', '')")
    return f"""
        select n, run_id as run, {known("created_at", "NULL::timestamptz")} as created_at, job_name, step, step_key, attempt,
            partition_key, outcome, submitted_at, started_at, ended_at, queue_time_s, retry_wait_s, cpu_s, peak_memory_mib,
            input_tokens, output_tokens, moved_bytes, calls, error_class, error_message, host, pool, process_id, cost_usd,
            coalesce(run_time_s, {between("started_at", "ended_at")}) as run_time_s,
            coalesce(start_time_s, {between("submitted_at", "started_at")}) as start_time_s,
            coalesce(failure_cause, case when exit_code = {OUT_OF_MEMORY} then 'memory' end) as failure_cause
        from ({_as_ours(source, columns, key, step)})"""


def _as_ours(source: Source, columns: Mapping[str, _Column], key: str, step: str) -> str:
    """All columns that a table can have, in their types, unknown where `columns` lacks them; of begin, end and time the third."""
    types = {"text": "varchar", "count": "bigint", "instant": "timestamptz", "outcome": "varchar", "figure": "bigint"}
    made = {
        "job_name": f"coalesce({quoted('job_name') if 'job_name' in columns else 'NULL'}, {literal(source.name or source.stem)})",
        "step": step,
        "step_key": key,
        "outcome": _judged(columns),
    }
    items = [
        f"{made.get(name, quoted(name) if name in columns else 'NULL')}::{types.get(kind, 'double')} as {quoted(name)}"
        for name, kind in OURS.items()
    ]
    return f"""
        select * replace (
            coalesce(started_at, ended_at - to_microseconds((run_time_s * 1e6)::bigint)) as started_at,
            coalesce(ended_at, started_at + to_microseconds((run_time_s * 1e6)::bigint)) as ended_at)
        from (select n, {", ".join(items)} from mapped)"""


def _judged(columns: Mapping[str, _Column]) -> str:
    said = "nullif(outcome, '')" if "outcome" in columns else "NULL"
    if "outcome" in columns or "exit_code" not in columns:
        return said
    return "case when exit_code = 0 then 'success' when exit_code is not null then 'failure' end"


def _rows_are_runs(
    con: duckdb.DuckDBPyConnection, source: Source, columns: Mapping[str, _Column], remarks: Sequence[str]
) -> Reading:
    con.execute(f"create temp view rows_of_runs as select * from ({_as_ours(source, columns, 'NULL', 'NULL')})")
    twice = con.execute("select run_id, count(*) from rows_of_runs group by 1 having count(*) > 1 limit 1").fetchall()
    if twice:
        raise source.refuse(
            f"run '{bounded(twice[0][0])}' has {twice[0][1]} rows, and nothing says which step each is.", "Add --map step=THEIRS."
        )
    con.execute(
        f"""create temp view runs_of_rows as
            select run_id as run, job_name, partition_key, outcome, queue_time_s, start_time_s, cost_usd,
                coalesce(created_at, submitted_at, started_at, ended_at) as created_at, started_at,
                case when outcome is not null then ended_at end as ended_at,
                coalesce(run_time_s, {between("started_at", "ended_at")}) as run_time_s
            from rows_of_runs"""
    )
    con.execute("create temp view tries as select run, NULL::bigint as n from runs_of_rows where false")
    runs = f"{count(con, 'runs_of_rows'):,} rows"
    return finished(con, source, "tries", "runs_of_rows", [*remarks, f"it names no steps: its {runs} are taken as runs"])
