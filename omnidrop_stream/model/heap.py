"""Freed memory goes back to the system: whole pages of all of glibc's heaps, also between blocks in
use.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any


def malloc_trim() -> Callable[[], object] | None:
    """glibc's own, for all its heaps, without the interpreter's lock; None with any other libc."""
    trim = glibc_function("malloc_trim")
    if trim is None:
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return lambda: trim(0)


def glibc_function(name: str) -> Any:
    """A function of the C library, where that is glibc's; else None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if getattr(library, "gnu_get_libc_version", None) is None:
        return None
    return getattr(library, name, None)
