"""What does an entry of Dagster's event log say in the words of history?

`TRANSLATE_SQL` turns raw rows into the columns of `history.records.Event` inside DuckDB, many rows at a time; the constants
beside it are the tables it is made from. A row whose text it cannot read comes out without `kind` or `at`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from workflows_pkg import errors
from workflows_pkg.errors import FailureCause, StepError
from workflows_pkg.history.ingest import rows_with
from workflows_pkg.orchestration.facts import EARLIEST, LATEST

KINDS: Mapping[str, str] = {
    "PIPELINE_ENQUEUED": "run_queued",
    "PIPELINE_DEQUEUED": "run_dequeued",
    "PIPELINE_STARTING": "run_starting",
    "PIPELINE_START": "run_started",
    "PIPELINE_SUCCESS": "run_succeeded",
    "PIPELINE_FAILURE": "run_failed",
    "PIPELINE_CANCELING": "run_canceling",
    "PIPELINE_CANCELED": "run_canceled",
    "STEP_WORKER_STARTING": "worker_starting",
    "STEP_WORKER_STARTED": "worker_started",
    "STEP_START": "step_started",
    "STEP_RESTARTED": "step_restarted",
    "STEP_SUCCESS": "step_succeeded",
    "STEP_FAILURE": "step_failed",
    "STEP_UP_FOR_RETRY": "step_retried",
    "STEP_SKIPPED": "step_skipped",
    "ASSET_MATERIALIZATION": "materialized",
    "ASSET_OBSERVATION": "observed",
    "ASSET_CHECK_EVALUATION": "checked",
    "LOGS_CAPTURED": "logs_captured",
}
"""Dagster's event type -> kind. An engine event with the key `workflows/attempt` is `metered`, everything else `other`."""

_OWN_ERRORS = tuple(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StepError))

CAUSES: Mapping[str, FailureCause] = {
    **{kind.__name__: kind.cause for kind in _OWN_ERRORS},
    # the interpreter's own
    "MemoryError": "memory",
    "TimeoutError": "timeout",
    "BlockingIOError": "dependency",
    "ConnectionError": "dependency",
    "ConnectionRefusedError": "dependency",
    "ConnectionResetError": "dependency",
    "ConnectionAbortedError": "dependency",
    "BrokenPipeError": "dependency",
    "RemoteDisconnected": "dependency",
    "IncompleteRead": "dependency",
    "HTTPError": "dependency",
    "URLError": "dependency",
    "gaierror": "dependency",
    "SSLError": "dependency",
    "OSError": "infrastructure",
    "IOError": "infrastructure",
    "PermissionError": "infrastructure",
    "FileNotFoundError": "data",
    "UnicodeDecodeError": "data",
    "JSONDecodeError": "data",
    "ArithmeticError": "code",
    "AssertionError": "code",
    "AttributeError": "code",
    "ImportError": "code",
    "IndexError": "code",
    "KeyError": "code",
    "ModuleNotFoundError": "code",
    "NameError": "code",
    "NotImplementedError": "code",
    "RecursionError": "code",
    "SyntaxError": "code",
    "TypeError": "code",
    "UnboundLocalError": "code",
    "ValueError": "code",
    "ZeroDivisionError": "code",
    # clients of other services: requests, httpx, urllib3, database drivers
    "ConnectTimeout": "timeout",
    "ReadTimeout": "timeout",
    "Timeout": "timeout",
    "ConnectError": "dependency",
    "HTTPStatusError": "dependency",
    "InterfaceError": "dependency",
    "MaxRetryError": "dependency",
    "NewConnectionError": "dependency",
    "OperationalError": "dependency",
    "ReadError": "dependency",
    "RemoteProtocolError": "dependency",
    "RequestException": "dependency",
    # tables and databases
    "ConstraintException": "data",
    "ConversionException": "data",
    "EmptyDataError": "data",
    "IntegrityError": "data",
    "InvalidInputException": "data",
    "ParserError": "data",
    "ValidationError": "data",
    "OutOfMemoryException": "memory",
    "BinderException": "code",
    "CatalogException": "code",
    "ParserException": "code",
    # Dagster's own
    "ChildProcessCrashException": "infrastructure",
    "DagsterExecutionInterruptedError": "infrastructure",
    "KeyboardInterrupt": "infrastructure",
    "DagsterUserCodeUnreachableError": "infrastructure",
    "DagsterUserCodeProcessError": "infrastructure",
    "DagsterSubprocessError": "infrastructure",
    "DagsterLaunchFailedError": "infrastructure",
    "DagsterResourceFunctionError": "infrastructure",
    "DagsterTypeCheckDidNotPass": "data",
    "DagsterAssetCheckFailedError": "data",
    "DagsterInvariantViolationError": "code",
    "DagsterInvalidConfigError": "code",
    "DagsterInvalidDefinitionError": "code",
    "DagsterStepOutputNotFoundError": "code",
    "CheckError": "code",
}
"""Name of an error class -> failure cause; a name that is not here is `unknown`."""

