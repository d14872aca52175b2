"""Markdown, as reports need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def grid(heads: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table's lines and a blank one; each cell on one line, its bars escaped."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in body:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield "| " + " | ".join(cells) + " |"
    yield ""


def machine_lines(conditions: Mapping[str, Any]) -> list[str]:
    """What ``bench_cost.conditions`` says, as two points of a list."""
    versions = ", ".join(f"{name} {value}" for name, value in conditions["versions"].items())
    return [
        f"- {conditions['device']}, {conditions['cores']} cores, {conditions['threads']} "
        f"thread(s), load average at the start {conditions['load_average']}",
        f"- Python {conditions['python']}, {versions}; commit {conditions['commit']}; "
        f"{conditions['date']}",
    ]


def mib(nbytes: float) -> str:
    """A size in MiB."""
    return f"{nbytes / 2**20:.1f}"
