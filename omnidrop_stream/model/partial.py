"""Attention over keys that lie in several places, which are read where they lie.

Few rows (`attend`) write their scores of all places side by side and take one softmax of them.
Many rows have no room for that: each place gives a result of its own (`partial_attention`), and
``merge`` weighs them by ``exp(lse_i - lse)``, where ``lse_i`` is the logarithm of the sum of the
place's exponentials.

Heads that share a key head are more rows of it: queries are [H_kv, M, hd] with M = H / H_kv * rows
(group after group), keys and values [H_kv, N, hd], strided as they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

MAX_ELEMENTS = 2**24
"""Scores in fp32 that are held at once (64 MiB); more rows take turns."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some keys, their values, and the query rows as these keys see them (the model's dtype)."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None = None
    """Bool [M, N]: which keys a row sees; None: all."""
    gone: torch.Tensor | None = None
    """Keys, i64, that no row sees."""

    @property
    def count(self) -> int:
        """Keys, N."""
        return int(self.k.shape[1])

    def part(self, heads: slice, rows: slice) -> Piece:
        """The same for some of the key heads and of the query rows."""
        mask = None if self.mask is None else self.mask[rows]
        return Piece(self.q[heads, rows], self.k[heads], self.v[heads], mask, self.gone)


def grouped(q: torch.Tensor, shared: int) -> torch.Tensor:
    """Queries [H, rows, hd] as [H_kv, H / H_kv * rows, hd]."""
    return q.reshape(shared, -1, q.shape[2])


def merge(outs: Sequence[torch.Tensor], lses: Sequence[torch.Tensor]) -> torch.Tensor:
    """One softmax's result [.., M, hd] from its pieces' and their log-sum-exps f32 [.., M]."""
    if len(outs) == 1:
        return outs[0]
    stacked = torch.stack(list(lses))
    weights = (stacked - stacked.logsumexp(dim=0)).exp()[..., None]
    total = outs[0].float() * weights[0]
    for out, weight in zip(outs[1:], weights[1:], strict=True):
        total = torch.addcmul(total, out.float(), weight)
    return total.to(outs[0].dtype)


def partial_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """One piece for many rows: result [H_kv, M, hd] and log-sum-exp f32 [H_kv, M].

    ``causal``: as many rows as keys, of one query head for each key head; row i sees keys 0..i. By
    torch's kernel on a processor, else by `attend`'s way.
    """
    if q.device.type == "cpu" and q.shape[1] and k.shape[1]:
        # The public function hides the log-sum-exp, which the kernel computes anyway.
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = kernel(q[None], k[None], v[None], 0.0, causal)
        return out[0], lse[0].float()
    mask = torch.ones(k.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril()
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    out, _ = _softmax([Piece(q, k, v, mask if causal else None)], None, lse)
    return out.to(q.dtype), lse


def attend(
    pieces: Sequence[Piece], weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Few rows over all keys of ``pieces``: result [H_kv, M, hd] in the model's dtype.

    With ``weights`` f32 [W, M] also, for each piece, how much attention its keys get: the softmax's
    columns [W, N], rows weighted and key heads added up. Scores are fp32, computed once for both.
    """
    out, received = _softmax(pieces, weights)
    counts = [piece.count for piece in pieces]
    columns = list(torch.split(received, counts, dim=1)) if weights is not None else []
    return out.to(pieces[0].v.dtype), columns


def _softmax(
    pieces: Sequence[Piece], weights: torch.Tensor | None, lse: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Result in fp32, and what all keys received [W, N]; the log-sum-exp goes to ``lse`` f32
    [H_kv, M].
    """
    shared, rows, width = pieces[0].q.shape
    some = [_scaled(piece) for piece in pieces if piece.count]
    keys = sum(piece.count for piece in some)
    out = torch.empty(shared, rows, width, device=pieces[0].q.device)
    received = out.new_zeros(0 if weights is None else weights.shape[0], keys)
    scores = out.new_empty(0)  # one memory for all parts: new one is as slow as a product
    for heads, part in _parts(shared, rows, keys, out.device):
        own = [piece.part(heads, part) for piece in some]
        shape = (*own[0].q.shape[:2], keys)
        if scores.numel() < math.prod(shape):
            scores = out.new_empty(shape)
        probabilities = scores.flatten()[: math.prod(shape)].view(shape)
        _probabilities(own, probabilities, None if lse is None else lse[heads, part])
        _weighted_values(own, probabilities, out[heads, part])
        if weights is not None:
            received += torch.matmul(weights[:, part], probabilities).sum(dim=0)
    return out, received


def _scaled(piece: Piece) -> Piece:
    """With the scores' scale in its queries, which are fp32 then."""
    return replace(piece, q=piece.q.float() * piece.q.shape[2] ** -0.5)


def _parts(
    shared: int, rows: int, keys: int, device: torch.device
) -> Iterator[tuple[slice, slice]]:
    """Key heads and rows whose scores are held at once: on a processor one head's, which stay near
    it; elsewhere, where every step is a launch, as many as may be.
    """
    at_once = 1 if device.type == "cpu" else shared
    height = max(1, MAX_ELEMENTS // max(1, at_once * keys))
    for head in range(0, shared, at_once):
        for row in range(0, rows, height):
            yield slice(head, head + at_once), slice(row, row + height)


def _probabilities(pieces: Sequence[Piece], out: torch.Tensor, lse: torch.Tensor | None) -> None:
    """Put the softmax over all keys in ``out`` f32 [heads, M, keys], and its log-sum-exp in ``lse``
    [heads, M].
    """
    at = 0
    for piece in pieces:
        place = out[..., at : at + piece.count]
        torch.bmm(piece.q, piece.k.float().transpose(1, 2), out=place)
        if piece.mask is not None:
            place.masked_fill_(~piece.mask, float("-inf"))
        if piece.gone is not None:
            place.index_fill_(-1, piece.gone, float("-inf"))
        at += piece.count
    if lse is not None:
        torch.logsumexp(out, dim=-1, out=lse)
    torch.softmax(out, dim=-1, out=out)


def _weighted_values(
    pieces: Sequence[Piece], probabilities: torch.Tensor, out: torch.Tensor
) -> None:
    at = 0
    for number, piece in enumerate(pieces):
        part = probabilities[..., at : at + piece.count]
        out.baddbmm_(part, piece.v.float(), beta=min(number, 1))
        at += piece.count
