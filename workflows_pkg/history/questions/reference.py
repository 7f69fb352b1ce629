"""What do the twelve questions answer? Their reference, from their own descriptions: `python -m …reference [--check]`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from workflows_pkg.history.questions.catalogue import QUESTIONS, Question

PAGE = Path("docs/reference/questions.md")

_HEAD = """\
# Twelve questions

<!-- Written by `python -m workflows_pkg.history.questions.reference` from workflows_pkg/history/questions; edit there. -->

Each is a function of `workflows_pkg.history` that takes a connection and gives a DataFrame, and a name for
`workflows history ask`:

```python
from workflows_pkg import history

with history.connect() as con:  # the history of $DAGSTER_HOME, or name a folder
    history.slowest_steps(con, since="2026-01-01")
    con.sql("select * from runs").df()  # plain SQL, see the data dictionary
```

```sh
workflows history ask                      # lists them
workflows history ask slowest_steps --since 2026-01-01 --csv
```

Instants are UTC, durations are seconds, money is USD; missing means unknown, never zero. `since` is included, `until` is not. Runs of
trials are left out unless `exclude_trials=False` or `--trials`. Quantiles are durations of the nearest rank, told within 1 %, because
they come from the [rollups](data-dictionary.md) that the sync keeps; the rest is exact.
"""


def reference() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *(_section(number, question) for number, question in enumerate(QUESTIONS.values(), start=1))])


def _section(number: int, question: Question) -> str:
    parameters = ", ".join(
        name if found.default is inspect.Parameter.empty else f"{name}={found.default!r}"
        for name, found in question.filters.items()
    )
    call = f"`{question.name}(con{', ' if parameters else ''}{parameters})`"
    return f"## {number}. {question.name}\n\n{question.title}\n\n{call}\n\n{question.answer}\n"


if __name__ == "__main__":
    fresh = reference()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == fresh else f"{PAGE} is stale. Run: make reference")
    PAGE.write_text(fresh, encoding="utf-8")
