"""The system clock may be set while a source is read: it only labels what was captured."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from omnidrop_stream.types import Chunk, Gap
from runtime.capture import CaptureThread
from runtime.feed import ChunkFeed
from runtime.sources import FileSource
from runtime.stats import Stats
from tests.streams import all_same

Clip = Callable[..., Path]


class Kept(ChunkFeed):
    """Keeps what is handed over."""

    def __init__(self) -> None:
        super().__init__(Stats(), lambda: None, lambda status: None, lambda error: None)
        self.chunks: list[Chunk] = []
        self.named: list[Gap] = []

    def offer_waiting(self, chunk: Chunk, stopped: threading.Event) -> None:
        self.chunks.append(chunk)

    def note_gaps(self, gaps: tuple[Gap, ...]) -> None:
        self.named += gaps


def captured(path: Path, wall: Callable[[], float] | None) -> Kept:
    kept, errors = Kept(), list[BaseException | None]()
    thread = CaptureThread(
        FileSource(path),
        kept,
        Stats(),
        fps=2.0,
        drop_when_full=False,
        on_open=lambda info: None,
        on_end=errors.append,
        wall=wall,
    )
    thread.start()
    assert thread.join(20)
    assert errors == [None]
    return kept


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_step_of_the_system_clock_by_an_hour_changes_labels_and_nothing_else(
    clip: Clip, step_s: float
) -> None:
    steps = itertools.count()
    plain = captured(clip(9.0), lambda: 1e9)
    stepped = captured(clip(9.0), lambda: 1e9 + step_s * next(steps))
    labels = [chunk.wall_time_s for chunk in stepped.chunks]
    assert abs(labels[1] - labels[0]) > 3000
    assert all_same(plain.chunks, stepped.chunks)
    assert plain.named == stepped.named
    assert len(plain.chunks) == 5


def test_a_stream_without_a_wall_clock_has_no_labels(clip: Clip) -> None:
    bare = captured(clip(5.0), None).chunks
    assert {chunk.wall_time_s for chunk in bare} == {None}
    assert all_same([replace(c, wall_time_s=1.0) for c in bare], bare)
