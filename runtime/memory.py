"""Memory that was freed goes back to the system.

glibc keeps what is freed, and its heaps scatter where several threads hand pictures, sound and
tensors to each other: resident memory rises for an hour and more although what is in use stays the
same. `malloc_trim` returns whole free pages of all heaps, also between blocks in use.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping

from omnidrop_stream.model.heap import glibc_function

EVERY_S = 30.0
"""A trim takes some milliseconds, and what it returned must be fetched again."""


OPTIONS = {
    "MALLOC_ARENA_MAX": (-8, 2),
    "MALLOC_MMAP_THRESHOLD_": (-3, 64 * 1024),
    "MALLOC_TRIM_THRESHOLD_": (-1, 128 * 1024),
}
"""Variables of the environment that set glibc's allocator: ``mallopt``'s number for the same, and
the value that keeps resident memory flat where pictures, sound and tensors go from thread to thread
(``tests/faults/__main__.py`` says what each is for).
"""


def settle_heap(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Set this process's allocator for a run of days, but for what the environment sets already;
    what was set. Nothing with any other libc, or where its own tunables are in the environment.

    For a process that is ours: before its threads begin.
    """
    mallopt = glibc_function("mallopt")
    if mallopt is None or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return ()
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    wanted = [name for name in OPTIONS if name not in environment]
    return tuple(name for name in wanted if mallopt(*OPTIONS[name]))


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
