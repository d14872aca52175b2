"""AVUT (Yang et al., arXiv 2503.19951), as it lies on the hub (``tsinghua-ee/AVUTBenchmark``).

``AV_Human_data.json`` is a list of entries with ``QA_id``, ``video_path`` ("data/ID.mp4", below the
folder), ``question``, ``option_A`` .. ``option_D``, ``answer`` (a letter) and ``task_type``. Its
1,734 questions are the ones behind the paper's Table 7: 65.17 there is 1,130 of them, so "Avg." is
over questions, not over tasks. An option may be empty (entry 455) and stays. Prompt and rule are
those of OmniZip's ``eval/eval_avut.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidrop_stream.errors import SourceUnreadable
from omnidrop_stream.lab.benchmarks.items import (
    LETTERS,
    Benchmark,
    Choice,
    Clip,
    by_clip,
    letter_of,
    read_json,
    rows_of,
    text_of,
)
from omnidrop_stream.lab.benchmarks.scoring import leading_letter
from omnidrop_stream.lab.benchmarks.worldsense import prompt

ANNOTATIONS = "AV_Human_data.json"
LAYOUT = f"{ANNOTATIONS} and data/ID.mp4"
COLUMNS = {
    "Audio Event Location": "EL",
    "Audio OCR Matching": "OR",
    "Audio Object Matching": "OM",
    "Audio Information Extraction": "IE",
    "Audio Content Counting": "CC",
    "Audio Character Matching": "CM",
}
"""Task types to Table 7's columns."""


def read(folder: Path) -> list[Clip]:
    """The clips of a downloaded folder. Raises SourceNotFound, SourceUnreadable."""
    path = folder / ANNOTATIONS
    return by_clip(_questions(rows_of(read_json(path, LAYOUT), path), folder))


def _questions(
    rows: Sequence[Mapping[str, Any]], folder: Path
) -> Iterator[tuple[str, Path, Choice]]:
    for number, row in enumerate(rows):
        where = f"{ANNOTATIONS}: entry {number}"
        path = Path(text_of(row, "video_path", where))
        if path.is_absolute() or ".." in path.parts:
            raise SourceUnreadable(f"{where}: video_path = {str(path)!r} leaves the folder")
        options = [
            f"{letter}. {row[f'option_{letter}']}"
            for letter in LETTERS
            if row.get(f"option_{letter}") is not None
        ]
        if not options:
            raise SourceUnreadable(f"{where}: there is no option_A; fetch the annotations again")
        task = text_of(row, "task_type", where)
        yield (
            path.stem,
            folder / path,
            Choice(
                id=text_of(row, "QA_id", where),
                text=prompt(text_of(row, "question", where), "\n".join(options)),
                answer=letter_of(row, where),
                group=task,
                task=task,
            ),
        )


AVUT = Benchmark("avut", "AVUT", COLUMNS, read, leading_letter, max_frames=128, layout=LAYOUT)
