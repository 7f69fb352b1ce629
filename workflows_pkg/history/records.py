"""Which records are there, and what does each column mean? The tables, the data dictionary and the readers derive from here.

All instants are UTC (`TIMESTAMPTZ`), durations are seconds, memory is MiB. A missing value means unknown, never zero.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Json:
    """Marks a text column that holds a JSON document."""


JsonText = Annotated[str, Json()]


class Record(BaseModel):
    """One row of one table. `table` names it; `key` identifies a row; `day` is the instant that files it under a day."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    table: ClassVar[str]
    key: ClassVar[tuple[str, ...]]
    day: ClassVar[str | None] = None


class Event(Record):
    """One event of an orchestrator's log, in words that do not depend on the orchestrator: the ground of all other records."""

    table: ClassVar[str] = "events"
    key: ClassVar[tuple[str, ...]] = ("source_id", "run_id", "event_id", "event_hash")
    day: ClassVar[str | None] = "at"

    source_id: str = Field(description="Which instance it was read from.")
    run_id: str = Field(description="The run it belongs to.")
    event_id: int = Field(
        description="The source's own number; unique only together with run and hash, since sources reuse numbers."
    )
    event_hash: str = Field(description="Hash of the event's text as stored in the source.")
    kind: str = Field(
        description="run_queued, run_dequeued, run_starting, run_started, run_succeeded, run_failed, run_canceling, "
        "run_canceled, worker_starting, worker_started, step_started, step_restarted, step_succeeded, step_failed, "
        "step_retried, step_skipped, materialized, observed, checked, metered, logs_captured, or other."
    )
    at: datetime = Field(description="When it happened, by the source's clock.")
    job_name: str | None = Field(None, description="The job of the run.")
    step_key: str | None = Field(None, description="The step, mapping key included; unknown for events of the run.")
    process_id: int | None = Field(None, description="Operating-system process that wrote it.")
    seconds: float | None = Field(None, description="step_succeeded: run time; step_retried: wait before the next attempt.")
    error_class: str | None = Field(None, description="Innermost error class of a failure.")
    error_message: str | None = Field(None, description="Its message, cut to 2,000 characters.")
    asset_key: str | None = Field(None, description="materialized, observed, checked: the asset, parts joined by '/'.")
    partition_key: str | None = Field(None, description="materialized, observed, checked: the partition.")
    data: JsonText | None = Field(None, description="What else the event carries: metadata by name as JSON.")


class Run(Record):
    """One execution of a job."""

    table: ClassVar[str] = "runs"
    key: ClassVar[tuple[str, ...]] = ("run_id",)
    day: ClassVar[str | None] = "created_at"

    run_id: str = Field(description="Dagster's run id; one made from the file's own where it was imported.")
    source_id: str = Field(description="Which instance it was read from; import: and a name where it was imported.")
    job_name: str = Field(description="The job.")
    workflow: str | None = Field(None, description="The workflow, where the job was compiled from one.")
    version: int | None = Field(None, description="Number of the workflow's version.")
    digest: str | None = Field(None, description="Digest of the version's spec.")
    trial_id: str | None = Field(
        None, description="The trial that made this run, if one did; trial runs do not train predictors."
    )
    partition_key: str | None = Field(None, description="The partition.")
    outcome: str | None = Field(
        None, description="success, failure or canceled; unknown while it is open. The first terminal event decides."
    )
    outcome_conflict: bool = Field(False, description="Whether a later event, or the run's status, contradicts the outcome.")
    trigger: str = Field(
        "manual",
        description="What asked for it: schedule, sensor, backfill, retry, trial or manual; unknown where an import does not say.",
    )
    trigger_name: str | None = Field(None, description="Name of the schedule, sensor or backfill.")
    launched_by: str | None = Field(None, description="The actor, where one is known.")
    owner: str | None = Field(None, description="Who answers for the workflow.")
    parent_run_id: str | None = Field(None, description="The run it re-executes.")
    job_snapshot_id: str | None = Field(None, description="Identity of the job's structure at launch.")
    created_at: datetime = Field(description="When the run was asked for.")
    started_at: datetime | None = Field(None, description="When its first step could begin.")
    ended_at: datetime | None = Field(None, description="When it reached its outcome.")
    deadline_at: datetime | None = Field(
        None, description="When it should have ended; unknown where none was set. Missing it stops nothing."
    )
    queue_time_s: float | None = Field(None, description="Asked for to taken from the queue.")
    start_time_s: float | None = Field(None, description="Taken from the queue to its process being ready.")
    run_time_s: float | None = Field(None, description="Ready to outcome.")
    retry_wait_s: float | None = Field(None, description="Seconds its steps spent waiting between attempts, summed.")
    attempt_count: int | None = Field(None, description="Attempts of all its steps.")
    cost_usd: float | None = Field(None, description="Cost of its attempts by the rate card.")


