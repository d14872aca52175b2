"""Batched forward passes through the stock towers' own weights, cut before their last projection.

The stock towers take packed sequences; training wants [batch, tokens, width]. A test holds both
equal.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def audio_hidden(tower: Any, mel: Tensor) -> tuple[Tensor, Tensor]:
    """mel [B, 200, 128] -> hidden before `proj` [B, 50, d], attention received per token [B, 50].

    The received attention is that of the last layer: mean over heads and query rows, averaged in
    pairs.
    """
    x = F.gelu(tower.conv1(mel.transpose(1, 2)))
    x = F.gelu(tower.conv2(x)).transpose(1, 2)
    x = x + tower.positional_embedding.positional_embedding[: x.shape[1]]
    batch, length, width = x.shape
    received = x.new_zeros(batch, length)
    for number, layer in enumerate(tower.layers):
        attn = layer.self_attn
        h = layer.self_attn_layer_norm(x)
        q, k, v = (
            p(h).view(batch, length, attn.num_heads, -1).transpose(1, 2)
            for p in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        if number == len(tower.layers) - 1:
            weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
            received, out = weights.mean((1, 2)), weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        x = x + attn.out_proj(out.transpose(1, 2).reshape(batch, length, width))
        x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
    pooled = (x[:, 0::2] + x[:, 1::2]) / 2
    return tower.ln_post(pooled), (received[:, 0::2] + received[:, 1::2]) / 2


def vision_hidden(tower: Any, patches: Tensor, grid: int) -> Tensor:
    """patches [N, grid*grid, 3*2*p*p] of N temporal patches -> hidden before the last linear [N,
    n, w].

    Every window of the towers used here covers the whole picture, so attention is full in every
    block.
    """
    weight = tower.patch_embed.proj.weight
    x = patches @ weight.view(weight.shape[0], -1).t()
    n, cells, width = x.shape
    cos, sin = _vision_angles(tower, grid)
    for block in tower.blocks:
        attn = block.attn
        h = block.norm1(x)
        q, k, v = (
            p(h).view(n, cells, attn.num_heads, -1).transpose(1, 2)
            for p in (attn.q, attn.k, attn.v)
        )
        q, k = q * cos + _half_turn(q) * sin, k * cos + _half_turn(k) * sin
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, cells, width)
        x = x + attn.proj(out)
        x = x + block.mlp(block.norm2(x))
    merger = tower.merger
    y = merger.ln_q(x).reshape(n, -1, merger.mlp[0].in_features)
    out = merger.mlp[1](merger.mlp[0](y))
    assert isinstance(out, Tensor)
    return out


def _half_turn(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


def _vision_angles(tower: Any, grid: int) -> tuple[Tensor, Tensor]:
    merge = tower.spatial_merge_size
    rows = torch.arange(grid)[:, None].expand(grid, grid)
    cols = torch.arange(grid)[None].expand(grid, grid)
    block = (grid // merge, merge, grid // merge, merge)
    order = [p.reshape(block).permute(0, 2, 1, 3).reshape(-1) for p in (rows, cols)]
    inv = tower.rotary_pos_emb.inv_freq
    angles = (torch.stack(order, -1).to(inv)[..., None] * inv).flatten(1)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()
