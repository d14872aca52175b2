"""Depth growth that keeps the function: copies that look but write nothing, and new layers that do
nothing yet; and what a model built so says of itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

Weights = dict[str, torch.Tensor]
WRITING = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def grow(weights: Weights, plan: Sequence[str], generator: torch.Generator) -> Weights:
    """Weights of a language model with `len(plan)` layers from one with fewer.

    Each entry of the plan is an old layer's number ("2"), a copy of it that looks but writes
    nothing ("2z": its o_proj and down_proj are zero), or a new layer that writes nothing ("n").
    Every old layer that writes occurs once, in order; one that writes nothing already may be moved,
    repeated or left out.
    """
    writing = writing_layers(weights)
    plain = [int(p) for p in plan if p.isdigit() and int(p) in writing]
    assert plain == writing, f"old layers must occur once and in order: {writing}, not {plain}"
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


def writing_layers(weights: Weights) -> list[int]:
    """Numbers of the layers that change the residual stream."""
    found = set()
    for name, value in weights.items():
        if name.startswith("layers.") and name.endswith(WRITING) and bool(value.any()):
            found.add(int(name.split(".")[1]))
    return sorted(found)


def record_of(
    weights: Weights, supervised: bool, heads: Sequence[tuple[int, int]] = ()
) -> dict[str, Any]:
    """What stands in `built.json` beside the weights, for tables that name the kind of model.

    supervised: whether queries and keys of what only looks were trained with the truth; heads:
    (layer, head) of writing layers that only look.
    """
    layers = {int(name.split(".")[1]) for name in weights if name.startswith("layers.")}
    writing = writing_layers(weights)
    record: dict[str, Any] = {
        "kind": "built" if len(writing) < len(layers) else "trained",
        "layers": len(layers),
        "writing_layers": writing,
        "looking_layers": sorted(layers - set(writing)),
    }
    if heads:
        record["looking_heads"] = [f"{head} of layer {layer}" for layer, head in heads]
    return record | {"looking_supervised": supervised}
