"""Video-MME (Fu et al., arXiv 2405.21075), without subtitles, in its two published layouts.

- The hub's (``lmms-lab/Video-MME``): ``videomme/test-00000-of-00001.parquet``, a row a question
  with ``videoID``, ``question_id``, ``question``, ``options`` ("A. ..."), ``answer``,
  ``task_type``, ``domain`` and ``duration`` (short, medium, long); the zips unpack to
  ``data/ID.mp4``. The same rows as a list in a JSON file do as well.
- The authors' own: a JSON file, a list of videos with ``url``, ``duration_category``,
  ``video_category`` and ``questions`` with ``choices``.

Prompt and rule are the authors'. 900 clips up to an hour, 2,700 questions.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnidrop_stream.errors import MissingDependency, SourceNotFound, SourceUnreadable
from omnidrop_stream.lab.benchmarks.items import (
    Benchmark,
    Choice,
    Clip,
    by_clip,
    letter_of,
    options_text,
    read_json,
    rows_of,
    text_of,
)
from omnidrop_stream.lab.benchmarks.scoring import first_capital

PARQUET = "videomme/test-00000-of-00001.parquet"
LAYOUT = f"{PARQUET} (or one JSON file with the same rows, or the authors' JSON) and data/ID.mp4"
FOLDERS = ("data", "video", "videos")
ENDINGS = (".mp4", ".MP4", ".mkv", ".webm")
COLUMNS = {"short": "Short", "medium": "Medium", "long": "Long"}
ASKED_FOR = (
    "Select the best answer to the following multiple-choice question based on the video. Respond "
    "with only the letter (A, B, C, or D) of the correct option."
)
_ID_IN_URL = re.compile(r"(?:v=|youtu\.be/|shorts/)([\w-]{6,})")


def prompt(question: str, options: str) -> str:
    """The authors' prompt for models that get no subtitles."""
    return f"{ASKED_FOR}\n{question}\n{options}\nThe best answer is:"


def read(folder: Path) -> list[Clip]:
    """The clips of a folder. Raises SourceNotFound, SourceUnreadable, MissingDependency."""
    rows, name = rows_in(folder)
    return by_clip(_questions(rows, name, folder))


def rows_in(folder: Path) -> tuple[list[Mapping[str, Any]], str]:
    """A row for each question, and the file's name. JSON comes first: it needs no other package."""
    files = sorted(folder.glob("*.json"))
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise SourceUnreadable(
            f"{folder} holds several JSON files ({names}), and the annotations could be any; leave "
            "one there"
        )
    if files:
        rows = rows_of(read_json(files[0], LAYOUT), files[0])
        flat = [
            row for entry in rows for row in (_flat(entry) if "questions" in entry else [entry])
        ]
        return flat, files[0].name
    path = folder / PARQUET
    if not path.is_file():
        raise SourceNotFound(f"there is no {path} and no JSON file; the folder must hold {LAYOUT}")
    return rows_of(_parquet(path), path), path.name


def _flat(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The authors' nested entry as the hub's rows."""
    found = _ID_IN_URL.search(str(entry.get("url") or ""))
    about = {
        "videoID": found[1] if found else entry.get("video_id"),
        "duration": entry.get("duration_category"),
    }
    return [{**q, "options": q.get("choices"), **about} for q in entry["questions"]]


def _parquet(path: Path) -> Any:
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingDependency(
            f"{path} is a Parquet file, and pyarrow is not installed: pip install "
            "'omnidrop-stream[benchmarks]', or put the same rows there as one JSON file"
        )
    parquet, arrow = importlib.import_module("pyarrow.parquet"), importlib.import_module("pyarrow")
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise SourceUnreadable(f"{path} cannot be read ({reason}); fetch it again") from None


def _questions(
    rows: Sequence[Mapping[str, Any]], name: str, folder: Path
) -> Iterator[tuple[str, Path, Choice]]:
    for number, row in enumerate(rows):
        where = f"{name}: question {number}"
        video = text_of(row, "videoID", where)
        options = row.get("options")
        if not isinstance(options, list) or not options:
            raise SourceUnreadable(f"{where}: options is {options!r}; a list is needed")
        yield (
            video,
            _media(folder, video),
            Choice(
                id=text_of(row, "question_id", where),
                text=prompt(text_of(row, "question", where), options_text(options)),
                answer=letter_of(row, where),
                group=text_of(row, "duration", where),
                task=text_of(row, "task_type", where),
            ),
        )


def _media(folder: Path, video: str) -> Path:
    """Where the clip lies; where it should, if it is nowhere."""
    places = [folder / name / f"{video}{end}" for name in FOLDERS for end in ENDINGS]
    return next((path for path in places if path.is_file()), places[0])


VIDEOMME = Benchmark(
    "videomme", "VideoMME", COLUMNS, read, first_capital, max_frames=768, layout=LAYOUT
)
