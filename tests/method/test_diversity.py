"""diversity.py against Algorithm 1, line by line, and the scale facts of the reference note."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnidrop_stream.method import lowest_prune, temporal_diversity_prune


def literal_algorithm_1(S: list[float], C: list[int], k: int, weight: float) -> list[int]:
    """Algorithm 1 as printed; lists, not tensors. Ties go to the lower index."""
    c_max = C[S.index(max(S))]  # line 1
    candidates = sorted(range(len(S)), key=lambda i: (S[i], i))[: 2 * k]  # line 2
    D = {i: abs(c_max - C[i]) / max(C) if max(C) else 0.0 for i in candidates}  # line 3
    tds = {i: S[i] + weight * D[i] for i in candidates}  # line 4
    pruned = sorted(candidates, key=lambda i: (tds[i], i))[:k]  # line 5
    return sorted(pruned)  # line 6


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[float], list[int], int]:
    """Scores with many ties, ascending chunk indices from 0, and a count."""
    n = draw(st.integers(1, 40))
    S = draw(st.lists(st.integers(0, 12).map(lambda i: i / 64), min_size=n, max_size=n))
    C = sorted(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))
    return S, [c - C[0] for c in C], draw(st.integers(0, n))


def heavy_tailed(p: float, chunks: int = 32, per_chunk: int = 114) -> tuple[Tensor, Tensor, int]:
    """A window whose scores are of the real size: they sum to 0.4 over about 3,600 tokens."""
    g = torch.Generator().manual_seed(0)
    S = torch.randn(chunks * per_chunk, generator=g).mul(1.5).exp()
    chunk = torch.arange(chunks).repeat_interleave(per_chunk)
    S = 0.4 * S / S.sum()
    return S, chunk, int(p * len(S))


def share_of_key_chunk_lost(S: Tensor, chunk: Tensor, pruned: Tensor) -> float:
    key = chunk == chunk[S.argmax()]
    gone = torch.zeros(len(S), dtype=torch.bool)
    gone[pruned] = True
    return (gone & key).sum().item() / key.sum().item()


@given(windows(), st.sampled_from([0.0, 0.002, 0.2, 3.0]))
@settings(max_examples=150, deadline=None)
def test_the_pruned_set_equals_algorithm_1_as_printed(window, weight):
    S, C, k = window
    pruned = temporal_diversity_prune(torch.tensor(S), torch.tensor(C), k, weight)
    assert pruned.tolist() == literal_algorithm_1(S, C, k, weight)


@given(windows(), st.sampled_from(["none", "max", "mean"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_setting_prunes_exactly_k_ascending_indices(window, normalise, guard):
    S, C, k = window
    pruned = temporal_diversity_prune(
        torch.tensor(S), torch.tensor(C), k, 0.2, normalise, guard
    ).tolist()
    assert len(pruned) == k
    assert pruned == sorted(set(pruned))


@given(windows())
@settings(max_examples=40, deadline=None)
def test_without_a_diversity_weight_the_k_lowest_scores_leave(window):
    S, C, k = window
    pruned = temporal_diversity_prune(torch.tensor(S), torch.tensor(C), k, 0.0)
    assert torch.equal(pruned, lowest_prune(torch.tensor(S), k))


@given(windows())
@settings(max_examples=40, deadline=None)
def test_a_single_chunk_has_no_distance(window):
    S, _, k = window
    pruned = temporal_diversity_prune(torch.tensor(S), torch.zeros(len(S), dtype=int), k, 0.2)
    assert torch.equal(pruned, lowest_prune(torch.tensor(S), k))


@given(windows(), st.sampled_from(["none", "max", "mean"]))
@settings(max_examples=60, deadline=None)
def test_the_guard_takes_no_key_chunk_token_that_its_score_alone_would_keep(window, normalise):
    S, C, k = window
    scores, chunk = torch.tensor(S), torch.tensor(C)
    pruned = temporal_diversity_prune(scores, chunk, k, 0.2, normalise, True).tolist()
    by_score = lowest_prune(scores, k).tolist()
    key_chunk = C[S.index(max(S))]
    assert all(i in by_score for i in pruned if C[i] == key_chunk)


def test_only_the_2k_lowest_scores_can_leave():
    S = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.9])
    chunk = torch.tensor([0, 1, 2, 2, 2])
    assert temporal_diversity_prune(S, chunk, 1, 100.0).tolist() == [1]


def test_the_buffer_is_all_tokens_when_2k_exceeds_them():
    S = torch.tensor([0.1, 0.2, 0.9])
    assert temporal_diversity_prune(S, torch.tensor([0, 1, 2]), 2, 100.0).tolist() == [1, 2]


def test_a_far_token_outlives_a_near_one_of_the_same_score():
    S = torch.tensor([0.1, 0.1, 0.1, 0.9])
    assert temporal_diversity_prune(S, torch.tensor([0, 1, 2, 3]), 1, 0.2).tolist() == [1]


def test_equal_maxima_take_the_first_tokens_chunk_as_the_key_chunk():
    S = torch.tensor([0.9, 0.1, 0.1, 0.9])
    assert temporal_diversity_prune(S, torch.tensor([0, 0, 1, 1]), 1, 0.2).tolist() == [1]


def test_equal_sums_of_unequal_scores_go_to_the_lower_index():
    S = torch.tensor([0.75, 0.25, 0.9])  # 0.25 + 3 * 1/6 = 0.75 + 3 * 0
    assert temporal_diversity_prune(S, torch.tensor([6, 5, 6]), 1, 3.0).tolist() == [0]


def test_the_distance_is_not_rounded_to_fp32():
    S = torch.tensor([0.2, 0.0, 0.9])  # 0.2 in fp32 is above 0.2 in fp64: token 1 has the less
    assert temporal_diversity_prune(S, torch.tensor([1, 0, 1]), 1, 0.2).tolist() == [1]


def test_scores_too_small_for_fp32_beside_the_distance_still_decide():
    S = torch.tensor([2e-9, 1e-9, 3e-9, 0.5])
    assert temporal_diversity_prune(S, torch.tensor([0, 0, 0, 1]), 2, 0.2).tolist() == [0, 1]


@pytest.mark.parametrize("p", [0.1, 0.2])
def test_weights_of_0_2_and_0_002_select_the_same_set_at_the_real_scale(p):
    S, chunk, k = heavy_tailed(p)
    strong = temporal_diversity_prune(S, chunk, k, 0.2)
    assert torch.equal(strong, temporal_diversity_prune(S, chunk, k, 0.002))


@pytest.mark.parametrize("p", [0.1, 0.2])
def test_as_printed_the_key_chunk_is_pruned_about_twice_as_often(p):
    S, chunk, k = heavy_tailed(p)
    printed = share_of_key_chunk_lost(S, chunk, temporal_diversity_prune(S, chunk, k, 0.2))
    assert printed > 1.7 * share_of_key_chunk_lost(S, chunk, lowest_prune(S, k))


def test_as_printed_nearly_the_whole_key_chunk_is_lost_at_a_ratio_of_one_half():
    S, chunk, k = heavy_tailed(0.5)
    pruned = temporal_diversity_prune(S, chunk, k, 0.2)
    assert share_of_key_chunk_lost(S, chunk, pruned) > 0.95


def test_the_guard_prevents_the_loss_of_the_key_chunk():
    S, chunk, k = heavy_tailed(0.5)
    pruned = temporal_diversity_prune(S, chunk, k, 0.2, guard_key_chunk=True)
    by_score = share_of_key_chunk_lost(S, chunk, lowest_prune(S, k))
    assert share_of_key_chunk_lost(S, chunk, pruned) <= by_score < 0.6


def test_normalising_by_the_mean_makes_the_score_count():
    S, chunk, k = heavy_tailed(0.2)
    printed = temporal_diversity_prune(S, chunk, k, 0.2)
    normalised = temporal_diversity_prune(S, chunk, k, 0.2, "mean")
    assert S[normalised].sum() < S[printed].sum()


@pytest.mark.parametrize("normalise", ["max", "mean"])
def test_scores_that_are_all_zero_survive_normalisation(normalise):
    pruned = temporal_diversity_prune(torch.zeros(4), torch.arange(4), 2, 0.2, normalise)
    assert pruned.tolist() == [0, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: temporal_diversity_prune(torch.rand(3), torch.zeros(3), 4, 0.2),
        lambda: temporal_diversity_prune(torch.rand(3), torch.zeros(2), 1, 0.2),
        lambda: temporal_diversity_prune(torch.rand(3), torch.zeros(3), 1, 0.2, "sum"),
        lambda: lowest_prune(torch.rand(3, 1), 1),
        lambda: lowest_prune(torch.rand(3), -1),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="allowed"):
        call()
