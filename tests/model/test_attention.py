"""Causal attention of the newest rows against a literal loop."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.model.attention import causal_attention


def literal(q, k, v):
    """One head, one row, one key at a time."""
    heads, rows, width = q.shape
    groups, past = heads // k.shape[0], k.shape[1] - rows
    out = torch.zeros_like(q)
    for head in range(heads):
        shared = head // groups
        for row in range(rows):
            seen = past + row + 1
            scores = torch.stack([q[head, row] @ k[shared, j] for j in range(seen)])
            weights = (scores / width**0.5).softmax(dim=0)
            out[head, row] = sum(weights[j] * v[shared, j] for j in range(seen))
    return out


@pytest.mark.parametrize(("heads", "shared"), [(1, 1), (4, 4), (4, 2), (6, 1), (6, 3)])
@pytest.mark.parametrize(
    ("rows", "past"), [(5, 0), (1, 0), (1, 7), (5, 2), (5, 5), (3, 8), (2, 3), (1, 1)]
)
def test_attention_equals_a_literal_loop(heads, shared, rows, past):
    q = torch.randn(heads, rows, 8)
    k, v = torch.randn(2, shared, rows + past, 8)
    assert torch.allclose(causal_attention(q, k, v), literal(q, k, v), atol=1e-5)


@pytest.mark.parametrize("past", [0, 6])
def test_no_rows_give_no_rows(past):
    k, v = torch.randn(2, 2, past, 8)
    assert causal_attention(torch.randn(4, 0, 8), k, v).shape == (4, 0, 8)


@pytest.mark.parametrize(("rows", "past"), [(4, 0), (4, 3), (2, 9), (1, 5)])
def test_a_row_never_sees_a_later_key(rows, past):
    q = torch.randn(4, rows, 8)
    k, v = torch.randn(2, 2, rows + past, 8)
    before = causal_attention(q, k, v)
    k[:, -1], v[:, -1] = 100.0, -100.0
    after = causal_attention(q, k, v)
    assert torch.allclose(before[:, :-1], after[:, :-1], atol=1e-6)
    assert not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize(("rows", "past"), [(4, 0), (4, 3), (2, 9), (1, 5)])
def test_inputs_are_left_as_they_were(rows, past):
    q = torch.randn(4, rows, 8)
    k, v = torch.randn(2, 2, rows + past, 8)
    held = [t.clone() for t in (q, k, v)]
    causal_attention(q, k, v)
    assert all(torch.equal(a, b) for a, b in zip(held, (q, k, v), strict=True))
