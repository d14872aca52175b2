"""Worlds rendered before the clock starts, and played as live sources: what a benchmark of many
streams watches, so that drawing pictures costs it nothing while it measures.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import CHUNK_SECONDS, Chunk, Frame, Samples, StreamKind
from runtime.sources.base import SourceInfo, SourceStats
from runtime.sources.world import WorldSource

Item = Frame | Samples


@dataclass(frozen=True, slots=True)
class Material:
    """One world: what was before (chunks that end at stream time 0), and what comes after."""

    info: SourceInfo
    before: tuple[Chunk, ...]
    items: tuple[Item, ...]


def render(seed: int, before_chunks: int, seconds: float, fps: float = 2.0) -> Material:
    """Draw and sound a world of the test split: ``before_chunks`` chunks, then ``seconds``."""
    start_s = before_chunks * CHUNK_SECONDS
    world = WorldSource(seconds=start_s + seconds, seed=seed, fps=fps)
    chunker = Chunker(ChunkerSettings(kind=StreamKind.AV, fps=fps))
    chunks: list[Chunk] = []
    items: list[Item] = []
    for item in world:
        if len(chunks) < before_chunks:
            chunks += chunker.push(item)
        if item.time_s >= start_s - 1e-9:
            items.append(replace(item, time_s=item.time_s - start_s))
    before = [
        replace(one, index=one.index - before_chunks, start_s=one.start_s - start_s)
        for one in chunks[:before_chunks]
    ]
    return Material(world.info, tuple(before), tuple(items))


class ReplaySource:
    """Plays items from ``phase_s`` after ``go`` is set; their pace is `pacing.Paced`'s matter."""

    def __init__(
        self, items: Sequence[Item], info: SourceInfo, go: threading.Event, phase_s: float
    ) -> None:
        self.info = info
        self.stats = SourceStats()
        self._items = items
        self._go = go
        self._phase_s = phase_s
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def __iter__(self) -> Iterator[Item]:
        """The items, in order of time."""
        self._go.wait()
        self._stop.wait(self._phase_s)
        for item in self._items:
            if self._stop.is_set():
                return
            yield item

    def stop(self) -> None:
        """Ask the iterator to end; safe from any thread."""
        self._stop.set()
        self._go.set()