MESSAGE_LIMIT = 2000
"""Characters of an error message that are kept."""

VALUE_LIMIT = 2000
"""Characters of one metadata value that are kept; a longer one (a page of markdown, a plot) is left out."""

_CAUSES_DEEP = 8
"""How far down a chain of causes the innermost error is looked for."""

_VALUES = ("value", "text", "data", "path", "url", "md_str")
"""Where Dagster's kinds of metadata keep their value; others (schemas of tables, lineage) are left out."""

_NO_JSON = ("NaN", "Infinity", "\\ud")
"""What a text has in it where Python may have written what JSON does not know."""

_DATA = "e.dagster_event.event_specific_data"

_OF_ALL: Mapping[str, str] = {
    "type": "$.dagster_event.event_type_value",
    "timestamp": "$.timestamp",
    "job": "$.pipeline_name",
    "step": "$.step_key",
    "step_of_event": "$.dagster_event.step_key",
    "pid": "$.dagster_event.pid",
    "error": "$.dagster_event.event_specific_data.error",
}
"""Name -> path in an entry's text, of what is read of every entry."""

_FIELDS: Mapping[str, str] = {
    "duration_ms": f"{_DATA}.duration_ms",
    "wait": f"{_DATA}.seconds_to_wait",
    "asset": f"{_DATA}.materialization.asset_key.path",
    "partition": f"{_DATA}.materialization.partition",
    "materialized": f"{_DATA}.materialization.metadata_entries",
    "made_tags": f"{_DATA}.materialization.tags",
    "observed_asset": f"{_DATA}.asset_observation.asset_key.path",
    "observed_partition": f"{_DATA}.asset_observation.partition",
    "observed": f"{_DATA}.asset_observation.metadata_entries",
    "observed_tags": f"{_DATA}.asset_observation.tags",
    "log_key": f"{_DATA}.log_key",
    "file_key": f"{_DATA}.file_key",
    "log_steps": f"{_DATA}.step_keys",
    "log_url": f"{_DATA}.external_url",
    "stdout_url": f"{_DATA}.external_stdout_url",
    "stderr_url": f"{_DATA}.external_stderr_url",
    "checked_asset": f"{_DATA}.asset_key.path",
    "checked_partition": f"{_DATA}.partition",
    "check_name": f"{_DATA}.check_name",
    "passed": f"{_DATA}.success",
    "severity": f"{_DATA}.severity.__enum__",
    "entries": f"{_DATA}.metadata_entries",
    "failure_reason": f"{_DATA}.failure_reason.__enum__",
}
"""Name -> where the entry `e` has it, of what is read of some: most entries are of types of which nothing more is wanted."""

_MORE = ("materialized", "observed", "logs_captured", "checked", "step_succeeded", "step_retried", "run_failed")
"""Kinds of which more is read; metered entries as well."""

