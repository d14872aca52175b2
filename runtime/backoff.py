"""How long to wait before trying a lost source again: pure arithmetic, no clock of its own."""

from __future__ import annotations

import random
from collections.abc import Callable

SHORT_S, MEDIUM_S, LONG_S = 1.0, 5.0, 30.0
"""Longest wait in the first 30 s of an outage, until two minutes, and from then on."""
SHORTEST_S = 0.25
GOOD_S = 60.0
"""So much good data ends any outage."""
LEAST_GOOD_S = 5.0
_SHORT_UNTIL_S, _MEDIUM_UNTIL_S = 30.0, 120.0


def reconnect_delay(attempt: int, outage_s: float, draw: float, *, hopeless: bool = False) -> float:
    """Seconds to wait before attempt ``attempt`` (0: the first) of an outage that has lasted
    ``outage_s``; ``draw`` in [0, 1) spreads many clients apart.

    hopeless: waiting alone mends nothing (wrong password, no such stream).
    """
    longest_s = LONG_S
    if not hopeless and outage_s < _MEDIUM_UNTIL_S:
        longest_s = SHORT_S if outage_s < _SHORT_UNTIL_S else MEDIUM_S
    full_s = longest_s if hopeless else min(longest_s, 2 * SHORTEST_S * 2 ** min(attempt, 16))
    return max(SHORTEST_S, full_s * (0.5 + 0.5 * draw))


class Outage:
    """Counts attempts and time without data. A short flicker of data does not end an outage: it
    takes as much good data as the outage was long, at least 5 s; 60 s are always enough.
    """

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._attempt = 0
        self._began_s: float | None = None
        self._good_since_s: float | None = None

    def good(self, now_s: float) -> None:
        """Data came."""
        if self._good_since_s is None:
            self._good_since_s = now_s

    def failed(self, now_s: float, *, hopeless: bool = False, tried_s: float = 0.0) -> float:
        """An attempt failed or the data ended: seconds to wait before the next attempt. An attempt
        that took ``tried_s`` (nothing answered) was waiting too: the delay counts from its start.
        """
        if self._good_since_s is not None and self._began_s is not None:
            outage_s = self._good_since_s - self._began_s
            enough_s = min(max(outage_s, LEAST_GOOD_S), GOOD_S)
            if now_s - self._good_since_s >= enough_s:
                self._began_s, self._attempt = None, 0
        self._good_since_s = None
        if self._began_s is None:
            self._began_s = now_s
        draw, outage_s = self._draw(), now_s - self._began_s
        delay_s = reconnect_delay(self._attempt, outage_s, draw, hopeless=hopeless)
        self._attempt += 1
        if hopeless:
            return delay_s
        least_s = min(delay_s, SHORTEST_S + (SHORT_S - SHORTEST_S) * draw)  # still spread apart
        return max(least_s, delay_s - tried_s)
