"""Sources and models for runtime tests whose pace the test decides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self

import numpy as np

from omnidrop_stream.types import Frame, Samples, StreamKind
from runtime.sources.base import SourceInfo, SourceState, SourceStats


class GatedSource:
    """A source of seeded pictures and tones that gives each half second only when it is let."""

    def __init__(
        self, seconds: float = 20.0, seed: int = 0, error: Exception | None = None
    ) -> None:
        self.info = SourceInfo("gated", StreamKind.AV, 64, 36, 2.0, None, live=True)
        self.stats = SourceStats()
        self.state = SourceState()
        self._steps = round(seconds * 2)
        self._rng = np.random.default_rng(seed)
        self._permits = threading.Semaphore(0)
        self._stopped = threading.Event()
        self._error = error
        self.opened_by: int | None = None
        self.closed_by: int | None = None
        self.retries = 0

    def retry_now(self) -> None:
        self.retries += 1

    def let(self, seconds: float) -> None:
        """Allow so many more seconds of material."""
        self._permits.release(round(seconds * 2))

    def __enter__(self) -> Self:
        self.opened_by = threading.get_ident()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed_by = threading.get_ident()

    def __iter__(self) -> Iterator[Frame | Samples]:
        for step in range(self._steps):
            while not self._permits.acquire(timeout=0.05):
                if self._stopped.is_set():
                    return
            if self._stopped.is_set():
                return
            time_s = step / 2
            image = self._rng.integers(0, 255, (36, 64, 3), dtype=np.uint8)
            yield Frame(image, time_s)
            tone = np.sin(np.arange(8000) * 0.05 * (1 + step % 5)).astype(np.float32) * 0.2
            yield Samples(tone, time_s)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stopped.set()
