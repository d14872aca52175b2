"""How many compiled kernels torch's processor library keeps.

oneDNN compiles a kernel for every shape it meets and keeps the newest 1,024. The sound of an open
chunk has another length at every question, so that resident memory would rise for hours: by 177 MiB
over 1,000 lengths through two convolutions, with this bound by 36 MiB (torch 2.13, AVX-512).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

KEPT_KERNELS = 128
"""More than the repeating shapes of some eight streams; those of a new length of sound cost about a
millisecond.
"""
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's own cache, and the one of torch's layer over it."""


def bound_kernel_caches(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep fewer compiled kernels, unless the user has said how many. Takes effect where nothing
    was computed yet: both are read once, when the first kernel is made.
    """
    for name in CACHES:
        environment.setdefault(name, str(KEPT_KERNELS))
