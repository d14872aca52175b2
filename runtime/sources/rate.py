"""Whether a clock runs as fast as the monotonic one, told from when its times arrive."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

_EVERY_S = 0.05
_LEAD_S = 10.0
"""No server sends so much at once: who is further ahead runs too fast."""
_LIMITS = ((2.0, 0.0, 1.5), (5.0, 0.67, 1.5), (10.0, 0.85, 1.15), (30.0, 0.95, 1.05))
_PARTS = 4
_KEPT = 700


class RateGuard:
    """Says when a clock runs at a wrong rate, not merely late or in bursts.

    A rate counts where each quarter of the time looked at shows it: 2 s for a clock at least 1.5
    times too fast (1 s where it is already 10 s ahead), 5 s for one that has at most two thirds of
    the true rate, 10 s for one that is off by more than 15 %, 30 s for one by more than 5 %.
    Bounded: 1,400 readings.
    """

    def __init__(self) -> None:
        self._arrived: list[float] = []
        self._times: list[float] = []

    def push(self, time_s: float, arrived_s: float) -> float | None:
        """The clock shows ``time_s``; returns how many times too fast it runs, if it does."""
        if self._arrived and arrived_s - self._arrived[-1] < _EVERY_S:
            return None
        self._arrived.append(arrived_s)
        self._times.append(time_s)
        if len(self._arrived) > 2 * _KEPT:
            del self._arrived[:_KEPT], self._times[:_KEPT]
        for span_s, low, high in _LIMITS:
            if (rate := self._steady(span_s, low, high)) is not None:
                return rate
        lead_s = time_s - arrived_s - self._times[0] + self._arrived[0]
        return self.fast(1.0) if lead_s > _LEAD_S else None

    def fast(self, span_s: float) -> float | None:
        """The rate over the span, if it is steadily at least 1.5."""
        return self._steady(span_s, 0.0, 1.5)

    def rate(self, span_s: float) -> float | None:
        """The mean rate over the last ``span_s``; None where nothing is known of so long ago."""
        cuts = self._cuts(span_s)
        return None if cuts is None else _slope(cuts[0], cuts[-1])

    @property
    def began(self) -> tuple[float, float] | None:
        """Arrival and time of the oldest reading kept."""
        return (self._arrived[0], self._times[0]) if self._arrived else None

    def restart(self) -> None:
        """Forget: the clock was set anew."""
        self._arrived.clear()
        self._times.clear()

    def _steady(self, span_s: float, low: float, high: float) -> float | None:
        """The rate over the span where all its quarters are outside of [low, high], and alike."""
        cuts = self._cuts(span_s)
        if cuts is None:
            return None
        rates = [_slope(a, b) for a, b in pairwise(cuts)]
        if not (min(rates) > high or max(rates) < low) or max(rates) > 1.5 * max(min(rates), 0):
            return None
        return _slope(cuts[0], cuts[-1])

    def _cuts(self, span_s: float) -> list[tuple[float, float]] | None:
        """The readings at the borders of the span's quarters; None where one of them is empty."""
        if not self._arrived or self._arrived[0] > self._arrived[-1] - span_s:
            return None
        borders = [self._arrived[-1] - span_s * part / _PARTS for part in range(_PARTS, -1, -1)]
        places = [bisect_left(self._arrived, border_s - 1e-9) for border_s in borders]
        if any(a >= b for a, b in pairwise(places)):
            return None
        return [(self._arrived[place], self._times[place]) for place in places]


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
