"""importance.py against Eq. 5 as loops over rows, heads and keys."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnidrop_stream.method import (
    audio_guided_importance,
    last_token_importance,
    query_importance,
)


def literal_importance(q: Tensor, k: Tensor, av: list[int], rows: list[int]) -> list[float]:
    """Eq. 5: for each row and head a softmax over the keys up to the row's own, then the mean."""
    n_heads, n_rows, d = q.shape
    group = n_heads // k.shape[0]
    total = [0.0] * len(av)
    for h in range(n_heads):
        keys = k[h // group].tolist()
        for r in range(n_rows):
            query = q[h, r].tolist()
            scores = [
                sum(a * b for a, b in zip(query, keys[j], strict=True)) / math.sqrt(d)
                for j in range(rows[r] + 1)
            ]
            top = max(scores)
            weights = [math.exp(s - top) for s in scores]
            for i, j in enumerate(av):
                if j <= rows[r]:
                    total[i] += weights[j] / sum(weights)
    return [t / (n_heads * n_rows) for t in total]


def random_qk(seed: int, n_heads: int, n_kv: int, n_rows: int, n_keys: int, d: int = 4):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(n_heads, n_rows, d, generator=g) * 2
    return q, torch.randn(n_kv, n_keys, d, generator=g) * 2


@given(
    st.integers(0, 10_000),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (6, 2), (3, 3)]),
    st.integers(1, 5),
    st.integers(6, 14),
    st.integers(1, 200),
)
@settings(max_examples=30, deadline=None)
def test_s_equals_the_loops_for_every_grouping_and_block_size(seed, heads, n_rows, n, block):
    q, k = random_qk(seed, *heads, n_rows, n)
    s = query_importance(q, k, slice(2, n - n_rows), max_elements=block)
    expected = literal_importance(q, k, list(range(2, n - n_rows)), list(range(n - n_rows, n)))
    assert s.tolist() == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 9), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_rows_anywhere_see_keys_up_to_their_own_index(seed, rows):
    q, k = random_qk(seed, 2, 1, len(rows), 10)
    s = query_importance(q, k, slice(0, 10), rows=torch.tensor(rows))
    assert s.tolist() == pytest.approx(literal_importance(q, k, list(range(10)), rows), abs=1e-5)


def test_an_index_of_columns_selects_what_a_slice_does():
    q, k = random_qk(0, 4, 2, 3, 12)
    by_slice = query_importance(q, k, slice(1, 9))
    assert torch.equal(query_importance(q, k, torch.arange(1, 9)), by_slice)


def test_a_key_that_stands_after_every_row_scores_zero():
    q, k = random_qk(1, 2, 2, 2, 8)
    s = query_importance(q, k, slice(0, 8), rows=torch.tensor([3, 5]))
    assert s[6:].tolist() == [0.0, 0.0]


def test_the_softmax_runs_over_all_keys_and_not_only_the_audiovisual():
    q, k = random_qk(2, 2, 2, 2, 9)
    everything = query_importance(q, k, slice(0, 9))
    assert everything.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert query_importance(q, k, slice(3, 7)).sum() < 0.999


def test_a_later_key_changes_no_score_of_an_earlier_row():
    q, k = random_qk(3, 2, 1, 2, 9)
    rows = torch.tensor([4, 6])
    before = query_importance(q, k, slice(0, 7), rows=rows)
    k[:, 7:] += 5.0
    assert torch.equal(query_importance(q, k, slice(0, 7), rows=rows), before)


def test_half_precision_inputs_are_scored_in_fp32():
    q, k = random_qk(4, 2, 2, 2, 9)
    s = query_importance(q.bfloat16(), k.bfloat16(), slice(0, 7))
    exact = query_importance(q.bfloat16().float(), k.bfloat16().float(), slice(0, 7))
    assert s.dtype == torch.float32
    assert torch.equal(s, exact)


def test_an_explicit_scale_replaces_the_square_root():
    q, k = random_qk(5, 2, 2, 2, 9, d=4)
    halved = query_importance(q / 2, k, slice(0, 7), scale=1.0)
    assert torch.allclose(halved, query_importance(q, k, slice(0, 7)))


def test_a_transposed_view_of_q_is_accepted():
    q, k = random_qk(6, 4, 2, 3, 9)
    view = q.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(query_importance(view, k, slice(0, 6)), query_importance(q, k, slice(0, 6)))


def test_the_last_token_rule_is_equation_five_of_the_last_row():
    q, k = random_qk(7, 4, 2, 3, 9)
    s = last_token_importance(q, k, slice(0, 6))
    assert s.tolist() == pytest.approx(literal_importance(q[:, -1:], k, list(range(6)), [8]))


def test_the_last_token_rule_takes_the_last_of_given_rows():
    q, k = random_qk(8, 4, 2, 2, 9)
    s = last_token_importance(q, k, slice(0, 6), rows=torch.tensor([4, 6]))
    assert s.tolist() == pytest.approx(literal_importance(q[:, -1:], k, list(range(6)), [6]))


@pytest.mark.parametrize("block", [1, 40, 10_000])
def test_audio_guidance_equals_the_loops_over_the_audio_rows_in_any_block_size(block):
    audio = [2, 3, 6, 7]
    q, k = random_qk(9, 4, 2, len(audio), 10)
    s = audio_guided_importance(q, k, slice(1, 9), rows=torch.tensor(audio), max_elements=block)
    assert s.tolist() == pytest.approx(literal_importance(q, k, list(range(1, 9)), audio))


def test_audio_guidance_without_audio_names_the_way_out():
    q, k = random_qk(0, 2, 2, 0, 5)
    with pytest.raises(ValueError, match="use the omnidrop policy"):
        audio_guided_importance(q, k, slice(0, 5), rows=torch.empty(0, dtype=torch.long))


@pytest.mark.parametrize(
    ("q", "k", "rows"),
    [
        ((3, 2, 4), (2, 9, 4), None),  # heads that do not divide
        ((2, 2, 4), (2, 9, 8), None),  # widths that differ
        ((2, 0, 4), (2, 9, 4), None),  # nobody guides
        ((2, 9, 4), (2, 3, 4), None),  # more rows than keys
        ((2, 2, 4), (2, 9, 4), 3),  # rows of another length
    ],
)
def test_shapes_that_do_not_fit_are_refused(q, k, rows):
    index = None if rows is None else torch.zeros(rows, dtype=torch.long)
    with pytest.raises(ValueError, match="allowed"):
        query_importance(torch.zeros(q), torch.zeros(k), slice(0, 2), rows=index)
