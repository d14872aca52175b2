"""Reads a source as a capture thread does, and keeps what its chunks were like, not the chunks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import Chunk, ChunkFlags, Frame, Gap, Samples
from runtime.sources.base import Interruption, LiveSource, SourceState

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Seen:
    """One chunk: when it was complete (monotonic), and what it held."""

    at_s: float
    epoch: int
    start_s: float
    end_s: float
    flags: ChunkFlags
    size: tuple[int, int] | None
    """Width and height of its pictures."""
    samples: int | None
    level: float
    """Root mean square of its sound."""
    chunk: Chunk | None = None
    """Only where chunks were asked to be kept."""

    @property
    def whole(self) -> bool:
        """Two full seconds, with fresh pictures and nothing broken."""
        flags = self.flags
        return not (flags.partial or flags.corrupt) and self.size is not None


class Follower:
    """One source in a thread of its own; ``states`` and ``seen`` may be read from any thread."""

    def __init__(self, source: LiveSource, *, keep: bool = False, fps: float = 2.0) -> None:
        self.source = source
        self.seen: list[Seen] = []
        self.states: list[tuple[float, SourceState]] = []
        self.interruptions: list[tuple[float, Interruption]] = []
        self.gaps: tuple[Gap, ...] = ()
        self.media: list[tuple[float, float]] = []
        """(arrival, source time) of every picture."""
        self.sizes: list[tuple[float, tuple[int, int]]] = []
        """(arrival, width and height) of each picture that is not of the size before."""
        self.last_sound_at = 0.0
        self.error: BaseException | None = None
        self.stop_took_s = 0.0
        self._keep, self._fps = keep, fps
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, name="follow-read", daemon=True)
        self._looker = threading.Thread(target=self._look, name="follow-look", daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        self._looker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None and self.error is not None:
            raise self.error

    def stop(self, limit_s: float = 15.0) -> float:
        """End it; how long that took, s (infinite: it hangs)."""
        began_s = time.monotonic()
        self.source.stop()
        self._reader.join(limit_s)
        took_s = time.monotonic() - began_s
        self._over.set()
        self._looker.join(limit_s)
        return float("inf") if self._reader.is_alive() else took_s

    def wait(self, there: Callable[[], bool], limit_s: float) -> float:
        """Seconds until something is so (infinite: not within the limit)."""
        began_s = time.monotonic()
        while time.monotonic() - began_s < limit_s:
            if there():
                return time.monotonic() - began_s
            if not self._reader.is_alive() and not there():
                raise AssertionError(f"the source ended: {self.error!r}")
            time.sleep(POLL_S)
        return float("inf")

    def wait_state(
        self, wanted: Callable[[SourceState], bool], since_s: float, limit_s: float
    ) -> tuple[float, SourceState] | None:
        """The first state since then that is wanted, with when it came (monotonic); None: none."""
        found: list[tuple[float, SourceState]] = []

        def there() -> bool:
            found[:] = [(at, s) for at, s in list(self.states) if at >= since_s and wanted(s)]
            return bool(found)

        self.wait(there, limit_s)
        return found[0] if found else None

    def wait_chunk(
        self, wanted: Callable[[Seen], bool], since_s: float, limit_s: float
    ) -> Seen | None:
        """The first chunk that came since then and is wanted; None: none in time."""
        found: list[Seen] = []

        def there() -> bool:
            found[:] = [seen for seen in list(self.seen) if seen.at_s >= since_s and wanted(seen)]
            return bool(found)

        self.wait(there, limit_s)
        return found[0] if found else None

    def _look(self) -> None:
        """Every change of the source's state, with its time."""
        known: SourceState | None = None
        while True:
            state = self.source.state
            if state != known:
                known = state
                self.states.append((time.monotonic(), state))
            if self._over.wait(POLL_S):
                return

    def _read(self) -> None:
        try:
            with self.source as source:
                chunker = Chunker(ChunkerSettings(kind=source.info.kind, fps=self._fps))
                for item in source:
                    self._take(chunker, item)
        except BaseException as error:  # raised again where the follower is left
            self.error = error

    def _take(self, chunker: Chunker, item: Frame | Samples | Interruption) -> None:
        now_s = time.monotonic()
        if isinstance(item, Interruption):
            self.interruptions.append((now_s, item))
            chunks = chunker.start_epoch(item.reason, item.at_s)
        else:
            if isinstance(item, Frame):
                self.media.append((now_s, item.time_s))
                size = (item.image.shape[1], item.image.shape[0])
                if not self.sizes or self.sizes[-1][1] != size:
                    self.sizes.append((now_s, size))
            else:
                self.last_sound_at = now_s
            chunks = chunker.push(item)
        self.gaps = chunker.gaps
        self.seen += [self._described(chunk, now_s) for chunk in chunks]

    def _described(self, chunk: Chunk, now_s: float) -> Seen:
        size = None if chunk.frames is None else (chunk.frames.shape[2], chunk.frames.shape[1])
        level = 0.0 if chunk.audio is None else float(np.sqrt(np.square(chunk.audio).mean()))
        return Seen(
            now_s,
            chunk.epoch,
            chunk.start_s,
            chunk.end_s,
            chunk.flags,
            size,
            None if chunk.audio is None else len(chunk.audio),
            level,
            chunk if self._keep else None,
        )