class JobStep(Record):
    """One step of one structure of a job, and which steps it waits for."""

    table: ClassVar[str] = "job_steps"
    key: ClassVar[tuple[str, ...]] = ("job_snapshot_id", "step")

    job_snapshot_id: str = Field(description="Identity of the job's structure, a hash of it; `runs` says which run had which.")
    step: str = Field(description="Dagster's name of the step without a mapping key.")
    needs: JsonText = Field(description="The steps whose outputs it takes or which it must follow, as a JSON list of such names.")
    memory_limit_mib: float | None = Field(
        None,
        description="Memory that its author allows it (`limits` of its tag dagster-k8s/config); unknown where none is stated.",
    )


class StepAttempt(Record):
    """One try of one step in one run."""

    table: ClassVar[str] = "step_attempts"
    key: ClassVar[tuple[str, ...]] = ("run_id", "step_key", "attempt")
    day: ClassVar[str | None] = "started_at"

    run_id: str = Field(description="The run.")
    step_key: str = Field(description="Dagster's name of the step in this run, mapping key included.")
    attempt: int = Field(description="1 for the first.")
    job_name: str = Field(description="The job.")
    workflow: str | None = Field(None, description="The workflow, where the job was compiled from one.")
    step: str = Field(description="The step's name in the workflow; for other jobs the step key without its mapping key.")
    partition_key: str | None = Field(None, description="The run's partition.")
    version: int | None = Field(None, description="Number of the workflow's version.")
    trial_id: str | None = Field(None, description="The trial that made the run, if one did.")
    outcome: str | None = Field(None, description="success, failure, canceled or skipped; unknown while it is open.")
    will_retry: bool = Field(False, description="Whether another attempt follows.")
    started_at: datetime | None = Field(None, description="When the attempt began; skipped: when that was decided.")
    ended_at: datetime | None = Field(None, description="When it ended.")
    queue_time_s: float | None = Field(None, description="First attempt: run ready to process requested; later ones: unknown.")
    start_time_s: float | None = Field(
        None, description="Process requested to attempt begun; unknown where no process of its own was made."
    )
    run_time_s: float | None = Field(None, description="Begun to ended.")
    retry_wait_s: float | None = Field(None, description="Wait after this attempt before the next.")
    failure_cause: str | None = Field(None, description="code, data, timeout, memory, dependency, infrastructure or unknown.")
    error_class: str | None = Field(None, description="Innermost error class.")
    error_message: str | None = Field(None, description="Its message, cut.")
    cpu_s: float | None = Field(None, description="Processor seconds, user and system.")
    peak_memory_mib: float | None = Field(
        None, description="Largest resident memory; unknown where the process ran other steps too."
    )
    host: str | None = Field(None, description="Machine it ran on.")
    pool: str | None = Field(
        None, description="Dagster's concurrency pool of its step, where it was measured and the step has one."
    )
    process_id: int | None = Field(None, description="Operating-system process.")
    input_tokens: int | None = Field(
        None, description="Tokens given to language models, as the step told; unknown where it told none."
    )
    output_tokens: int | None = Field(None, description="Tokens that they answered, as the step told.")
    moved_bytes: int | None = Field(None, description="Bytes sent and received, or read and written, as the step told.")
    calls: int | None = Field(None, description="Calls of services, as the step told.")
    cost_usd: float | None = Field(
        None,
        description="By the rate card in force when it began; unknown where no rate fits, or what it prices was not measured. Tokens, "
        "bytes and calls that were not told count nothing.",
    )
    rate_card: str | None = Field(
        None, description="Digest of that card (`rate_cards`); unknown where an import brought the cost."
    )


