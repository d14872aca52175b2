"""Depth growth that keeps the function: copies that look but write nothing, and new layers that do
nothing yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

Weights = dict[str, torch.Tensor]


def grow(weights: Weights, plan: Sequence[str], generator: torch.Generator) -> Weights:
    """Weights of a language model with `len(plan)` layers from one with fewer.

    Each entry of the plan is an old layer's number ("2"), a copy of it that looks but writes
    nothing ("2z": its o_proj and down_proj are zero), or a new layer that writes nothing ("n").
    Every old layer occurs once, in order.
    """
    plain = [int(p) for p in plan if p.isdigit()]
    assert plain == sorted(set(plain)), f"old layers must occur once and in order, not {plain}"
    out = {k: v for k, v in weights.items() if not k.startswith("layers.")}
    names = [k.removeprefix("layers.0.") for k in weights if k.startswith("layers.0.")]
    for number, entry in enumerate(plan):
        for name in names:
            value = weights[
                f"layers.{0 if entry == 'n' else int(entry.rstrip('z'))}.{name}"
            ].clone()
            writes = "o_proj" in name or "down_proj" in name
            if writes and not entry.isdigit():
                value = torch.zeros_like(value)
            elif entry == "n" and value.dim() == 2:
                value = torch.randn(value.shape, generator=generator) / math.sqrt(value.shape[1])
            elif entry == "n" and "bias" in name:
                value = torch.zeros_like(value)
            out[f"layers.{number}.{name}"] = value
    return out
