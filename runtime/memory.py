"""Memory that was freed goes back to the system.

glibc keeps what is freed, and its heaps scatter where several threads hand pictures, sound and
tensors to each other: resident memory rises for an hour and more although what is in use stays the
same. `malloc_trim` returns whole free pages of all heaps, also between blocks in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 30.0
"""A trim takes some milliseconds, and what it returned must be fetched again."""


class FreedMemory:
    """Gives freed memory back now and then; for one thread. clock: monotonic seconds. give_back:
    does it (None: nothing can be done here).
    """

    def __init__(
        self,
        give_back: Callable[[], object] | None,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
    ) -> None:
        self._give_back, self._clock, self._every_s = give_back, clock, every_s
        self._last_s = clock()

    def tidy(self) -> bool:
        """Between two pieces of work; True where it was time and something was done."""
        if self._give_back is None or self._clock() - self._last_s < self._every_s:
            return False
        self._give_back()
        self._last_s = self._clock()
        return True