class Materialization(Record):
    """The event that an asset or partition was produced."""

    table: ClassVar[str] = "materializations"
    key: ClassVar[tuple[str, ...]] = ("run_id", "asset_key", "partition_key", "at")
    day: ClassVar[str | None] = "at"

    run_id: str = Field(description="The run; empty for one reported from outside.")
    asset_key: str = Field(description="The asset, parts joined by '/'.")
    partition_key: str = Field("", description="The partition; empty where there is none.")
    step_key: str | None = Field(None, description="The step that produced it.")
    at: datetime = Field(description="When.")
    rows: int | None = Field(None, description="Rows of the table, where the step said so (metadata dagster/row_count).")
    bytes: int | None = Field(None, description="Size as kept, where the step said so (metadata size_bytes).")
    code_version: str | None = Field(
        None,
        description="Version that the code says it has, where its author gave one. `runs.job_snapshot_id` cannot be forgotten.",
    )
    data_version: str | None = Field(None, description="Version of what was made, as Dagster computed it or the step said.")


class Observation(Record):
    """The event that something was learnt about an asset without producing it."""

    table: ClassVar[str] = "observations"
    key: ClassVar[tuple[str, ...]] = ("run_id", "asset_key", "partition_key", "at")
    day: ClassVar[str | None] = "at"

    run_id: str = Field(description="The run; empty for one reported from outside.")
    asset_key: str = Field(description="The asset, parts joined by '/'.")
    partition_key: str = Field("", description="The partition; empty where there is none.")
    step_key: str | None = Field(None, description="The step that observed it.")
    at: datetime = Field(description="When.")
    data_version: str | None = Field(None, description="Version of what was seen, where one was told.")
    data: JsonText | None = Field(None, description="What was learnt: metadata by name as JSON.")


class StepLog(Record):
    """Where the text that steps printed is kept."""

    table: ClassVar[str] = "step_logs"
    key: ClassVar[tuple[str, ...]] = ("run_id", "log_key")
    day: ClassVar[str | None] = "at"

    run_id: str = Field(description="The run.")
    log_key: str = Field(
        description="Name of the log in the run: a local log is `storage/<run>/compute_logs/<log_key>.out` and `.err` in Dagster's folder."
    )
    at: datetime = Field(description="When it was begun.")
    step_keys: JsonText | None = Field(None, description="Steps that write into it, as a JSON list; several share a process.")
    url: str | None = Field(None, description="Page outside Dagster that shows it, where there is one.")
    stdout_url: str | None = Field(None, description="The same of standard output alone.")
    stderr_url: str | None = Field(None, description="The same of standard error alone.")


class AssetCheck(Record):
    """One evaluation of an asset check."""

    table: ClassVar[str] = "checks"
    key: ClassVar[tuple[str, ...]] = ("run_id", "asset_key", "check_name", "at")
    day: ClassVar[str | None] = "at"

    run_id: str = Field(description="The run.")
    asset_key: str = Field(description="The asset, parts joined by '/'.")
    check_name: str = Field(description="The check.")
    partition_key: str | None = Field(None, description="The partition.")
    passed: bool = Field(description="Whether it held.")
    severity: str = Field(description="error or warn.")
    at: datetime = Field(description="When.")


class Backfill(Record):
    """One set of runs launched to fill chosen partitions."""

    table: ClassVar[str] = "backfills"
    key: ClassVar[tuple[str, ...]] = ("source_id", "backfill_id")

    source_id: str = Field(description="Which instance it was read from.")
    backfill_id: str = Field(description="Dagster's id; `runs.trigger_name` of its runs.")
    status: str = Field(
        description="Dagster's word in small letters: requested, completed_success, completed_failed, failed, canceled, ..."
    )
    title: str | None = Field(None, description="Title that was given.")
    job_name: str | None = Field(None, description="The job, where one was filled.")
    assets: JsonText | None = Field(None, description="Keys of the assets that were filled, parts joined by '/', as a JSON list.")
    partition_count: int | None = Field(
        None, description="Partitions asked for, those of each asset counted; unknown where Dagster does not say."
    )
    launched_by: str | None = Field(None, description="The actor, where one is known.")
    asked_at: datetime = Field(description="When it was asked for.")
    ended_at: datetime | None = Field(
        None, description="When it was over; unknown while it goes on, so again after it was resumed."
    )
    error: str | None = Field(None, description="Why it could not go on, cut.")


