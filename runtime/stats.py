"""Counters, gauges and timings of everything that can be late, full or dropped, in one place.

Any thread may write; `snapshot` is what ``/status``, JSON and the metrics read. With ``trace`` on,
hand-overs are also kept as events of a Chrome trace (chrome://tracing, Perfetto).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from runtime.histogram import Histogram

KEPT_TIMINGS = 512
KEPT_EVENTS = 200_000


class Stats:
    """One session's or worker's numbers. Names are dotted: ``feed.dropped.overload``."""

    def __init__(self, trace: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._started = clock()
        self._counters: dict[str, int] = {}
        self._gauges: dict[str, Callable[[], Any]] = {}
        self._timings: dict[str, deque[float]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._events: deque[dict[str, Any]] | None = deque(maxlen=KEPT_EVENTS) if trace else None

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + by

    def gauge(self, name: str, read: Callable[[], Any]) -> None:
        """Register how a current value is read; it must be cheap and safe from any thread."""
        with self._lock:
            self._gauges[name] = read

    def timing(self, name: str, ms: float) -> None:
        """Add a duration in milliseconds; the last 512 are kept, and a histogram of all."""
        with self._lock:
            self._timings.setdefault(name, deque(maxlen=KEPT_TIMINGS)).append(ms)
            self._histograms.setdefault(name, Histogram()).add(ms)

    def event(self, name: str, lane: str, started: float, **values: Any) -> None:
        """A hand-over from ``started`` (this object's clock) until now, for the trace."""
        if self._events is None:
            return
        now = self._clock()
        with self._lock:
            self._events.append(
                {
                    "name": name,
                    "cat": "omnidrop",
                    "ph": "X",
                    "ts": round((started - self._started) * 1e6),
                    "dur": max(1, round((now - started) * 1e6)),
                    "pid": 1,
                    "tid": lane,
                    "args": values,
                }
            )

    def counter(self, name: str) -> int:
        """A counter's value, 0 where it never counted."""
        with self._lock:
            return self._counters.get(name, 0)

    def recent(self, name: str) -> list[float]:
        """A timing's last values, at most 512, in milliseconds."""
        with self._lock:
            return list(self._timings.get(name, ()))

    def snapshot(self) -> dict[str, Any]:
        """Counters, gauges and, for each timing, its last, median, p95 and worst value."""
        with self._lock:
            counters = dict(sorted(self._counters.items()))
            gauges = dict(self._gauges)
            timings = {name: list(values) for name, values in sorted(self._timings.items())}
        return {
            "counters": counters,
            "gauges": {name: read() for name, read in sorted(gauges.items())},
            "timings_ms": {name: _summary(values) for name, values in timings.items()},
        }

    def histograms(self) -> dict[str, tuple[list[tuple[float, int]], float]]:
        """For each timing since the beginning: cumulative counts by bound, and the sum, in ms."""
        with self._lock:
            found = sorted(self._histograms.items())
            return {name: (one.cumulative(), one.sum_ms) for name, one in found}

    def write_trace(self, path: Path) -> None:
        """Write the kept events as a Chrome trace."""
        with self._lock:
            events = list(self._events or ())
        path.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "last": round(values[-1], 3),
        "median": round(median(ordered), 3),
        "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1], 3),
        "max": round(ordered[-1], 3),
        "n": len(values),
    }
