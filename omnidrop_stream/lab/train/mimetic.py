"""Structured start values for a stock language model: heads that match content, copy it, and look
nearby.

From a plain random start this task stays on the plateau "some item of this stream"; from here it
leaves it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def mimetic_start(
    language: Any,
    head: nn.Linear,
    generator: torch.Generator,
    twins: list[tuple[int, int]],
    match: float = 0.9,
    copy: float = 0.5,
    scale: float = 0.6,
    nearby_layers: int = 1,
    nearby_bias: float = 6.0,
    turned: float = 1.0,
) -> None:
    """Set the language model's start values in place.

    Per head k_proj is close to q_proj (content match) and o_proj = copy * v_proj^T; in the first
    layers half of the heads get a bias on temporal frequencies of wavelength 80-3000, so that they
    look at the near past, and at no other place that a short wave takes for it; the head's rows are
    the scaled embeddings. `twins` are pairs of ids (a word with and without its leading space) that
    start alike. turned: scale of the matching on wavelengths under 10,000, which turn within a long
    stream (the rest then matches at any distance).
    """
    layers = len(language.layers)
    inverse = language.rotary_emb.inv_freq
    temporal = int(language.rotary_emb.mrope_section[0])

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    embed = language.embed_tokens.weight
    embed.copy_(normal(*embed.shape) * scale)
    for with_space, bare in twins:
        embed[bare] = embed[with_space] + normal(embed.shape[1]) * 0.15 * scale
    for number, layer in enumerate(language.layers):
        attn = layer.self_attn
        heads, width, d = attn.num_heads, attn.head_dim, embed.shape[1]
        assert attn.num_key_value_heads == heads, "start values are for one key head per query head"
        base, value = normal(heads, width, d) / d**0.5, normal(heads, width, d) / d**0.5
        query = match * base + (1 - match**2) ** 0.5 * normal(heads, width, d) / d**0.5
        bias = torch.zeros(heads, width)
        turns = (2 * math.pi / inverse < 10_000).repeat(2)
        query[:, turns], base[:, turns] = query[:, turns] * turned, base[:, turns] * turned
        if number < nearby_layers:
            near = max(1, heads // 2)
            waves = [i for i in range(temporal) if 80 < 2 * math.pi / float(inverse[i]) < 3000]
            query[:near] *= 0.3
            base[:near] *= 0.3
            for i in waves:
                bias[:near, i] = (nearby_bias * 3 / len(waves)) ** 0.5
        attn.q_proj.weight.copy_(query.reshape(-1, d))
        attn.k_proj.weight.copy_(base.reshape(-1, d))
        attn.v_proj.weight.copy_(value.reshape(-1, d))
        attn.q_proj.bias.copy_(bias.reshape(-1))
        attn.k_proj.bias.copy_(bias.reshape(-1))
        attn.v_proj.bias.zero_()
        noise = normal(heads, width, d) * 0.1 / (d * 2 * layers) ** 0.5
        attn.o_proj.weight.copy_((copy * value + noise).reshape(-1, d).t())
        mlp = layer.mlp
        for p in (mlp.gate_proj, mlp.up_proj):
            p.weight.copy_(normal(*p.weight.shape) / d**0.5)
        out = mlp.down_proj.weight
        out.copy_(normal(*out.shape) / (out.shape[1] * 2 * layers) ** 0.5)
    head.weight.copy_(embed / scale / d**0.5)
