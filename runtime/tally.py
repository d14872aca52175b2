"""Counts that a capture thread keeps elsewhere, brought into the session's statistics."""

from __future__ import annotations

from dataclasses import fields

from omnidrop_stream.chunker import Chunker
from runtime.sources.base import SourceStats
from runtime.stats import Stats

_OF_SOURCE = (
    "corrupt_frames",
    "decode_errors",
    "skipped_frames",
    "hardware_refused",
    "untimed",
    "overflows",
    "dropped_frames",
    "dropped_samples",
)


class Tally:
    """Adds what grew since the last look. For the capture thread alone."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._told: dict[str, int] = {}

    def look(self, source: SourceStats, chunker: Chunker) -> None:
        """Count what is new: ``source.*``, ``clock.*`` and ``chunker.*``."""
        now = {f"source.{name}": int(getattr(source, name)) for name in _OF_SOURCE}
        now |= dict(source.clock)
        counters = chunker.counters
        now |= {f"chunker.{one.name}": int(getattr(counters, one.name)) for one in fields(counters)}
        for name, value in now.items():
            if grown := value - self._told.get(name, 0):
                self._stats.count(name, grown)
        self._told = now
