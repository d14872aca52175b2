"""Flash attention over sequences of any lengths in one call (``model.attention: flash``).

Rows of several streams lie one behind the other, with the bounds of each: no stream's chunk waits
for another's kernel, no key head is repeated and no square is padded, as torch's own kernels want
it (``model/attention.py``). The kernel is flash-attn's ``flash_attn_varlen_func``, whose causal
mask is bottom-right aligned since its version 2.1. No machine of this project's tests has it: they
put a literal one in its place, that the package's documentation describes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from omnidrop_stream.model.attention import Qkv
from omnidrop_stream.model.copies import moved

VarlenKernel = Callable[..., torch.Tensor]
"""q [Tq, H, hd], k and v [Tk, H_kv, hd], i32 bounds [sequences + 1] of both, the longest of both,
``causal``: [Tq, H, hd].
"""


class VarlenAttention:
    """`Attention` by a kernel that takes several sequences at once. Holds no state."""

    def __init__(self, kernel: VarlenKernel) -> None:
        self._kernel = kernel

    def of(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        return self.of_each([(q, k, v)])[0]

    def of_each(self, several: Sequence[Qkv]) -> list[torch.Tensor]:
        """See `Attention`."""
        rows, keys = ([int(one[part].shape[1]) for one in several] for part in (0, 1))
        if not sum(rows):
            return [q for q, _, _ in several]
        q, k, v = (
            torch.cat([one[part] for one in several], dim=1).transpose(0, 1) for part in range(3)
        )
        # Both bounds in one copy.
        bounds = [[0, *accumulate(rows)], [0, *accumulate(keys)]]
        here, there = moved(torch.tensor(bounds, dtype=torch.int32), q.device)
        out = self._kernel(q, k, v, here, there, max(rows), max(keys), causal=True)
        return list(torch.split(out.transpose(0, 1), rows, dim=1))


def flash_kernel() -> VarlenKernel:
    """flash-attn's; raises ImportError where it is not installed."""
    from flash_attn import flash_attn_varlen_func

    kernel: VarlenKernel = flash_attn_varlen_func
    return kernel
