"""Packed passes in which tokens leave between layers, for each question by itself.

Questions attend to what is left to them; the stream's own rows go on to see the whole stream
(at run time they too lose what has left). Layers that write nothing are only scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from omnidrop_stream.lab.train.batches import IGNORE, Asked
from omnidrop_stream.lab.train.packed import half_turn, rotary_angles
from omnidrop_stream.method import PruningPolicy

Tensor = torch.Tensor


class Leaving(Protocol):
    """Decides what questions no longer see after a layer."""

    def after(self, layer: int, scores: Tensor, visible: Tensor) -> Tensor:
        """visible bool [B, Q, N] entered the layer and got scores [B, Q, N]; what enters the
        next.
        """


@dataclass(frozen=True, slots=True)
class KeepAll:
    """Nothing leaves."""

    def after(self, layer: int, scores: Tensor, visible: Tensor) -> Tensor:
        """All of it."""
        return visible


@dataclass(frozen=True, slots=True)
class ByLot:
    """After layer `first`, and each later one, a token stays with the next share's chance."""

    first: int
    shares: tuple[float, ...]
    generator: torch.Generator

    def after(self, layer: int, scores: Tensor, visible: Tensor) -> Tensor:
        """Before the first layer and when the shares are used up nothing leaves."""
        at = layer - self.first
        if not 0 <= at < len(self.shares):
            return visible
        return visible & (torch.rand(visible.shape, generator=self.generator) < self.shares[at])


@dataclass(frozen=True, slots=True)
class BySchedule:
    """A policy's own rule, with counts of tokens `entering` each layer of the finished model.

    stands_for: which of those layers each trained one is; chunk, modality [N]; best bool [B, Q, N]:
    tokens that get the highest scores whatever the layer says (evidence, for some questions).
    """

    policy: PruningPolicy
    entering: tuple[int, ...]
    stands_for: tuple[tuple[int, ...], ...]
    chunk: Tensor
    modality: Tensor
    best: Tensor

    def after(self, layer: int, scores: Tensor, visible: Tensor) -> Tensor:
        """What is left when all layers that this one stands for have pruned by its scores."""
        given = torch.where(self.best, scores + 1.0, scores)
        out = visible.clone()
        for at in torch.cartesian_prod(*(torch.arange(n) for n in visible.shape[:2])).tolist():
            left = visible[*at].nonzero()[:, 0]
            for number in self.stands_for[layer]:
                left = self._left(number, given[*at], left)
            out[*at] = False
            out[(*at, left)] = True
        return out

    def _left(self, number: int, scores: Tensor, left: Tensor) -> Tensor:
        layers = len(self.entering)
        # Hidden layers dropped nothing: the next one catches up.
        leaving = 0 if number + 1 == layers else len(left) - self.entering[number + 1]
        if not leaving:
            return left
        chunk = self.chunk[left] - int(self.chunk[left[0]])
        gone = self.policy.drop(number, layers, scores[left], chunk, self.modality[left], leaving)
        stay = torch.ones(len(left), dtype=torch.bool)
        stay[gone] = False
        return left[stay]


@dataclass(slots=True)
class Passed:
    """What a pass leaves behind, by layer where it says so.

    states [B, Q, length, d]; tapped: the block after a layer; scores [B, Q, N]: attention to each
    token of the block, mean over heads and the question's words; mass: attention to the whole
    block, mean over all rows of the questions; visible bool [B, Q, N]: what entered the layer.
    """

    states: Tensor
    tapped: Tensor
    scores: dict[int, Tensor] = field(default_factory=dict)
    mass: dict[int, Tensor] = field(default_factory=dict)
    visible: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Packed:
    """The input of a pass: prefix [B, P, d] with its positions [3, B, P], the block's columns in
    it, which of them have left before the questions come (bool [N]), and the questions with the
    position of their first tokens [B].
    """

    prefix: Tensor
    positions: Tensor
    block: slice
    gone: Tensor
    asked: Asked
    start: Tensor


