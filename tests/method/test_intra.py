"""intra.py: audio saliency and temporal token merging against loops, and their causality."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from omnidrop_stream.method import (
    audio_saliency,
    block_attention,
    keep_salient,
    merge_clip,
    merge_patch,
    whole_clip_audio_saliency,
)


def literal_saliency(q: Tensor, k: Tensor) -> list[float]:
    """Received attention of one block: softmax per head and row, means, then means of pairs."""
    n_heads, n, d = q.shape
    received = [0.0] * n
    for h in range(n_heads):
        for i in range(n):
            scores = [float(q[h, i].double() @ k[h, j].double()) / math.sqrt(d) for j in range(n)]
            total = sum(math.exp(s) for s in scores)
            for j in range(n):
                received[j] += math.exp(scores[j]) / total / (n_heads * n)
    return [(received[2 * t] + received[2 * t + 1]) / 2 for t in range(n // 2)]


def literal_merge(patches: list[Tensor], keep_ratio: float) -> list[list[int]]:
    """DyCoke's rule as section 3.4 uses it: per window 1 vs 0, 2 vs 0, 3 vs 2, unpruned."""
    kept = []
    for i, patch in enumerate(patches):
        n = len(patch)
        if i % 4 == 0:
            kept.append(list(range(n)))
            continue
        other = patches[i - 2] if i % 4 == 2 else patches[i - 1]
        similarity = []
        for a, b in zip(patch.tolist(), other.tolist(), strict=True):
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            similarity.append(dot / (math.hypot(*a) * math.hypot(*b)))
        order = sorted(range(n), key=lambda j: similarity[j])
        kept.append(sorted(order[: int(keep_ratio * n)]))
    return kept


def one_by_one(patches: list[Tensor], keep_ratio: float = 0.2) -> list[Tensor]:
    kept, carry = [], None
    for patch in patches:
        stay, carry = merge_patch(patch, carry, keep_ratio)
        kept.append(stay)
    return kept


def random_patches(seed: int, count: int, n: int = 20, d: int = 6) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=g) for _ in range(count)]


def random_qk(seed: int, n: int, n_heads: int = 2, d: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n_heads, n, d, generator=g), torch.randn(n_heads, n, d, generator=g)


def as_lists(kept: list[Tensor]) -> list[list[int]]:
    return [stay.tolist() for stay in kept]


# Audio


@given(st.integers(0, 1000), st.integers(2, 9))
@settings(max_examples=20, deadline=None)
def test_saliency_equals_the_loops_for_any_block_length(seed, n):
    q, k = random_qk(seed, n)
    scores = audio_saliency(block_attention(q, k))
    assert scores.tolist() == pytest.approx(literal_saliency(q, k), abs=1e-6)


def test_a_whole_block_gives_fifty_scores_that_sum_to_a_half():
    scores = audio_saliency(block_attention(*random_qk(0, 100)))
    assert scores.shape == (50,)
    assert scores.sum().item() == pytest.approx(0.5, abs=1e-5)


def test_an_odd_last_frame_is_dropped_as_the_pooling_drops_it():
    assert audio_saliency(block_attention(*random_qk(0, 65))).shape == (32,)


def test_thirty_five_of_fifty_audio_tokens_stay():
    assert len(keep_salient(torch.rand(50))) == 35


