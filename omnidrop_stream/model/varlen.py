"""Flash attention over sequences of any lengths in one call (``model.attention: flash``).

Rows of several streams lie one behind the other, with the bounds of each: no stream's chunk waits
for another's kernel, no key head is repeated and no square is padded, as torch's own kernels want
it (``model/attention.py``). The kernel is flash-attn's ``flash_attn_varlen_func``, whose causal
mask is bottom-right aligned since its version 2.1. No machine of this project's tests has it: they
put a literal one in its place, that the package's documentation describes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

import torch

from omnidrop_stream.model.attention import Qkv
from omnidrop_stream.model.copies import moved

VarlenKernel = Callable[..., torch.Tensor]
"""q [Tq, H, hd], k and v [Tk, H_kv, hd], i32 bounds [sequences + 1] of both, the longest of both,
``causal``: [Tq, H, hd].
"""
KEPT_BOUNDS = 8
"""All layers of a pass have the same ones."""


class VarlenAttention:
    """`Attention` by a kernel that takes several sequences at once; for one thread."""

    def __init__(self, kernel: VarlenKernel) -> None:
        self._kernel = kernel
        self._bounds = lru_cache(KEPT_BOUNDS)(_sent)

    def of(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        return self.of_each([(q, k, v)])[0]

    def of_each(self, several: Sequence[Qkv]) -> list[torch.Tensor]:
        """See `Attention`."""
        some = [one for one in several if one[0].shape[1]]  # the kernel takes no empty ones
        found = iter(self._of_some(some) if some else [])
        return [next(found) if one[0].shape[1] else one[0] for one in several]

    def _of_some(self, several: Sequence[Qkv]) -> list[torch.Tensor]:
        rows, keys = (tuple(int(one[part].shape[1]) for one in several) for part in (0, 1))
        q, k, v = (_joined([one[part] for one in several]).transpose(0, 1) for part in range(3))
        here, there = self._bounds(rows, keys, q.device)
        out = self._kernel(q, k, v, here, there, max(rows), max(keys), causal=True)
        return list(torch.split(out.transpose(0, 1), list(rows), dim=1))


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Side by side; one alone stays where it is, with a whole answer's keys."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _sent(
    rows: tuple[int, ...], keys: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each sequence begins and ends, i32 [sequences + 1], of both: in one copy."""
    bounds = [[0, *accumulate(rows)], [0, *accumulate(keys)]]
    here, there = moved(torch.tensor(bounds, dtype=torch.int32), device)
    return here, there


def flash_kernel() -> VarlenKernel:
    """flash-attn's; raises ImportError where it is not installed."""
    from flash_attn import flash_attn_varlen_func

    kernel: VarlenKernel = flash_attn_varlen_func
    return kernel
