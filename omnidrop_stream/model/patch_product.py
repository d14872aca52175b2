"""The vision tower's first layer as one matrix product.

A patch is cut out before it comes to the tower, so the stock 3-d convolution, whose stride is its
kernel, is a product of patches [n, p] with weights [d, p]. Said as a convolution, torch computes it
one patch at a time: some ten times slower on a processor (measured with the embedded model), where
it would be half of the whole tower.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from omnidrop_stream.model.parts import exchanged


class PatchProduct(nn.Module):
    """What a ``Qwen2_5_VisionPatchEmbed`` computes, with its own weights."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.proj = stock.proj

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Patches [n, channels * time * height * width] -> [n, d]."""
        weight: torch.Tensor = self.proj.weight
        return nn.functional.linear(
            patches.to(weight.dtype), weight.flatten(1), getattr(self.proj, "bias", None)
        )


def with_patch_product(visual: Any) -> Any:
    """``visual`` with its first layer computed so. The given module stays as it is; the weights are
    shared.
    """
    return exchanged(visual, patch_embed=PatchProduct(visual.patch_embed))
