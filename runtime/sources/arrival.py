"""From a device's own times to the monotonic clock, by when things arrive."""

from __future__ import annotations

from collections.abc import Callable

SAME_CLOCK_S = 2.0
"""Times this near to the monotonic clock are times of that clock (V4L2's are)."""
JUMP_S = 1.0
_WINDOW_S = 5.0
_LARGEST_STEP_S = 0.010


class ArrivalClock:
    """Places items of one device on the monotonic clock; what is placed never steps back.

    A device that stamps with the monotonic clock is believed. Any other is anchored at its first
    item; from then on the least delay of each 5 s window counts, so that jitter of the delivery
    moves nothing and a device clock that drifts is followed by at most 10 ms in 5 s. A jump of
    more than a second is anchored anew and counted.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offset_s: float | None = None
        self._exact = False
        self._least_s: float | None = None
        self._window_from_s = 0.0
        self._last_s = 0.0
        self.jumps = 0

    def place(self, at_s: float) -> float:
        """Monotonic time of what has the device's time ``at_s`` and arrived just now."""
        now_s = self._clock()
        if self._offset_s is None:
            self._exact = abs(now_s - at_s) < SAME_CLOCK_S
            self._offset_s = 0.0 if self._exact else now_s - at_s
            self._window_from_s, self._last_s = now_s, at_s + self._offset_s
        delay_s = now_s - at_s - self._offset_s
        if abs(delay_s) > JUMP_S + SAME_CLOCK_S * self._exact:
            self._offset_s, self._exact, self._least_s = now_s - at_s, False, None
            self.jumps += 1
        elif not self._exact:
            self._follow(now_s, delay_s)
        self._last_s = max(self._last_s, at_s + self._offset_s)
        return self._last_s

    def _follow(self, now_s: float, delay_s: float) -> None:
        self._least_s = delay_s if self._least_s is None else min(self._least_s, delay_s)
        if now_s - self._window_from_s >= _WINDOW_S:
            step_s = min(max(self._least_s, -_LARGEST_STEP_S), _LARGEST_STEP_S)
            self._offset_s = (self._offset_s or 0.0) + step_s
            self._window_from_s, self._least_s = now_s, None
