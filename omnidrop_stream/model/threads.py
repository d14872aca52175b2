"""How many processor threads a model's passes take."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch

SMALL = 50_000_000
"""Parameters. A smaller model's products are too short to be worth dividing: on two cores that have
other work, too, a chunk of the embedded model (3.4 M) took 10 ms on one thread and 40 to 54 on two,
which wait for each other, and a question 160 ms and 500 to 590 (medians).
"""
CHOICE = "OMP_NUM_THREADS"
"""The environment's word, which torch follows by itself."""


def settle_threads(threads: int | Literal["auto"], thinker: Any, device: torch.device) -> None:
    """Have torch use so many, in the whole process. auto: one for a small model on a processor,
    unless the environment says how many; else torch's own choice.
    """
    if threads != "auto":
        torch.set_num_threads(threads)
        return
    small = sum(p.numel() for p in thinker.parameters()) < SMALL
    if device.type == "cpu" and small and CHOICE not in os.environ:
        torch.set_num_threads(1)