@given(st.lists(st.integers(0, 5), max_size=60), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_highest_scores_stay_in_order_and_ties_go_to_the_lower_index(values, ratio):
    kept = keep_salient(torch.tensor(values, dtype=torch.float32), ratio)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert kept.tolist() == sorted(order[: int(ratio * len(values))])


def test_one_audio_token_alone_does_not_survive():
    assert keep_salient(torch.ones(1)).tolist() == []


def test_the_whole_clip_variant_of_a_single_block_is_the_block_rule():
    q, k = random_qk(1, 10)
    clip = whole_clip_audio_saliency(q, k)
    assert torch.allclose(clip, audio_saliency(block_attention(q, k)))


def test_the_whole_clip_variant_does_not_depend_on_its_row_blocks():
    q, k = random_qk(2, 30)
    clip = whole_clip_audio_saliency(q, k, block_rows=7)
    assert torch.allclose(clip, whole_clip_audio_saliency(q, k))


def test_the_whole_clip_variant_is_not_causal_and_the_block_rule_is():
    q, k = random_qk(3, 20)
    early = whole_clip_audio_saliency(q[:, :10], k[:, :10])
    whole = whole_clip_audio_saliency(q, k)[:5]
    assert not torch.allclose(early / early.sum(), whole / whole.sum(), atol=1e-3)


def test_a_map_that_is_not_one_block_is_refused():
    with pytest.raises(ValueError, match="allowed"):
        audio_saliency(torch.zeros(2, 10, 9))


# Video


@given(st.integers(0, 1000), st.integers(0, 11), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_merging_patch_by_patch_equals_the_loops(seed, count, keep_ratio):
    patches = random_patches(seed, count)
    kept = as_lists(one_by_one(patches, keep_ratio))
    assert kept == literal_merge(patches, keep_ratio)


@given(st.integers(0, 1000), st.lists(st.sampled_from([5, 10]), max_size=14))
@settings(max_examples=60, deadline=None)
def test_patch_by_patch_equals_one_shot_even_when_the_size_changes(seed, sizes):
    g = torch.Generator().manual_seed(seed)
    patches = [torch.randn(n, 4, generator=g) for n in sizes]
    assert as_lists(one_by_one(patches)) == as_lists(merge_clip(patches))


def test_a_window_of_144_tokens_keeps_28_of_each_pruned_patch():
    kept = [len(stay) for stay in one_by_one(random_patches(0, 8, n=144))]
    assert kept == [144, 28, 28, 28] * 2
    assert sum(kept[:4]) / 576 == (144 + 3 * 28) / 576 == pytest.approx(0.3958, abs=1e-4)


@pytest.mark.parametrize(("place", "reference"), [(1, 0), (2, 0), (3, 2)])
def test_each_place_of_a_window_is_compared_with_its_own_reference(place, reference):
    patches = random_patches(1, 4, n=10)
    patches[place] = patches[reference].clone()
    patches[place][[2, 7]] *= -1  # the only two tokens that differ
    assert one_by_one(patches)[place].tolist() == [2, 7]


def test_later_patches_never_change_an_earlier_decision():
    patches = random_patches(2, 9)
    whole = as_lists(merge_clip(patches))
    for end in range(9):
        assert as_lists(merge_clip(patches[:end])) == whole[:end]


def test_a_pruned_patch_is_compared_unpruned_as_a_reference():
    patches = random_patches(3, 4)
    _, carry = merge_patch(patches[0], None)
    _, carry = merge_patch(patches[1], carry)
    _, carry = merge_patch(patches[2], carry)
    assert carry is not None
    assert torch.equal(carry.reference, patches[2])


def test_a_carry_can_be_used_twice_with_the_same_result():
    patches = random_patches(4, 3)
    _, carry = merge_patch(patches[0], None)
    provisional, _ = merge_patch(patches[1], carry)
    _, _ = merge_patch(patches[2], carry)
    again, _ = merge_patch(patches[1], carry)
    assert torch.equal(provisional, again)


def test_a_carry_cannot_be_written_to():
    _, carry = merge_patch(torch.rand(4, 2), None)
    assert carry is not None
    with pytest.raises(AttributeError):
        carry.position = 3


def test_no_carry_is_left_after_the_last_place_of_a_window():
    carry = None
    for patch in random_patches(5, 4):
        _, carry = merge_patch(patch, carry)
    assert carry is None


def test_a_patch_of_another_size_starts_a_new_window():
    _, carry = merge_patch(torch.rand(10, 3), None)
    kept, carry = merge_patch(torch.rand(5, 3), carry)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    assert carry is not None
    assert carry.position == 1


def test_half_precision_patches_are_compared_in_fp32():
    patches = [p.bfloat16() for p in random_patches(6, 4)]
    in_fp32 = [p.float() for p in patches]
    assert as_lists(one_by_one(patches)) == as_lists(one_by_one(in_fp32))


def test_equally_similar_tokens_stay_by_the_lower_index():
    still = torch.ones(10, 3)
    _, carry = merge_patch(still, None)
    assert merge_patch(still, carry)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: merge_patch(torch.rand(5), None),
        lambda: merge_patch(torch.rand(5, 2), None, 1.2),
        lambda: merge_clip([torch.rand(5, 2)], -0.1),
        lambda: keep_salient(torch.rand(5), math.nan),
    ],
)
def test_arguments_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="allowed"):
        call()
