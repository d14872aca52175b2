"""WorldSense (Hong et al., arXiv 2502.04326), as it lies on the hub (``honglyhly/WorldSense``).

``worldsense_qa.json`` maps a video's id to its ``domain`` and to ``task0``, ``task1``, ... with
``question``, ``candidates`` ("A. ..."), ``answer`` (a letter), ``task_type`` and ``task_domain``;
the zips unpack to ``videos/ID.mp4``. 1,662 clips of 15 to 656 s, 3,172 questions. Prompt and rule
are those of OmniZip's ``eval/eval.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omnidrop_stream.errors import SourceUnreadable
from omnidrop_stream.lab.benchmarks.items import (
    Benchmark,
    Choice,
    Clip,
    by_clip,
    letter_of,
    options_text,
    read_json,
    text_of,
)
from omnidrop_stream.lab.benchmarks.scoring import leading_letter

ANNOTATIONS = "worldsense_qa.json"
LAYOUT = f"{ANNOTATIONS} and videos/ID.mp4 (unpack worldsense_videos_*.zip)"
ASKED_FOR = "Answer with the option's letter from the given choices directly."
COLUMNS = {
    "Music": "Music",
    "Culture & Politics": "Cult. & Pol.",
    "Tech & Science": "Tech & Sci.",
    "Daily Life": "Daily Life",
    "Film & TV": "Film & TV",
    "Sports": "Sports",
    "Performance": "Perf.",
    "Games": "Games",
}
"""Table 6 averages over these domains, weighted by questions."""


def prompt(question: str, options: str) -> str:
    """As OmniZip's scripts ask, for WorldSense and for AVUT."""
    return f"{question}\nOptions:\n{options}\n{ASKED_FOR}"


def read(folder: Path) -> list[Clip]:
    """The clips of a downloaded folder. Raises SourceNotFound, SourceUnreadable."""
    path = folder / ANNOTATIONS
    found = read_json(path, LAYOUT)
    if not isinstance(found, dict) or not found:
        raise SourceUnreadable(f"{path} holds no videos by id; fetch it again: {LAYOUT}")
    return by_clip(_questions(found, folder))


def _questions(found: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Path, Choice]]:
    for video, about in found.items():
        if not isinstance(about, dict):
            raise SourceUnreadable(f"{ANNOTATIONS}: {video} is {about!r}; a mapping is needed")
        tasks = [name for name in about if name.startswith("task")]
        for name in tasks:
            task, where = about[name], f"{ANNOTATIONS}: {video}: {name}"
            options = task.get("candidates")
            if not isinstance(options, list) or not options:
                raise SourceUnreadable(f"{where}: candidates is {options!r}; a list is needed")
            yield (
                video,
                folder / "videos" / f"{video}.mp4",
                Choice(
                    id=f"{video}/{name}",
                    text=prompt(text_of(task, "question", where), options_text(options)),
                    answer=letter_of(task, where),
                    group=text_of(about, "domain", where),
                    task=text_of(task, "task_type", where),
                ),
            )


WORLDSENSE = Benchmark(
    "worldsense", "WorldSense", COLUMNS, read, leading_letter, max_frames=128, layout=LAYOUT
)
