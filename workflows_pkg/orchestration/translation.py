"""What does an entry of Dagster's event log say in the words of history?

`TRANSLATE_SQL` turns raw rows into the columns of `history.records.Event` inside DuckDB, many rows at a time; the constants
beside it are the tables it is made from. A row whose text it cannot read comes out without `kind` or `at`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from workflows_pkg import errors
from workflows_pkg.errors import FailureCause, StepError
from workflows_pkg.history.ingest import Find
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

_DATA = "$.dagster_event.event_specific_data"

_OF_ALL: Mapping[str, str] = {
    "type": "$.dagster_event.event_type_value",
    "timestamp": "$.timestamp",
    "job": "$.pipeline_name",
    "step": "$.step_key",
    "step_of_event": "$.dagster_event.step_key",
    "pid": "$.dagster_event.pid",
    "error": f"{_DATA}.error",
    "duration_ms": f"{_DATA}.duration_ms",
}
"""Name -> path in an entry's text, of what is read of every entry: all of them in one pass over it."""

_MORE: Mapping[str, tuple[str, ...]] = {
    "materialized": tuple(
        f"{_DATA}.materialization.{name}" for name in ("asset_key.path", "partition", "metadata_entries", "tags")
    ),
    "observed": tuple(
        f"{_DATA}.asset_observation.{name}" for name in ("asset_key.path", "partition", "metadata_entries", "tags")
    ),
    "checked": tuple(f"{_DATA}.{name}" for name in ("asset_key.path", "partition", "check_name", "success", "severity.__enum__")),
    "metered": (f"{_DATA}.metadata_entries",),
    "logs_captured": tuple(
        f"{_DATA}.{name}"
        for name in ("log_key", "file_key", "step_keys", "external_url", "external_stdout_url", "external_stderr_url")
    ),
    "step_retried": (f"{_DATA}.seconds_to_wait",),
    "run_failed": (f"{_DATA}.failure_reason.__enum__",),
}
"""Kind -> paths of what is read of entries of that kind only, in one further pass; most entries are of kinds of which nothing more is
wanted."""


def _sql_text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _sql_list(values: Iterable[str]) -> str:
    return "[" + ", ".join(map(_sql_text, values)) + "]"


