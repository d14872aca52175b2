"""Markdown, as reports need it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def grid(heads: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table's lines and a blank one; each cell on one line, its bars escaped."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in body:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield "| " + " | ".join(cells) + " |"
    yield ""
