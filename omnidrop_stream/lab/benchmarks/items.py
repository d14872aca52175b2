"""What a benchmark is made of: clips, multiple-choice questions, how both are read and scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnidrop_stream.errors import SourceNotFound, SourceUnreadable

LETTERS = "ABCDEF"


@dataclass(frozen=True, slots=True)
class Choice:
    """One multiple-choice question, as it is put to the model."""

    id: str
    text: str
    """The whole prompt: question, options, and what is to be answered with."""
    answer: str
    """The right option's letter."""
    group: str
    """What the paper's table of this benchmark has a column for."""
    task: str
    """The benchmark's own kind of question."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One media file and everything that is asked about it."""

    id: str
    path: Path
    questions: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A published benchmark: its layout, its rule for letters, its columns in the paper."""

    name: str
    title: str
    columns: Mapping[str, str]
    """Group to the paper's column, in its order."""
    read: Callable[[Path], list[Clip]]
    """Raises SourceNotFound, SourceUnreadable, MissingDependency."""
    letter: Callable[[str], str]
    """The letter that an answer's text chooses; empty where it chooses none."""
    max_frames: int
    """Pictures of a clip at most (the paper's appendix A)."""
    layout: str
    """For people: what the folder must hold."""


def read_json(path: Path, layout: str) -> Any:
    """A file's content. Raises SourceNotFound or SourceUnreadable, which tell the layout."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise SourceNotFound(f"there is no {path}; the folder must hold {layout}") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SourceUnreadable(
            f"{path} cannot be read as JSON ({reason}); fetch it again: {layout}"
        ) from None


def text_of(entry: Mapping[str, Any], key: str, where: str) -> str:
    """``entry[key]`` as text; raises SourceUnreadable that names key and place."""
    value = entry.get(key)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise SourceUnreadable(
            f"{where}: {key} is {value!r}; a text is needed, as the published annotations have it; "
            "fetch them again"
        )
    return str(value).strip()


def letter_of(entry: Mapping[str, Any], where: str) -> str:
    """The right answer's letter; raises SourceUnreadable where it is none."""
    letter = text_of(entry, "answer", where).upper().rstrip(".")
    if letter not in tuple(LETTERS):
        raise SourceUnreadable(
            f"{where}: answer is {letter!r}; a letter from A to {LETTERS[-1]} is needed; fetch the "
            "annotations again"
        )
    return letter


def rows_of(found: Any, path: Path) -> list[Mapping[str, Any]]:
    """A list of entries; raises SourceUnreadable for anything else."""
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found) or not found:
        raise SourceUnreadable(
            f"{path} holds no list of entries ({type(found).__name__}); fetch it again"
        )
    return found


def by_clip(questions: Iterator[tuple[str, Path, Choice]]) -> list[Clip]:
    """Questions (clip, file, question) gathered by clip, in order of first appearance."""
    paths: dict[str, Path] = {}
    asked: dict[str, list[Choice]] = {}
    for clip, path, question in questions:
        paths.setdefault(clip, path)
        asked.setdefault(clip, []).append(question)
    return [Clip(name, paths[name], tuple(asked[name])) for name in paths]


def options_text(options: Sequence[str]) -> str:
    """Options that carry their letters already, a line each."""
    return "\n".join(option.strip() for option in options)
