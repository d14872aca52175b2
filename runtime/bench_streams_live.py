"""One of the streams of ``omnidrop bench streams``: what a session has, over rendered material."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from omnidrop_stream.config import Config
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.model.towers import EncodeRequest
from omnidrop_stream.plan import intra_for
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Chunk, Query, StreamKind
from omnidrop_stream.wanted import Wanted
from runtime.answers import Answers
from runtime.capture import CaptureThread
from runtime.feed import ChunkFeed
from runtime.overload import steps_for
from runtime.replay import Material, ReplaySource
from runtime.sources.pacing import Paced
from runtime.stats import Stats
from runtime.worker import ModelWorker


class Live:
    """One stream with its capture thread."""

    def __init__(
        self,
        worker: ModelWorker,
        stream: OmniStream,
        world: Material,
        go: threading.Event,
        phase_s: float,
        post: Callable[..., None],
    ) -> None:
        self.stats = Stats()
        self.stream = stream
        self.ended = asyncio.Event()
        self.errors: list[BaseException] = []
        self._taken = asyncio.Event()
        self.feed = ChunkFeed(
            self.stats,
            worker.wake,
            on_commit=lambda _: post(self._taken.set),
            on_error=lambda error: post(self._fail, error),
        )
        settings, intra = stream.config.stream, stream.config.intra
        merging = intra_for(stream.config.pruning, intra).enabled
        self.feed.attach(stream, steps_for(settings.kind, settings.fps, merging=merging))
        worker.add_feed(self.feed)
        self.capture = CaptureThread(
            Paced(ReplaySource(world.items, world.info, go, phase_s)),
            self.feed,
            self.stats,
            fps=settings.fps,
            drop_when_full=True,
            on_open=lambda _: None,
            on_end=lambda error: post(self._end, error),
            kind=StreamKind.AV,
        )
        self.answers = Answers(worker, self.stats, post, self._open_chunk)
        self.capture.start()

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            self.errors.append(error)
        self.ended.set()

    def _fail(self, error: BaseException) -> None:
        self.errors.append(error)
        self._taken.set()

    def _open_chunk(self) -> Any:
        chunk = self.capture.open_chunk() if self.feed.idle else None
        return self.feed.lightened(chunk) if chunk is not None else None

    async def ask(self, text: str, number: int) -> float:
        """Milliseconds from the question until its first token was here; the answer is read to its
        end.
        """
        query = Query(text, f"q{number}", self.capture.stream_time_s())
        config, asked_s, first_ms = self.stream.config, time.perf_counter(), math.nan
        async for _ in self.answers.ask(self.stream, query, config.pruning, config.decode):
            if math.isnan(first_ms):
                first_ms = (time.perf_counter() - asked_s) * 1e3
        return first_ms

    async def drained(self) -> None:
        """Until the source has ended and everything of it is in the trunk."""
        await self.ended.wait()
        while not self.feed.idle and not self.errors:
            self._taken.clear()
            if not self.feed.idle:
                await self._taken.wait()


def filled(
    model: OmniModel, config: Config, world: Material, encoded: dict[int, Any]
) -> OmniStream:
    """A stream that has seen what was before. The towers' results for one world are kept in
    ``encoded``, so that they run once for all of its streams; the layers run for each.
    """
    stream = OmniStream(model, config)
    for chunk in world.before:
        _push(stream, chunk, encoded)
    return stream


def _push(stream: OmniStream, chunk: Chunk, encoded: dict[int, Any]) -> None:
    turns = stream.push_together(chunk)
    result: Any = None
    while True:
        try:
            event = turns.send(result)
        except StopIteration:
            return
        result = None
        if isinstance(event, Wanted):
            encodes = isinstance(event.request, EncodeRequest)
            result = encoded.get(chunk.index) if encodes else None
            if result is None:
                result = _result_of(event)
            if encodes:
                encoded[chunk.index] = result


def _result_of(wanted: Wanted) -> Any:
    turns = wanted.plain(wanted.request)
    while True:
        try:
            next(turns)
        except StopIteration as done:
            return done.value
