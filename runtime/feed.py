"""The hand-over from a capture thread to the model thread: a bounded queue of whole chunks.

Live: full means the oldest waiting chunk goes, and one that waited for more than two chunk periods
goes when its turn comes, unless it is the newest and only the model kept it waiting; each is
counted by reason and named in the stream's ledger. A file read as fast as possible waits instead,
because nothing is gained by dropping it. Here the overload ladder is fed and obeyed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omnidrop_stream.types import CHUNK_SECONDS, Chunk, Gap
from runtime.lighter import Lighter
from runtime.overload import Change, Ladder, Step
from runtime.stats import Stats

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.stream import OmniStream
    from omnidrop_stream.stream_status import StreamStatus

DEPTH = 3
OLDEST_S = 2 * CHUNK_SECONDS
"""A chunk given to the model is at most so old, plus the time for which the model was busy."""
LEDGER = 256
"""Losses and gaps that wait for the model thread; beyond, the oldest ones are joined."""
OVERLOAD_REASONS = ("overload", "stale")


@dataclass(frozen=True, slots=True)
class Loss:
    """Chunks in a row that were lost for one reason."""

    from_s: float
    to_s: float
    reason: str
    chunks: int = 1


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
        live: bool = True,
        look: Callable[[Chunk], None] = lambda _: None,
        held: Callable[[], bool] = lambda: False,
        load: Callable[[], float] | None = None,
    ) -> None:
        """live: old chunks are dropped and the ladder is used; else nothing is ever too old. look:
        sees each raw chunk on its way into the trunk. held: whether the next one has to wait. load:
        the share of the model's time that all streams take, which ``auto`` depth goes by.
        """
        self._stream: OmniStream | None = None
        self._stats = stats
        self._wake = wake
        self._on_commit = on_commit
        self._on_error = on_error
        self._limit = depth
        self._clock = clock
        self._live = live
        self._look = look
        self._held = held
        self._load = load
        self._room = threading.Condition()
        self._waiting: deque[tuple[Chunk, float]] = deque()
        self._lost: list[Loss] = []
        self._lost_to_overload = 0
        self._gaps: deque[Gap] = deque(maxlen=LEDGER)
        self._closed = False
        self._busy = False
        self._busy_s = 0.0  # how long the model was kept from this feed the last time
        self._began = clock()
        self._age_s: float | None = None
        self._ladder, self._lighter = Ladder(), Lighter()
        stats.gauge("feed.waiting", lambda: len(self._waiting))
        stats.gauge("feed.limit", lambda: self._limit)
        stats.gauge("chunk.age_s", lambda: self._age_s)
        stats.gauge("overload.step", lambda: int(self.step))

    def attach(self, stream: OmniStream, steps: tuple[Step, ...] = (Step.NORMAL,)) -> None:
        """The stream is there; until now chunks only waited (and the oldest were lost). steps:
        those of the overload ladder that save anything on this stream.
        """
        with self._room:
            self._stream = stream
            self._busy_s = self._clock() - self._began  # loading
            self._lost_to_overload = 0
            if self._live:
                self._ladder, self._lighter = Ladder(steps), Lighter(steps)

    @property
    def step(self) -> Step:
        """The overload ladder's step in use; safe from any thread."""
        return self._ladder.step

    @property
    def age_s(self) -> float | None:
        """How old the newest chunk given to the model was then, counted from when it was whole."""
        return self._age_s

    # -- capture thread

    def offer(self, chunk: Chunk) -> None:
        """Hand a chunk over; where the queue is full the oldest one is lost, counted and named."""
        with self._room:
            if self._closed:
                return
            while len(self._waiting) >= self._limit:
                self._lose("overload" if self._stream is not None else "loading")
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
            beyond = max(0, len(self._gaps) + len(gaps) - LEDGER)
            self._gaps.extend(gaps)
        if beyond:
            self._stats.count("feed.gaps_forgotten", beyond)

    # -- any thread

    def drop_all(self, reason: str) -> None:
        """Lose what waits (forgetting, muting); counted and named."""
        with self._room:
            while self._waiting:
                self._lose(reason)
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

    def _lose(self, reason: str) -> None:
        """The oldest waiting chunk goes; the lock is held."""
        chunk = self._waiting.popleft()[0]
        self._stats.count(f"feed.dropped.{reason}")
        self._lost_to_overload += reason in OVERLOAD_REASONS
        last = self._lost[-1] if self._lost else None
        if last is not None and last.reason == reason and abs(last.to_s - chunk.start_s) < 1e-6:
            self._lost[-1] = replace(last, to_s=chunk.end_s, chunks=last.chunks + 1)
            return
        self._lost.append(Loss(chunk.start_s, chunk.end_s, reason))
        if len(self._lost) > LEDGER:
            first, second = self._lost[:2]
            chunks = first.chunks + second.chunks
            self._lost[:2] = [replace(first, to_s=second.to_s, chunks=chunks)]

    # -- model thread

    def due(self) -> float | None:
        """When the oldest waiting chunk was handed over, None where none waits or it is held."""
        if self._held():
            return None
        with self._room:
            return self._waiting[0][1] if self._waiting and self._stream is not None else None

    def take(self) -> Generator[Any, None, Any] | None:
        """Turns of the next chunk's ingest; None where what waited was too old."""
        stream = self._stream
        if stream is None:
            return None
        with self._room:
            self._drop_old()
            taken = self._waiting.popleft() if self._waiting else None
            lost, self._lost = self._lost, []
            gaps = list(self._gaps)
            self._gaps.clear()
            self._busy = taken is not None
            self._room.notify_all()
        for gap in gaps:
            stream.note_gap(gap)
        for loss in lost:
            stream.note_drop(loss.from_s, loss.to_s, loss.reason, loss.chunks)
        if taken is None:
            if lost:
                self._on_commit(stream.status())
            return None
        return self._ingest(stream, *taken)

    def lightened(self, chunk: Chunk) -> Chunk:
        """A chunk as the ladder's present step gives it to the model."""
        return self._lighter.lightened(chunk)

    def _drop_old(self) -> None:
        """The oldest chunk that waits is now one that may be given; the lock is held."""
        if not self._live:
            return
        if self._lighter.uses(Step.SKIP):
            while len(self._waiting) > 1:
                self._lose("skipped")
        now = self._clock()
        while len(self._waiting) > 1 and now - self._waiting[0][1] > OLDEST_S:
            self._lose("stale")
        if self._waiting and now - self._waiting[0][1] > OLDEST_S + self._busy_s:
            self._lose("stale")

    def _ingest(self, stream: OmniStream, chunk: Chunk, due: float) -> Generator[Any, Any, None]:
        started = self._clock()
        self._age_s = started - due
        self._look(chunk)
        chunk = self._lighter.lightened(chunk)
        if self._load is not None:
            stream.auto_depth.told(self._load())
        try:
            yield from stream.push_together(chunk)
        finally:
            with self._room:
                self._busy = False
        now = self._clock()
        self._busy_s = now - started
        self._lighter.taken(chunk)
        self._stats.timing("chunk.waited", (started - due) * 1e3)
        self._stats.timing("chunk.push", (now - started) * 1e3)
        self._stats.timing("chunk.to_prefill", (now - due) * 1e3)
        self._stats.count("chunk.committed")
        if now - due > chunk.duration_s:
            self._stats.count("chunk.late")
        self._stats.event("chunk", "ingest", due, chunk=chunk.index)
        if self._live:
            self._climb(stream, chunk, started - due, now - started)
        self._on_commit(stream.status())

    def _climb(self, stream: OmniStream, chunk: Chunk, waited_s: float, cost_s: float) -> None:
        """Tell the ladder what the chunk cost, and do what it says."""
        with self._room:
            lost, self._lost_to_overload = self._lost_to_overload, 0
        change = self._ladder.observe(waited_s, cost_s, CHUNK_SECONDS, lost)
        if change is not None:
            self._go(stream, chunk.end_s, change)

    def _go(self, stream: OmniStream, at_s: float, change: Change) -> None:
        self._stats.count("overload.engaged" if change.engaged else "overload.disengaged")
        self._stats.event("overload", "ingest", self._clock(), step=change.after.title)
        if self._lighter.go(change.after):
            done = change.after.title if change.engaged else f"{change.before.title} undone"
            stream.note_gap(Gap(at_s, at_s, f"overload: {done}"))
        stream.lighten(self._lighter.pictures, self._lighter.merging)

    def background(self) -> Generator[Any, None, Any] | None:
        """Turns that bring the stream to its wanted depth, None where it is there."""
        stream = self._stream
        return stream.background_steps() if stream is not None and stream.depth_pending else None

    def failed(self, error: BaseException) -> None:
        """The ingest raised: the session ends with that error."""
        self._on_error(error)
