"""The towers' attention with all blocks of one length in one call.

Tokens attend within their window, their picture or their two seconds of sound. Without flash
attention the stock layers call the kernel once for each of these: some five hundred times for a
chunk's pictures in the published sizes, and as many times more as streams have a chunk due. Here
windows are ordered by their length within each picture, so that those of one length lie side by
side and, over all pictures of one size, are one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb_vision

from omnidrop_stream.model.parts import exchanged


@dataclass(frozen=True, slots=True)
class Run:
    """``repeats`` stretches of tokens, each of blocks with these lengths, in groups of equal
    ones.
    """

    repeats: int
    lengths: tuple[tuple[int, int], ...]
    """(how many, how long)"""

    @classmethod
    def of(cls, repeats: int, lengths: Sequence[int]) -> Run:
        """Of a stretch's block lengths in their order."""
        return cls(repeats, tuple((len(list(same)), n) for n, same in groupby(lengths)))

    @property
    def each(self) -> list[int]:
        """Every block's length, in order."""
        return [n for count, n in self.lengths for _ in range(count)] * self.repeats

    @property
    def tokens(self) -> int:
        """In all stretches."""
        return self.repeats * sum(count * length for count, length in self.lengths)


def attend_within(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, runs: Sequence[Run], scale: float
) -> torch.Tensor:
    """Attention of q, k, v [n, heads, d], in which nothing sees beyond its own block."""
    out, start = torch.empty_like(v), 0
    if q.device.type == "cpu":  # calls are cheap, and one stretch by itself needs no copies
        runs = [Run(1, run.lengths) for run in runs for _ in range(run.repeats)]
    for run in runs:
        rows = run.tokens // run.repeats
        own = slice(start, start + run.tokens)
        start += run.tokens
        into, *parts = (t[own].view(run.repeats, rows, *t.shape[1:]) for t in (out, q, k, v))
        at = 0
        for count, length in run.lengths:
            same = slice(at, at + count * length)
            at += count * length
            one, other, values = (
                t[:, same].reshape(run.repeats * count, length, *t.shape[2:]).transpose(1, 2)
                for t in parts
            )
            found = scaled_dot_product_attention(one, other, values, scale=scale)
            into[:, same] = found.transpose(1, 2).reshape(into[:, same].shape)
    return out


@dataclass(frozen=True, slots=True)
class Within:
    """Where the vision tower's layers attend: those of all layers' kinds."""

    pictures: tuple[Run, ...]
    windows: tuple[Run, ...]


class PictureAttention(nn.Module):
    """What a stock vision attention computes, with its own weights."""

    def __init__(self, stock: Any, whole: bool) -> None:
        """whole: the layer attends within whole pictures, else within their windows."""
        super().__init__()
        self.stock, self._whole = stock, whole

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        within: Within,
        **_: Any,
    ) -> torch.Tensor:
        """Tokens [n, d] -> [n, d]; the stock layer's own bounds are not needed."""
        stock = self.stock
        q, k, v = (
            part(hidden_states).unflatten(-1, (stock.num_heads, -1))
            for part in (stock.q, stock.k, stock.v)
        )
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        runs = within.pictures if self._whole else within.windows
        out: torch.Tensor = stock.proj(attend_within(q, k, v, runs, stock.scaling).flatten(1))
        return out


class SoundAttention(nn.Module):
    """What a stock audio attention computes over ``blocks`` of one length, with its own weights."""

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.stock = stock

    def forward(self, hidden_states: torch.Tensor, blocks: int, **_: Any) -> torch.Tensor:
        """Tokens [blocks * length, d] -> the same."""
        stock = self.stock
        q, k, v = (
            part(hidden_states).unflatten(-1, (stock.num_heads, -1))
            for part in (stock.q_proj, stock.k_proj, stock.v_proj)
        )
        runs = [Run(1, ((blocks, len(hidden_states) // blocks),))]
        out: torch.Tensor = stock.out_proj(attend_within(q, k, v, runs, stock.scaling).flatten(1))
        return out


def with_joint_pictures(visual: Any) -> Any:
    """A vision tower whose layers attend so; its forward takes ``within`` beside its own arguments.
    The given one stays as it is; the weights are shared.
    """
    whole = set(visual.fullatt_block_indexes)
    blocks = [
        exchanged(block, attn=PictureAttention(block.attn, number in whole))
        for number, block in enumerate(visual.blocks)
    ]
    return exchanged(visual, blocks=nn.ModuleList(blocks))


def joint_sound_layers(audio: Any) -> list[Any]:
    """An audio tower's layers that attend so; they take ``blocks``."""
    return [exchanged(layer, self_attn=SoundAttention(layer.self_attn)) for layer in audio.layers]
