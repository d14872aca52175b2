"""Figures of this process, and what can honestly be said of a series of them."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

MIB = 2**20


def resident_mib() -> float:
    """Memory of this process that is in RAM, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


class _MallInfo(ctypes.Structure):
    """What glibc's ``mallinfo2`` returns; only the fields of interest have names of their own."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "b", "c", "blocks", "mapped", "f", "g", "in_use", "free", "j")
    ]


def allocated_mib() -> float:
    """Memory that this process has asked malloc for and not given back, MiB (NaN: not glibc). What
    is resident beyond it, and grows, is the allocator's own scatter.
    """
    found = _malloc_info()
    return math.nan if found is None else float(found.in_use + found.mapped) / MIB


def mapped_blocks() -> int:
    """Blocks that malloc has put in memory of their own (-1: not glibc)."""
    found = _malloc_info()
    return -1 if found is None else int(found.blocks)


def _malloc_info() -> _MallInfo | None:
    read = _mallinfo2()
    return None if read is None else read()


@cache
def _mallinfo2() -> Callable[[], _MallInfo] | None:
    """Looked up once: each look makes classes that only a full collection of garbage takes away."""
    read = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if read is not None:
        read.restype = _MallInfo
    return read


def open_files() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd")) - 1


def capture_threads() -> list[str]:
    """Names of living threads that belong to a source, a session or the model."""
    names = [thread.name for thread in threading.enumerate() if thread.is_alive()]
    return sorted(name for name in names if name.startswith("omnidrop"))


def p95(values: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed (nearest rank); NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def slope_with_bound(at: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope, and the upper end of its one-sided 95 % interval.

    Successive samples resemble each other, so fewer of them count: n (1 - r) / (1 + r), with r the
    lag-one autocorrelation of the residuals (never below 0). Student's t by Cornish-Fisher.
    """
    x, y = np.asarray(at, float), np.asarray(values, float)
    count = len(x)
    if count < 4:
        return math.nan, math.inf
    x = x - x.mean()
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - slope * x
    if not rest.any():
        return slope, slope
    r = max(0.0, float((rest[1:] * rest[:-1]).sum() / (rest * rest).sum()))
    counted = max(3.0, count * (1 - r) / (1 + r))
    freedom = counted - 2
    error = math.sqrt(float((rest * rest).sum()) / freedom / float((x * x).sum()))
    z = NormalDist().inv_cdf(0.95)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return slope, slope + t * error