def pruned_forward(
    language: Any,
    packed: Packed,
    leaving: Leaving,
    looking: Sequence[int],
    tap: int = -1,
    hidden: Sequence[int] = (),
) -> Passed:
    """Run all layers; `looking` ones are scored and write nothing; in `hidden` ones the questions
    do not see the block, which is not scored then.
    """
    asked, size = packed.asked, packed.prefix.shape[1]
    batch, count, length = asked.ids.shape
    stream = packed.prefix
    text = F.embedding(asked.ids, language.embed_tokens.weight)
    ids = (packed.start[:, None] + torch.arange(length)).repeat(1, count)
    angles = rotary_angles(language, torch.cat([packed.positions, ids.expand(3, -1, -1)], 2))
    visible = (~packed.gone).expand(batch, count, -1)
    rows = _rows(asked)
    out = Passed(text, stream[:, packed.block])
    for number, layer in enumerate(language.layers):
        x = torch.cat([stream, text.flatten(1, 2)], 1)
        q, k, v = _projected(layer, x, angles)
        out.visible[number] = visible
        if number in hidden:
            outside = torch.ones(size, dtype=torch.bool)
            outside[packed.block] = False
            front = (k[:, :, :size][:, :, outside], v[:, :, :size][:, :, outside])
            weights = _weights(q[:, :, size:], front[0], k[:, :, size:], None, count)
        else:
            front = (k[:, :, :size], v[:, :, :size])
            seen = torch.ones(batch, count, size, dtype=torch.bool)
            seen[..., packed.block] = visible
            weights = _weights(q[:, :, size:], front[0], k[:, :, size:], seen, count)
            on_block = (rows @ weights).mean(1)[..., packed.block]
            out.scores[number] = on_block[:, :, 0]
            out.mass[number] = on_block[:, :, 1].sum()
        if number not in looking:
            read = _read(weights, front[1], v[:, :, size:], count)
            if number and packed.gone.any():
                own = _seen_by_the_stream(packed, size)
                heard = F.scaled_dot_product_attention(
                    q[:, :, :size], k[:, :, :size], v[:, :, :size], attn_mask=own
                )
            else:
                heard = F.scaled_dot_product_attention(
                    q[:, :, :size], k[:, :, :size], v[:, :, :size], is_causal=True
                )
            mixed = torch.cat([heard, read], 2).transpose(1, 2).reshape(*x.shape[:2], -1)
            x = x + layer.self_attn.o_proj(mixed)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            stream, text = x[:, :size], x[:, size:].unflatten(1, (count, length))
        if number == tap:
            out.tapped = stream[:, packed.block]
        if number not in hidden:
            visible = leaving.after(number, out.scores[number].detach(), visible)
    out.states = language.norm(text)
    return out


def _rows(asked: Asked) -> Tensor:
    """Weights of the questions' rows [B, 1, Q, 2, length]: the words of each alike, and all rows of
    all questions alike, without padding.
    """
    words = (torch.arange(asked.ids.shape[2]) < asked.words[..., None]).float()
    rows = (asked.labels != IGNORE).flip(-1).cumsum(-1).flip(-1) > 0
    both = words / words.sum(-1, keepdim=True), rows.float() / rows.sum().clamp(min=1)
    return torch.stack(both, 2)[:, None]


def _projected(
    layer: Any, x: Tensor, angles: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    attn, (cos, sin) = layer.self_attn, angles
    h = layer.input_layernorm(x)
    q, k, v = (
        p(h).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)
        for p in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    q, k = q * cos + half_turn(q) * sin, k * cos + half_turn(k) * sin
    groups = q.shape[1] // k.shape[1]
    return q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)


def _weights(q: Tensor, front: Tensor, text: Tensor, seen: Tensor | None, count: int) -> Tensor:
    """Attention of the questions' rows to `front` keys [B, H, n, hd], as far as seen bool [B, Q,
    n], and to their own question's [B, H, Q, length, n + length].
    """
    q = q * q.shape[-1] ** -0.5
    rows = _apart(q, count)
    length = rows.shape[3]
    on_front = _apart(q @ front.transpose(2, 3), count)
    if seen is not None and not seen.all():
        on_front = on_front.masked_fill_(~seen[:, None, :, None], float("-inf"))
    own = rows @ _apart(text, count).transpose(3, 4)
    own = own.masked_fill_(~torch.ones(length, length).tril().bool(), float("-inf"))
    return torch.cat([on_front, own], -1).softmax(-1)


def _read(weights: Tensor, front: Tensor, text: Tensor, count: int) -> Tensor:
    """What the questions' rows read [B, H, Q * length, hd]."""
    size = front.shape[2]
    from_front = weights[..., :size].flatten(2, 3) @ front
    own = weights[..., size:] @ _apart(text, count)
    return from_front + own.flatten(2, 3)


def _apart(rows: Tensor, count: int) -> Tensor:
    """Rows of all questions [B, H, Q * length, n] -> [B, H, Q, length, n]."""
    return rows.reshape(*rows.shape[:2], count, -1, rows.shape[3])


def _seen_by_the_stream(packed: Packed, size: int) -> Tensor:
    """What its rows attend to after the first layer when chunks have left: bool [size, size]."""
    seen = torch.ones(size, dtype=torch.bool)
    seen[packed.block] = ~packed.gone
    return torch.ones(size, size).tril().bool() & (seen | torch.eye(size).bool())
