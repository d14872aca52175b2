"""A stage log as a table: `python -m omnidrop_stream.lab.train.table LOG.jsonl [LOG.jsonl ...]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def rows_of(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The last training line of each stage, in order, and every test line."""
    kept: list[dict[str, Any]] = []
    for path in paths:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for stage in dict.fromkeys(line["stage"] for line in lines):
            own = [line for line in lines if line["stage"] == stage]
            trained = [line for line in own if "test" not in line]
            kept += [*trained[-1:], *(line for line in own if "test" in line)]
    return kept


def as_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """One line a row: stage, step, seconds of this run, and what was measured."""
    out = ["| stage | step | s | measured |", "|---|---|---|---|"]
    for row in rows:
        named = {k: v for k, v in row.items() if k not in ("stage", "step", "s", "kinds")}
        named |= row.get("kinds", {})
        text = ", ".join(f"{k} {v}" for k, v in named.items())
        out.append(f"| {row['stage']} | {row['step']} | {row['s']} | {text} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown(rows_of(Path(p) for p in sys.argv[1:])))
