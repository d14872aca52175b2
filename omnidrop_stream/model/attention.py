"""Causal attention of the newest rows over everything before them. One way in, torch's own kernels
behind it, or where it is asked for flash attention's (``model/varlen.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

Qkv = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries [H, n, hd], keys and values [H_kv, N, hd], of which the last n belong to the queries."""


class Attention(Protocol):
    """How a model attends."""

    def of(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """`causal_attention`."""

    def of_each(self, several: Sequence[Qkv]) -> list[torch.Tensor]:
        """`of` for each of several, none of which sees another's keys."""


class TorchAttention:
    """By torch's kernels, one after the other."""

    def of(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """See `Attention`."""
        return causal_attention(q, k, v)

    def of_each(self, several: Sequence[Qkv]) -> list[torch.Tensor]:
        """See `Attention`."""
        return [causal_attention(*one) for one in several]


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend with the *last* n of N positions: q [H, n, hd]; k, v [H_kv, N, hd] -> [H, n, hd].

    Row i sees keys 0 .. N - n + i (bottom-right causal); H is a multiple of H_kv.
    """
    rows, keys = q.shape[1], k.shape[1]
    past = keys - rows
    if rows == 1 or past > rows:
        return _few_rows(q, k, v)
    groups = q.shape[0] // k.shape[0]
    if groups > 1:
        k = k.repeat_interleave(groups, dim=0)
        v = v.repeat_interleave(groups, dim=0)
    # A few rows of zeros in front make the square that the causal kernels want; their results are
    # dropped.
    padded = F.pad(q, (0, 0, past, 0)) if past else q
    out = F.scaled_dot_product_attention(padded[None], k[None], v[None], is_causal=True)
    return out[0, :, past:]


def _few_rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same for a few rows over many keys: heads that share a key head become more rows of it,
    so keys and values are never repeated.
    """
    heads, rows, width = q.shape
    shared, keys, _ = k.shape
    mask = None
    if rows > 1:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        mask = mask.repeat(heads // shared, 1)
    grouped = q.reshape(1, shared, -1, width)
    out = F.scaled_dot_product_attention(grouped, k[None], v[None], attn_mask=mask)
    return out.reshape(heads, rows, width)
