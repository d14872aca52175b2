"""The hand-over from a capture thread to the model thread: a bounded queue of whole chunks.

Live: full means the oldest waiting chunk goes, is counted and named in the stream's ledger. A file
read as fast as possible waits instead, because nothing is gained by dropping it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from omnidrop_stream.types import Chunk, Gap
from runtime.stats import Stats

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.stream import OmniStream, StreamStatus

DEPTH = 3


class ChunkFeed:
    """Chunks of one stream, waiting to be prefilled."""

    def __init__(
        self,
        stats: Stats,
        wake: Callable[[], None],
        on_commit: Callable[[StreamStatus], None],
        on_error: Callable[[BaseException], None],
        depth: int = DEPTH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: OmniStream | None = None
        self._stats = stats
        self._wake = wake
        self._on_commit = on_commit
        self._on_error = on_error
        self._limit = depth
        self._clock = clock
        self._room = threading.Condition()
        self._waiting: deque[tuple[Chunk, float]] = deque()
        self._lost: list[tuple[Chunk, str]] = []
        self._gaps: list[Gap] = []
        self._closed = False
        self._busy = False
        stats.gauge("feed.waiting", lambda: len(self._waiting))
        stats.gauge("feed.limit", lambda: self._limit)

    def attach(self, stream: OmniStream) -> None:
        """The stream is there; until now chunks only waited (and the oldest were lost)."""
        self._stream = stream

    # -- capture thread

    def offer(self, chunk: Chunk) -> None:
        """Hand a chunk over; where the queue is full the oldest one is lost, counted and named."""
        with self._room:
            if self._closed:
                return
            while len(self._waiting) >= self._limit:
                self._lost.append((self._waiting.popleft()[0], "overload"))
                self._stats.count("feed.dropped.overload")
            self._waiting.append((chunk, self._clock()))
        self._stats.count("feed.offered")
        self._wake()

    def offer_waiting(self, chunk: Chunk, stopped: threading.Event) -> None:
        """Hand a chunk over, waiting for room; gives up when ``stopped`` is set or on `close`."""
        with self._room:
            while len(self._waiting) >= self._limit and not (self._closed or stopped.is_set()):
                self._room.wait(0.25)
            if self._closed or stopped.is_set():
                return
            self._waiting.append((chunk, self._clock()))
        self._stats.count("feed.offered")
        self._wake()

    def note_gaps(self, gaps: tuple[Gap, ...]) -> None:
        """Holes the chunker found, for the stream's ledger."""
        with self._room:
            self._gaps.extend(gaps)

    # -- any thread

    def drop_all(self, reason: str) -> None:
        """Lose what waits (forgetting, muting); counted and named."""
        with self._room:
            while self._waiting:
                self._lost.append((self._waiting.popleft()[0], reason))
                self._stats.count(f"feed.dropped.{reason}")
            self._room.notify_all()

    def close(self) -> None:
        """Nothing more is taken or offered; a waiting ``offer_waiting`` returns."""
        with self._room:
            self._closed = True
            self._waiting.clear()
            self._room.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in work."""
        with self._room:
            return not self._waiting and not self._busy

    # -- model thread

    def due(self) -> float | None:
        """When the oldest waiting chunk was handed over, None where none waits."""
        with self._room:
            return self._waiting[0][1] if self._waiting and self._stream is not None else None

    def take(self) -> Generator[Any, None, Any] | None:
        """Turns of the next chunk's ingest."""
        stream = self._stream
        with self._room:
            if not self._waiting or stream is None:
                return None
            chunk, due = self._waiting.popleft()
            lost, self._lost = self._lost, []
            gaps, self._gaps = self._gaps, []
            self._busy = True
            self._room.notify_all()
        for gap in gaps:
            stream.note_gap(gap)
        for gone, reason in lost:
            stream.note_drop(gone.start_s, gone.end_s, reason)
        return self._ingest(stream, chunk, due)

    def _ingest(self, stream: OmniStream, chunk: Chunk, due: float) -> Generator[None, None, None]:
        started = self._clock()
        try:
            yield from stream.push_steps(chunk)
        finally:
            with self._room:
                self._busy = False
        now = self._clock()
        self._stats.timing("chunk.waited", (started - due) * 1e3)
        self._stats.timing("chunk.push", (now - started) * 1e3)
        self._stats.count("chunk.committed")
        if now - due > chunk.duration_s:
            self._stats.count("chunk.late")
        self._stats.event("chunk", "ingest", due, chunk=chunk.index)
        self._on_commit(stream.status())

    def background(self) -> Generator[Any, None, Any] | None:
        """Turns that bring the stream to its wanted depth, None where it is there."""
        stream = self._stream
        return stream.background_steps() if stream is not None and stream.depth_pending else None

    def failed(self, error: BaseException) -> None:
        """The ingest raised: the session ends with that error."""
        self._on_error(error)
