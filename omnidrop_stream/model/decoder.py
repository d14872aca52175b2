"""Our loop over a checkpoint's own decoder layers.

The loop calls each layer's projections, norms and MLP itself, because it needs what the stock
forward does not give: keys before rotation, attention over states kept elsewhere, scores of a few
rows only, and a way to stop between layers. With nothing pruned it computes what the stock model
computes (``tests/model/test_stock_parity.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from omnidrop_stream.model.attention import Attention, TorchAttention
from omnidrop_stream.model.compiled import feed_of
from omnidrop_stream.model.rope import Rotary, rotate


class _Attention(Protocol):
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    head_dim: int


class DecoderLayer(Protocol):
    """What the loop uses of a ``Qwen2_5OmniDecoderLayer``."""

    self_attn: _Attention
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module
    mlp: nn.Module


MLP_ROWS = 4096
"""Rows that go through the feed-forward network together."""
Angles = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Projected:
    """One layer's projections of n rows: q [H, n, hd] rotated, k [H_kv, n, hd] un-rotated, v [H_kv,
    n, hd].
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


class Decoder:
    """The language model's layers, embedding, final norm and head of one checkpoint. Stateless."""

    def __init__(
        self,
        layers: list[DecoderLayer],
        embed: nn.Embedding,
        norm: nn.Module,
        head: nn.Linear,
        rotary: Rotary,
        compiled: bool = False,
        attention: Attention | None = None,
    ) -> None:
        """attention: None for torch's own kernels."""
        self.layers = layers
        self.embed = embed
        self.norm = norm
        self.head = head
        self.rotary = rotary
        self.attention = attention or TorchAttention()
        self._feed = feed_of(compiled)

    @property
    def n_layers(self) -> int:
        """Number of decoder layers, L."""
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.weight.device

    def project(self, layer: int, hidden: torch.Tensor, angles: Angles) -> Projected:
        """Queries, keys and values of ``hidden`` [n, d] at ``layer``."""
        block = self.layers[layer]
        attention = block.self_attn
        normed = block.input_layernorm(hidden)

        def heads(linear: nn.Linear) -> torch.Tensor:
            flat: torch.Tensor = linear(normed)
            width = attention.head_dim  # spelt out because -1 is ambiguous where there are no rows
            return flat.view(flat.shape[0], flat.shape[1] // width, width).transpose(0, 1)

        q = rotate(heads(attention.q_proj), angles)
        return Projected(q, heads(attention.k_proj), heads(attention.v_proj))

    def finish(self, layer: int, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The rest of ``layer`` after attention: attended [H, n, hd] -> hidden [n, d]."""
        block = self.layers[layer]
        flat = attended.transpose(0, 1).flatten(1)
        hidden = hidden + block.self_attn.o_proj(flat)
        # Row by row the same; over a whole window at once its inner rows would be the most that a
        # question holds (2 GB for four minutes of the 7B).
        pieces = (hidden[at : at + MLP_ROWS] for at in range(0, max(1, len(hidden)), MLP_ROWS))
        fed = [self._feed(block, rows) for rows in pieces]
        return hidden + (fed[0] if len(fed) == 1 else torch.cat(fed))

    def extend_layer(
        self,
        layer: int,
        hidden: torch.Tensor,
        angles: Angles,
        past_keys: torch.Tensor,
        past_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run ``layer`` over n new rows after N past ones (keys [H_kv, N, hd] already rotated).

        Returns hidden [n, d] and the new rows' un-rotated keys and values [H_kv, n, hd]. Changes
        nothing given.
        """
        new = self.project(layer, hidden, angles)
        keys = torch.cat([past_keys, rotate(new.k, angles)], dim=1)
        values = torch.cat([past_values, new.v], dim=1)
        hidden = self.finish(layer, hidden, self.attention.of(new.q, keys, values))
        return hidden, new.k, new.v

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits f32 [vocabulary] of the last of ``hidden``'s rows only (design 3.9)."""
        out: torch.Tensor = self.head(self.norm(hidden[-1:]))
        return out[0].float()
