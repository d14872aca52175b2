"""A softmax in pieces against one softmax."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omnidrop_stream.model import partial
from omnidrop_stream.model.partial import Piece, attend, grouped, merge, partial_attention

SIZES = [[7], [3, 0, 1], [5, 1500, 2], [1, 1, 1, 1]]


def pieces_of(sizes, rows=6, masked=True, queries=None):
    made = []
    for n in sizes:
        mask = (torch.rand(rows, n) > 0.4) if masked and n else None
        q = torch.randn(2, rows, 8) if queries is None else queries
        made.append(Piece(q, torch.randn(2, n, 8), torch.randn(2, n, 8), mask))
    made[0] = Piece(made[0].q, made[0].k, made[0].v)  # a row that sees nothing has no softmax
    return made


def once(pieces):
    """One softmax over the concatenated scores, in fp64: weights [H_kv, M, N] and result."""
    scores = []
    for p in pieces:
        s = p.q.double() @ p.k.double().transpose(1, 2) / p.q.shape[2] ** 0.5
        scores.append(s if p.mask is None else s.masked_fill(~p.mask, float("-inf")))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1)
    return weights, weights @ torch.cat([p.v for p in pieces], dim=1).double()


@pytest.mark.parametrize("sizes", SIZES)
def test_results_of_pieces_merge_to_one_softmax(sizes):
    q = torch.randn(2, 6, 8)
    pieces = [p for p in pieces_of(sizes, masked=False, queries=q) if p.count]
    outs, lses = zip(*(partial_attention(p.q, p.k, p.v) for p in pieces), strict=True)
    assert torch.allclose(merge(outs, lses).double(), once(pieces)[1], atol=1e-6)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("most", [40, 2**24])
def test_attention_over_pieces_is_one_softmax_with_its_columns(sizes, most, monkeypatch):
    monkeypatch.setattr(partial, "MAX_ELEMENTS", most)
    pieces, weights = pieces_of(sizes), torch.rand(3, 6)
    out, received = attend(pieces, weights)
    whole, result = once(pieces)
    assert torch.allclose(out.double(), result, atol=1e-6)
    columns = (weights.double() @ whole).sum(dim=0)
    assert [r.shape[1] for r in received] == sizes
    assert torch.allclose(torch.cat(received, dim=1).double(), columns, atol=1e-6)


def test_keys_that_are_gone_get_nothing_and_give_nothing():
    pieces, gone, weights = (
        pieces_of([3, 9], masked=False),
        torch.tensor([1, 4, 5]),
        torch.ones(1, 6),
    )
    stays = torch.tensor([n for n in range(9) if n not in gone.tolist()])
    left = replace(pieces[1], k=pieces[1].k[:, stays], v=pieces[1].v[:, stays])
    out, received = attend([pieces[0], replace(pieces[1], gone=gone)], weights)
    same, columns = attend([pieces[0], left], weights)
    assert torch.allclose(out, same, atol=1e-6)
    assert torch.allclose(received[1][:, stays], columns[1], atol=1e-6)
    assert float(received[1][:, gone].abs().max()) == 0.0


def test_more_rows_than_may_be_held_at_once_take_turns(monkeypatch):
    pieces, weights = pieces_of([5, 9]), torch.rand(2, 6)
    whole = attend(pieces, weights)
    monkeypatch.setattr(partial, "MAX_ELEMENTS", 2 * 14 * 4)
    out, received = attend(pieces, weights)
    assert torch.allclose(out, whole[0], atol=1e-6)
    assert torch.allclose(torch.cat(received, 1), torch.cat(whole[1], 1), atol=1e-6)


def test_a_causal_piece_sees_no_later_key():
    q, k, v = torch.randn(3, 2, 5, 8)
    out, lse = partial_attention(q, k, v, causal=True)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    assert torch.allclose(out.double(), once([Piece(q, k, v, mask)])[1], atol=1e-6)
    scores = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~mask, float("-inf"))
    assert torch.allclose(lse, scores.logsumexp(dim=-1), atol=1e-5)


def test_heads_of_one_key_head_become_rows_of_it():
    q = torch.randn(6, 3, 8)
    assert torch.equal(grouped(q, 2)[1, 3:6], q[4])
