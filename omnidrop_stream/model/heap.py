"""Freed memory goes back to the system: whole pages of all of glibc's heaps, also between blocks in
use.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def malloc_trim() -> Callable[[], object] | None:
    """glibc's own, for all its heaps, without the interpreter's lock; None with any other libc."""
    if not sys.platform.startswith("linux"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return lambda: trim(0)