_TREES = (
    "asset", "materialized", "made_tags", "observed_asset", "observed", "observed_tags", "log_key", "log_steps", "checked_asset", "entries",
)  # fmt: skip
"""Fields that are looked into; the others are plain values."""


def _shape() -> str:
    """What of an entry is read, as DuckDB's from_json takes it: one pass over the text, where a path for each field would be many."""
    root: dict[str, Any] = {}
    for name, path in _FIELDS.items():
        *above, last = path.split(".")[1:]
        place = root
        for part in above:
            place = place.setdefault(part, {})
        place[last] = "JSON" if name in _TREES else "VARCHAR"
    return json.dumps(root)


def _sql_text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _sql_map(pairs: Mapping[str, str]) -> str:
    return "map {" + ", ".join(f"{_sql_text(key)}: {_sql_text(value)}" for key, value in pairs.items()) + "}"


def _metadata(entries: str) -> str:
    """SQL for metadata by name as JSON, from Dagster's list of entries; NULL where nothing is left."""
    value = "coalesce(" + ", ".join(f"json_extract(e, '$.entry_data.{name}')" for name in _VALUES) + ")"
    pair = f"struct_pack(k := json_extract_string(e, '$.label'), v := {value})"
    pairs = (
        f"list_transform(json_extract({entries}, '$[*]'), lambda e: {pair})"
        f".list_filter(lambda p: p.k is not null and p.v is not null and length(p.v::varchar) <= {VALUE_LIMIT})"
    )
    return f"try(to_json(map_from_entries({pairs})))"


def _with_versions(entries: str, tags: str) -> str:
    """SQL for metadata by name as JSON, and beside it the versions that Dagster keeps in the event's tags."""
    versions = ", ".join(
        f"'{tag}', json_extract_string({tags}, '$.\"{tag}\"')" for tag in ("dagster/code_version", "dagster/data_version")
    )
    # of a patch, what is NULL is taken out (RFC 7396)
    return f"try(json_merge_patch(coalesce({_metadata(entries)}, '{{}}'), json_object({versions})))"