class Tick(Record):
    """One evaluation of a schedule or sensor."""

    table: ClassVar[str] = "ticks"
    key: ClassVar[tuple[str, ...]] = ("source_id", "tick_id")
    day: ClassVar[str | None] = "at"

    source_id: str = Field(description="Which instance it was read from.")
    tick_id: int = Field(description="The source's number.")
    name: str = Field(description="The schedule or sensor.")
    kind: str = Field(description="schedule, sensor or automation.")
    status: str = Field(description="started, skipped, success or failure.")
    at: datetime = Field(description="When.")
    run_ids: JsonText | None = Field(None, description="Runs it asked for.")
    reason: str | None = Field(None, description="Why nothing was asked for, or the error.")


class Usage(Record):
    """What one attempt used, as measured beside it, and as it told itself."""

    table: ClassVar[str] = "usage"
    key: ClassVar[tuple[str, ...]] = ("run_id", "step_key", "attempt")
    day: ClassVar[str | None] = "at"

    run_id: str = Field(description="The run.")
    step_key: str = Field(description="The step.")
    attempt: int = Field(description="1 for the first.")
    at: datetime = Field(description="When it was measured or told.")
    cpu_s: float | None = Field(None, description="Processor seconds, user and system.")
    peak_memory_mib: float | None = Field(
        None, description="Largest resident memory; unknown where the process ran other steps too."
    )
    host: str | None = Field(None, description="Machine.")
    pool: str | None = Field(None, description="Dagster's concurrency pool of the step, where it has one.")
    process_id: int | None = Field(None, description="Operating-system process.")
    input_tokens: int | None = Field(
        None, description="Tokens given to language models, as the step told; unknown where it told none."
    )
    output_tokens: int | None = Field(None, description="Tokens that they answered, as the step told.")
    moved_bytes: int | None = Field(None, description="Bytes sent and received, or read and written, as the step told.")
    calls: int | None = Field(None, description="Calls of services, as the step told.")


class UsedRateCard(Record):
    """A rate card that attempts were priced by, from when on it counts."""

    table: ClassVar[str] = "rate_cards"
    key: ClassVar[tuple[str, ...]] = ("counts_from",)

    counts_from: datetime = Field(
        description="Attempts that began at or after this, and before the next card counts; 1970: all before."
    )
    digest: str = Field(description="Digest of the card, as `step_attempts.rate_card` has it.")
    card: JsonText = Field(description="The card: rates, the first that fits counts.")


class Version(Record):
    """One immutable version of a workflow."""

    table: ClassVar[str] = "versions"
    key: ClassVar[tuple[str, ...]] = ("workflow", "number")

    workflow: str = Field(description="The workflow.")
    number: int = Field(description="1 for the first.")
    digest: str = Field(description="Digest of the canonical spec.")
    parent: int | None = Field(None, description="The version it was made from.")
    author: str = Field(description="file for an edit of the workflow file, else who applied it.")
    reason: str = Field(description="Why it was made.")
    suggestion_id: str | None = Field(None, description="The suggestion it carries out.")
    created_at: datetime = Field(description="When.")
    active: bool = Field(description="Whether it is the one that runs.")
    spec: JsonText = Field(description="The canonical spec.")


class Forecast(Record):
    """A statement about a future run or attempt."""

    table: ClassVar[str] = "forecasts"
    key: ClassVar[tuple[str, ...]] = ("job_name", "step", "quantity", "as_of")

    job_name: str = Field(description="The job.")
    step: str = Field("", description="The step; empty: the whole run.")
    quantity: str = Field(
        description="queue_time_s, start_time_s, run_time_s, cost_usd or failure_share (the risk of failing for good); of a step "
        "also time_left_s, from its end to the run's, and whole_time_s, from the begin of its first try to the end of its last; "
        "first_try_failure_share and retry_failure_share, the risks that a first try and a retry fail; peak_memory_mib; and "
        "memory_request_mib and memory_retry_mib, what to ask for and what after a kill: decisions, so all three figures are the same."
    )
    p05: float = Field(description="Below this in 5 of 100 cases.")
    p50: float = Field(description="Below this in half the cases.")
    p95: float = Field(description="Below this in 95 of 100 cases.")
    sample_count: int = Field(description="Attempts or runs it rests on.")
    predictor: str = Field(
        description="What counted most in it: an expert's name, a rule that answered alone, or how the rate was found."
    )
    error_share: float | None = Field(
        None,
        description="Its median absolute relative error in replay; unknown before five outcomes. Of memory_request_mib: memory times "
        "time asked for and not used, kills included, over what was used.",
    )
    best_rule: str | None = Field(None, description="The best simple rule on the same rows.")
    best_rule_error_share: float | None = Field(None, description="That rule's error.")
    basis: JsonText | None = Field(
        None,
        description="What it rests on, as JSON: what is usual, what moved it from there, scores beside the rules, causes of failures; "
        "`workflows forecast` says it in words.",
    )
    as_of: datetime = Field(description="What had happened by then was known.")


