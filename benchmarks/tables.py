"""The tables of docs/performance.md, made from benchmarks/results: `python benchmarks/tables.py` (the last part of `make bench`)."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
HEAD = """\
# Performance

Made from `benchmarks/results` by `make bench`; each table names the program that printed its figures. Ours and the peers were
measured in the same run, in turn, medians of at least three; read ratios, since single times depend on the machine. `met` is
empty where no target is set or the size measured is not the target's.
"""


def main() -> None:
    """Writes the page."""
    parts = [HEAD]
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        parts.append(f"\n## {file.stem}\n\n`python benchmarks/{file.stem}.py`\n")
        parts.append("| case | metric | unit | ours | peers | target | met | size |\n|---|---|---|---|---|---|---|---|")
        parts += [_row(row) for row in rows]
    PAGE.write_text("\n".join(parts) + "\n")


def _row(row: dict[str, object]) -> str:
    peers = row["peers"]
    beside = ", ".join(f"{name} {_figure(value)}" for name, value in peers.items()) if isinstance(peers, dict) else ""
    met = {True: "yes", False: "no", None: ""}[row["met"]]  # type: ignore[index]
    cells = [row["case"], row["metric"], row["unit"], _figure(row["ours"]), beside, _figure(row["target"]), met, row["size"]]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _figure(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
