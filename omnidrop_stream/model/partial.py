"""Attention over keys that lie in several places: a softmax in pieces, merged by log-sum-exp.

For one query row, ``softmax(q K^T) V`` over all keys is the mean of the pieces' own results, each
weighted by ``exp(lse_i - lse)``, where ``lse_i`` is the logarithm of the sum of the piece's
exponentials. So keys and values are read where they lie, and nothing is gathered first.

Heads that share a key head are more rows of it: queries are [H_kv, M, hd] with M = H / H_kv * rows
(group after group), keys and values [H_kv, N, hd], strided as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

BLOCK = 1024
"""Keys at a time on a processor: their scores stay in its second cache."""
WIDE_BLOCK = 16_384
"""Keys at a time elsewhere, where every step is a launch."""
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

    @property
    def count(self) -> int:
        """Keys, N."""
        return int(self.k.shape[1])

    def rows(self, part: slice) -> Piece:
        """The same for some of the query rows."""
        mask = None if self.mask is None else self.mask[part]
        return Piece(self.q[:, part], self.k, self.v, mask)


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
    torch's kernel on a processor, else in blocks.
    """
    if q.device.type == "cpu" and q.shape[1] and k.shape[1]:
        # The public function hides the log-sum-exp, which the kernel computes anyway.
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = kernel(q[None], k[None], v[None], 0.0, causal)
        return out[0], lse[0].float()
    mask = torch.ones(k.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril()
    pieces = [Piece(q, k, v, mask if causal else None)]
    out, lse, _ = _few(pieces, None)
    return out.to(q.dtype), lse


def attend(
    pieces: Sequence[Piece], weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Few rows over all keys of ``pieces``: result [H_kv, M, hd] in the model's dtype.

    With ``weights`` f32 [W, M] also, for each piece, how much attention its keys get: the softmax's
    columns [W, N], rows weighted and key heads added up. Scores are fp32, computed once for both.
    """
    shared, rows, _ = pieces[0].q.shape
    keys = sum(piece.count for piece in pieces)
    at_once = max(1, MAX_ELEMENTS // max(1, shared * keys)) if weights is not None else rows
    outs: list[torch.Tensor] = []
    received: list[torch.Tensor] = []
    for start in range(0, rows, max(1, at_once)):
        part = slice(start, start + at_once)
        some = [piece.rows(part) for piece in pieces] if at_once < rows else list(pieces)
        out, _, columns = _few(some, None if weights is None else weights[:, part])
        outs.append(out)
        received = [a + b for a, b in zip(received, columns, strict=True)] if received else columns
    whole = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    return whole.to(pieces[0].v.dtype), received


def _blocks(pieces: Sequence[Piece]) -> Iterator[tuple[int, Piece]]:
    """Blocks of keys with the number of the piece that they belong to."""
    size = BLOCK if pieces[0].q.device.type == "cpu" else WIDE_BLOCK
    for number, piece in enumerate(pieces):
        for start in range(0, piece.count, size):
            part = slice(start, start + size)
            mask = None if piece.mask is None else piece.mask[:, part]
            yield number, Piece(piece.q, piece.k[:, part], piece.v[:, part], mask)


def _few(
    pieces: Sequence[Piece], weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Result and log-sum-exp in fp32, and what each piece's keys received."""
    scale = pieces[0].q.shape[2] ** -0.5
    scaled = [piece.q.float() * scale for piece in pieces]
    tops, sums, outs, kept = [], [], [], []
    for number, block in _blocks(pieces):
        scores = torch.bmm(scaled[number], block.k.float().transpose(1, 2))
        if block.mask is not None:
            scores.masked_fill_(~block.mask, float("-inf"))
        top = scores.amax(dim=-1, keepdim=True)
        if block.mask is not None:
            top = top.clamp(min=torch.finfo(top.dtype).min)  # a row may see nothing of a block
        weight = scores.sub_(top).exp_()
        tops.append(top)
        sums.append(weight.sum(dim=-1, keepdim=True))
        outs.append(torch.bmm(weight, block.v.float()))
        if weights is not None:
            kept.append((number, weight))
    lses = torch.cat(tops, dim=-1) + torch.cat(sums, dim=-1).log()
    lse = lses.logsumexp(dim=-1, keepdim=True)
    factors = (torch.cat(tops, dim=-1) - lse).exp()  # from a block's own scale to that of all
    out = outs[0] * factors[..., :1]
    for number, part in enumerate(outs[1:], 1):
        out = torch.addcmul(out, part, factors[..., number : number + 1])
    received = _columns(pieces, kept, factors, weights) if weights is not None else []
    return out, lse[..., 0], received


def _columns(
    pieces: Sequence[Piece],
    kept: Sequence[tuple[int, torch.Tensor]],
    factors: torch.Tensor,
    weights: torch.Tensor,
) -> list[torch.Tensor]:
    parts: list[list[torch.Tensor]] = [[] for _ in pieces]
    for place, (number, weight) in enumerate(kept):
        rows = weights * factors[:, None, :, place]  # [H_kv, W, M]
        parts[number].append(torch.bmm(rows, weight).sum(dim=0))
    empty = weights.new_zeros(weights.shape[0], 0)
    return [torch.cat(part, dim=-1) if part else empty for part in parts]