class Suggestion(Record):
    """A proposed change of a workflow, with evidence and expected effect."""

    table: ClassVar[str] = "suggestions"
    key: ClassVar[tuple[str, ...]] = ("suggestion_id",)

    suggestion_id: str = Field(description="Short, stable for the same change on the same version.")
    kind: str = Field(description="retry_policy or timeout.")
    workflow: str = Field(description="The workflow.")
    step: str = Field(description="The step.")
    based_on: int = Field(description="Version it changes.")
    title: str = Field(description="The change in a sentence.")
    change: JsonText = Field(description="Changed fields: path, before, after.")
    spec: JsonText = Field(description="The changed canonical spec.")
    evidence: JsonText = Field(description="Query, rows and figures behind it; enough to recompute it.")
    quantity: str = Field(description="What it should change, such as run_time_s of the step.")
    effect: float | None = Field(None, description="Expected change per run in the quantity's unit; below zero is less.")
    effect_low: float | None = Field(None, description="Lower end of its 90 % interval.")
    effect_high: float | None = Field(None, description="Upper end.")
    created_at: datetime = Field(description="When.")
    status: str = Field("open", description="open, applied, kept, undone or dismissed.")


class LedgerEntry(Record):
    """Predicted beside realised effect of one suggestion that was tried."""

    table: ClassVar[str] = "ledger"
    key: ClassVar[tuple[str, ...]] = ("trial_id",)

    trial_id: str = Field(description="The trial.")
    suggestion_id: str = Field(description="The suggestion.")
    workflow: str = Field(description="The workflow.")
    baseline_version: int = Field(description="Version it was compared with.")
    version: int = Field(description="Version tried.")
    quantity: str = Field(description="What was compared.")
    pairs: int = Field(description="Pairs of runs compared.")
    predicted: float | None = Field(None, description="Expected change per run.")
    predicted_low: float | None = Field(None, description="Lower end of its 90 % interval.")
    predicted_high: float | None = Field(None, description="Upper end.")
    realised: float = Field(description="Mean difference, new minus old.")
    realised_low: float = Field(description="Lower end of its 95 % interval.")
    realised_high: float = Field(description="Upper end.")
    verdict: str = Field(description="gain, no gain or not shown.")
    test: str = Field(description="How the interval was made.")
    decided_at: datetime = Field(description="When.")


class Quarantined(Record):
    """One event that could not be read, or that tells a figure which is none; it stops nothing and is counted."""

    table: ClassVar[str] = "quarantine"
    key: ClassVar[tuple[str, ...]] = ("source_id", "run_id", "event_id", "event_hash")

    source_id: str = Field(description="Which instance.")
    run_id: str = Field(description="The run.")
    event_id: int = Field(description="The source's number; 0: the run's whole log, -1: the run's own row.")
    event_hash: str = Field(description="Hash of its text.")
    reason: str = Field(description="Why it could not be read, or which figure is not counted.")
    found_at: datetime = Field(description="When.")


class Cursor(Record):
    """How far a source has been read; written in the same transaction as the rows."""

    table: ClassVar[str] = "cursors"
    key: ClassVar[tuple[str, ...]] = ("source_id", "shard")

    source_id: str = Field(description="Which instance.")
    shard: str = Field(description="Run id for a run's own log; a word for other streams.")
    position: str = Field(description="What the reader needs to go on, such as the last event number.")
    complete: bool = Field(False, description="Whether nothing more is expected.")
    updated_at: datetime = Field(description="When.")


RECORDS: tuple[type[Record], ...] = (
    Event,
    Run,
    JobStep,
    StepAttempt,
    Materialization,
    Observation,
    AssetCheck,
    StepLog,
    Backfill,
    Tick,
    Usage,
    UsedRateCard,
    Version,
    Forecast,
    Suggestion,
    LedgerEntry,
    Quarantined,
    Cursor,
)
"""Every table, in the order of the data dictionary."""
