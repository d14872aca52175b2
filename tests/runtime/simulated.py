"""A feed and a model that share one simulated clock: only arrivals and the model's work move it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from omnidrop_stream.types import CHUNK_SECONDS, Chunk, Gap
from runtime.feed import ChunkFeed
from runtime.overload import Step
from runtime.stats import Stats

ALL = tuple(Step)
_FRAMES = np.zeros((4, 2, 2, 3), np.uint8)
_SOUND = np.zeros(8, np.float32)


@dataclass
class Given:
    """A chunk as the model got it."""

    chunk: Chunk
    age_s: float
    busy_s: float
    """How long the model had been busy just before."""
    newest: bool
    """Whether no newer chunk waited or had come."""


@dataclass
class Simulation:
    """Chunks come each period; the model takes ``cost_s(chunk, share of its work)`` for each."""

    cost_s: Callable[[Chunk, float], float]
    chunks: int
    steps: tuple[Step, ...] = ALL
    now_s: float = 0.0
    given: list[Given] = field(default_factory=list)
    steps_seen: list[Step] = field(default_factory=list)
    dropped: list[tuple[float, float, str, int]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    most_waiting: int = 0
    pictures: float = 1.0
    merging: float = 1.0
    depth_pending: bool = False

    def __post_init__(self) -> None:
        self.stats = Stats()
        self.feed = ChunkFeed(
            self.stats, lambda: None, lambda _: None, self._failed, clock=lambda: self.now_s
        )
        self._came = 0
        self._busy_s = 0.0

    def run(self) -> Simulation:
        """Until all chunks have come and none waits."""
        self.feed.attach(self, self.steps)  # type: ignore[arg-type]
        while self._came < self.chunks or not self.feed.idle:
            turns = self.feed.take() if self.feed.due() is not None else None
            if turns is not None:
                for _ in turns:
                    pass
                self.steps_seen.append(self.feed.step)
            elif self._came < self.chunks:
                self._advance(self._next_s - self.now_s)
        return self

    # -- as the feed sees a stream

    def push_together(self, chunk: Chunk) -> Iterator[None]:
        age_s = self.now_s - chunk.end_s
        newest = chunk.index == self._came - 1
        self.given.append(Given(chunk, age_s, self._busy_s, newest))
        pictures = 0.0 if chunk.frames is None else len(chunk.frames) / 4 * self.pictures
        took_s = self.cost_s(chunk, 0.3 + 0.7 * pictures * (0.6 + 0.4 * self.merging))
        self._advance(took_s / 2)
        yield
        self._advance(took_s / 2)
        self._busy_s = took_s

    def lighten(self, pictures: float, merging: float) -> None:
        self.pictures, self.merging = pictures, merging

    def note_drop(self, from_s: float, to_s: float, reason: str, chunks: int) -> None:
        self.dropped.append((from_s, to_s, reason, chunks))

    def note_gap(self, gap: Gap) -> None:
        self.gaps.append(gap)

    def status(self) -> Any:
        return SimpleNamespace()

    # -- the world

    @property
    def _next_s(self) -> float:
        return (self._came + 1) * CHUNK_SECONDS

    def _advance(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._came < self.chunks and self._next_s <= until_s:
            self.now_s = max(self.now_s, self._next_s)
            start_s = self._came * CHUNK_SECONDS
            whole = Chunk(self._came, 0, start_s, _FRAMES, _SOUND, _SOUND, _SOUND)
            self._came += 1
            self.feed.offer(replace(whole))
            waiting = self.stats.snapshot()["gauges"]["feed.waiting"]
            self.most_waiting = max(self.most_waiting, waiting)
        self.now_s = until_s

    def _failed(self, error: BaseException) -> None:
        raise error