def _metadata(entries: str) -> str:
    """SQL for metadata by name as JSON, from Dagster's list of entries; NULL where nothing is left."""
    read = _sql_list(["$.label", *(f"$.entry_data.{name}" for name in _VALUES)])
    value = "coalesce(" + ", ".join(f"p[{place}]" for place in range(2, len(_VALUES) + 2)) + ")"
    pairs = (
        f"list_transform(json_extract({entries}, '$[*]'), lambda e: json_extract(e, {read}))"
        f".list_transform(lambda p: struct_pack(k := json_extract_string(p[1], '$'), v := {value}))"
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
    """Each step after the first is in a CASE, which DuckDB works out for the rows it is about alone: they are few."""
    of_all = ",\n    ".join(f"f[{number}] as {name}" for number, name in enumerate(_OF_ALL, start=1))
    kinds = " ".join(f"when {_sql_text(kind)} then {_sql_text(ours)}" for kind, ours in KINDS.items())
    more = " ".join(f"when {_sql_text(kind)} then json_extract(event, {_sql_list(paths)})" for kind, paths in _MORE.items())
    chain = _sql_list("$" + ".cause" * depth for depth in range(_CAUSES_DEEP))
    own = _sql_list(kind.__name__ for kind in _OWN_ERRORS)
    return f"""
with parsed as (
  select *, try(json_extract_string(event, {_sql_list(_OF_ALL.values())})) as f from raw
), typed as (
  select source_id, run_id, event_id, event_hash, event,
    {of_all},
    case type when 'ENGINE_EVENT' then case when contains(event, '"workflows/attempt"') then 'metered' else 'other' end
      {kinds} else case when type is not null then 'other' end end as kind
  from parsed
), opened as (
  select * exclude (event), case kind {more} end as more from typed
), failures as (
  select *, case when error is not null then try(
    list_filter(json_extract(error, {chain}), lambda e: json_extract_string(e, '$.cls_name') is not null)) end as chain
  from opened
), causes as (
  select *, case when error is not null then
    coalesce(list_filter(chain, lambda e: list_contains({own}, json_extract_string(e, '$.cls_name')))[1], chain[-1]) end as cause
  from failures
), described as (
  select * exclude (cause),
    case when error is not null then json_extract_string(cause, '$.cls_name') end as error_class,
    case when error is not null then trim(json_extract_string(cause, '$.message'), e' \\n') end as said
  from causes
), translated as (
  select *,
    case when kind in ('materialized', 'observed', 'checked') then json_extract_string(more[1], '$') end as asset,
    case when kind in ('materialized', 'observed', 'checked') then json_extract_string(more[2], '$') end as partition,
    case kind
      when 'materialized' then {_with_versions("more[3]", "more[4]")}
      when 'observed' then {_with_versions("more[3]", "more[4]")}
      when 'logs_captured' then json_object('log_key', coalesce(nullif(more[1], 'null'), more[2]), 'step_keys', more[3],
        'url', more[4], 'stdout_url', more[5], 'stderr_url', more[6])
      when 'metered' then {_metadata("more[1]")}
      when 'checked' then json_object('check_name', json_extract_string(more[3], '$'), 'passed',
        json_extract_string(more[4], '$') = 'true', 'severity',
        lower(coalesce(split_part(json_extract_string(more[5], '$'), '.', -1), 'error')))
      when 'run_failed' then case when json_extract_string(more[1], '$') is not null then
        json_object('failure_reason', lower(split_part(json_extract_string(more[1], '$'), '.', -1))) end end as data
  from described
)
select source_id, run_id, event_id, event_hash, kind,
  case when try_cast(timestamp as double) >= {EARLIEST.timestamp()} and try_cast(timestamp as double) < {LATEST.timestamp()}
    then make_timestamptz((try_cast(timestamp as double) * 1000000)::bigint) end as at,
  nullif(job, '') as job_name,
  coalesce(step, step_of_event) as step_key,
  coalesce(try_cast(pid as bigint), case when kind = 'metered' then
    try_cast(json_extract_string(data, '$."workflows/process_id"') as bigint) end) as process_id,
  case kind when 'step_succeeded' then try_cast(duration_ms as double) / 1000
    when 'step_retried' then coalesce(try_cast(json_extract_string(more[1], '$') as double), 0) end as seconds,
  error_class,
  case when error is not null then nullif(left(
    case when strpos(said, error_class || ': ') > 0 and not contains(left(said, strpos(said, error_class || ': ')), ' ')
      then substr(said, strpos(said, error_class || ': ') + length(error_class) + 2) else said end,
    {MESSAGE_LIMIT}), '') end as error_message,
  case when asset is not null then array_to_string(try_cast(asset as varchar[]), '/') end as asset_key,
  partition as partition_key,
  nullif(data::varchar, '{{}}') as data
from translated
"""


TRANSLATE_SQL = _translate_sql()
"""Reads the relation `raw` (source_id, run_id, event_id, event_hash, event) and gives the columns of `Event`, in their order."""


def texts_of(stored: Sequence[bytes], pool: pa.MemoryPool | None = None) -> pa.Array:
    """Stored events as texts; what is no UTF-8 becomes a sentence that says so, and ends in quarantine."""
    try:
        return pa.array(stored, pa.binary(), memory_pool=pool).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(text) for text in stored], pa.string(), memory_pool=pool)


def plain_texts(texts: pa.ChunkedArray, find: Find) -> pa.ChunkedArray:
    """`plain_json` of each text; those that need it are found in bulk, since to search each would take as long as to read it."""
    odd = find(texts, _NO_JSON)
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
