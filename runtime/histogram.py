"""A cumulative histogram of durations, as metrics want it: fixed bounds, counts that only grow."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

BOUNDS_MS = (
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0,
    1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0,
)  # fmt: skip


@dataclass(slots=True)
class Histogram:
    """Durations since the beginning; not thread-safe by itself."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))
    """How many fell into each interval; the last is everything above the last bound."""
    sum_ms: float = 0.0

    def add(self, ms: float) -> None:
        """One duration, in milliseconds."""
        self.counts[bisect.bisect_left(BOUNDS_MS, ms)] += 1
        self.sum_ms += ms

    def cumulative(self) -> list[tuple[float, int]]:
        """``(bound in ms, how many at most that long)``, the last bound infinite."""
        total, rows = 0, []
        for bound, count in zip((*BOUNDS_MS, float("inf")), self.counts, strict=True):
            total += count
            rows.append((bound, total))
        return rows
