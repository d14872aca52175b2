"""One thread for each source: it opens, reads, cuts into chunks and closes. Nobody else touches it.

The chunker is fed here, so what is handed over is few and whole; a lock lets a question look at the
open chunk. Stopping is asked for, never forced; the thread ends after the item at hand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import Chunk, Frame, Gap, Samples, StreamKind
from runtime.asking import kind_for
from runtime.feed import ChunkFeed
from runtime.sources.base import Interruption, LiveSource, Source, SourceInfo, SourceState
from runtime.stats import Stats
from runtime.status import Came
from runtime.tally import Tally


class CaptureThread:
    """Reads one source into one feed. Call-backs come on this thread; they must only pass on."""

    def __init__(
        self,
        source: Source,
        feed: ChunkFeed,
        stats: Stats,
        fps: float,
        drop_when_full: bool,
        on_open: Callable[[SourceInfo], None],
        on_end: Callable[[BaseException | None], None],
        wall: Callable[[], float] | None = time.time,
        kind: StreamKind | None = None,
        begin: threading.Event | None = None,
        paused: threading.Event | None = None,
        muted: threading.Event | None = None,
    ) -> None:
        """kind: what to take of the source (None: all it carries). begin: what is not live is read
        once this is set. paused, muted: switches that may be on before the first item.
        """
        self._source = source
        self._feed = feed
        self._stats = stats
        self._fps = fps
        self._drop_when_full = drop_when_full
        self._on_open = on_open
        self._on_end = on_end
        self._wall = wall
        self._kind = kind
        self._begin = begin
        self._over = False
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._paused = paused or threading.Event()
        self._muted = muted or threading.Event()
        self._chunker: Chunker | None = None
        self._newest_gap: Gap | None = None
        self._tally = Tally(stats)
        self._came = Came()
        self._waiters: list[tuple[float, Callable[[], None]]] = []
        self._thread = threading.Thread(target=self._run, name="omnidrop-capture", daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; safe from any thread, any number of times."""
        self._stopped.set()
        if self._begin is not None:
            self._begin.set()
        self._source.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False if the thread still runs."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def pause(self, on: bool) -> None:
        """While paused, nothing of the source is kept; the stretch is a named gap."""
        (self._paused.set if on else self._paused.clear)()

    def mute(self, on: bool) -> None:
        """While muted, sound is thrown away here, before anything else sees it."""
        (self._muted.set if on else self._muted.clear)()

    @property
    def paused(self) -> bool:
        """Whether nothing is kept at present."""
        return self._paused.is_set()

    @property
    def muted(self) -> bool:
        """Whether sound is thrown away at present."""
        return self._muted.is_set()

    @property
    def state(self) -> SourceState:
        """How the source says it is doing; sources that cannot fail say nothing."""
        return self._source.state if isinstance(self._source, LiveSource) else SourceState()

    def came(self) -> Came:
        """What the newest chunk brought; of a medium that is thrown away by wish, nothing is
        said.
        """
        return replace(self._came, audio=None) if self.muted else self._came

    def retry_now(self) -> bool:
        """Try a lost source again at once; False for one that cannot be lost."""
        if not isinstance(self._source, LiveSource):
            return False
        self._source.retry_now()
        return True

    def stream_time_s(self) -> float:
        """Stream time of the newest material captured."""
        with self._lock:
            return self._chunker.stream_time_s if self._chunker is not None else 0.0

    def open_chunk(self) -> Chunk | None:
        """The part of the open chunk that exists now."""
        with self._lock:
            return self._chunker.open_chunk() if self._chunker is not None else None

    def forget(self) -> None:
        """Throw away the open chunk; the stream goes on with a named gap."""
        with self._lock:
            if self._chunker is not None:
                self._chunker.start_epoch("forgotten", self._chunker.stream_time_s)

    def when(self, stream_s: float, call: Callable[[], None]) -> None:
        """Call ``call`` once when stream time is ``stream_s`` or later, or the source has ended: on
        this thread, or at once.
        """
        with self._lock:
            now_s = self._chunker.stream_time_s if self._chunker is not None else 0.0
            if not self._over and stream_s > now_s:
                self._waiters.append((stream_s, call))
                return
        call()

    # -- the capture thread

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._read()
        except BaseException as caught:
            error = caught
        with self._lock:
            self._over = True
        self._tell_waiters(float("inf"))
        self._on_end(error)

    def _read(self) -> None:
        if self._stopped.is_set():
            return
        with self._source as source:
            kind = kind_for(source.info, self._kind)
            chunker = Chunker(ChunkerSettings(kind=kind, fps=self._fps))
            with self._lock:
                self._chunker = chunker
            self._stats.gauge("source.skew_s", lambda: source.stats.skew_s)
            self._on_open(source.info)
            if self._begin is not None and not source.info.live:
                self._begin.wait()
            for item in source:
                if self._stopped.is_set():
                    return
                self._take(chunker, item)
            with self._lock:
                rest = chunker.flush()
            self._hand_over(chunker, rest)

    def _take(self, chunker: Chunker, item: Frame | Samples | Interruption) -> None:
        if isinstance(item, Interruption):
            self._stats.count("source.interruptions")
            with self._lock:
                chunks = chunker.start_epoch(item.reason, source_s=item.at_s)
        elif self._paused.is_set():
            self._stats.count("source.dropped.paused")
            return
        elif isinstance(item, Samples) and self._muted.is_set():
            self._stats.count("source.dropped.muted")
            return
        else:
            with self._lock:
                chunks = chunker.push(item)
        self._hand_over(chunker, chunks)
        self._tell_waiters(chunker.stream_time_s)

    def _hand_over(self, chunker: Chunker, chunks: list[Chunk]) -> None:
        if gaps := chunker.new_gaps():
            self._note(gaps)
        if chunks:
            self._tally.look(self._source.stats, chunker)
        for chunk in chunks:
            self._came = Came.of(chunk, chunker.settings.kind)
            if self._wall is not None:
                began = self._wall() - (chunker.stream_time_s - chunk.start_s)
                chunk = replace(chunk, wall_time_s=began)
            self._stats.count("source.chunks")
            if self._drop_when_full:
                self._feed.offer(chunk)
            else:
                self._feed.offer_waiting(chunk, self._stopped)

    def _note(self, gaps: tuple[Gap, ...]) -> None:
        for gap in gaps:
            last, self._newest_gap = self._newest_gap, gap
            grows = last is not None and gap.continues(last)
            self._stats.count("source.gaps", not grows)
        self._feed.note_gaps(gaps)

    def _tell_waiters(self, now_s: float) -> None:
        with self._lock:
            ready = [call for at, call in self._waiters if at <= now_s]
            self._waiters = [(at, call) for at, call in self._waiters if at > now_s]
        for call in ready:
            call()