def _translate_sql() -> str:
    paths = "[" + ", ".join(_sql_text(path) for path in _OF_ALL.values()) + "]"
    of_all = ",\n    ".join(f"f[{number}] as {name}" for number, name in enumerate(_OF_ALL, start=1))
    columns = ",\n    ".join(f"{path} as {name}" for name, path in _FIELDS.items())
    more = ", ".join(_sql_text(kind) for kind in _MORE)
    chain = "[" + ", ".join(_sql_text("$" + ".cause" * depth) for depth in range(_CAUSES_DEEP)) + "]"
    own = "[" + ", ".join(_sql_text(kind.__name__) for kind in _OWN_ERRORS) + "]"
    return f"""
with parsed as (
  select *, try(json_extract_string(event, {paths})) as f from raw
), typed as (
  select source_id, run_id, event_id, event_hash, event,
    {of_all},
    case when type = 'ENGINE_EVENT' and contains(event, '"workflows/attempt"') then 'metered'
         when type is not null then coalesce(({_sql_map(KINDS)})[type], 'other') end as kind
  from parsed
), opened as (
  select * exclude (event), case when kind in ('metered', {more}) then try(from_json(event, {_sql_text(_shape())})) end as e from typed
), named as (
  select * exclude (e),
    {columns}
  from opened
), failures as (
  select *, case when error is not null then try(
    list_filter(json_extract(error, {chain}), lambda e: json_extract_string(e, '$.cls_name') is not null)) end as chain
  from named
), causes as (
  select *,
    coalesce(list_filter(chain, lambda e: list_contains({own}, json_extract_string(e, '$.cls_name')))[1], chain[-1]) as cause
  from failures
), described as (
  select * exclude (cause),
    json_extract_string(cause, '$.cls_name') as error_class,
    trim(json_extract_string(cause, '$.message'), e' \\n') as said,
    strpos(said, error_class || ': ') as named_at
  from causes
), translated as (
  select *,
    case when kind = 'materialized' then {_with_versions("materialized", "made_tags")}
         when kind = 'observed' then {_with_versions("observed", "observed_tags")}
         when kind = 'logs_captured' then json_object('log_key', coalesce(log_key, file_key), 'step_keys', log_steps,
           'url', log_url, 'stdout_url', stdout_url, 'stderr_url', stderr_url)
         when kind = 'metered' then {_metadata("entries")}
         when kind = 'checked' then json_object('check_name', check_name, 'passed', passed = 'true', 'severity',
           lower(coalesce(split_part(severity, '.', -1), 'error')))
         when kind = 'run_failed' and failure_reason is not null then
           json_object('failure_reason', lower(split_part(failure_reason, '.', -1))) end as data
  from described
)
select source_id, run_id, event_id, event_hash, kind,
  case when try_cast(timestamp as double) >= {EARLIEST.timestamp()} and try_cast(timestamp as double) < {LATEST.timestamp()}
    then make_timestamptz((try_cast(timestamp as double) * 1000000)::bigint) end as at,
  nullif(job, '') as job_name,
  coalesce(step, step_of_event) as step_key,
  coalesce(try_cast(pid as bigint), case when kind = 'metered' then
    try_cast(json_extract_string(data, '$."workflows/process_id"') as bigint) end) as process_id,
  case when kind = 'step_succeeded' then try_cast(duration_ms as double) / 1000
       when kind = 'step_retried' then coalesce(try_cast(wait as double), 0) end as seconds,
  error_class,
  nullif(left(case when named_at > 0 and not contains(left(said, named_at), ' ')
    then substr(said, named_at + length(error_class) + 2) else said end, {MESSAGE_LIMIT}), '') as error_message,
  case when kind = 'materialized' then array_to_string(try_cast(asset as varchar[]), '/')
       when kind = 'observed' then array_to_string(try_cast(observed_asset as varchar[]), '/')
       when kind = 'checked' then array_to_string(try_cast(checked_asset as varchar[]), '/') end as asset_key,
  case when kind = 'materialized' then partition when kind = 'observed' then observed_partition
       when kind = 'checked' then checked_partition end as partition_key,
  nullif(data::varchar, '{{}}') as data
from translated
"""


TRANSLATE_SQL = _translate_sql()
"""Reads the relation `raw` (source_id, run_id, event_id, event_hash, event) and gives the columns of `Event`, in their order."""


def texts_of(stored: Sequence[bytes]) -> pa.Array:
    """Stored events as texts; what is no UTF-8 becomes a sentence that says so, and ends in quarantine."""
    try:
        return pa.array(stored, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(text) for text in stored], pa.string())


def plain_texts(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """`plain_json` of each text; those that need it are found in bulk, since to search each would take as long as to read it."""
    odd = rows_with(texts, _NO_JSON)
    if not odd:
        return texts
    mended = texts.to_pylist()
    for place in odd:
        mended[place] = plain_json(mended[place])
    return pa.chunked_array([pa.array(mended, pa.string())])


def _decoded(stored: bytes) -> str:
    try:
        return stored.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error}"


def plain_json(text: str) -> str:
    """`text` with what Python writes into JSON but JSON does not know (NaN, Infinity, half of a surrogate pair) taken out.

    Text that is not JSON even then comes back as it is, and ends in quarantine.

    >>> plain_json('{"rows": NaN}')
    '{"rows": null}'
    >>> plain_json('{"rows": ')
    '{"rows": '
    """
    if not any(word in text for word in _NO_JSON):
        return text
    try:
        value: Any = json.loads(text, parse_constant=lambda name: None)
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode()
    except (ValueError, RecursionError):
        return text
