"""What did an attempt use that is paid for by the piece? Four figures, told by metadata of what a step makes or observes.

    context.add_output_metadata({"workflows/input_tokens": 812, "workflows/output_tokens": 96, "workflows/calls": 1})

Any output, materialization or observation may tell them, and what an attempt tells is added up. The libraries that Dagster has for
language models tell theirs under keys of their own; these are read too. Only the standard library is imported here, since every process
of a step loads this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

FIGURES = ("input_tokens", "output_tokens", "moved_bytes", "calls")

OWN: Mapping[str, str] = {figure: f"workflows/{figure}" for figure in FIGURES}
"""Figure -> the metadata key under which anybody tells it."""

OF_LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "input_tokens": (
        "openai.prompt_tokens",
        "anthropic.input_tokens",
        "anthropic.cache_creation_input_tokens",
        "anthropic.cache_read_input_tokens",
        "gemini.prompt_token_count",
    ),
    "output_tokens": ("openai.completion_tokens", "anthropic.output_tokens", "gemini.candidates_token_count"),
    "moved_bytes": (),
    "calls": ("openai.calls", "anthropic.calls", "gemini.calls"),
}
"""Figure -> the keys of dagster-openai, dagster-anthropic and dagster-gemini (`_add_to_asset_metadata` in their `resource(s).py`).

Input is all that a model was given: what OpenAI and Gemini count as the prompt has the cached tokens in it, so Anthropic's are added.
"""

KEYS = tuple(key for figure in FIGURES for key in (OWN[figure], *OF_LIBRARIES[figure]))

MOST = 10**15
"""No attempt uses more of anything: a thousand million million tokens, or a petabyte. What says so is mistaken."""

EXPECTED = f"a whole number from 0 to {MOST:,}"


@dataclass(frozen=True)
class Used:
    """What one attempt used, when it began and where; None: not known."""

    began: datetime
    run_time_s: float | None
    cpu_s: float | None = None
    peak_memory_mib: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    moved_bytes: int | None = None
    calls: int | None = None
    host: str | None = None
    pool: str | None = None


def figure(value: object) -> int | None:
    """`value` as a figure; None where it is none: no number, not whole, below zero or above `MOST`.

    >>> figure(812), figure(812.0), figure(-1), figure(float("nan")), figure("812"), figure(True)
    (812, 812, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST or value != int(value):
        return None
    return int(value)


def told(metadata: Mapping[str, object]) -> dict[str, int]:
    """The figures that one event, or one output, tells. Its own key counts before those of libraries, which tell the same then.

    >>> told({"openai.calls": 2, "openai.prompt_tokens": 30, "gemini.prompt_token_count": 12, "rows": 7})
    {'input_tokens': 42, 'calls': 2}
    >>> told({"workflows/calls": 3, "openai.calls": 2, "workflows/moved_bytes": -1})
    {'calls': 3}
    """
    found: dict[str, int] = {}
    for name in FIGURES:
        keys = (OWN[name],) if OWN[name] in metadata else OF_LIBRARIES[name]
        values = [value for key in keys if (value := figure(metadata.get(key))) is not None]
        if values:
            found[name] = sum(values)
    return found


def added(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Adds `more` to `total`."""
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def mistaken(metadata: Mapping[str, object]) -> list[str]:
    """The keys whose values are no figures, and so are not counted.

    >>> mistaken({"workflows/calls": "three", "openai.calls": 1, "rows": -1})
    ['workflows/calls']
    """
    return [key for key in KEYS if key in metadata and figure(metadata[key]) is None]
