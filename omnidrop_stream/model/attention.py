"""Causal attention of the newest rows over everything before them. One way in, torch's own kernels
behind it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend with the *last* n of N positions: q [H, n, hd]; k, v [H_kv, N, hd] -> [H, n, hd].

    Row i sees keys 0 .. N - n + i (bottom-right causal); H is a multiple of H_kv.
    """
    rows, keys = q.shape[1], k.shape[1]
    groups = q.shape[0] // k.shape[0]
    if groups > 1:
        k = k.repeat_interleave(groups, dim=0)
        v = v.repeat_interleave(groups, dim=0)
    q, k, v = q[None], k[None], v[None]
    if rows == 1:
        return F.scaled_dot_product_attention(q, k, v)[0]
    past = keys - rows
    if past == 0:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
    if past <= rows:
        # A few rows of zeros in front make the square that the causal kernels want; their results
        # are dropped.
        padded = F.pad(q, (0, 0, past, 0))
        return F.scaled_dot_product_attention(padded, k, v, is_causal=True)[0, :, past:]
    mask = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(past)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0]
